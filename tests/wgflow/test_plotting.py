"""Pictures: written, readable, and without side effects on the process's matplotlib."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, StorageError
from wgflow.pictures import figures
from wgflow.pictures.energies import plot_energy
from wgflow.pictures.figures import VISIBLE_MASS
from wgflow.validation import compare


@pytest.fixture(scope="module")
def line():
    grid = wg.Grid((-4, 4), cells=120, names=["x"])
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    return wg.solve(energy, wg.Density.gaussian(grid, 0.5, 0.2), (0, 2), t_eval=np.linspace(0, 2, 11))


@pytest.fixture(scope="module")
def plane():
    grid = wg.Grid([(-3, 3), (-3, 3)], cells=(40, 36), names=["x", "y"])
    energy = wg.Entropy(5.0) + wg.Potential(lambda x, y: (x**2 - 1) ** 2 / 4 + y**2 / 2)
    return wg.solve(energy, wg.Density.gaussian(grid, [0.0, 1.0], [0.1, 0.1]), (0, 1), t_eval=np.linspace(0, 1, 6))


def curves(axes):
    return {curve.get_label(): curve.get_xydata() for curve in axes.get_lines()}


def test_the_curves_are_the_solution(line):
    figure = line.plot(times=4)
    laws, energy = figure.axes[0], figure.axes[1]
    drawn = curves(laws)
    assert len(drawn) == 4
    np.testing.assert_allclose(drawn["t = 2"][:, 1], line.densities[-1].values)
    np.testing.assert_allclose(drawn["t = 2"][:, 0], line.grid.centers[0])
    np.testing.assert_allclose(curves(energy)["free energy F"][:, 1], line.history.energy)
    # The axis shows all but a ten-thousandth of every law's mass.
    lo, hi = laws.get_xlim()
    assert all(rho.cdf(hi) - rho.cdf(lo) > 1 - 2.1 * VISIBLE_MASS for rho in line.densities)


@pytest.mark.parametrize("ending", ["png", *(pytest.param(e, marks=pytest.mark.slow) for e in ("pdf", "svg"))])
def test_files_are_written(line, plane, tmp_path, ending):
    for k, sol in enumerate((line, plane)):
        sol.plot(tmp_path / f"{k}.{ending}")
        assert (tmp_path / f"{k}.{ending}").stat().st_size > 5000


def test_maps(plane):
    figure = plane.plot()
    maps = [axes.collections[0] for axes in figure.axes if axes.get_title(loc="left").startswith("t =")]
    assert len(maps) == 4
    # One scale for all of them, from 0 on, and one bar that says which.
    peaks = [rho.values.max() for t, rho in zip(plane.t, plane.densities) if t in (0.0, 0.2, 0.4, 1.0)]
    assert {image.get_clim() for image in maps} == {(0.0, min(max(peaks), 4 * np.median(peaks)))}
    assert [axes.get_title(loc="left") for axes in figure.axes].count("density") == 1
    image = figure.axes[0].collections[0]
    np.testing.assert_allclose(image.get_array().reshape(36, 40), plane.densities[0].values.T)


def test_more_axes_show_marginals():
    grid = wg.Grid([(-2, 2)] * 3, cells=(12, 12, 12), names=["a", "b", "r"])
    sol = wg.solve(wg.Entropy(4.0), wg.Density.gaussian(grid, [0, 0, 0], [0.3, 0.3, 0.3]), (0, 0.1), t_eval=[0, 0.1])
    titles = [axes.get_title(loc="left") for axes in sol.plot().axes]
    assert titles[:3] == ["law of a", "law of b", "law of r"]


def test_animations(line, plane, tmp_path):
    from PIL import Image

    for k, sol in enumerate((line, plane)):
        sol.animate(tmp_path / f"{k}.gif", frames=4)
        with Image.open(tmp_path / f"{k}.gif") as gif:
            assert gif.n_frames == 4
            first = np.asarray(gif.convert("L"))
            gif.seek(3)
            assert np.abs(first.astype(int) - np.asarray(gif.convert("L"))).max() > 50
    with pytest.raises(InvalidInput, match="must end in"):
        line.animate(tmp_path / "film.avi")


def test_the_frames_of_a_map_share_one_scale(plane):
    from matplotlib.figure import Figure

    from wgflow.pictures.solutions import frame_of

    frame, last = frame_of(plane, np.arange(plane.t.size)), plane.t.size - 1
    limits = []
    for i in (0, last):
        axes = Figure().add_subplot()
        frame(axes, i)
        limits.append(axes.collections[0].get_clim())
    assert limits[0] == limits[1]
    assert plane.densities[0].values.max() > 1.2 * plane.densities[last].values.max()


def test_a_movie_as_a_page(line, tmp_path):
    told = []
    path = line.animate(tmp_path / "film.html", frames=3, progress=lambda done, total: told.append((done, total)))
    text = path.read_text()
    assert text.count("data:image/png;base64") == 3
    assert "<script" in text
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_mp4_where_ffmpeg_is(line, tmp_path):
    from importlib.util import find_spec
    from shutil import which

    if which("ffmpeg") or find_spec("imageio_ffmpeg"):
        assert line.animate(tmp_path / "film.mp4", frames=3).stat().st_size > 1000
    else:
        with pytest.raises(InvalidInput, match=r"ffmpeg, which is not found; .*\.html"):
            line.animate(tmp_path / "film.mp4", frames=3)


def test_the_ffmpeg_of_a_package_is_used_and_forgotten_again(line, tmp_path, monkeypatch):
    import sys
    from types import SimpleNamespace

    import matplotlib as mpl
    from matplotlib.animation import FFMpegWriter

    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    program = tmp_path / "ffmpeg-of-the-package"
    program.write_text("#!/bin/sh\nfor last; do :; done\ncat > \"$last\"\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(get_ffmpeg_exe=lambda: str(program)))
    before = mpl.rcParams["animation.ffmpeg_path"]
    assert line.animate(tmp_path / "film.mp4", frames=3).stat().st_size > 1000
    assert mpl.rcParams["animation.ffmpeg_path"] == before


def test_single_laws_are_drawn(line, plane, tmp_path):
    from matplotlib.figure import Figure

    figure = line.final.plot(tmp_path / "law.png")
    assert (tmp_path / "law.png").stat().st_size > 5000
    (curve,) = figure.axes[0].lines
    assert np.array_equal(curve.get_ydata(), line.final.values)
    mine = Figure()
    ax = mine.add_subplot()
    assert line.final.plot(ax=ax, color="red", label="end") is mine
    assert line.densities[0].plot(ax=ax, linestyle="--") is mine
    assert ax.lines[0].get_color() == "red"
    assert len(ax.lines) == 2
    assert ax.get_legend() is not None
    for rho in (plane.final, plane.final.marginal("y") if "y" in plane.grid.names else plane.final.marginal(1)):
        assert len(rho.plot().axes) >= 1
    figure = plane.final.plot()
    assert len(figure.axes) == 2, "a map and its color bar"
    assert figure.axes[0].get_xlabel() == plane.grid.names[0]
    space = wg.Density.uniform(wg.Grid([(0, 1)] * 3, cells=(4, 5, 6)))
    assert len(space.plot().axes) == 3
    with pytest.raises(InvalidInput, match="marginal"):
        space.plot(ax=ax)
    with pytest.raises(InvalidInput, match="ax must be a matplotlib Axes, got int"):
        line.final.plot(ax=3)
    atoms = wg.Atoms.from_density(line.final)
    assert len(atoms.plot().axes) == 1
    assert len(wg.Atoms(np.random.default_rng(1).random((2, 30)), np.ones(30)).plot().axes) == 1


def test_a_solution_in_axes_of_ones_own(line, plane):
    from matplotlib.figure import Figure

    mine = Figure()
    ax = mine.add_subplot()
    assert line.plot(ax=ax, times=3) is mine
    assert len(ax.lines) == 3
    with pytest.raises(InvalidInput, match="several panels"):
        plane.plot(ax=ax)


def test_notebooks_show_small_pages(line, plane):
    atoms = wg.Atoms.from_density(line.final)
    for each in (line, plane, line.final, plane.final, line.grid, plane.grid, atoms):
        page = each._repr_html_()
        assert page.count("data:image/png;base64") == 1
        assert page.count("<table>") == page.count("</table>") >= 1
        assert len(page) < 120_000
    page = line.certificate._repr_html_()
    for name, (answer, _) in line.certificate.checks().items():
        assert name in page
        assert answer is True
    space = wg.Density.uniform(wg.Grid([(0, 1)] * 3, cells=(80, 80, 80)))
    assert "<img" not in space._repr_html_(), "no picture that takes seconds"
    assert "&lt;" in wg.Grid((0, 1), cells=3, names=["<b>"])._repr_html_()


def test_comparison_picture(line, tmp_path):
    rng = np.random.default_rng(91)
    times = line.t[::5]
    draws = np.stack([line.density(t).sample(600, rng).reshape(5, 120) for t in times], axis=1)[..., None]
    good = compare(line, SimpleNamespace(t=times, coordinates=draws), n_null=200)
    figure = good.plot(tmp_path / "good.png")
    assert (tmp_path / "good.png").stat().st_size > 10_000
    assert figure.get_suptitle().startswith("PASS")
    histogram = figure.axes[0].patches[0]
    values, edges, _ = histogram.get_data()
    shown = np.mean((draws[:, 0] >= edges[0]) & (draws[:, 0] <= edges[-1]))
    assert shown > 0.995
    assert np.sum(values * np.diff(edges)) == pytest.approx(shown, rel=1e-12)
    bad = compare(line, SimpleNamespace(t=times, coordinates=draws + 0.3), n_null=200).plot()
    assert bad.get_suptitle().startswith("FAIL")
    few = compare(line, SimpleNamespace(t=times, coordinates=draws[:3] + 0.05), n_null=200)
    assert few.plot().get_suptitle().startswith("PASS, of little weight: the solution agrees with 3 runs")
    assert "3 runs judge little: noise that particles share may hide" in few.verdict


def test_dissipation_is_a_line_only_through_many_snapshots(line):
    many = wg.solve(line.free_energy, line.densities[0], (0, 2), t_eval=np.linspace(0, 2, 30))
    drawn = [plot_energy(sol).axes[1].lines[0] for sol in (line, many)]
    assert [(each.get_linestyle(), each.get_marker()) for each in drawn] == [("None", "o"), ("--", "None")]


@pytest.mark.filterwarnings("error")
def test_a_single_time_is_drawn(line):
    draws = line.densities[0].sample(500, np.random.default_rng(5)).reshape(5, 1, 100, 1)
    assert compare(line, ([0.0], draws), n_null=200).plot().get_suptitle().startswith("PASS")


@pytest.mark.parametrize("last", [1.0, 2.5, 8.0, 30.0])
def test_labels_of_a_warped_time_axis_do_not_touch(last):
    axes = figures.new_figure(3, 3).add_subplot()
    figures.time_axis(axes, np.array([0.0, 1e-3, 1e-2, last]))
    places = np.cbrt(axes.get_xticks() / last)
    assert places[0] == 0.0
    assert len(places) >= 3
    assert np.diff(places).min() > 0.1


def test_bad_input_and_unwritable_paths(line, tmp_path):
    for times in (0, 1.5, True, "2"):
        with pytest.raises(InvalidInput, match="times must be an integer >= 1"):
            line.plot(times=times)
    with pytest.raises(StorageError, match="cannot write the picture"):
        line.plot(tmp_path / "none" / "picture.png")
    with pytest.raises(StorageError, match="cannot write the animation"):
        line.animate(tmp_path / "none" / "film.gif")


def test_nothing_global_changes(line):
    before = dict(mpl.rcParams)
    line.plot()
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_pages_need_no_network(line, tmp_path):
    text = line.animate(tmp_path / "film.html", frames=3).read_text()
    assert "http" not in text
    assert "<link" not in text
    assert "fa fa-" not in text
    assert 'type="range"' in text
    assert text.count("</button>") == 9
    assert "faster</button>" in text
    assert "min-width: 36px" in text


# -------------------------------------------------------------------- phase portraits
def test_a_drift_on_a_line_is_minus_the_slope():
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2) + wg.Interaction(
        wg.Convolution(lambda z: 0.3 * z**2 / 2))
    sol = wg.solve(energy, wg.Density.gaussian(wg.Grid((-3, 3), cells=200), 0.5, 0.2), (0, 1), t_eval=[0, 1],
                   mobility=2.0)
    axes = sol.plot_drift(t=0.0).axes[0]
    curve = next(line for line in axes.lines if len(line.get_xdata()) > 10)
    x, mean = curve.get_xdata(), sol.densities[0].mean()
    # U rho = 0.3 ((x - mean)^2 + variance) / 2.
    np.testing.assert_allclose(curve.get_ydata(), -2.0 * (x**3 - x + 0.3 * (x - mean)), atol=1e-5)
    at_rest = [line for line in axes.lines if line.get_marker() == "o"]
    roots = np.sort(np.roots([1.0, 0.0, -0.7, -0.3 * mean]).real)
    assert [float(line.get_xdata()[0]) for line in at_rest] == pytest.approx(list(roots), abs=1e-3)
    # Wells are full dots, the hill between them is an empty one.
    assert [line.get_markerfacecolor() == "white" for line in at_rest] == [False, True, False]
    assert "A" in axes.get_ylabel()


def test_streamlines_over_a_map_and_a_cloud(plane, tmp_path):
    figure = plane.plot_drift(tmp_path / "drift.png", t=0.2)
    assert (tmp_path / "drift.png").stat().st_size > 5000
    assert figure.axes[0].get_title(loc="left") == "drift and law, t = 0.2"
    points = np.random.default_rng(5).normal(size=(2, 20))
    cloud = wg.solve(1 * wg.Potential(lambda x, y: x**2 + y**2), wg.Atoms(points, np.full(20, 0.05)), (0, 1),
                     method=wg.Lagrangian())
    assert cloud.plot_drift().axes[0].collections


def test_a_drift_needs_the_energy(line, tmp_path):
    line.save(tmp_path / "line.npz")
    with pytest.raises(InvalidInput, match="does not hold; set"):
        wg.load(tmp_path / "line.npz").plot_drift()
    with pytest.raises(InvalidInput, match="outside the solution"):
        line.plot_drift(t=1e9)


@pytest.mark.parametrize("end", [20.0, 2000.0])
def test_times_do_not_crowd_where_the_law_rests(end):
    """exp(-x²/2) is reached within t = 10: of six curves five are of the way there, at about equal distances (L1)."""
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
    sol = wg.solve(energy, wg.Density.gaussian(wg.Grid((-5, 5), cells=100), 2.0, 0.1), (0, end),
                   t_eval=np.concatenate([[0.0], np.geomspace(1e-3, end, 300)]))
    chosen = figures.pick_laws(sol, 6)
    assert len(chosen) == 6
    assert (chosen[0], chosen[-1]) == (0, 300)
    assert sol.t[chosen[-2]] < 3
    laws = [sol.densities[k].masses for k in range(301)]
    way = np.concatenate([[0.0], np.cumsum([np.abs(b - a).sum() for a, b in pairwise(laws)])])
    assert np.allclose(way[chosen] / way[-1], np.linspace(0, 1, 6), atol=0.03)
    labels = [text.get_text() for text in sol.plot().axes[0].get_legend().get_texts()]
    assert labels == [f"t = {words}" for words in figures.times_in_words(sol.t[chosen])]
    assert labels[-1] == f"t = {end:g}"


def test_times_of_atoms_and_of_what_does_not_move():
    still = wg.solve(1 * wg.Potential(lambda x: 0 * x), wg.Atoms([[0.0, 1.0]], [0.5, 0.5]), (0, 1),
                     method=wg.Lagrangian(), t_eval=np.linspace(0, 1, 30))
    assert figures.pick_laws(still, 6) == [0, 29]
    # An atom that goes around a circle moves on evenly, across its seam too.
    around = SimpleNamespace(
        t=np.linspace(0, 1, 41), is_atomic=True, free_energy=None,
        densities=[wg.Atoms([[(0.3 + s) % 1.0]], [1.0], bounds=[(0.0, 1.0)], periodic=[True])
                   for s in np.linspace(0, 1, 41)])
    assert figures.pick_laws(around, 5) == [0, 10, 20, 30, 40]
    noisy = wg.solve(wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2), wg.Density.gaussian(
        wg.Grid((-5, 5), cells=50), 2.0, 0.1), (0, 50), method=wg.Lagrangian(n_particles=2000, rng=1, dt=0.05),
        t_eval=np.concatenate([np.linspace(0, 2, 41), np.linspace(2, 50, 25)[1:]]))
    assert (noisy.t[figures.pick_laws(noisy, 6)] < 2).sum() >= 3


@pytest.mark.parametrize(("times", "words"), [
    ([0.0, 0.12345, 1000.0], ["0", "0.123", "1000"]), ([0.9996, 1.0], ["0.9996", "1"]),
    ([1e-9, 123456.0], ["1e-09", "123000"]), ([5.0], ["5"])])
def test_times_in_words_differ(times, words):
    assert figures.times_in_words(np.array(times)) == words
