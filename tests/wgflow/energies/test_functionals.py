"""Terms of a user's own: solved by whoever can, refused by name by who cannot, and never mis-solved."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.energies import check_term
from wgflow.energies.term_checks import TermOnGrid, probe_densities
from wgflow.errors import InvalidInput
from wgflow.grids import log_power_cell_average

GRID = wg.Grid((-3, 3), cells=80)
RHO0 = wg.Density.gaussian(GRID, 0.5, 0.1)


class Crowding(wg.Term):
    r"""int H(K * rho), H(r) = r^3 / 3, with a Gaussian K: neither internal nor quadratic."""

    def __init__(self, width=0.3):
        self.width = width

    def kernel(self, grid):
        x = grid.centers[0]
        return np.exp(-0.5 * ((x[:, None] - x) / self.width) ** 2) / (self.width * math.sqrt(2 * math.pi))

    def energy(self, rho):
        return float(((self.kernel(rho.grid) @ rho.masses) ** 3 * rho.grid.volumes).sum() / 3)

    def first_variation(self, rho):
        kernel = self.kernel(rho.grid)
        return kernel @ ((kernel @ rho.masses) ** 2 * rho.grid.volumes)


class MomentSquare(wg.Term):
    """Half the square of a moment, s (int f rho)^2 / 2: the interaction with the feature f and the sign s."""

    def __init__(self, feature, sign=1.0):
        self.feature, self.sign = feature, sign

    def energy(self, rho):
        return 0.5 * self.sign * float((self.feature(*rho.grid.mesh()) * rho.masses).sum()) ** 2

    def first_variation(self, rho):
        f = self.feature(*rho.grid.mesh())
        return self.sign * float((f * rho.masses).sum()) * f


def crowded():
    return wg.Entropy(4.0) + wg.Potential(lambda x: x**2 / 2) + 5 * Crowding()


METHODS = {
    "extrapolated": wg.FiniteVolume(order=2), "midpoint": wg.FiniteVolume(scheme="midpoint", order=2),
    "linearized": wg.JKO(tau=0.1, inner="linearized"), "linearized 2": wg.JKO(tau=0.1, inner="linearized", order=2),
    "linear metric": wg.JKO(tau=0.1, inner="linearized", options={"metric": "linear"}),
    "back-and-forth": wg.JKO(tau=0.1, inner="back-and-forth"), "entropic": wg.JKO(tau=0.1, inner="entropic"),
}


@pytest.fixture(scope="module")
def reference():
    return wg.solve(crowded(), RHO0, (0, 0.4), method=wg.FiniteVolume(rtol=1e-9))


@pytest.mark.parametrize("name", METHODS)
def test_the_energy_of_a_solution_is_that_of_its_law(name, reference):
    energy = crowded()
    sol = wg.solve(energy, RHO0, (0, 0.4), method=METHODS[name])
    for value, rho in zip(sol.energy, sol.densities):
        assert value == pytest.approx(energy(rho), rel=1e-12, abs=1e-12)
    assert sol.certificate.ok
    assert sol.certificate.max_energy_increase <= 1e-12
    assert sol.certificate.functionals == ("Crowding(...)",)
    assert "Crowding(...) was checked at each step" in sol.certificate.explain()
    # Of second order; of first order in tau, which is a quarter of the span.
    bound = {"extrapolated": 1e-3, "midpoint": 1e-3, "linearized 2": 0.03}.get(name, 0.08)
    assert 0 < float(np.abs(sol.final.masses - reference.final.masses).sum()) < bound


REFUSING = {
    "inner='quantile'": lambda E: wg.solve(E, RHO0, (0, 0.1), method=wg.JKO(tau=0.1)),
    "FiPy()": lambda E: wg.solve(E, RHO0, (0, 0.1), method=wg.FiPy()),
    "stationary": lambda E: wg.stationary(E, GRID),
    "no gradient at points": lambda E: wg.solve(E, RHO0, (0, 0.1), method=wg.Lagrangian(rng=7)),
}


@pytest.mark.parametrize("who", REFUSING)
def test_who_cannot_solve_it_refuses_by_name(who):
    with pytest.raises(InvalidInput, match=r"Crowding\(\.\.\.\)") as caught:
        REFUSING[who](crowded())
    assert who in str(caught.value)


@pytest.mark.parametrize("scheme", ["extrapolated", "midpoint"])
def test_second_order_in_time(scheme, reference):
    def error(dt):
        final = wg.solve(crowded(), RHO0, (0, 0.4), method=wg.FiniteVolume(dt=dt, scheme=scheme)).final
        return float(np.abs(final.masses - reference.final.masses).sum())

    dts = [0.4 / n for n in (8, 12, 16, 24, 32)]
    order = np.polyfit(np.log(dts), np.log([error(dt) for dt in dts]), 1)[0]
    assert order == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("name", METHODS)
def test_a_square_of_a_moment_is_the_interaction_it_stands_for(name):
    method = METHODS[name]
    common = wg.Entropy(2.0) + wg.Potential(lambda x: x**4 / 4)
    told = wg.solve(common + MomentSquare(lambda x: x), RHO0, (0, 0.2), method=method)
    known = wg.solve(common + wg.LowRank(lambda x: x[None]), RHO0, (0, 0.2), method=method)
    tolerance = 2e-3 if name in ("back-and-forth", "entropic") else 1e-6
    assert float(np.abs(told.final.masses - known.final.masses).sum()) < tolerance
    assert told.energy[-1] == pytest.approx(known.energy[-1], abs=tolerance)


def test_in_the_plane_and_driven():
    plane = wg.Grid([(-2, 2), (0, 1)], cells=(16, 12), boundary=("no-flux", "periodic"))
    rho0 = wg.Density.gaussian(plane, [0.3, 0.5], [0.2, 0.05])
    ring = MomentSquare(lambda x, y: np.sin(2 * math.pi * y) + x)
    driven = wg.TimeDependent(lambda t: (1 + t) * ring)
    energy = wg.Entropy(3.0) + driven
    known = wg.Entropy(3.0) + wg.TimeDependent(
        lambda t: (1 + t) * wg.LowRank(lambda x, y: (np.sin(2 * math.pi * y) + x)[None]))
    for scheme in ("extrapolated", "midpoint"):
        sols = [wg.solve(e, rho0, (0, 0.2), method=wg.FiniteVolume(dt=0.01, scheme=scheme, order=2))
                for e in (energy, known)]
        np.testing.assert_allclose(sols[0].final.values, sols[1].final.values, atol=1e-9)
        assert sols[0].history.work[-1] == pytest.approx(sols[1].history.work[-1], abs=1e-10)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(["extrapolated", "midpoint"]), st.floats(-2, 2))
def test_energy_decay_for_any_functional_at_any_step(seed, scheme, log_dt):
    """Quartic functionals of random moments, of any sign, and steps from .01 to 100."""
    rng = np.random.default_rng(seed)
    grid = wg.Grid((-2, 2), cells=int(rng.integers(6, 30)))
    rows = rng.normal(size=(3, grid.size))
    signs = rng.normal(size=3) * 10.0 ** rng.uniform(-1, 1.5)

    class Quartic(wg.Term):
        def energy(self, rho):
            return float((signs * (rows @ rho.masses) ** 4).sum())

        def first_variation(self, rho):
            return 4 * (signs * (rows @ rho.masses) ** 3) @ rows

    energy = wg.Entropy(float(rng.choice([1.0, 20.0, math.inf]))) + wg.Potential(rng.normal(size=grid.size)) + Quartic()
    rho0 = wg.Density.from_values(grid, rng.random(grid.shape) ** 4 + 1e-12, normalize=True)
    dt = 10.0**log_dt
    sol = wg.solve(energy, rho0, (0, 4 * dt), method=wg.FiniteVolume(dt=dt, scheme=scheme))
    F = np.array([energy(rho) for rho in sol.densities])
    assert (np.diff(F) <= 1e-12 * np.maximum(1.0, np.abs(F[:-1]))).all()
    assert all(rho.values.min() >= 0 for rho in sol.densities)
    assert sol.certificate.mass_drift <= 1e-13


# ---------------------------------------------------------------- terms that disagree with themselves
class TwiceTheSlope(Crowding):
    def first_variation(self, rho):
        return 2 * super().first_variation(rho)


class AnotherEnergy(wg.Potential):
    def energy(self, rho):
        return 2 * super().energy(rho)


class AnotherSlope(wg.LowRank):
    def first_variation(self, rho):
        return 1.03 * super().first_variation(rho)


class NotLinear(wg.LowRank):
    """An interaction whose operator is not linear: its energy is no longer half of rho times its first variation."""

    def energy(self, rho):
        return float(super().energy(rho) ** 2)


class WrongShape(Crowding):
    def first_variation(self, rho):
        return super().first_variation(rho)[:-1]


class Raising(Crowding):
    def energy(self, rho):
        raise RuntimeError("no idea")


class NotFinite(Crowding):
    def first_variation(self, rho):
        return np.full(rho.grid.shape, np.nan)


BROKEN = [(TwiceTheSlope(), "must be the derivative of energy"), (AnotherEnergy(lambda x: x + 2), "solvers would use"),
          (AnotherSlope(lambda x: x[None] + 1), "solvers would use the energy"),
          (NotLinear(lambda x: x[None] + 1), "solvers would use"), (WrongShape(), r"returned shape \(79,\)"),
          (Raising(), "energy raised RuntimeError: no idea"), (NotFinite(), "not finite at a positive density")]


@pytest.mark.parametrize(("term", "words"), BROKEN, ids=lambda v: type(v).__name__)
def test_a_term_that_disagrees_with_itself_is_refused(term, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        wg.solve(wg.Entropy(1.0) + term, RHO0, (0, 0.1))
    assert repr(term) in str(caught.value)


def test_what_looks_like_an_interaction_is_not_taken_for_one():
    class Looks(Crowding):
        """Has the attributes by which interactions and internal energies were once told."""

        def operator(self, grid):
            raise AssertionError("asked for an operator")

        def energy_of(self, masses, grid):
            raise AssertionError("asked for an internal energy")

    energy = wg.Entropy(4.0) + Looks()
    sol = wg.solve(energy, RHO0, (0, 0.1))
    assert sol.energy[-1] == pytest.approx(energy(sol.final), rel=1e-12)


def test_a_kink_is_no_fault():
    class Distance(wg.Term):
        """|mean - 1/2|, which has a kink where the mean is 1/2."""

        def energy(self, rho):
            return abs(float((rho.grid.centers[0] * rho.masses).sum()) - 0.5)

        def first_variation(self, rho):
            sign = math.copysign(1.0, float((rho.grid.centers[0] * rho.masses).sum()) - 0.5)
            return sign * rho.grid.centers[0]

    check_term(Distance(), GRID)


TERMS = [wg.Entropy(3.0), wg.PowerEntropy(2.0), wg.PowerEntropy(0.5), wg.Potential(lambda *x: sum(c**2 for c in x)),
         wg.LowRank(lambda *x: np.stack([sum(x), np.cos(x[0])]), [1.0, -2.0]),
         wg.Dense(lambda *x: np.exp(-sum((a - b) ** 2 for a, b in zip(x[:len(x) // 2], x[len(x) // 2:])))),
         wg.RelativeEntropy(lambda *x: 1 / (1 + x[0] ** 2), 2.0),
         wg.InternalEnergy(lambda r: r**3, lambda r: 3 * r**2, lambda r: 6 * r)]
GRIDS = {"line": GRID, "graded": wg.Grid.graded((-3, 3), 40, lambda x: 1 + np.exp(-x * x)),
         "plane": wg.Grid([(-1, 1), (0, 1)], cells=(9, 8), boundary=("no-flux", "periodic")),
         "radius": wg.Grid((0.2, 2), cells=30, log_weight=log_power_cell_average(np.linspace(0.2, 2, 31), 3))}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_every_term_of_wgflow_agrees_with_itself(term, grid):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wg.WGFlowWarning)
        check_term(term, grid)
        on_grid, rho = (wg.FreeEnergy([]) + term).assemble(grid), wg.Density.uniform(grid)
    assert on_grid.energy(rho.masses) == pytest.approx(term.energy(rho), rel=1e-12, abs=1e-13)


def test_a_term_on_a_grid_is_asked_for_densities_alone():
    grid = wg.Grid((0, 1), cells=4, boundary="no-flux")
    asked = TermOnGrid(MomentSquare(lambda x: 1 + x), grid)
    masses = np.array([0.1, 0.2, 0.3, 0.4])
    moment = float(((1 + grid.centers[0]) * masses).sum())
    assert asked.energy(masses) == pytest.approx(0.5 * moment**2, rel=1e-14)
    for wrong in (masses - 0.15, 0 * masses, np.full(4, math.nan)):
        assert asked.energy(wrong) == math.inf
    # A trial step may have negative masses: they count as none.
    cut = np.array([-0.5, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(asked.first_variation(cut), asked.first_variation(np.maximum(cut, 0)), rtol=1e-14)
    for wrong in (np.full(4, math.nan), -masses):
        assert np.isnan(asked.first_variation(wrong)).all()


@pytest.mark.parametrize(("raised", "expected"), [
    (InvalidInput("own words"), InvalidInput), (MemoryError(), MemoryError), (KeyError("k"), InvalidInput)])
def test_what_a_term_raises(raised, expected):
    class Raising(MomentSquare):
        def energy(self, rho):
            raise raised

    words = "energy raised KeyError" if isinstance(raised, KeyError) else "own words" if str(raised) else ""
    with pytest.raises(expected, match=words):
        TermOnGrid(Raising(lambda x: x), RHO0.grid).energy(RHO0.masses)


class OtherOnGrid(MomentSquare):
    """A term whose arrays on a grid add a potential that its own faces do not have."""

    def __init__(self, added):
        super().__init__(lambda x: x)
        self.added = added

    def on_grid(self, grid):
        own = super().on_grid(grid)
        v = self.added(grid.centers[0])
        # The energies of both probes are those of the term: the potential has no moment against them.
        probes = np.stack([law.masses for law in probe_densities(grid)])
        v = v - probes.T @ np.linalg.solve(probes @ probes.T, probes @ v)
        return type(own)(grid, potential=v, functionals=own.functionals)


def test_a_first_variation_of_solvers_that_is_another_is_refused():
    check_term(OtherOnGrid(lambda x: 0 * x), GRID)
    with pytest.raises(InvalidInput, match=r"solvers would use another first variation than term\.first"):
        check_term(OtherOnGrid(lambda x: 0.1 * np.sin(3 * x)), GRID)


class Shifted(MomentSquare):
    """A term whose energy on a grid is off by a constant."""

    def __init__(self, gap, size):
        super().__init__(lambda x: size + 0 * x)
        self.gap = gap

    def on_grid(self, grid):
        own = super().on_grid(grid)
        # The masses of both probes add up to 1: a constant potential is a constant.
        return type(own)(grid, potential=np.full(grid.shape, self.gap), functionals=own.functionals)


@pytest.mark.parametrize(("size", "allowed"), [(0.1, 1e-9), (1e3, 5e-4)])
def test_energies_are_compared_relative_to_their_size_and_to_one(size, allowed):
    check_term(Shifted(0.7 * allowed, size), GRID)
    for gap in (1.4 * allowed, -1.4 * allowed):
        with pytest.raises(InvalidInput, match="solvers would use the energy"):
            check_term(Shifted(gap, size), GRID)


def test_a_term_without_slope_agrees_with_itself():
    check_term(MomentSquare(lambda x: 1 + 0 * x), GRID)
    check_term(MomentSquare(lambda x: 0 * x), GRID)


@pytest.mark.parametrize("shape", [(4,), (81,), (1,), (80, 1), ()])
def test_a_first_variation_has_one_value_for_each_cell(shape):
    class Wrong(MomentSquare):
        def first_variation(self, rho):
            return np.zeros(shape)

    with pytest.raises(InvalidInput, match="it must return one value for each cell"):
        TermOnGrid(Wrong(lambda x: x), GRID).first_variation(RHO0.masses)
