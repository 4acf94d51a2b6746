"""The exact problems against printed reference values and against independent ODEs, quadratures and spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import eigh_tridiagonal
from scipy.stats import multivariate_normal

from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.validation import exact
from wgflow.validation.exact.cells import cell_averages, gaussian_cell_averages
from wgflow.validation.exact.spectral import GibbsPolynomials, LegendreGalerkin

ROTATED = [[1.7, 0.6], [0.6, 0.8]]
THREE = [[1.0, 0.3, -0.2], [0.3, 1.5, 0.4], [-0.2, 0.4, 0.9]]

# Every family away from its default parameters, so that the tests below do not rest on the printed numbers alone.
OTHERS = [
    exact.Heat(mean=[0.4, -1.0], variance=[[0.3, 0.1], [0.1, 0.2]], beta=1.3, t_end=0.4),
    exact.OrnsteinUhlenbeck(stiffness=ROTATED, mean=[1.0, -0.5], variance=[[0.3, -0.1], [-0.1, 0.4]], center=[0.2, 0.1],
                            beta=2.5, t_end=0.6),
    exact.OrnsteinUhlenbeck(stiffness=THREE, mean=[0.5, 0.0, -0.5], variance=0.2, beta=3.0, t_end=0.3),
    exact.OrnsteinUhlenbeck(stiffness=-0.7, mean=0.3, variance=0.2, beta=5.0, t_end=0.5),
    exact.RankOne(stiffness=ROTATED, direction=[1.0, -0.5], target=0.7, mean=[0.2, 1.0], variance=0.15, beta=3.0),
    exact.Box(modes={(1, 0): 0.3, (2, 1): -0.25}, bounds=[(-1.0, 1.0), (0.0, 1.5)], beta=3.0, t_end=0.1),
    exact.Sedimentation(gravity=-1.7, length=1.3, modes={1: 0.2, 3: 0.05}, beta=1.5),
    exact.QuadraticAttraction(weights=(1.0, 2.0, 1.0), means=(-1.0, 0.5, 2.0), variances=(0.2, 0.1, 0.3),
                              attraction=0.6, confinement=0.4, beta=2.0, mass=1.6, t_end=0.7),
    exact.QuadraticAttraction(weights=(1.0, 1.0), means=(0.0, 1.0), variances=(0.2, 0.3), attraction=-0.5,
                              confinement=0.5, beta=3.0, mass=2.0),
    exact.QuadraticAttraction(beta=math.inf, confinement=0.3),
    exact.CosineTransport(strength=1.4, amplitude=-0.6, phase=0.4),
    exact.DesaiZwanzig(coupling=0.7, beta=2.0, mean=-0.3, variance=0.3, t_end=0.3),
    exact.Kuramoto(coupling=1.5, beta=3.0, amplitude=-0.5, phase=0.8),
    exact.DoubleWellDecay(beta=2.0, field=-0.3, t_end=0.8),
]


def names(problem):
    return f"{type(problem).__name__}-{getattr(problem, 'ndim', 1)}"


# ---- the printed reference values


def assert_digits(value, printed):
    """All printed digits; the last of them, a twelfth, may be off by one (it is in the Desai-Zwanzig energy)."""
    digits = len(printed.split(".")[1])
    assert value == pytest.approx(float(printed), abs=1.5 * 10.0**-digits)


@pytest.mark.parametrize(
    ("problem", "t", "printed"),
    [
        (exact.Heat(bounds=(-8, 8)), 0.5, {"variance": "0.600000000000", "energy": "-0.581762860661"}),
        (
            exact.OrnsteinUhlenbeck(),
            1.0,
            {"mean": "0.735758882343", "variance": "0.898498537573", "energy": "-0.645503597749",
             "dissipation": "0.552807536557"},
        ),
        (exact.QuadraticAttraction(), 0.5, {"variance": "0.91586178852", "energy": "0.15458339248"}),
        (exact.RankOne(), 1.0, {"mean": "0.294783066419", "variance": "0.426424111766"}),
        (exact.DesaiZwanzig(), 0.5, {"mean": "0.547091647928", "energy": "-0.179760851877"}),
        (exact.DesaiZwanzig(), 2.0, {"mean": "0.652245502425", "energy": "-0.188322417546"}),
        (exact.Kuramoto(), 1.0, {"order": "0.163475234796"}),
        (exact.Kuramoto(), 8.0, {"order": "0.825554082767"}),
    ],
)
def test_printed_quantities(problem, t, printed):
    quantities = problem.quantities(t)
    for name, text in printed.items():
        assert_digits(quantities[name], text)


def test_printed_stationary_states():
    model = exact.DesaiZwanzig()
    assert_digits(model.critical_beta(), "2.18843961523")
    ordered, disordered = model.stationary("ordered"), model.stationary("disordered")
    assert_digits(ordered["mean"], "0.787550406844")
    assert_digits(ordered["variance"], "0.146513809348")
    assert_digits(ordered["energy"], "-0.193501319059")
    assert_digits(disordered["energy"], "-0.148718836035")
    assert_digits(model.linear_rate(), "-0.570261982319")
    state = exact.Kuramoto().stationary()
    assert_digits(state["order"], "0.831462024754")
    assert_digits(state["energy"], "-1.15404625437")


def test_printed_spectra_and_peak():
    for beta, printed in ((1.0, ("0.792088426579", "3.54888918231")),
                          (4.0, ("0.187170418087", "1.50102841771", "2.91517388942"))):
        for rate, text in zip(exact.DoubleWellDecay(beta=beta).rates(3), printed):
            assert_digits(rate, text)
    assert_digits(float(exact.QuadraticAttraction().pdf(0.0, 0.5)), "0.243687506048")


# ---- every family, other parameters


@pytest.mark.slow
@pytest.mark.parametrize("problem", OTHERS, ids=names)
def test_energy_falls_by_the_dissipation(problem):
    """dF/dt = -dissipation ties the two to each other and both to the dynamics."""
    t, step = 0.5 * problem.t_end, 1e-3 * problem.t_end
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    slope = sum(w * problem.quantities(t + k * step)["energy"] for k, w in weights.items()) / step
    dissipation = problem.quantities(t)["dissipation"]
    assert dissipation > 1e-4
    assert slope == pytest.approx(-dissipation, rel=2e-6)


@pytest.mark.parametrize("problem", OTHERS, ids=names)
def test_density_and_quantities_agree(problem):
    """Measured on finer and finer grids, the exact cell averages give the exact quantities, with error h^2."""
    cells = {1: (400, 800), 2: (120, 240), 3: (32, 64)}[problem.grid(4).ndim]
    errors = []
    for n in cells:
        grid = problem.grid(n)
        rho = problem.density(grid, problem.t_end)
        assert rho.mass == pytest.approx(getattr(problem, "mass", 1.0), abs=2e-11)
        errors.append(problem.errors(rho, problem.t_end))
        assert errors[-1].pop("density") == 0.0
    for name, coarse in errors[0].items():
        assert errors[1][name] < max(0.35 * coarse, 1e-9), name
        assert coarse < 0.04, name


@pytest.mark.parametrize("problem", OTHERS, ids=names)
def test_initial_density_is_the_solution_at_zero(problem):
    grid = problem.grid(16)
    np.testing.assert_array_equal(problem.initial_density(grid).values, problem.density(grid, 0.0).values)
    assert np.abs(problem.density(grid, problem.t_end).values - problem.density(grid, 0.0).values).max() > 1e-3


# ---- independent routes, family by family


@pytest.mark.parametrize("beta", [3.0, math.inf])
@pytest.mark.parametrize("rank_one", [False, True])
def test_gaussian_moments_against_their_ode(beta, rank_one):
    stiffness, m0, s0 = np.array(THREE), np.array([0.5, -1.0, 0.2]), np.diag([0.3, 0.2, 0.4])
    w, y, center = np.array([0.4, -0.8, 0.3]), 1.3, np.array([0.1, 0.2, -0.3])
    if rank_one:
        problem = exact.RankOne(stiffness, w, y, m0, s0, beta)
        matrix, pull = stiffness + np.outer(w, w), y * w
    else:
        problem = exact.OrnsteinUhlenbeck(stiffness, m0, s0, center, beta)
        matrix, pull = stiffness, stiffness @ center

    def slope(_, state):
        m, s = state[:3], state[3:].reshape(3, 3)
        return np.concatenate([pull - matrix @ m, (2 / beta * np.eye(3) - stiffness @ s - s @ stiffness).ravel()])

    run = solve_ivp(slope, (0, 0.9), np.concatenate([m0, s0.ravel()]), method="DOP853", rtol=1e-12, atol=1e-13)
    mean, cov = problem.moments(0.9)
    np.testing.assert_allclose(mean, run.y[:3, -1], atol=1e-10)
    np.testing.assert_allclose(cov, run.y[3:, -1].reshape(3, 3), atol=1e-10)


def test_gaussian_cell_averages_against_the_density_integrated():
    mean, cov = np.array([0.2, -0.1]), np.array([[0.5, 0.35], [0.35, 0.4]])
    grid = Grid([(-1.0, 1.5), (-2.0, 1.0)], cells=(9, 7))
    values = gaussian_cell_averages(grid, mean, cov)
    law = multivariate_normal(mean, cov)
    assert (values * grid.volumes).sum() == pytest.approx(
        law.cdf([1.5, 1.0], lower_limit=[-1.0, -2.0]), abs=1e-7
    )
    direct = cell_averages(grid, lambda x, y: law.pdf(np.stack([x, y], axis=-1)), points=12)
    np.testing.assert_allclose(values, direct, rtol=1e-11)


def test_gaussian_tails_keep_relative_accuracy():
    grid = Grid((-12.0, 12.0), cells=240)
    values = gaussian_cell_averages(grid, np.zeros(1), np.eye(1))
    np.testing.assert_allclose(values, values[::-1], rtol=1e-12)
    direct = cell_averages(grid, lambda x: np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi))
    np.testing.assert_allclose(values, direct, rtol=1e-11)


def test_box_discrete_rates_are_the_eigenvalues_of_the_two_point_flux():
    problem = exact.Box(modes={1: 0.2}, bounds=(0.5, 2.5), beta=4.0)
    n = 17
    diagonal = np.full(n, 2.0)
    diagonal[[0, -1]] = 1.0
    scale = problem.diffusion * (n / 2.0) ** 2
    eigenvalues = scale * eigh_tridiagonal(diagonal, -np.ones(n - 1), eigvals_only=True)
    np.testing.assert_allclose([problem.discrete_rate(k, n) for k in range(1, n)], eigenvalues[1:], rtol=1e-12)
    assert problem.discrete_rate(1, 4000) == pytest.approx(problem.rate(1), rel=1e-6)
    square = exact.Box(modes={(1, 2): 0.2}, bounds=[(0.0, 1.0), (0.0, 2.0)])
    assert square.rate((1, 2)) == pytest.approx(2.0 * math.pi**2)


@pytest.mark.parametrize("mode", [1, 2, 5])
def test_sedimentation_eigenfunctions_solve_the_equation(mode):
    problem = exact.Sedimentation(gravity=1.3, length=0.8, modes={1: 0.1}, beta=2.7)
    x, h, d = np.linspace(0.1, 0.7, 5), 1e-3, problem.diffusion
    f = [problem.eigenfunction(mode, x + k * h) for k in (-2, -1, 0, 1, 2)]
    first = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h)
    second = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h * h)
    np.testing.assert_allclose(d * second + 1.3 * first, -problem.rate(mode) * f[2], rtol=1e-6, atol=1e-6)
    for wall in (0.0, 0.8):
        f = problem.eigenfunction(mode, wall + h * np.arange(-2, 3))
        assert d * (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h) + 1.3 * f[2] == pytest.approx(0.0, abs=1e-7)
    assert quad(lambda s: float(problem.eigenfunction(mode, s)), 0, 0.8)[0] == pytest.approx(0.0, abs=1e-12)


def test_quadratic_attraction_against_quadrature():
    problem, t = OTHERS[7], 0.7
    assert problem.mass == 1.6
    points = {"points": [-1, 0, 1, 2], "limit": 200, "epsabs": 1e-12}

    def integral(f):
        return quad(lambda x: f(x, float(problem.pdf(x, t))), -9, 9, **points)[0]

    mass, first, second = (integral(lambda x, p, k=k: x**k * p) for k in range(3))
    exactly = problem.quantities(t)
    assert mass == pytest.approx(1.6, abs=1e-10)
    assert first / mass == pytest.approx(exactly["mean"], abs=1e-10)
    entropy = integral(lambda x, p: p * math.log(p))
    pairs = problem.attraction * (mass * second - first**2) / 2
    assert exactly["energy"] == pytest.approx(entropy / 2.0 + 0.2 * second + pairs, abs=1e-9)


def test_cosine_transport_follows_the_characteristics():
    problem = exact.CosineTransport(strength=1.2, amplitude=0.7, phase=2.0)
    starts = np.array([-3.0, -1.0, 0.2, 2.9])
    run = solve_ivp(lambda _, x: -1.2 * np.sin(x), (0, 0.8), starts, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(problem.foot(run.y[:, -1], 0.8), starts, atol=1e-10)
    grid = problem.grid(50)
    np.testing.assert_allclose(
        problem.density(grid, 0.8).values, cell_averages(grid, lambda x: problem.pdf(x, 0.8)), rtol=1e-10
    )


def test_double_well_spectrum_against_the_schroedinger_form():
    """H = -D d^2 + V'^2/(4D) - V''/2 in Hermite functions has the same spectrum."""
    beta, n = 2.5, 120
    d = 1.0 / beta
    lower = np.diag(np.sqrt(np.arange(1.0, n + 8)), 1)
    scale = 0.55
    x = scale * (lower + lower.T) / math.sqrt(2.0)
    momentum = (lower - lower.T) / (math.sqrt(2.0) * scale)
    force = x @ x @ x - x
    matrix = -d * momentum @ momentum + force @ force / (4 * d) - (3 * x @ x - np.eye(n + 8)) / 2
    # The truncated products are wrong only in their last rows and columns.
    values = np.linalg.eigvalsh(matrix[:n, :n])
    assert values[0] == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(exact.DoubleWellDecay(beta=beta).rates(4), values[1:5], atol=1e-8)


