"""The midpoint scheme: what it keeps at any step for any symmetric U, its order, rest, and what it does when stuck."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow.calls import memory
from wgflow.errors import InvalidInput
from wgflow.flows import make_flow
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solvers.finite_volume import compact_run, midpoint
from wgflow.solvers.finite_volume import run as fv_run
from wgflow.solvers.stationary import stationary
from wgflow.testing import assert_energy_decays, assert_mass_conserved, assert_nonnegative
from wgflow.validation import exact

BETAS = [1.0, 10.0, 1e2, 1e3, 1e6, math.inf]
CELLS = {1: (5, 90), 2: (4, 18), 3: (3, 7)}


class Random:
    """A flow with random nonconvex V, symmetric indefinite U and start; U as a table between all cells too."""

    def __init__(self, seed: int):
        self.rng = rng = np.random.default_rng(seed)
        ndim = int(rng.choice([1, 1, 1, 2, 2, 3]))
        shape = tuple(int(n) for n in rng.integers(CELLS[ndim][0], CELLS[ndim][1] + 1, size=ndim))
        kind = str(rng.choice(["convolution", "low rank", "dense"]))
        edges = [np.linspace(-2, 2, n + 1) for n in shape]
        if kind != "convolution" and rng.random() < 0.3:
            edges = [np.concatenate(([0.0], np.cumsum(rng.uniform(0.2, 1.0, n)))) for n in shape]
            edges = [4 * e / e[-1] - 2 for e in edges]
        weight = rng.normal(size=shape) if rng.random() < 0.2 else None
        boundary = tuple(str(rng.choice(["no-flux", "periodic"])) for _ in shape)
        self.grid = wg.Grid(edges=edges, boundary=boundary, log_weight=weight)
        self.beta = float(rng.choice(BETAS))
        v, u = 10.0 ** rng.uniform(-1, 1.5, size=2)
        self.V = v * rng.normal(size=shape)
        if rng.random() < 0.6:
            self.V = v * sum(np.cos(3 * x + rng.normal()) + rng.normal() * np.cos(np.pi * x) for x in self.grid.mesh())
        term, self.table = self.interaction(kind, u)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wg.WGFlowWarning)
            self.energy = wg.Entropy(self.beta) + wg.Potential(self.V) + term
            self.rho = wg.Density.from_values(self.grid, self.start(), normalize=True)
        self.dt = float(10.0 ** rng.uniform(-3, 3))
        self.told = f"seed {seed}: {shape} {boundary} beta={self.beta:g} {kind} V {v:.2g} U {u:.2g} dt {self.dt:.3g}"

    def interaction(self, kind, scale):
        rng, n, shape = self.rng, self.grid.size, self.grid.shape
        if kind == "dense":
            a = scale * rng.normal(size=(n, n))
            return wg.Interaction(wg.Dense(a + a.T)), a + a.T
        if kind == "low rank":
            rows, signs = rng.normal(size=(5, n)) * math.sqrt(scale), rng.choice([-1.0, 1.0], 5)
            return wg.LowRank(rows.reshape(5, *shape), signs), rows.T @ (signs[:, None] * rows)
        a, b = scale * rng.normal(size=2)

        def w(*x):
            # Smooth around circles, too: a kink would be mended.
            waves = [np.cos(0.5 * np.pi * c) for c in x]
            return a * np.exp(sum(wave - 1 for wave in waves)) + b * np.prod(waves, axis=0)

        steps = []
        for k, i in enumerate(np.unravel_index(np.arange(n), shape)):
            step = i[:, None] - i[None, :]
            if self.grid.periodic[k]:
                step = (step + shape[k] // 2) % shape[k] - shape[k] // 2
            steps.append(step * (4.0 / shape[k]))
        return wg.Interaction(wg.Convolution(w)), w(*steps)

    def start(self):
        rng, shape = self.rng, self.grid.shape
        kind = rng.choice(["rough", "holes", "delta", "smooth", "tiny"])
        values = rng.random(shape) ** 3
        if kind == "holes":
            values *= rng.random(shape) < 0.5
        elif kind == "delta":
            values = np.zeros(shape)
        elif kind == "smooth":
            values = np.exp(-sum((x - 0.3) ** 2 for x in self.grid.mesh()))
        elif kind == "tiny":
            values = 10.0 ** rng.uniform(-300, 0, shape)
        values.flat[rng.integers(values.size)] += 1e-3
        return values

    def value(self, rho) -> float:
        """F in plain NumPy, apart from the package's own sums; of fluxes of fourth order, at the centers of cells."""
        rho = rho if rho.nodal is None else rho.nodal
        m = rho.values * rho.grid.volumes
        total = (m * self.V).sum() + 0.5 * m.ravel() @ self.table @ m.ravel()
        if math.isfinite(self.beta):
            there = rho.values > 0
            w = 0.0 if rho.grid.log_weight is None else rho.grid.log_weight[there]
            total += (m[there] * (np.log(rho.values[there]) - w)).sum() / self.beta
        return float(total)


