"""The finite volumes against exact solutions at 200 cells an axis: five parts in a million, falling as h^4, by fluxes
of fourth order, and one in a thousand, falling as h^2, by those of second order.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.validation import exact

ANGLE = 0.6
TURN = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
ROTATED = TURN @ np.diag([2.0, 0.5]) @ TURN.T

ONE_AXIS = {
    "heat": exact.Heat(),
    "ornstein-uhlenbeck": exact.OrnsteinUhlenbeck(),
    "box": exact.Box(modes={1: 0.5, 2: 0.2}),
    "sedimentation": exact.Sedimentation(modes={1: 0.4}),
    "sedimentation-upward": exact.Sedimentation(gravity=-2.0, length=1.5, modes={1: 0.3}, beta=1.5, t_end=0.3),
    "quadratic-attraction": exact.QuadraticAttraction(),
    "quadratic-attraction-confined": exact.QuadraticAttraction(
        weights=(0.5, 0.5), means=(-0.5, 1.0), variances=(0.2, 0.3), attraction=0.5, confinement=0.5, beta=2.0,
        bounds=(-4.0, 4.5),
    ),
    "rank-one": exact.RankOne(),
    "desai-zwanzig": exact.DesaiZwanzig(),
    "desai-zwanzig-late": exact.DesaiZwanzig(t_end=2.0, bounds=(-3.5, 3.5), size=120, tolerance=1e-6),
    "kuramoto": exact.Kuramoto(),
    "kuramoto-turned": exact.Kuramoto(coupling=2.5, beta=2.5, amplitude=0.5, phase=1.0, t_end=0.8),
    "double-well": exact.DoubleWellDecay(),
    "double-well-hot": exact.DoubleWellDecay(beta=1.0, field=0.5),
}
TWO_AXES = {
    "heat-tilted": exact.Heat(mean=[0.3, -0.2], variance=[[0.3, 0.12], [0.12, 0.2]], t_end=0.3),
    "ornstein-uhlenbeck-rotated": exact.OrnsteinUhlenbeck(
        stiffness=ROTATED, mean=[1.0, -0.5], variance=[[0.4, 0.1], [0.1, 0.3]], beta=2.0
    ),
    "box": exact.Box(modes={(1, 0): 0.3, (1, 1): 0.3}, bounds=[(0.0, 1.0), (-0.5, 1.0)]),
    "rank-one-rotated": exact.RankOne(
        stiffness=ROTATED, direction=[0.8, -0.6], target=0.7, mean=[-0.5, 0.5], variance=0.4, beta=2.0
    ),
}


def run(problem, cells, **settings):
    grid = problem.grid(cells)
    start = problem.initial_density(grid)
    sol = wg.solve(problem.energy(), start, (0.0, problem.t_end), method=wg.FiniteVolume(**settings))
    return sol, start, sol.density(problem.t_end)


#: By the order of the fluxes: the tolerance of a step, and the bound of all errors at 200 cells.
AT_200_CELLS = {2: (1e-6, 1e-3), 4: (1e-8, 5e-6)}


def check_against_truth(problem, cells, fluxes):
    rtol, bound = AT_200_CELLS[fluxes]
    sol, start, rho = run(problem, cells, rtol=rtol, order=fluxes)
    assert (rho.nodal is not None) == (fluxes == 4)
    errors = problem.errors(rho)
    for name, error in errors.items():
        assert error <= bound, f"{name}: relative error {error:.3g}"
    # The state moved, by much more than it is wrong.
    moved = float(np.sum(np.abs(rho.values - start.values) * rho.grid.volumes))
    assert moved > 0.05
    assert moved > 50.0 * errors["density"]
    assert sol.certificate.ok, sol.certificate.explain()
    assert sol.energy[-1] == pytest.approx(problem.quantities(problem.t_end)["energy"], rel=bound)
    assert sol.dissipation[-1] == pytest.approx(problem.quantities(problem.t_end)["dissipation"], rel=bound)


@pytest.mark.parametrize("fluxes", [2, 4])
@pytest.mark.parametrize("name", ONE_AXIS)
def test_one_axis_at_200_cells(name, fluxes):
    check_against_truth(ONE_AXIS[name], 200, fluxes)


@pytest.mark.slow
@pytest.mark.parametrize("fluxes", [2, 4])
@pytest.mark.parametrize("name", TWO_AXES)
def test_two_axes_at_200_cells(name, fluxes):
    check_against_truth(TWO_AXES[name], 200, fluxes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_AXIS)
def test_one_axis_errors_fall_as_h_to_the_fourth(name):
    # On coarser grids than these some are better than of order 4: errors of orders 4 and 6 have opposite signs.
    cells = FINER.get(name, (71, 100, 141, 200))
    check_order_four(name, ONE_AXIS[name], cells, rtol=TIGHT.get(name, 1e-11))


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_AXES)
def test_two_axes_errors_fall_as_h_to_the_fourth(name):
    check_order_four(name, TWO_AXES[name], (40, 56, 80, 112), rtol=1e-11 if name == "box" else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_AXIS)
def test_one_axis_errors_fall_as_h_squared(name):
    check_order_two(ONE_AXIS[name], (100, 140, 200, 280), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_AXES)
def test_two_axes_errors_fall_as_h_squared(name):
    # On fewer cells rotated problems are better than their order says.
    check_order_two(TWO_AXES[name], (80, 112, 160, 226), rtol=1e-8)


#: Tolerances of a step where the grids leave errors as small as those of 1e-11.
TIGHT = dict.fromkeys(("box", "sedimentation", "sedimentation-upward", "kuramoto", "kuramoto-turned"), 2.3e-14)
#: Cells from which on errors fall as h^4 in problems that are better on coarse grids.
FINER = dict.fromkeys(("double-well", "desai-zwanzig-late"), (141, 200, 283, 400))
#: Where most of the error is at the walls, as h^5 on coarse grids.
AT_WALLS = ("box",)


def check_order_four(name, problem, cells, rtol):
    """The density's error falls as h^4, and each quantity's at least so where it is not tiny already."""
    errors = [problem.errors(run(problem, n, rtol=rtol, order=4)[2]) for n in cells]
    for quantity in errors[0]:
        values = np.array([e[quantity] for e in errors])
        if values.max() < 2e-5 and quantity != "density":
            continue
        order = -np.polyfit(np.log(cells), np.log(values), 1)[0]
        assert order > 3.85, f"{quantity}: order {order:.3f} from {values}"
        assert order < 4.15 or quantity != "density" or name in AT_WALLS, f"density: order {order:.3f} from {values}"


def check_order_two(problem, cells, rtol):
    """The density's error falls as h^2, and each quantity's at least so where it can be told from the time error."""
    errors = [problem.errors(run(problem, n, rtol=rtol, order=2)[2]) for n in cells]
    seen = 0
    for name in errors[0]:
        values = np.array([e[name] for e in errors])
        if values[0] < 1e-4 and name != "density":
            continue
        seen += 1
        order = -np.polyfit(np.log(cells), np.log(values), 1)[0]
        assert order > 1.85, f"{name}: order {order:.3f} from {values}"
        assert order < 2.15 or name != "density", f"density: order {order:.3f} from {values}"
    assert seen >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("fluxes", "largest", "rel"), [(2, 0.02, 1e-3), (4, 2e-3, 1e-4)])
def test_three_axes_ornstein_uhlenbeck(fluxes, largest, rel):
    """A full 3 x 3 matrix; on grids this coarse the limit h -> 0 is held against the truth, and the fall as h^order."""
    stiffness = [[1.2, 0.3, -0.2], [0.3, 0.9, 0.25], [-0.2, 0.25, 1.0]]
    problem = exact.OrnsteinUhlenbeck(
        stiffness=stiffness, mean=[0.6, -0.4, 0.2], variance=np.diag([0.5, 0.4, 0.6]), beta=1.5, t_end=0.5
    )
    cells = (36, 46, 60) if fluxes == 2 else (28, 36, 46)
    runs = [run(problem, n, rtol=1e-6, order=fluxes) for n in cells]
    errors = [problem.errors(rho)["density"] for _, _, rho in runs]
    assert -np.polyfit(np.log(cells), np.log(errors), 1)[0] == pytest.approx(fluxes, abs=0.2)
    assert errors[-1] < largest
    assert all(sol.certificate.ok for sol, _, _ in runs)
    measured = [problem.measure(rho) for _, _, rho in runs]
    h = np.array([1.0 / n**fluxes for n in cells])
    for name, value in problem.quantities(problem.t_end).items():
        limit = np.polyfit(h, [m[name] for m in measured], 1)[1]
        assert limit == pytest.approx(value, rel=rel, abs=0.1 * rel), name


@pytest.mark.parametrize("modes", [1, 2, 7])
def test_two_point_flux_decays_cosines_at_its_exact_rate(modes):
    """The discrete cosine is an eigenvector of the semi-discrete equation: only the time steps are in error."""
    problem = exact.Box(modes={modes: 0.5}, beta=2.0, t_end=0.08 / modes**2)
    cells = 32
    grid = problem.grid(cells)
    cosine = np.cos(modes * math.pi * grid.centers[0])
    start = wg.Density.from_values(grid, 1.0 + 0.5 * cosine)
    expected = 0.5 * math.exp(-problem.discrete_rate(modes, cells) * problem.t_end)
    errors = []
    for steps in (64, 128):
        method = wg.FiniteVolume(dt=problem.t_end / steps, order=2)
        rho = wg.solve(problem.energy(), start, (0.0, problem.t_end), method=method).density(problem.t_end)
        measured = 2.0 * float(np.sum(rho.masses * cosine))
        np.testing.assert_allclose(rho.values, 1.0 + measured * cosine, atol=1e-12)
        errors.append(abs(measured - expected))
    # The continuous rate differs by far more than the remaining error: the two are told apart.
    assert errors[1] < 0.1 * abs(0.5 * math.exp(-problem.rate(modes) * problem.t_end) - expected)
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("modes", [1, 3, 5])
def test_compact_flux_decays_cosines_at_its_exact_rate(modes):
    """On a circle the discrete cosine is an eigenvector of the compact equation, of the rate k^2 D (1 - (kh)^4/240)."""
    cells, diffusion, t_end = 32, 0.5, 0.8 / modes**2
    grid = wg.Grid([0.0, 2.0 * math.pi], cells=cells, boundary="periodic")
    cosine = np.cos(modes * grid.centers[0])
    start = wg.Density.from_values(grid, (1.0 + 0.5 * cosine) / (2.0 * math.pi))
    h = 2.0 * math.pi / cells
    bend = 2.0 - 2.0 * math.cos(modes * h)
    rate = diffusion * bend / h**2 / (1.0 - bend / 12.0)
    assert rate == pytest.approx(diffusion * modes**2 * (1.0 - (modes * h) ** 4 / 240.0), rel=(modes * h) ** 6 / 1e3)
    errors = []
    for steps in (4, 8):
        method = wg.FiniteVolume(dt=t_end / steps, order=4)
        sol = wg.solve(wg.Entropy(1.0 / diffusion), start, (0.0, t_end), method)
        before, nodal = sol.densities[0].nodal, sol.final.nodal
        factor = float(np.sum(nodal.masses * cosine) / np.sum(before.masses * cosine))
        np.testing.assert_allclose(nodal.values, nodal.values.mean() + (before.values - before.values.mean()) * factor,
                                   atol=1e-13)
        errors.append(abs(factor - math.exp(-rate * t_end)))
    assert errors[1] < 0.1 * abs(math.exp(-diffusion * modes**2 * t_end) - math.exp(-rate * t_end))
    assert errors[1] < 2.0**-4.5 * errors[0]


def test_gibbs_law_stays_where_it_is():
    """The stationary branches of Desai-Zwanzig, the discrete Gibbs laws of their own potential, do not drift off."""
    problem = exact.DesaiZwanzig()
    grid = problem.grid(200)
    start = problem.stationary_density(grid)
    sol = wg.solve(problem.energy(), start, (0.0, 5.0))
    assert sol.density(5.0).mean() == pytest.approx(problem.stationary_mean(), rel=1e-4)
    assert sol.energy[-1] == pytest.approx(problem.stationary()["energy"], rel=1e-4)


def test_desai_zwanzig_relaxes_at_the_linear_rate():
    problem = exact.DesaiZwanzig(mean=0.7, variance=0.15, bounds=(-3.0, 3.0))
    sol = wg.solve(problem.energy(), problem.initial_density(grid := problem.grid(200)), (0.0, 30.0),
                   t_eval=[6.0, 8.0, 30.0], method=wg.FiniteVolume(rtol=1e-8))
    assert grid.ndim == 1
    limit = sol.density(30.0).mean()
    rate = math.log((sol.density(8.0).mean() - limit) / (sol.density(6.0).mean() - limit)) / 2.0
    assert rate == pytest.approx(problem.linear_rate(), rel=5e-3)


def test_kuramoto_reaches_its_stationary_order():
    problem = exact.Kuramoto(t_end=40.0)
    sol, _, rho = run(problem, 200)
    assert problem.measure(rho)["order"] == pytest.approx(problem.stationary()["order"], rel=1e-3)
    assert sol.energy[-1] == pytest.approx(problem.stationary()["energy"], rel=1e-3)


TRANSPORT = {
    "contraction": exact.OrnsteinUhlenbeck(beta=math.inf, mean=0.5, variance=0.5),
    "expansion": exact.OrnsteinUhlenbeck(stiffness=-0.5, beta=math.inf, mean=0.3, variance=0.2, t_end=0.8),
    "cosine": exact.CosineTransport(),
    "attraction": exact.QuadraticAttraction(beta=math.inf),
}


@pytest.mark.parametrize("name", TRANSPORT)
def test_transport_without_diffusion(name):
    """Moments and the density within 1e-3 at 400 cells; every error falls by nearly four from 200, or by more."""
    problem = TRANSPORT[name]
    coarse, fine = (problem.errors(run(problem, n, rtol=1e-7)[2]) for n in (200, 400))
    assert max(fine.values()) < 1e-3
    for quantity, error in fine.items():
        assert error < 0.3 * coarse[quantity], f"{quantity}: {coarse[quantity]:.3g} -> {error:.3g}"


# ---- figures that the solver is held to

SMOOTH = {
    "heat": exact.Heat(),
    "ornstein-uhlenbeck": exact.OrnsteinUhlenbeck(),
    "box": exact.Box(),
    "quadratic-attraction": exact.QuadraticAttraction(),
    "rank-one": exact.RankOne(),
    "quadratic-activation": exact.QuadraticActivation(target=0.8, mean=0.3),
    "desai-zwanzig": exact.DesaiZwanzig(bounds=(-3.5, 3.5), size=120, tolerance=1e-6),
    "kuramoto": exact.Kuramoto(),
    "double-well": exact.DoubleWellDecay(t_end=6.0),
}
SECOND_ORDER = SMOOTH | {"newtonian-line": exact.NewtonianLine()}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_solutions_show_order_four(name):
    """The L1 error over five grids: 4.0 +- 0.1; 4.5 at the walls of a box, whose error is still h^5 in part."""
    # On the circle and in the box errors of finer grids are those of round-off.
    cells = (36, 50, 71, 100, 141) if name in ("kuramoto", "box") else (71, 100, 141, 200, 283)
    if name == "double-well":
        # Its coarser grids are better than of fourth order: 4.3 from 71 to 100 cells, 4.00 from 200 to 400.
        cells = (100, 141, 200, 283, 400)
    rtol = TIGHT.get(name, 1e-11)
    errors = [SMOOTH[name].errors(run(SMOOTH[name], n, rtol=rtol)[2])["density"] for n in cells]
    order = -np.polyfit(np.log(cells), np.log(errors), 1)[0]
    assert order == pytest.approx(4.0, abs=0.1) or (name in AT_WALLS and 4.0 <= order <= 5.0)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_smooth_solutions_show_order_two(name):
    """The L1 error over five grids by fluxes of second order: 2.0 +- 0.1."""
    # Transport without diffusion is of a higher order on coarse grids.
    cells = (141, 200, 283, 400, 566) if name == "newtonian-line" else (71, 100, 141, 200, 283)
    # The circle's error in space is small: its time steps must be smaller still.
    rtol = 1e-10 if name == "kuramoto" else 1e-8
    problem = SECOND_ORDER[name]
    errors = [problem.errors(run(problem, n, rtol=rtol, order=2)[2])["density"] for n in cells]
    assert -np.polyfit(np.log(cells), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1)


def test_barenblatt_at_200_and_400_cells():
    problem = exact.Barenblatt()
    errors = {n: problem.errors(run(problem, n)[2]) for n in (200, 400)}
    assert errors[200]["density"] <= 3e-5
    assert errors[400]["density"] <= 1e-5
    assert all(max(e["variance"], e["energy"]) <= 1e-3 for e in errors.values())


def errors_with_fronts(problem):
    """Return the L1 errors over six grids; every front lies within one cell."""
    cells, errors = (51, 71, 101, 141, 201, 281), []
    for n in cells:
        rho = run(problem, n, rtol=1e-6)[2]
        errors.append(problem.errors(rho)["density"])
        assert problem.front_error(rho) <= 1.0 + 1e-6
    return cells, errors


@pytest.mark.slow
@pytest.mark.parametrize("problem", [exact.Barenblatt(), exact.Barenblatt(m=1.5), exact.Barenblatt(m=3.0),
                                     exact.PorousMedium(), exact.LogGas(t_end=6.0)],
                         ids=["barenblatt-2", "barenblatt-1.5", "barenblatt-3", "well", "log-gas-at-rest"])
def test_free_boundaries(problem):
    cells, errors = errors_with_fronts(problem)
    assert -np.polyfit(np.log(cells), np.log(errors), 1)[0] >= 1.3


@pytest.mark.parametrize(("problem", "most"), [(exact.LogGas(), 1e-6), (exact.NewtonianBall(ndim=1), 1e-4)],
                         ids=["log-gas", "uniform"])
def test_free_boundaries_with_the_error_of_the_steps_alone(problem, most):
    """Patches and the semicircle are kept by affine motions: no grid is too coarse for them."""
    assert max(errors_with_fronts(problem)[1]) < most


@pytest.mark.parametrize("m", [2.0, 3.0])
def test_fronts_wait_until_their_time(m):
    problem = exact.WaitingTime(m=m)
    grid = problem.grid(400)
    times = [0.5 * problem.waiting_time, 0.96 * problem.waiting_time, 3.0 * problem.waiting_time]
    sol = wg.solve(problem.energy(), problem.initial_density(grid), (0.0, times[-1]), t_eval=times)
    early, late, after = (problem.measure(sol.density(t))["escaped"] for t in times)
    assert early < 1e-6
    assert late < 1e-5
    assert after > 1e-3
    assert problem.front_error(sol.density(times[1]), times[1]) <= 1.0


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_double_well_decays_at_its_first_eigenvalue(beta):
    """At late times, within 1e-4 of lambda_1 itself, at 400 cells."""
    problem = exact.DoubleWellDecay(beta=beta, field=0.2, t_end=8.0 / exact.DoubleWellDecay(beta=beta).rates(1)[0])
    grid = problem.grid(400)
    sol = wg.solve(problem.energy(), problem.initial_density(grid), (0.0, problem.t_end), t_eval=problem.times,
                   method=wg.FiniteVolume(rtol=1e-9))
    measured, _ = problem.path_quantities(sol)["rate"]
    assert measured == pytest.approx(problem.rates(1)[0], rel=1e-4)


def test_jko_in_quantile_coordinates_takes_the_exact_steps():
    for problem in (exact.OrnsteinUhlenbeck(), exact.PorousMedium(), exact.NewtonianLine()):
        grid = problem.grid(200)
        sol = wg.solve(problem.energy(), problem.initial_density(grid), (0.0, 0.5), method=wg.JKO(tau=0.1))
        errors = problem.jko_errors(sol.final, 0.1, 5)
        assert max(errors["variance"], errors["mean"], errors["density"]) < 1e-3, errors
        # The exact solution is another one.
        assert problem.errors(sol.final, 0.5)["density"] > 10 * errors["density"]