def test_double_well_decay_against_a_galerkin_run():
    problem = exact.DoubleWellDecay(beta=2.0, field=0.4)
    method = LegendreGalerkin(lambda x: x**3 - x, 0.0, problem.diffusion, (-4.0, 4.0), 110)
    z = quad(lambda x: math.exp(-2.0 * (x**4 / 4 - x**2 / 2 - 0.4 * x)), -4, 4, epsabs=1e-13)[0]
    start = method.project(lambda x: np.exp(-2.0 * (x**4 / 4 - x**2 / 2 - 0.4 * x)) / z)
    mean = method.first_moment @ method.run(start, 1.5, 1e-9)
    assert mean == pytest.approx(problem.quantities(1.5)["mean"], abs=1e-9)
    x = np.linspace(-2.5, 2.5, 11)
    np.testing.assert_allclose(problem.pdf(x, 0.0), np.exp(-2.0 * (x**4 / 4 - x**2 / 2 - 0.4 * x)) / z, rtol=1e-9)


def test_gibbs_polynomials_are_orthonormal_and_recover_hermite():
    law = GibbsPolynomials(lambda x: x * x / 2, 3.0, 30)
    np.testing.assert_allclose((law.values * law.weights) @ law.values.T, np.eye(31), atol=1e-11)
    np.testing.assert_allclose(law.modes()[0], np.arange(31), atol=1e-9)
    assert law.log_partition == pytest.approx(0.5 * math.log(2 * math.pi / 3.0))


