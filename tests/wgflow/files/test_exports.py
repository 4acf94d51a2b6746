"""Solutions as tables, and checkpoints opened as the solution so far."""

import csv

import numpy as np
import pytest

import wgflow as wg

GRID = wg.Grid((-4, 4), cells=80)
PLANE = wg.Grid([(-3, 3), (-2, 2)], cells=(12, 9), names=["x", "time"])
BOWL = wg.Potential(lambda *x: sum(c**2 for c in x) / 2)
ENERGY = wg.Entropy(2.0) + BOWL
RHO = wg.Density.gaussian(GRID, 0.5, 0.3)


@pytest.fixture(scope="module")
def line():
    return wg.solve(ENERGY, RHO, (0, 1), t_eval=[0, 0.5, 1])


@pytest.fixture(scope="module")
def plane():
    return wg.solve(ENERGY, wg.Density.gaussian(PLANE, [0.5, 0.0], [0.3, 0.2]), (0, 1), t_eval=[0, 0.5, 1])


@pytest.fixture(scope="module")
def atoms():
    return wg.solve(1 * BOWL, wg.Atoms([[1.0, 2.0, -1.0]], [0.5, 0.25, 0.25]), (0, 1), wg.Lagrangian(), t_eval=[0, 1])


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_numpy(line, plane, atoms):
    arrays = line.to_numpy()
    assert list(arrays) == ["time", "energy", "x", "density"]
    assert np.array_equal(arrays["density"][1], line.densities[1].values)
    assert np.array_equal(arrays["x"], GRID.centers[0])
    arrays["time"][0] = 7.0
    assert line.t[0] == 0.0
    # A coordinate called time cannot be one beside the time.
    assert plane.to_numpy()["density"].shape == (3, 12, 9)
    assert plane.to_numpy()["time_axis"].shape == (9,)
    points = atoms.to_numpy()
    assert points["weight"].tolist() == [0.5, 0.25, 0.25]
    assert np.allclose(points["x"][-1], np.exp(-1) * np.array([1.0, 2.0, -1.0]))


def test_names_are_those_of_the_dataset(line, plane, atoms):
    for sol in (line, plane, atoms):
        dataset = sol.to_xarray()
        for name, array in sol.to_numpy().items():
            assert np.array_equal(dataset[name].values, array)


def test_pandas(line, plane):
    pandas = pytest.importorskip("pandas")
    table = plane.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == 3 * 12 * 9
    row = table.iloc[12 * 9 + 9 * 4 + 5]
    assert row["time"] == 0.5
    assert row["x"] == PLANE.centers[0][4]
    assert row["time_axis"] == PLANE.centers[1][5]
    assert row["density"] == plane.densities[1].values[4, 5]
    history = line.to_pandas("history")
    assert np.array_equal(history["energy"], line.history.energy)
    moments = line.to_pandas("snapshots")
    assert moments["mean_x"].tolist() == [rho.mean() for rho in line.densities]
    assert moments["variance_x"].tolist() == [rho.cov() for rho in line.densities]


@pytest.mark.parametrize("table", ["density", "snapshots", "history"])
def test_csv_keeps_every_bit(line, plane, atoms, table, tmp_path):
    pytest.importorskip("pandas")
    for sol in (line, plane, atoms):
        sol.to_csv(tmp_path / "out.csv", table)
        rows, frame = read(tmp_path / "out.csv"), sol.to_pandas(table)
        assert len(rows) == len(frame)
        assert list(rows[0]) == list(frame.columns)
        for name in frame.columns:
            if frame[name].dtype == float:
                assert np.array_equal([float(row[name]) for row in rows], frame[name])


def test_a_table_that_is_not_there(line, tmp_path):
    for call in (line.to_pandas, lambda table: line.to_csv(tmp_path / "x.csv", table)):
        with pytest.raises(wg.InvalidInput, match="table='densities': need one of 'density'"):
            call("densities")
    with pytest.raises(wg.StorageError, match="does not exist"):
        line.to_csv(tmp_path / "no" / "x.csv")


# ---------------------------------------------------------------- checkpoints as solutions

METHODS = [wg.FiniteVolume(max_steps=4), wg.FiniteVolume(order=2, max_steps=9), wg.FiniteVolume(dt=0.01, max_steps=9),
           wg.JKO(tau=0.05, max_steps=9), wg.JKO(tau=0.05, inner="linearized", order=2, max_steps=9)]