@pytest.fixture
def every_density(monkeypatch):
    """Keep the density of every accepted step, not a thinned choice."""
    monkeypatch.setattr(memory, "SNAPSHOTS", 100_000)


@pytest.fixture
def stepper(monkeypatch):
    """The steppers of the runs, for their counts."""
    made = []

    def kept(original):
        def keep(*arguments):
            made.append(original(*arguments))
            return made[-1]

        return keep

    for module, name in ((fv_run, "make_stepper"), (compact_run, "stepper_at_centers")):
        monkeypatch.setattr(module, name, kept(getattr(module, name)))
    return made


def run(problem, steps=5, dt=None, **settings):
    dt = problem.dt if dt is None else dt
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wg.WGFlowWarning)
        return wg.solve(problem.energy, problem.rho, (0, steps * dt),
                        method=wg.FiniteVolume(dt=dt, scheme="midpoint", **settings))


def check(problem, sol, steps=5):
    """Sign, mass and decay, from the densities alone; no step cut, no fallback."""
    assert len(sol.densities) == steps + 1
    assert_nonnegative(sol)
    assert_mass_conserved(sol)
    assert_energy_decays(sol, problem.value)
    F = np.array([problem.value(rho) for rho in sol.densities])
    scale = max(1.0, np.abs(problem.V).max() + np.abs(problem.table).max())
    np.testing.assert_allclose(F, sol.energy, rtol=1e-12, atol=1e-12 * scale)
    assert sol.certificate.max_energy_increase <= 1e-12
    assert (sol.certificate.n_fallback, sol.certificate.n_rejected) == (0, 0)


# -------------------------------------------------------------------- any U, any step
@pytest.mark.parametrize("block", range(4))
def test_the_energy_falls_at_any_step_for_any_interaction(block, every_density):
    for seed in range(1 + 2 * 40 * block, 1 + 2 * 40 * (block + 1), 2):
        problem = Random(seed)
        try:
            check(problem, run(problem))
        except AssertionError as error:
            raise AssertionError(problem.told) from error


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [True, False])
def test_the_energy_falls_in_five_hundred_more_cases(corrected, every_density, stepper):
    for seed in range(2001, 3001, 2):
        problem = Random(seed)
        try:
            check(problem, run(problem, corrected=corrected))
        except AssertionError as error:
            raise AssertionError(problem.told) from error
    steps = 5 * len(stepper)
    # Most steps, of lengths and energies this wild, find a solution; few take a part of a step.
    assert sum(s.rule.n_damped for s in stepper) < 0.05 * steps
    assert sum(s.rule.n_newton for s in stepper) > 0.02 * steps