def test_desai_zwanzig_mean_obeys_its_moment_equation():
    problem = OTHERS[11]
    t, step = 0.2, 1e-3
    slope = (problem.quantities(t + step)["mean"] - problem.quantities(t - step)["mean"]) / (2 * step)
    x, rho = (grid := problem.grid(4000)).centers[0], problem.density(grid, t)
    assert slope == pytest.approx(float(np.sum(rho.masses * (x - x**3))), abs=2e-6)


def test_desai_zwanzig_stationary_states():
    model = exact.DesaiZwanzig(coupling=1.6, beta=3.0)
    assert exact.DesaiZwanzig(coupling=1.6, beta=0.999 * model.critical_beta()).stationary_mean() == 0.0
    assert exact.DesaiZwanzig(coupling=1.6, beta=1.001 * model.critical_beta()).stationary_mean() > 0.01
    assert exact.DesaiZwanzig().critical_beta() == pytest.approx(
        (math.gamma(0.25) / (2 * math.gamma(0.75))) ** 2, rel=1e-13
    )
    state = model.stationary()
    grid = model.grid(4000)
    rho = model.stationary_density(grid)
    assert rho.mean() == pytest.approx(state["mean"], abs=1e-7)
    assert float(model.energy()(rho)) == pytest.approx(state["energy"], abs=1e-5)
    assert float(model.energy().dissipation(rho)) < 1e-9
    assert state["energy"] < model.stationary("disordered")["energy"]
    # Linear stability changes sign with the branch, and at the transition the disordered rate is zero.
    assert model.linear_rate("ordered") < 0.0 < model.linear_rate("disordered")
    critical = exact.DesaiZwanzig(coupling=1.6, beta=model.critical_beta())
    assert critical.linear_rate("disordered") == pytest.approx(0.0, abs=1e-10)


