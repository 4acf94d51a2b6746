"""Compact fluxes beyond smooth problems on even cells: kinks, singular kernels, graded cells, the midpoint scheme."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.kinks import slope_jump
from wgflow.interactions import exponential, log, newtonian, power

SIZES = (32, 48, 64, 96, 128)
FINE = 768
CIRCLE = 2 * np.pi


def even(n, boundary=None, ends=(-5.0, 5.0)):
    return wg.Grid(ends, cells=n, boundary=boundary)


def around(n):
    return even(n, "periodic", (0.0, CIRCLE))


def in_the_middle(n):
    """Cells ten times narrower in the middle than at the ends."""
    return wg.Grid(edges=[4 * np.sinh(3 * np.linspace(-1, 1, n + 1)) / np.sinh(3)])


def at_a_wall(n):
    """Cells that widen from the lower wall on."""
    return wg.Grid(edges=[3 * np.sinh(2 * np.linspace(0, 1, n + 1)) / np.sinh(2)], boundary="no-flux")


def around_unevenly(n):
    s = np.linspace(0, 1, n + 1)
    return wg.Grid(edges=[CIRCLE * s + 0.5 * np.sin(CIRCLE * s)], boundary="periodic")


def errors_of(energy, start, grid_of, t, sizes=SIZES, fine=FINE, mobility=None, **settings):
    """Return L1 errors at t against a fine grid whose cells are parts of the coarse ones, and the last solution."""
    settings = {"rtol": 1e-9, **settings}

    def law(n):
        rho = wg.Density.from_function(grid_of(n), start)
        return wg.solve(energy, rho, (0, t), wg.FiniteVolume(**settings), mobility=mobility)

    below = np.append(0.0, np.cumsum(law(fine).final.masses))
    errors = []
    for n in sizes:
        sol = law(n)
        errors.append(np.abs(sol.final.masses - np.diff(below[::fine // n])).sum())
    return np.array(errors), sol


def order(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def bell(x):
    return np.exp(-2 * (x - 0.5) ** 2)


def wave(x):
    return 1 + 0.4 * np.sin(x) + 0.2 * np.cos(2 * x)


WELL = wg.Entropy(2.0) + wg.Potential(lambda x: x**2 / 2)
PLAIN = "fluxes of fourth order in space"

# ---------------------------------------------------------------- kernels
KERNELS = {
    "distance": (WELL + wg.Interaction(lambda z: np.abs(z)), bell, even, 4.0),
    "two points": (WELL + wg.Dense(lambda x, y: np.abs(x - y) * (1 + 0.1 * np.sin(x) * np.sin(y))), bell, even, 4.0),
    "named": (WELL + wg.Interaction(exponential()), bell, even, 4.0),
    "root": (WELL + wg.Interaction(power(0.5)), bell, even, 3.5),
    "log gas": (WELL + wg.Interaction(log(-1.0)), bell, even, 3.0),
    "on a circle": (wg.Entropy(1.0) + wg.Convolution(lambda z: np.abs(z)), wave, around, 4.0),
    "named on a circle": (wg.Entropy(1.0) + wg.Interaction(exponential()), wave, around, 4.0),
    "coulomb": (WELL + wg.Interaction(newtonian(1)), bell, even, 4.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_orders_of_kernels_with_kinks_and_singularities(name):
    energy, start, grid_of, known = KERNELS[name]
    errors, sol = errors_of(energy, start, grid_of, 0.2)
    assert order(SIZES, errors) == pytest.approx(known, abs=0.25)
    words = "" if known == 4.0 else f"; of order {known:g} here: the kernel is like "
    assert sol.certificate.scheme.startswith(PLAIN + words)
    assert words or sol.certificate.scheme == PLAIN
    # The certificate's own test of the equation cannot judge a kink at the far side of a circle.
    assert sol.certificate.verdict == ("not judged" if name == "on a circle" else "holds")


def test_an_odd_circle_has_its_far_kink_between_displacements():
    energy = wg.Entropy(1.0) + wg.Convolution(lambda z: np.abs(z))
    errors, sol = errors_of(energy, wave, around, 0.2, (25, 35, 45, 63, 75), 1575)
    assert order((25, 35, 45, 63, 75), errors) == pytest.approx(4.0, abs=0.15)
    assert sol.certificate.scheme == PLAIN


@pytest.mark.slow
def test_orders_at_walls_with_density():
    # The kernel beside a wall is not smooth within the three cells whose weights differ.
    for kernel, known in ((power(1.0), 3.0), (log(-1.0), 2.0)):
        errors, sol = errors_of(wg.Entropy(1.0) + wg.Interaction(kernel), wave, lambda n: even(n, "no-flux"), 0.2)
        assert order(SIZES, errors) > known - 0.25
        assert f"of order {known:g} at walls with density" in sol.certificate.scheme


@pytest.mark.slow
def test_singular_kernels_in_the_plane():
    def start(x, y):
        return np.exp(-1.5 * ((x - 0.3) ** 2 + 1.5 * y**2))

    for kernel, known in ((log(-1.0), 4.0), (-1 * power(-1.0), 3.0)):
        energy = wg.Entropy(2.0) + wg.Potential(lambda x, y: (x**2 + y**2) / 2) + wg.Interaction(kernel)
        laws = {n: wg.solve(energy, wg.Density.from_function(even((n, n), None, [(-4, 4)] * 2), start), (0, 0.2),
                            wg.FiniteVolume(rtol=1e-7)) for n in (24, 32, 48, 64, 192)}
        masses = laws[192].final.masses
        errors = [np.abs(laws[n].final.masses - masses.reshape(n, 192 // n, n, -1).sum(axis=(1, 3))).sum()
                  for n in (24, 32, 48, 64)]
        assert order((24, 32, 48, 64), errors) == pytest.approx(known, abs=0.3)
        assert ("of order" in laws[24].certificate.scheme) == (known < 4)


# ---------------------------------------------------------------- what the certificate says of kinks
KINKS = {
    "potential": (wg.Potential(lambda x: np.abs(x)), "the potential has a kink at x = "),
    "weak and off the grid": (wg.Potential(lambda x: x**2 / 2 + 0.2 * np.abs(x - 0.03)), "kink at x = 0.05"),
    "cut": (wg.Potential(lambda x: np.minimum(x**2, 9.0)), "kink at x = -3.05"),
    "finite range": (wg.Interaction(lambda z: np.maximum(0, 1 - np.abs(z))), "kink at displacement 1 along axis 0"),
    "root": (wg.Interaction(lambda z: np.sqrt(np.abs(z))), "kink at displacement 0 along axis 0"),
    "two points": (wg.Interaction(lambda x, y: np.maximum(x + y, 0)), "the kernel has a kink at x = "),
    "on the fly": (wg.Dense(lambda x, y: np.abs(x - y), table=False), "the kernel has a kink at x = "),
    "later": (wg.TimeDependent(lambda t: wg.Potential(lambda x: x**2 / 2 + 10 * t * np.abs(x))), "kink at x = "),
    "feature": (wg.LowRank(lambda x: np.array([np.maximum(x, 0)])), "a feature of the kernel has a kink at x = "),
}
SMOOTH = {
    "two wells": wg.Potential(lambda x: x**4 / 4 - x**2 / 2),
    "waves": wg.Potential(lambda x: x**2 / 2 + np.sin(4 * x)),
    "kernel": wg.Interaction(lambda z: np.exp(-4 * z**2)),
    "two points": wg.Interaction(lambda x, y: np.exp(-((x - y) ** 2)) * np.cos(x) * np.cos(y)),
    "kink where nothing is": wg.Potential(lambda x: 30 * x**2 + np.abs(x - 4)),
}


@pytest.mark.parametrize("name", KINKS)
def test_the_certificate_tells_of_kinks(name):
    term, words = KINKS[name]
    scheme = wg.solve(wg.Entropy(2.0) + term, wg.Density.from_function(even(100), bell), (0, 0.05)).certificate.scheme
    assert scheme.startswith(f"{PLAIN}; of second order here: ")
    assert words in scheme


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_problems_have_no_kinks(name):
    start = wg.Density.from_function(even(100), bell)
    assert wg.solve(wg.Entropy(2.0) + SMOOTH[name], start, (0, 0.05)).certificate.scheme == PLAIN


def test_kinks_in_the_plane_are_told():
    start = wg.Density.from_function(even(40, None, [(-4, 4)] * 2), lambda x, y: np.exp(-(x**2) - y**2))
    for term in (wg.Interaction(lambda x, y: np.hypot(x, y)), wg.Potential(lambda x, y: x**2 + y**2 + np.abs(y))):
        assert "of second order here: the " in wg.solve(wg.Entropy(2.0) + term, start, (0, 0.02)).certificate.scheme


# ---------------------------------------------------------------- graded cells
GRADED = {
    "middle": (wg.Entropy(2.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2), bell, in_the_middle, None),
    "wall": (wg.Entropy(1.0), lambda x: 1 + 0.5 * np.cos(np.pi * x / 3), at_a_wall, None),
    "force at a wall": (wg.Entropy(2.0) + wg.Potential(lambda x: (x - 1) ** 2 / 2 + 0.2 * np.sin(2 * x)), wave,
                        at_a_wall, None),
    "circle": (wg.Entropy(2.0) + wg.Potential(np.cos), wave, around_unevenly, None),
    "interaction": (WELL + wg.Interaction(lambda x, y: np.exp(-((x - y) ** 2))), bell, in_the_middle, None),
    "kink of the kernel": (WELL + wg.Dense(lambda x, y: np.abs(x - y)), bell, in_the_middle, None),
    "named kernel": (WELL + wg.Interaction(exponential()), bell, in_the_middle, None),
    "mobility": (WELL, bell, in_the_middle, lambda x: 1 + 0.3 * np.sin(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADED)
def test_order_four_on_graded_cells(name):
    energy, start, grid_of, mobility = GRADED[name]
    errors, sol = errors_of(energy, start, grid_of, 0.2, mobility=mobility, rtol=1e-10)
    assert order(SIZES, errors) > 3.75
    assert sol.certificate.scheme.startswith(f"{PLAIN} on cells of smoothly varying widths")
    assert "of order" not in sol.certificate.scheme
    assert sol.certificate.ok


def test_graded_cells_keep_what_even_ones_keep():
    for grid in (in_the_middle(60), at_a_wall(60), around_unevenly(60)):
        energy = wg.Entropy(2.0) + wg.Potential(lambda x: np.cos(x))
        rho = wg.Density.from_function(grid, wave)
        for settings in ({}, {"dt": 1e-3}, {"dt": 1e3}):
            sol = wg.solve(energy, rho, (0, 2e4 if settings.get("dt") == 1e3 else 0.05), wg.FiniteVolume(**settings))
            assert "smoothly varying" in sol.certificate.scheme
            assert sol.certificate.mass_drift <= 1e-13
            assert sol.certificate.min_density >= 0
            assert sol.certificate.max_energy_increase <= 1e-13
            assert sol.energy[-1] == pytest.approx(energy(sol.final), rel=1e-12)
        # Long steps end at the discrete Gibbs state, which further steps leave alone.
        nodal = sol.final.nodal
        gibbs = np.exp(-2 * np.cos(grid.centers[0]))
        assert nodal.values / nodal.values.sum() == pytest.approx(gibbs / gibbs.sum(), rel=1e-9)
        more = wg.solve(energy, sol.final, (0, 30), wg.FiniteVolume(dt=3.0)).final.nodal
        np.testing.assert_allclose(more.values, nodal.values, rtol=1e-9)


def test_graded_cells_in_the_plane():
    edges = [4 * np.sinh(2 * np.linspace(-1, 1, 41)) / np.sinh(2), np.linspace(-4, 4, 41)]
    energy = wg.Entropy(2.0) + wg.Potential(lambda x, y: (x**2 + y**2) / 2 + 0.3 * np.sin(x + y))
    rho = wg.Density.from_function(wg.Grid(edges=edges), lambda x, y: np.exp(-((x - 0.5) ** 2) - y**2))
    turned = wg.Density.from_function(wg.Grid(edges=edges[::-1]), lambda x, y: np.exp(-(x**2) - (y - 0.5) ** 2))
    one, two = (wg.solve(energy, r, (0, 0.3)) for r in (rho, turned))
    assert "smoothly varying" in one.certificate.scheme
    assert one.certificate.ok
    np.testing.assert_allclose(one.final.values, two.final.values.T, rtol=1e-6, atol=1e-9)


def test_widths_that_jump_keep_the_fluxes_of_second_order():
    s = np.linspace(0, 1, 61)
    jump = np.concatenate([np.linspace(-4, 0, 41), np.linspace(0, 4, 21)[1:]])
    bend = np.concatenate([-4 * (1 - s[:31]) ** 2 * 4 / 3 + 4 / 3, 4 / 3 + np.linspace(0, 8 / 3, 31)[1:]])
    noise = np.sort(8 * s - 4 + 0.01 * np.sin(1e3 * s))
    for edges in (jump, bend, noise):
        rho = wg.Density.from_function(wg.Grid(edges=[edges]), bell)
        scheme = wg.solve(WELL, rho, (0, 0.01)).certificate.scheme
        assert "second order" in scheme
        assert "do not vary smoothly" in scheme


def test_a_graded_run_goes_on_with_the_same_bits(tmp_path):
    rho = wg.Density.from_function(in_the_middle(60), bell)
    whole = wg.solve(WELL, rho, (0, 0.4), wg.FiniteVolume(dt=0.01))
    path = tmp_path / "run.npz"
    wg.solve(WELL, rho, (0, 0.2), wg.FiniteVolume(dt=0.01), checkpoint=path)
    assert np.array_equal(wg.resume(path, 0.4, energy=WELL).final.values, whole.final.values)
    saved = tmp_path / "law.npz"
    whole.save(saved)
    assert np.array_equal(wg.load(saved).final.nodal.values, whole.final.nodal.values)


# ---------------------------------------------------------------- the midpoint scheme
ATTRACTION = wg.Interaction(lambda z: np.exp(-(z**2)))


@pytest.mark.slow
def test_the_midpoint_scheme_is_of_fourth_order_in_space_and_of_second_in_time():
    sizes = (24, 32, 40, 48, 60)
    errors, sol = errors_of(WELL + ATTRACTION, bell, even, 0.2, sizes, 480, scheme="midpoint", rtol=None, dt=1e-3)
    assert order(sizes, errors) == pytest.approx(4.0, abs=0.2)
    assert sol.certificate.scheme == PLAIN
    rho, steps = wg.Density.from_function(even(80), bell), np.array([0.04, 0.02, 0.01, 0.005, 0.0025])
    exact = wg.solve(WELL + ATTRACTION, rho, (0, 0.4), wg.FiniteVolume(rtol=1e-11)).final.masses
    late = [np.abs(wg.solve(WELL + ATTRACTION, rho, (0, 0.4), wg.FiniteVolume(dt=dt, scheme="midpoint")).final.masses
                   - exact).sum() for dt in steps]
    assert order(1 / steps, late) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("dt", [None, 1.0, 1e3])
@pytest.mark.parametrize("interaction", [ATTRACTION, -3 * ATTRACTION, wg.Interaction(log(-1.0))])
def test_the_midpoint_scheme_at_centers_keeps_what_it_keeps_elsewhere(interaction, dt):
    energy = WELL + interaction
    rho = wg.Density.from_function(even(60), bell)
    sol = wg.solve(energy, rho, (0, 30 * (dt or 0.1)), wg.FiniteVolume(scheme="midpoint", dt=dt))
    assert sol.certificate.scheme.startswith(PLAIN)
    assert sol.certificate.max_energy_increase <= 1e-13
    assert sol.certificate.min_density >= 0
    assert sol.certificate.mass_drift <= 1e-13
    assert sol.certificate.n_fallback == 0
    assert sol.energy[-1] == pytest.approx(energy(sol.final), rel=1e-12)
    if dt:
        # It comes to rest, and stays: what is left of the way shrinks with each run.
        for _ in range(4):
            law = sol.final
            sol = wg.solve(energy, law, (0, 30 * dt), wg.FiniteVolume(scheme="midpoint", dt=dt))
        np.testing.assert_allclose(sol.final.values, law.values, rtol=0, atol=1e-8)


def test_the_midpoint_scheme_on_graded_cells():
    rho = wg.Density.from_function(in_the_middle(60), bell)
    energy = WELL + wg.Interaction(lambda x, y: np.exp(-((x - y) ** 2)))
    one, two = (wg.solve(energy, rho, (0, 0.4), wg.FiniteVolume(scheme=scheme, rtol=1e-7))
                for scheme in ("extrapolated", "midpoint"))
    assert "smoothly varying" in two.certificate.scheme
    assert two.certificate.ok
    np.testing.assert_allclose(one.final.values, two.final.values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [8, 9, 10, 12, 16, 20, 34])
def test_smooth_kernels_on_wide_cells_have_no_kink(n):
    """Mixtures of a Gaussian and a cosine, of any ratio: their sums are those of their values."""
    x = 4.0 / n * np.arange(7)
    for angle in np.linspace(0.0, np.pi, 721):
        jump = float(slope_jump(np.cos(angle) * np.exp(-(x**2)) + np.sin(angle) * np.cos(0.5 * np.pi * x)))
        assert jump == 0.0 or np.isnan(jump)
    assert slope_jump(x) == pytest.approx(8.0 / n)
    assert slope_jump(np.exp(-x) + 0.1 * x**2) == pytest.approx(-8.0 / n, rel=0.02)