@pytest.mark.parametrize("dt", [1e-3, 1e-1, 10.0, 1e3])
@pytest.mark.parametrize("beta", [1.0, 100.0, 1e4, math.inf])
def test_the_network_model_at_any_step(beta, dt, stepper):
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2, tolerance=1e-10)
    energy, grid = model.energy(beta=beta, ridge=0.01), model.grid(cells=150, beta=beta, ridge=0.01)
    top = grid.edges[0][-1]
    start = wg.Density.gaussian(grid, 0.4 * top, (0.1 * top) ** 2)
    sol = wg.solve(energy, start, (0, 12 * dt), method=wg.FiniteVolume(dt=dt, scheme="midpoint"))
    assert sol.certificate.ok or dt >= 10.0
    assert sol.certificate.max_energy_increase <= 1e-12
    assert (sol.certificate.n_fallback, sol.certificate.n_rejected) == (0, 0)
    assert stepper[0].rule.n_damped == 0
    assert sol.energy[-1] < sol.energy[0]


def test_steps_that_resolve_the_flow_cost_two_evaluations(stepper):
    for problem in (exact.DesaiZwanzig(), exact.Kuramoto(), exact.RankOne(), exact.QuadraticAttraction()):
        grid = problem.grid(100)
        wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end),
                 method=wg.FiniteVolume(dt=problem.t_end / 200, scheme="midpoint"))
        assert stepper[-1].rule.n_evaluations <= 2.1 * 200
        assert stepper[-1].rule.n_newton == 0


# -------------------------------------------------------------------- when the equation is not solved
@pytest.mark.parametrize("found", ["the start", "far off"])
def test_an_unsolved_equation_still_lowers_the_energy(found, monkeypatch, every_density, stepper):
    """Whatever W the solvers give up at, the step goes down; where it is useless a part of the step is taken."""
    def give_up(residual, x, *_):
        residual(x)
        return (x if found == "the start" else x + 5.0 * np.random.default_rng(5).normal(size=x.shape)), False

    monkeypatch.setattr(midpoint, "accelerate", give_up)
    monkeypatch.setattr(midpoint, "newton_krylov", give_up)
    for seed in range(5001, 5081, 2):
        problem = Random(seed)
        try:
            check(problem, run(problem))
        except AssertionError as error:
            raise AssertionError(problem.told) from error
    damped = sum(s.rule.n_damped for s in stepper)
    assert damped > (20 if found == "far off" else 3)


def test_a_sweep_that_raises_the_frozen_energy_gives_way_to_resolvents():
    problem = exact.DesaiZwanzig()
    grid = problem.grid(50)
    flow = make_flow(problem.energy(), problem.initial_density(grid), (0, 1), None, 1.0, wg.FiniteVolume())
    made = fv_run.make_stepper(flow, wg.FiniteVolume(scheme="midpoint", threads=1))
    modes, move = [], made.sweeps.move
    # All mass on the far slope of the double well.
    uphill = np.zeros(50)
    uphill[0] = 1.0

    def wrong(masses, psi, dt, mode, *factors):
        modes.append(mode)
        return uphill.copy() if mode == made.sweeps.smooth[0] else move(masses, psi, dt, mode, *factors)

    made.sweeps.move = wrong
    state = made.start()
    new = made.step(state, 0.1)
    assert new is not None
    assert new.energy < state.energy
    assert set(modes) == set(made.sweeps.smooth)
    assert made.rule.n_damped == 0


# -------------------------------------------------------------------- order
def temporal_errors(problem, cells, steps, scheme, reference):
    grid = problem.grid(cells)
    start = problem.initial_density(grid)

    def final(n, kind):
        return wg.solve(problem.energy(), start, (0, problem.t_end),
                        method=wg.FiniteVolume(dt=problem.t_end / n, scheme=kind, order=2)).final.masses

    truth = final(reference, "midpoint")
    return [float(np.abs(final(n, scheme) - truth).sum()) for n in steps]