@pytest.mark.slow
def test_desai_zwanzig_relaxes_at_the_linear_rate():
    model = exact.DesaiZwanzig()
    limit = model.stationary_mean()
    late = [model.quantities(t)["mean"] - limit for t in (16.0, 17.0)]
    assert math.log(late[1] / late[0]) == pytest.approx(model.linear_rate(), abs=2e-4)


def test_kuramoto_turns_with_its_phase_and_grows_at_the_linear_rate():
    problem = exact.Kuramoto(coupling=1.5, beta=3.0, amplitude=0.4, phase=0.8)
    straight = exact.Kuramoto(coupling=1.5, beta=3.0, amplitude=0.4)
    assert problem.quantities(1.0) == pytest.approx(straight.quantities(1.0), rel=1e-9)
    shift = 2 * math.pi * 25 / 200
    turned = exact.Kuramoto(coupling=1.5, beta=3.0, amplitude=0.4, phase=shift)
    grid = turned.grid(200)
    np.testing.assert_allclose(
        turned.density(grid, 1.0).values, np.roll(straight.density(grid, 1.0).values, 25), atol=1e-11
    )
    faint = exact.Kuramoto(coupling=1.5, beta=3.0, amplitude=1e-5)
    growth = math.log(faint.quantities(1.0)["order"] / faint.quantities(0.0)["order"])
    assert growth == pytest.approx(faint.growth_rate, abs=1e-8)
    assert exact.Kuramoto(coupling=0.9, beta=2.0).stationary()["order"] == 0.0
    assert exact.Kuramoto(coupling=1.1, beta=2.0).critical_coupling == 1.0


