"""Free boundaries, charges, aggregates, networks, two cells and distances, against printed values and other routes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize_scalar

from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.validation import distances, exact
from wgflow.validation.exact.cells import ball_cell_averages

# Every family away from its default parameters.
OTHERS = {
    "barenblatt": exact.Barenblatt(m=2.5, start=0.7, mean=0.3, mass=1.4),
    "barenblatt-plane": exact.Barenblatt(m=1.5, ndim=2, mean=(0.2, -0.1)),
    "porous-medium": exact.PorousMedium(m=3.0, stiffness=0.8, mean=0.4, strength=0.7, mass=1.3),
    "porous-medium-plane": exact.PorousMedium(m=2.0, ndim=2, stiffness=1.3, mean=(0.5, 0.0), radius=2.0),
    "porous-medium-hill": exact.PorousMedium(m=1.5, stiffness=-0.4, mean=0.2),
    "fast-diffusion": exact.PorousMedium(m=0.75, stiffness=0.6, mean=0.2),
    "fast-diffusion-plane": exact.PorousMedium(m=0.8, ndim=2, stiffness=0.6),
    "log-gas": exact.LogGas(repulsion=0.7, attraction=1.3, radius=2.0, mean=0.2, mass=1.4),
    "newtonian-ball-line": exact.NewtonianBall(ndim=1, repulsion=0.7, attraction=1.3, radius=2.0, mass=1.4),
    "newtonian-ball-plane": exact.NewtonianBall(repulsion=0.7, attraction=1.3, radius=0.5, mass=1.4),
    "newtonian-line": exact.NewtonianLine((1.0, 2.0), (-0.5, 1.0), (0.2, 0.1), repulsion=0.7, attraction=1.3, mass=1.4),
    "newtonian-cloud": exact.NewtonianCloud(variance=0.2, repulsion=0.7, attraction=1.3, mass=1.4),
    "quadratic-activation": exact.QuadraticActivation(target=((0.5, -0.3), (-0.3, 0.9)), ridge=0.3, mean=(0.2, -0.4),
                                                      variance=((0.4, 0.1), (0.1, 0.2)), beta=3.0),
}


def assert_digits(value, printed):
    digits = len(printed.split(".")[1])
    assert value == pytest.approx(float(printed), abs=1.5 * 10.0**-digits)


# ---- every family


@pytest.mark.parametrize("name", OTHERS)
def test_energy_falls_by_the_dissipation(name):
    problem = OTHERS[name]
    t, step = 0.5 * problem.t_end, 1e-3 * problem.t_end
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    slope = sum(w * problem.quantities(t + k * step)["energy"] for k, w in weights.items()) / step
    dissipation = problem.quantities(t)["dissipation"]
    assert dissipation > 1e-3
    assert slope == pytest.approx(-dissipation, rel=2e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_density_and_quantities_agree(name):
    """Measured on finer and finer grids, the exact cell averages give the exact quantities."""
    problem = OTHERS[name]
    plane = problem.grid(4).ndim == 2
    # Where a front lands in its cell makes errors noisy: grids further apart.
    cells = ((60, 120) if plane else (400, 800)) if problem.smooth else ((31, 160) if plane else (101, 800))
    laws = [problem.density(problem.grid(n), problem.t_end) for n in cells]
    coarse, fine = (problem.errors(rho) for rho in laws)
    # The box of fast diffusion leaves 1e-8 of the mass outside.
    assert laws[1].mass == pytest.approx(getattr(problem, "mass", 1.0), abs=2e-8 if "fast" in name else 2e-11)
    assert fine.pop("density") == coarse.pop("density") == 0.0
    for quantity, error in coarse.items():
        assert fine[quantity] < max(0.5 * error, 1e-8), quantity
        assert fine[quantity] < 0.03, quantity


@pytest.mark.parametrize("name", [n for n, p in OTHERS.items() if p.has_jko_steps])
def test_a_jko_step_is_optimal(name):
    """Over dilations about the new center, and over shifts of it, W2^2 / (2 tau) + F is least at the exact step."""
    problem, tau = OTHERS[name], 0.3
    if name == "newtonian-line":
        pytest.skip("no dilation: see test_newtonian_line")
    old, new = problem.jko_states(tau, 1)
    mass, ndim = problem.mass, problem.ndim

    def functional(stretch, shift=0.0):
        state = type(new)(new.center + shift, new.radius * stretch)
        moved = ndim * problem.spread * (state.radius - old.radius) ** 2 + np.sum((state.center - old.center) ** 2)
        return mass * moved / (2 * tau) + problem.quantities_of(state)["energy"]

    best = minimize_scalar(functional, bracket=(0.9, 1.0, 1.2), options={"xtol": 1e-10}).x
    assert best == pytest.approx(1.0, abs=1e-6)
    shifted = minimize_scalar(lambda s: functional(1.0, s), bracket=(-0.2, 0.01, 0.3)).x
    assert shifted == pytest.approx(0.0, abs=1e-6)


# ---- printed values


def test_printed_barenblatt():
    line = exact.Barenblatt()
    assert_digits(line.radius, "2.08008382305")
    assert_digits(line.state(1.0).radius, "2.62074139421")
    assert_digits(line.peak(0.0), "0.360562392577")
    assert_digits(line.peak(1.0), "0.286178560638")
    assert_digits(line.quantities(1.0)["variance"], "1.37365709106")
    plane = exact.Barenblatt(ndim=2)
    assert_digits(plane.radius, "1.78648768348")
    assert_digits(plane.state(1.0).radius, "2.12450386405")
    assert_digits(plane.peak(1.0), "0.141047395887")


def test_printed_rest_states():
    well = exact.PorousMedium(t_end=40.0)
    assert_digits(well.stationary_radius, "1.44224957031")
    assert_digits(well.peak(40.0), "0.520020955763")
    assert_digits(well.quantities(40.0)["energy"], "0.624025146916")
    gas = exact.LogGas(t_end=40.0)
    assert gas.stationary_radius == pytest.approx(math.sqrt(2.0))
    assert gas.quantities(40.0)["variance"] == pytest.approx(0.5)
    assert gas.quantities(40.0)["energy"] == pytest.approx(3 / 8 + math.log(2) / 4)
    disk = exact.NewtonianBall(t_end=40.0)
    assert disk.stationary_radius == 1.0
    assert disk.quantities(40.0)["energy"] == pytest.approx(3 / 8)
    assert exact.NewtonianBall(radius=0.6).state(0.7).radius ** 2 == pytest.approx(1 + (0.36 - 1) * math.exp(-1.4))
    aggregate = exact.CompactAggregation()
    assert_digits(aggregate.half_length, "2.35619449019")
    assert_digits(aggregate.peak(), "0.359665324734")


def test_printed_jko_steps():
    rows = exact.OrnsteinUhlenbeck().jko_table(0.1, 10)
    assert_digits(rows[1]["mean"], "1.81818181818")
    assert_digits(math.sqrt(rows[1]["variance"]), "0.604846539224")
    assert_digits(rows[10]["mean"], "0.771086578859")
    assert_digits(math.sqrt(rows[10]["variance"]), "0.934188954641")
    well = exact.PorousMedium()
    assert well.start_radius == pytest.approx(0.5 * well.stationary_radius)
    assert_digits(well.jko_states(0.1, 1)[1].radius / well.stationary_radius, "0.66199071551")


def test_printed_distances_and_rates():
    assert_digits(exact.NormalUniform().distance, "0.452718639154")
    assert exact.UniformPair().distance == pytest.approx(math.sqrt(28 / 3), rel=1e-14)
    cells = exact.TwoCells(jump=1.7, beta=1.3, width=0.6)
    z = 1.3 * 1.7
    assert cells.rate == pytest.approx(z / math.tanh(z / 2) / 1.3 / 0.36, rel=1e-14)
    assert exact.TwoCells(jump=0.0, beta=2.0).rate == 1.0
    assert exact.WaitingTime().waiting_time == pytest.approx(1 / 12, rel=1e-15)


# ---- independent routes


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.3])
def test_ball_averages_in_the_plane(exponent):
    grid = Grid([(-1.1, 1.3), (-1.2, 1.4)], cells=(7, 9))
    values = ball_cell_averages(grid, (0.1, 0.05), 1.0, exponent)
    assert (values * grid.volumes).sum() == pytest.approx(1.0, abs=1e-7)
    x0, x1, y0, y1 = grid.edges[0][5], grid.edges[0][6], grid.edges[1][4], grid.edges[1][5]

    def inner(x):
        reach = math.sqrt(max(1 - (x - 0.1) ** 2, 0.0))
        low, high = max(y0, 0.05 - reach), min(y1, 0.05 + reach)
        if low >= high:
            return 0.0
        return quad(lambda y: max(1 - (x - 0.1) ** 2 - (y - 0.05) ** 2, 0.0) ** exponent, low, high)[0]

    expected = (exponent + 1) / math.pi * quad(inner, x0, min(x1, 1.1), limit=200)[0]
    assert 0.0 < expected < 0.9 * (x1 - x0) * (y1 - y0)
    assert values[5, 4] * (x1 - x0) * (y1 - y0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["barenblatt", "porous-medium", "porous-medium-hill", "log-gas",
                                  "newtonian-ball-plane"])
def test_radius_obeys_its_equation(name):
    problem = OTHERS[name]
    k, push, q = problem.dilation
    run = solve_ivp(lambda _, r: -k * r + push * r ** (1 - q), (0, 0.8), [problem.start_radius], rtol=1e-11, atol=1e-12)
    assert problem.state(0.8).radius == pytest.approx(run.y[0, -1], rel=1e-9)


@pytest.mark.parametrize("name", ["barenblatt", "porous-medium", "fast-diffusion"])
def test_nonlinear_diffusion_solves_its_equation(name):
    """rho_t = a (rho^m)'' + (V' rho)' at points inside, by differences of the cell averages on a fine grid."""
    problem, t, step = OTHERS[name], 0.4, 1e-3
    center, radius = problem.state(t)
    grid = Grid((center[0] - 0.6 * radius, center[0] + 0.6 * radius), cells=2400)
    before, now, after = (problem.density(grid, s).values for s in (t - step, t, t + step))
    x, h = grid.centers[0], grid.widths[0][0]
    strength = problem.strength
    inner = slice(200, -200, 50)
    power = strength * now**problem.m
    diffusion = (np.roll(power, 1) - 2 * power + np.roll(power, -1)) / h**2
    drift = problem.stiffness * (np.roll(x * now, -1) - np.roll(x * now, 1)) / (2 * h)
    np.testing.assert_allclose(((after - before) / (2 * step))[inner], (diffusion + drift)[inner], rtol=2e-3, atol=2e-4)


def test_newtonian_line():
    problem = OTHERS["newtonian-line"]
    x0 = np.linspace(-1.5, 2.0, 9)
    rank = problem._rank(x0)[0]
    kM, chiM = 1.3 * 1.4, 0.7 * 1.4
    center = (-0.5 + 2 * 1.0) / 3

    def force(_, x):
        return -kM * (x - center) + chiM * (2 * rank - 1)

    run = solve_ivp(force, (0, 0.6), x0, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(problem.foot(run.y[:, -1], problem.state(0.6)), x0, atol=1e-9)
    # A JKO step moves every particle by an implicit Euler step under the force of its rank, which it keeps.
    a0, a1 = problem.jko_states(0.2, 1)
    old, new = problem._map(x0, a0), problem._map(x0, a1)
    np.testing.assert_allclose(new - old, 0.2 * force(0.0, new), atol=1e-12)
    # W2 to the uniform law of rest falls as e^(-kMt).
    def gap(t):
        grid = Grid((-2.5, 3.5), cells=4000)
        rest = exact.UniformPair((center - chiM / kM, center + chiM / kM)).first
        edges = np.clip(grid.edges[0], *rest)
        uniform = Density.from_values(grid, np.diff(edges) / grid.widths[0], normalize=True)
        return distances.wasserstein_1d(problem.density(grid, t).normalized(), uniform, p=2)

    assert gap(0.5) / gap(0.0) == pytest.approx(math.exp(-0.5 * kM), rel=1e-3)


def test_newtonian_cloud():
    problem = OTHERS["newtonian-cloud"]
    r0 = np.array([0.1, 0.4, 0.8, 1.5])
    inside = 1 - np.exp(-(r0**2) / 0.4)

    def force(_, r):
        return 1.4 * (-1.3 * r + 0.7 * inside / r)

    r = solve_ivp(force, (0, 0.5), r0, rtol=1e-11, atol=1e-12).y[:, -1]
    # The mass inside the radius that was reached is the mass that was inside at first.
    for radius, mass in zip(r, inside):
        found = quad(lambda s: 2 * math.pi * s * float(problem.pdf(np.array(s), np.array(0.0), 0.5)), 0, radius)[0]
        assert found == pytest.approx(1.4 * mass, rel=1e-9)


@pytest.mark.parametrize(("attraction", "beta", "stiffness"), [(0.9, 1.7, 0.6), (-1.1, 2.0, 1.5), (1.5, 1.0, 1.0)])
def test_keller_segel_stationary_density(attraction, beta, stiffness):
    """D rho'/rho + a x + chi PV int rho(y)/(x - y) dy = 0, and the second moment is that of the moment equation."""
    problem = exact.KellerSegelLine(attraction=attraction, beta=beta, stiffness=stiffness, start="stationary")
    assert problem.has_density
    rho = problem.density(grid := problem.grid(8000), 0.0)
    assert rho.mass == pytest.approx(1.0, abs=1e-10)
    assert rho.cov() == pytest.approx(problem.quantities(0.0)["variance"], abs=1e-6)
    x = grid.edges[0][2400:5700:300]
    hilbert = np.array([(rho.masses / (point - grid.centers[0])).sum() for point in x])
    slope = (np.log(problem.stationary_pdf(x + 1e-5)) - np.log(problem.stationary_pdf(x - 1e-5))) / 2e-5
    np.testing.assert_allclose(slope / beta + stiffness * x + attraction * hilbert, 0.0, atol=3e-5)


def test_keller_segel_moments_and_collapse():
    problem = exact.KellerSegelLine(attraction=1.2, stiffness=0.8, beta=2.0, mean=0.4, variance=0.7)
    run = solve_ivp(lambda _, y: [-0.8 * y[0], -1.6 * y[1] + 1.0 - 1.2], (0, 0.3), [0.4, 0.7 + 0.16], rtol=1e-11,
                    atol=1e-13)
    exactly = problem.quantities(0.3)
    assert exactly["mean"] == pytest.approx(run.y[0, -1], rel=1e-9)
    assert exactly["variance"] == pytest.approx(run.y[1, -1] - run.y[0, -1] ** 2, rel=1e-8)
    assert problem.critical_attraction == 1.0
    end = problem.quantities(problem.collapse_time)
    assert end["variance"] + end["mean"] ** 2 == pytest.approx(0.0, abs=1e-12)
    assert exact.KellerSegelLine(attraction=0.9, beta=2.0).collapse_time == math.inf
    flat = exact.KellerSegelLine(attraction=3.0, stiffness=0.0)
    end = flat.quantities(flat.collapse_time)
    assert end["variance"] + end["mean"] ** 2 == pytest.approx(0.0, abs=1e-12)


def test_compact_aggregate_balances():
    """eps rho + U rho is constant on the support and larger outside, and the energy is half of that constant."""
    problem = exact.CompactAggregation(eps=0.7, strength=2.0, length=0.6, mass=1.3, stretch=1.0)
    rho = problem.density(grid := problem.grid(3000), 1.0)
    x = grid.centers[0]
    kernel = -problem.strength / 2 * np.exp(-np.abs(x[:, None] - x) / problem.length)
    variation = problem.eps * rho.values + kernel @ rho.masses
    inside = np.abs(x) < 0.999 * problem.half_length
    assert np.ptp(variation[inside]) < 1e-5
    assert variation[~inside].min() > variation[inside].max() - 1e-5
    assert problem.quantities(1.0)["energy"] == pytest.approx(0.5 * 1.3 * variation[inside].mean(), rel=1e-5)
    assert rho.cov() == pytest.approx(problem.quantities(1.0)["variance"], rel=1e-5)
    stretched = exact.CompactAggregation(stretch=1.4)
    assert stretched.density(stretched.grid(800), 0.0).cov() == pytest.approx(
        stretched.quantities(0.0)["variance"], rel=1e-4)
    with pytest.raises(InvalidInput, match="on its way"):
        stretched.density(stretched.grid(20), 1.0)


def test_riccati_without_diffusion():
    problem = exact.QuadraticActivation(beta=math.inf, mean=(0.4, -0.2), variance=((0.3, 0.1), (0.1, 0.2)))
    mean, cov = problem.moments(0.6)
    np.testing.assert_allclose(cov + np.outer(mean, mean), problem.riccati(0.6), atol=1e-10)


def test_quadratic_activation_obeys_the_riccati_equation():
    problem = OTHERS["quadratic-activation"]
    t, step = 0.3, 1e-3

    def second(s):
        mean, cov = problem.moments(s)
        return cov + np.outer(mean, mean)

    target, a = np.array(problem.target), second(t)
    right = 2 * (target @ a + a @ target) - 4 * a @ a - 2 * 0.3 * a + 2 / 3 * np.eye(2)
    np.testing.assert_allclose((second(t + step) - second(t - step)) / (2 * step), right, atol=1e-5)
    w, z = np.array([0.3, -1.2]), np.array([0.7, 0.4])
    assert problem.features(*w) @ problem.features(*z) == pytest.approx((w @ z) ** 2)


def test_two_cells_obey_their_equation():
    problem = exact.TwoCells(jump=1.1, beta=1.9, width=0.8, upper=0.7)
    z, d = 1.9 * 1.1, 1 / 1.9
    up, down = d / 0.64 * z / math.expm1(z), d / 0.64 * -z / math.expm1(-z)
    run = solve_ivp(lambda _, p: up * (1 - p) - down * p, (0, 0.4), [0.7], rtol=1e-11, atol=1e-13)
    assert problem.occupation(0.4) == pytest.approx(run.y[0, -1], rel=1e-9)


def test_waiting_front():
    problem = exact.WaitingTime(m=1.5, height=1.3, length=0.7)
    # The pressure lies below the parabola that it touches at the edge, whose waiting time is known.
    alpha = 1 / (2 * 2.5 * problem.waiting_time)
    s = np.linspace(1e-3, math.pi * 0.35, 50)
    pressure = 3 * (1.3 * np.cos((math.pi * 0.35 - s) / 0.7) ** 4) ** 0.5
    assert (pressure < alpha * s**2).all()
    assert pressure[0] / (alpha * s[0] ** 2) == pytest.approx(1.0, abs=1e-5)
    rho = problem.density(problem.grid(64), 0.0)
    assert rho.mass == pytest.approx(problem.mass, rel=1e-13)
    assert rho.mass == pytest.approx(quad(lambda x: 1.3 * math.cos(x / 0.7) ** 4, -0.35 * math.pi, 0.35 * math.pi)[0])
    assert problem.measure(rho) == {"mean": pytest.approx(0.0, abs=1e-15), "escaped": 0.0}
    assert problem.front(1.01 * problem.waiting_time) is None
    with pytest.raises(InvalidInput, match="t=0 only"):
        problem.density(problem.grid(64), 0.01)


@pytest.mark.parametrize(("make", "word"), [
    (lambda: exact.Barenblatt(m=1.0), "m="),
    (lambda: exact.Barenblatt(m=0.3), "finite variance"),
    (lambda: exact.Barenblatt(ndim=3), "ndim"),
    (lambda: exact.Barenblatt(start=0.0), "start"),
    (lambda: exact.PorousMedium(radius=-1.0), "radius"),
    (lambda: exact.PorousMedium(stiffness=-3.0).jko_states(0.5, 1), "no minimum"),
    (lambda: exact.PorousMedium().jko_states(0.1, -1), "steps"),
    (lambda: exact.WaitingTime(m=0.8), "m="),
    (lambda: exact.LogGas(repulsion=0.0), "repulsion"),
    (lambda: exact.LogGas(ndim=2), "line"),
    (lambda: exact.NewtonianLine(attraction=0.0), "attraction"),
    (lambda: exact.NewtonianLine(weights=(1.0,)), "same length"),
    (lambda: exact.NewtonianCloud(variance=0.0), "variance"),
    (lambda: exact.KellerSegelLine(attraction=2.5, start="stationary"), "stationary state needs"),
    (lambda: exact.KellerSegelLine(start="anywhere"), "start"),
    (lambda: exact.CompactAggregation(eps=1.2), "nothing holds together"),
    (lambda: exact.TwoCells(upper=1.0), "upper"),
    (lambda: exact.TwoCells().grid(3), "2 cells"),
    (lambda: exact.QuadraticActivation(target=((1.0, 0.2), (0.1, 1.0))), "symmetric"),
    (lambda: exact.QuadraticActivation().jko_states(0.1, 1), "no closed form"),
    (lambda: exact.QuadraticAttraction().jko_states(0.1, 1), "one component"),
    (lambda: exact.OrnsteinUhlenbeck(stiffness=-2.0).jko_states(0.6, 1), "positive definite"),
    (lambda: exact.OrnsteinUhlenbeck(stiffness=((2.0, 0.5), (0.5, 1.0)), mean=(0.0, 0.0),
                                     variance=((1.0, 0.0), (0.0, 0.3))).jko_states(0.1, 1), "commute"),
    (lambda: exact.GaussianPair(means=(0.0, (1.0, 2.0))), "same number"),
    (lambda: exact.UniformPair(first=(1.0, 0.0)), "first"),
])
def test_bad_parameters_are_named(make, word):
    with pytest.raises(InvalidInput, match=word):
        make()


def test_parameters_of_a_wrong_kind():
    with pytest.raises(InvalidType):
        exact.Barenblatt(m="2")
    with pytest.raises(InvalidType):
        exact.KellerSegelLine(attraction=None)


def test_problems_are_values():
    assert exact.Barenblatt(mean=0.0) == exact.Barenblatt(mean=[0.0])
    assert len({exact.NewtonianBall(), exact.NewtonianBall(mean=(0.0, 0.0)), exact.LogGas()}) == 2