TURN = ((1.523, 0.699), (0.699, 0.977))
ORDERS = {
    "rank-one": (exact.RankOne(), 128), "desai-zwanzig": (exact.DesaiZwanzig(), 128),
    "kuramoto": (exact.Kuramoto(), 128), "quadratic-attraction": (exact.QuadraticAttraction(), 128),
    "transport": (exact.QuadraticAttraction(beta=math.inf, t_end=0.3), 200),
    "plane": (exact.RankOne(stiffness=TURN, direction=(0.8, -0.6), target=0.7, mean=(-0.5, 0.5), variance=0.4,
                            beta=2.0), 40),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_second_order_in_time(name):
    problem, cells = ORDERS[name]
    steps = (16, 32, 64, 128, 256)
    errors = temporal_errors(problem, cells, steps, "midpoint", 2048)
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.parametrize("scheme", ["midpoint", "extrapolated"])
@pytest.mark.parametrize("pulled", [True, False])
def test_second_order_in_time_where_fluxes_turn(scheme, pulled):
    """Errors of the steps fall at second order below the error of the grid, with the correction factors, too."""
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    if pulled:
        energy += wg.Interaction(lambda z: z**2 / 2)
    start = wg.Density.gaussian(wg.Grid((-3, 3), cells=60, boundary="no-flux"), mean=0.5, cov=0.3)

    def final(n):
        method = wg.FiniteVolume(dt=0.5 / n, scheme=scheme, order=2)
        return wg.solve(energy, start, (0, 0.5), method=method).final.masses

    truth, steps = final(2048), np.array([32, 64, 128, 256])
    errors = [float(np.abs(final(n) - truth).sum()) for n in steps]
    assert errors[-1] < 3e-7
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1), errors


def test_it_is_right_where_the_extrapolation_starts_badly():
    steps = (16, 64)
    mine, theirs = (temporal_errors(exact.Kuramoto(), 100, steps, s, 1024) for s in ("midpoint", "extrapolated"))
    assert all(10 * a < b for a, b in zip(mine, theirs))


@pytest.mark.parametrize("name", ["desai-zwanzig", "kuramoto", "rank-one"])
def test_adaptive_steps_meet_the_truth(name):
    problem = ORDERS[name][0]
    grid = problem.grid(200)
    sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end),
                   method=wg.FiniteVolume(scheme="midpoint", rtol=1e-6))
    assert sol.certificate.ok, sol.certificate.explain()
    assert max(problem.errors(sol.final).values()) <= 1e-3
    truth = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end),
                     method=wg.FiniteVolume(scheme="midpoint", dt=problem.t_end / 2000)).final
    assert float(np.abs(sol.final.masses - truth.masses).sum()) < 1e-4


# -------------------------------------------------------------------- states at rest
def at_rest(seed, beta, strength):
    """A smooth state on a line and an energy whose stationary state it is: V = -D log rho - U rho."""
    rng = np.random.default_rng(seed)
    grid = wg.Grid((-3, 3), cells=70)
    x = grid.mesh()[0]
    rows = np.array([np.cos(k * x + 6 * rng.random()) for k in (1, 2, 3, 4)])
    signs = rng.choice([-1.0, 1.0], 4)
    U = strength * rows.T @ (signs[:, None] * rows)
    values = np.exp(0.5 * rng.normal() * np.cos(2 * x) - 0.3 * (x - rng.normal()) ** 2)
    rho = wg.Density.from_values(grid, values, normalize=True)
    V = -np.log(rho.masses) / beta - U @ rho.masses
    return wg.Entropy(beta) + wg.Potential(V) + wg.Interaction(wg.Dense(U)), rho


@pytest.mark.parametrize("dt", [1e-3, 0.1, 3.0, 100.0, 1e3])
@pytest.mark.parametrize("seed", [3, 5, 7, 9])
def test_a_stationary_state_stays_under_steps_of_any_length(seed, dt):
    energy, rho = at_rest(seed, beta=2.0, strength=0.1)
    sol = wg.solve(energy, rho, (0, 30 * dt), method=wg.FiniteVolume(dt=dt, scheme="midpoint"))
    assert float(np.abs(sol.final.masses - rho.masses).sum()) <= 1e-13
    assert sol.certificate.n_fallback == 0