def test_kuramoto_settles_in_its_stationary_state():
    problem = exact.Kuramoto(coupling=2.5, beta=1.6)
    late = problem.quantities(20.0)
    assert late["order"] == pytest.approx(problem.stationary()["order"], abs=1e-9)
    assert late["energy"] == pytest.approx(problem.stationary()["energy"], abs=1e-9)


# ---- tolerances and bad parameters


def test_a_reference_that_is_too_coarse_says_so():
    with pytest.raises(ConvergenceError, match="two resolutions"):
        exact.DesaiZwanzig(size=30).quantities(0.1)
    with pytest.raises(ConvergenceError, match="two resolutions"):
        exact.Kuramoto(coupling=20.0, size=10).quantities(1.0)
    with pytest.raises(ConvergenceError, match="two resolutions"):
        exact.DoubleWellDecay(beta=40.0, degree=12).rates(3)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: exact.Heat(beta=0.0), "beta"),
        (lambda: exact.Heat(beta=math.inf), "beta"),
        (lambda: exact.Heat(variance=-1.0), "variance"),
        (lambda: exact.Heat(bounds=(2.0, 1.0)), "bounds"),
        (lambda: exact.OrnsteinUhlenbeck(stiffness=[[1.0, 0.2], [0.1, 1.0]], mean=[0.0, 0.0]), "symmetric"),
        (lambda: exact.OrnsteinUhlenbeck(stiffness=[[1.0, 0.2], [0.2, 1.0]]), "stiffness"),
        (lambda: exact.OrnsteinUhlenbeck(mean=[math.nan]), "mean"),
        (lambda: exact.OrnsteinUhlenbeck(mean=[0.0] * 5), "four"),
        (lambda: exact.OrnsteinUhlenbeck(mean=[0.0, 1.0], bounds=(0.0, 1.0)), "bounds"),
        (lambda: exact.RankOne(direction=[1.0, 2.0]), "direction"),
        (lambda: exact.Box(modes={1: 0.6, 2: 0.4}), "sum"),
        (lambda: exact.Box(modes={0: 0.6}), "modes"),
        (lambda: exact.Box(modes={(1, 1): 0.6}), "modes"),
        (lambda: exact.Sedimentation(gravity=0.0), "gravity"),
        (lambda: exact.Sedimentation(modes={1: 5.0}), "modes"),
        (lambda: exact.Sedimentation(modes={0: 0.1}), "modes"),
        (lambda: exact.QuadraticAttraction(weights=(1.0,)), "same length"),
        (lambda: exact.QuadraticAttraction(variances=(0.1, 0.0)), "variances"),
        (lambda: exact.QuadraticAttraction(mass=0.0), "mass"),
        (lambda: exact.CosineTransport(amplitude=1.0), "amplitude"),
        (lambda: exact.CosineTransport(beta=3.0), "beta"),
        (lambda: exact.DesaiZwanzig(size=3), "size"),
        (lambda: exact.DesaiZwanzig(coupling=-1.0), "coupling"),
        (lambda: exact.DesaiZwanzig().stationary("third"), "branch"),
        (lambda: exact.Kuramoto(amplitude=-1.2), "amplitude"),
        (lambda: exact.DoubleWellDecay(degree=2), "degree"),
        (lambda: exact.DoubleWellDecay().rates(0), "count"),
        (lambda: exact.Heat().quantities(-0.1), "t="),
        (lambda: exact.Heat().density(Grid([(0, 1), (0, 1)], cells=4), 0.1), "axes"),
        (lambda: exact.DesaiZwanzig().density(Grid((-5, 5), cells=4), 0.0), "bounds"),
    ],
)
def test_bad_parameters_are_named(make, word):
    with pytest.raises(InvalidInput, match=word):
        make()


@pytest.mark.parametrize("value", ["1", True, 1j, None])
def test_parameters_of_a_wrong_kind(value):
    with pytest.raises(InvalidType):
        exact.DesaiZwanzig(beta=value)


def test_problems_are_values():
    """Equal parameters give equal, hashable problems whatever container they came in."""
    one = exact.OrnsteinUhlenbeck(stiffness=np.array(ROTATED), mean=np.zeros(2), variance=0.2)
    other = exact.OrnsteinUhlenbeck(stiffness=ROTATED, mean=[0, 0], variance=[[0.2, 0], [0, 0.2]])
    assert one == other
    assert hash(one) == hash(other)


def test_kuramoto_order_along_a_run():
    problem = exact.Kuramoto(coupling=1.5, beta=3.0, amplitude=0.4, phase=0.8)
    times = [0.0, 0.4, 1.0, 2.5]
    expected = [problem.quantities(t)["order"] for t in times]
    np.testing.assert_allclose(problem.order_at(times), expected, rtol=1e-9)
    with pytest.raises(ConvergenceError, match="order"):
        exact.Kuramoto(coupling=20.0, size=10).order_at([0.5, 1.0])