@pytest.mark.parametrize("t_eval", [None, [0.0, 0.01, 3.0]])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_an_unfinished_run_is_opened(method, t_eval, tmp_path):
    path = tmp_path / "run.npz"
    part = wg.solve(ENERGY, RHO, (0, 3), method, t_eval=t_eval, checkpoint=path, throw=False)
    found = wg.load(path)
    assert found.status == 1
    assert not found.success
    assert "of 3; wgflow.resume(" in found.message
    assert np.array_equal(found.t, part.t)
    assert np.array_equal(found.energy, part.energy)
    for ours, theirs in zip(found.densities, part.densities):
        assert np.array_equal(ours.values, theirs.values)
    for name in ("t", "dt", "energy", "mass", "rejected"):
        assert np.array_equal(getattr(found.history, name), getattr(part.history, name))
    assert len(found.jko_steps) == len(part.jko_steps)
    assert found.certificate.verdict == "failed"
    assert [name for name, (answer, _) in found.certificate.checks().items() if answer is False] == ["completed"]
    assert found.certificate.mass_drift == part.certificate.mass_drift
    found.save(tmp_path / "sol.npz")
    assert np.array_equal(wg.load(tmp_path / "sol.npz").final.values, part.final.values)


def test_a_finished_run_is_opened(tmp_path):
    path = tmp_path / "run.npz"
    sol = wg.solve(ENERGY, RHO, (0, 1), checkpoint=path)
    found = wg.load(path)
    assert found.success
    assert np.array_equal(found.final.values, sol.final.values)
    assert found.certificate.verdict == "not judged"


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_resumed_to_an_earlier_end(method, tmp_path):
    path, end = tmp_path / "run.npz", 0.83
    part = wg.solve(ENERGY, RHO, (0, 3), method, checkpoint=path, throw=False)
    assert part.t[-1] < end
    with pytest.raises(wg.InvalidInput, match=r"t_end=0.001: the run has reached t=.*wgflow\.load"):
        wg.resume(path, 0.001, energy=ENERGY)
    from dataclasses import replace

    free = replace(method, max_steps=10**6)
    sol = wg.resume(path, end, energy=ENERGY, method=free)
    assert sol.t[-1] == end
    assert sol.success
    exact = np.exp(-end) * 0.5
    assert abs(sol.final.mean() - exact) < (2e-2 if isinstance(method, wg.JKO) else 2e-3)
    straight = wg.solve(ENERGY, RHO, (0, end), free)
    assert abs(sol.final.mean() - straight.final.mean()) < 3e-3
    later = wg.resume(path, 1.0, energy=ENERGY, method=free)
    assert later.t[-1] == 1.0


def test_steps_to_an_earlier_end_keep_their_order(tmp_path):
    """Steps of equal length are counted anew: none goes back, none is longer than dt."""
    path = tmp_path / "run.npz"
    wg.solve(ENERGY, RHO, (0, 3), wg.JKO(tau=0.1, max_steps=7), checkpoint=path, throw=False)
    sol = wg.resume(path, 0.95, energy=ENERGY, method=wg.JKO(tau=0.1))
    assert (sol.history.dt[1:] > 0).all()
    assert sol.history.dt.max() < 0.1 + 1e-12
    assert len(sol.history) == 11


def test_output_times_up_to_an_earlier_end(tmp_path):
    path = tmp_path / "run.npz"
    wg.solve(ENERGY, RHO, (0, 3), wg.FiniteVolume(max_steps=4), t_eval=[0, 0.5, 1, 2, 3], checkpoint=path, throw=False)
    assert wg.resume(path, 1.5, energy=ENERGY, method=wg.FiniteVolume()).t.tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(("options", "words"), [
    ({"dt": 0.1}, r"dt=0.1: resume has no argument dt; it is a setting of the method, method=FiniteVolume\(dt=0.1\)"),
    ({"tend": 4.0}, "did you mean t_end"),
    ({"t_end": np.inf}, "t_end=inf: must be finite"),
    ({"t_end": "2"}, "t_end must be a number"),
    ({"t_end": -1.0}, "flows do not run backward"),
])
def test_mistakes_of_resume(options, words, tmp_path):
    path = tmp_path / "run.npz"
    wg.solve(ENERGY, RHO, (0, 1), checkpoint=path)
    with pytest.raises(wg.InvalidInput, match=words):
        wg.resume(path, energy=ENERGY, **options)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    wg.solve(ENERGY, RHO, (0, 1), checkpoint=path)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(wg.StorageError, match="truncated"):
        wg.load(path)
    path.write_bytes(content[:2000] + b"\0" + content[2001:])
    with pytest.raises(wg.StorageError):
        wg.load(path)