@pytest.mark.parametrize("dt", [3.0, 30.0, 1e3])
def test_the_network_rests_where_the_extrapolation_does_not(dt):
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2, tolerance=1e-10)
    energy, grid = model.energy(beta=100.0, ridge=0.01), model.grid(cells=300, beta=100.0, ridge=0.01)
    rho = stationary(energy, grid).density

    def moved(scheme):
        sol = wg.solve(energy, rho, (0, 30 * dt), method=wg.FiniteVolume(dt=dt, scheme=scheme))
        return float(np.abs(sol.final.masses - rho.masses).sum()), sol.certificate

    far, _ = moved("extrapolated")
    near, certificate = moved("midpoint")
    assert near <= 1e-12
    assert far > 1e3 * near
    assert (certificate.n_rejected, certificate.n_fallback) == (0, 0)


@pytest.mark.parametrize("dt", [1.0, 1e3])
def test_long_steps_come_to_rest(dt):
    energy, rho = at_rest(11, beta=2.0, strength=0.1)
    start = wg.Density.from_values(rho.grid, rho.values * (1 + 0.5 * np.sin(rho.grid.mesh()[0])), normalize=True)
    # The law at rest is that of masses of cells.
    sol = wg.solve(energy, start, (0, 60 * dt), method=wg.FiniteVolume(dt=dt, scheme="midpoint", order=2))
    assert float(np.abs(sol.final.masses - rho.masses).sum()) <= 1e-9


# -------------------------------------------------------------------- symmetry
@pytest.mark.parametrize("beta", [2.0, 1e3, math.inf])
@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
@pytest.mark.parametrize("dt", [2e-3, 0.02])
def test_mirrors_shifts_and_constants(boundary, beta, dt, rng):
    """Rough problems, whose sweeps are limited all the time, and equations solved in other orders of summation."""
    grid = wg.Grid((-2, 2), cells=40, boundary=boundary)
    V, values = rng.normal(size=40), rng.random(40) ** 2

    def final(V, values, constant=0.0):
        def w(z):
            return np.exp(-(z**2)) - 0.7 * np.exp(-((z / 0.4) ** 2)) + constant

        energy = wg.Entropy(beta) + wg.Potential(V) + wg.Interaction(wg.Convolution(w))
        return wg.solve(energy, wg.Density(grid, values), (0, 20 * dt),
                        method=wg.FiniteVolume(dt=dt, scheme="midpoint")).final.masses

    there = final(V, values)
    size = np.abs(there).sum()
    assert np.abs(there - final(V[::-1], values[::-1])[::-1]).sum() <= 1e-12 * size
    assert np.abs(there - final(V + 3.0, values)).sum() <= 1e-11 * size
    if boundary == "periodic":
        assert np.abs(there - np.roll(final(np.roll(V, 7), np.roll(values, 7)), -7)).sum() <= 1e-12 * size


# -------------------------------------------------------------------- with all that a run can have
def test_without_an_interaction_the_schemes_agree_to_the_last_bit():
    grid = wg.Grid((-3, 3), cells=80)
    energy, start = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2), wg.Density.gaussian(grid, 1.0, 0.2)
    one, two = (wg.solve(energy, start, (0, 1), method=wg.FiniteVolume(scheme=s)).final.masses
                for s in ("extrapolated", "midpoint"))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("settings", [{"dt": 0.03}, {"dt": 5.0}, {"rtol": 1e-4}])
def test_resumed_runs_have_the_same_bits(settings, tmp_path):
    problem = exact.DesaiZwanzig()
    energy, start = problem.energy(), problem.initial_density(problem.grid(60))
    span = (0, 20 * settings.get("dt", 0.05))
    whole = wg.solve(energy, start, span, method=wg.FiniteVolume(scheme="midpoint", **settings))
    assert whole.certificate.n_accepted > 8
    for cut in (1, 2, 5, 8):
        path = tmp_path / f"{cut}.npz"
        few = wg.FiniteVolume(scheme="midpoint", max_steps=cut, **settings)
        assert not wg.solve(energy, start, span, method=few, checkpoint=path, throw=False).success
        again = wg.resume(path, energy=energy, method=wg.FiniteVolume(scheme="midpoint", **settings))
        np.testing.assert_array_equal(again.final.masses, whole.final.masses)
        np.testing.assert_array_equal(again.history.energy, whole.history.energy)


def test_any_number_of_threads_gives_the_same_bits():
    grid = wg.Grid([(-3, 3), (0, 4)], cells=(190, 180), boundary=("no-flux", "periodic"))
    x, y = grid.mesh()
    energy = (wg.Entropy(3.0) + wg.Potential(lambda x, y: x**4 / 4 - x**2 / 2 + np.cos(0.5 * np.pi * y))
              + wg.LowRank(np.array([x, np.cos(0.5 * np.pi * y)]), np.array([1.0, -1.0])))
    start = wg.Density.gaussian(grid, [0.7, 2.0], [0.2, 0.3])
    runs = [wg.solve(energy, start, (0, 0.9), method=wg.FiniteVolume(dt=0.3, scheme="midpoint", threads=k))
            for k in (1, 2, 3)]
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0].final.masses, other.final.masses)
        np.testing.assert_array_equal(runs[0].history.energy, other.history.energy)


@pytest.mark.parametrize("m", [0.75, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dt", [1e-2, 1.0, 1e3])
def test_nonlinear_diffusion(m, dt):
    grid = wg.Grid((-3, 3), cells=80)
    energy = (0.3 * wg.PowerEntropy(m) + wg.Potential(lambda x: np.cos(3 * x))
              + wg.Interaction(wg.Convolution(lambda z: np.cos(2 * z) - 0.5 * np.exp(-z * z))))
    sol = wg.solve(energy, wg.Density.gaussian(grid, 0.5, 0.3), (0, 8 * dt),
                   method=wg.FiniteVolume(dt=dt, scheme="midpoint"))
    c = sol.certificate
    assert (c.n_fallback, c.n_rejected) == (0, 0)
    assert c.max_energy_increase <= 1e-12
    assert c.mass_drift <= 1e-13
    assert c.min_density >= 0


@pytest.mark.parametrize("settings", [{"scheme": "Midpoint"}, {"scheme": None}, {"scheme": 2}])
def test_other_schemes_are_refused(settings):
    with pytest.raises(InvalidInput, match="scheme"):
        wg.FiniteVolume(**settings)


def test_a_driven_flow_is_of_second_order_and_never_cut():
    grid = wg.Grid((-3, 3), cells=100)
    pull = wg.Interaction(wg.Convolution(lambda z: 0.5 * z * z))
    energy = (wg.Entropy(1.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: 0.5 * (x - np.sin(t)) ** 2))
              + wg.TimeDependent(lambda t: (1 + 0.5 * np.sin(t)) * pull))
    start = wg.Density.gaussian(grid, 1.0, 0.2)

    def final(dt, span=0.5):
        return wg.solve(energy, start, (0, span), method=wg.FiniteVolume(dt=dt, scheme="midpoint"))

    truth, steps = final(1 / 2000).final.masses, (16, 24, 32, 48, 64)
    errors = [float(np.abs(final(1 / n).final.masses - truth).sum()) for n in steps]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1), errors
    for dt in (1.0, 1e3):
        certificate = final(dt, 8 * dt).certificate
        assert (certificate.n_rejected, certificate.n_fallback) == (0, 0)
        assert certificate.max_energy_increase <= 1e-12
