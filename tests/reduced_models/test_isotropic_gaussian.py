"""The isotropic Gaussian model: kernel, risks, initial laws, stationary points and trajectories, by other routes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import gamma, roots_genlaguerre, roots_jacobi
from scipy.stats import chi

from wgflow.activations import (
    Erf,
    NonMonotone,
    PiecewiseLinear,
    Polynomial,
    Ramp,
    ReLU,
    Softplus,
    Tanh,
)
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.grids import Grid
from wgflow.reduced_models import Atoms, IsotropicGaussian
from wgflow.reduced_models.critical_deltas import delta_margin
from wgflow.reduced_models.features.radial import HermiteFeatures, tail_at_infinity
from wgflow.reduced_models.radial_laws import gauss_chi_rule

RADII = np.array([0.1, 0.5, 0.8, 1.5, 2.5, 4.0, 6.0])


def model(d=40, plus=1.8, minus=0.2, activation=None, **options):
    return IsotropicGaussian(d, plus, minus, activation=activation, **options)


def kernel_by_angle(m, r, s, nodes=400):
    """U(r, r') as the average over the angle between the weights of the closed-form pair expectation."""
    if m.d == 1:
        c, weights = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    else:
        c, weights = roots_jacobi(nodes, 0.5 * (m.d - 3), 0.5 * (m.d - 3))
        weights = weights / weights.sum()
    pairs = [m.activation.pair_expectation(tau * r[..., None], tau * s[..., None], c) for tau in m.deviations]
    return 0.5 * sum(pairs) @ weights


def atom(r):
    return Atoms(np.array([[r]]), np.ones(1))


# -------------------------------------------------------------------- kernel
@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), Polynomial([0.5, 1.0, 0.3])], ids=repr)
@pytest.mark.parametrize("d", [5, 8, 20, 40, 320])
def test_kernel_against_angle_quadrature(d, activation):
    m = model(d, activation=activation)
    r, s = np.meshgrid(RADII, RADII, indexing="ij")
    expected = kernel_by_angle(m, r, s)
    scale = max(1.0, np.max(np.diag(expected)))
    assert m.kernel((r,), (s,)) == pytest.approx(expected, abs=2 * m.tolerance * scale)
    assert m.feature_error <= m.tolerance


def test_kernel_of_a_smooth_activation():
    m = model(8, activation=Softplus())
    r = np.array([0.1, 1.5, 6.0])
    assert m.kernel((r,), (r[::-1],)) == pytest.approx(kernel_by_angle(m, r, r[::-1], nodes=24), abs=1e-8)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_kernel_in_low_dimension_keeps_its_stated_tolerance(d):
    m = model(d)
    r, s = np.meshgrid(RADII, RADII, indexing="ij")
    expected = kernel_by_angle(m, r, s, 3000)
    assert np.max(np.abs(m.kernel((r,), (s,)) - expected)) <= 2 * m.tolerance * np.max(expected)


def test_an_unreachable_tolerance_warns():
    with pytest.warns(WGFlowWarning, match="not to tolerance=1.0e-12"):
        model(2, tolerance=1e-12).features(1.0)


def test_fewer_terms_at_a_coarser_tolerance():
    sizes = [model(tolerance=e).target.size for e in (1e-4, 1e-8, 1e-12)]
    assert sizes == sorted(set(sizes))


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 400), st.floats(0.05, 3), st.floats(0.05, 3), st.integers(0, 99999))
def test_kernel_is_symmetric_positive_and_bounded_by_the_diagonal(d, plus, minus, seed):
    m = model(d, plus, minus)
    r = np.random.default_rng(seed).uniform(0, 4 * m.length_scale, 12)
    table = m.kernel((r[:, None],), (r[None, :],))
    assert np.array_equal(table, table.T)
    assert np.linalg.eigvalsh(table)[0] > -1e-10
    # A neuron with itself has cosine 1: more than the average over directions.
    assert np.all(np.diag(table) <= m.diagonal(r) + 1e-9)


def test_infinite_dimension_is_the_limit():
    r, s = np.meshgrid(RADII, RADII, indexing="ij")
    limit = model(math.inf).kernel((r,), (s,))
    gaps = [np.max(np.abs(model(d).kernel((r,), (s,)) - limit)) for d in (100, 400, 1600)]
    assert gaps[1] / gaps[0] == pytest.approx(1 / 4, rel=0.1)
    assert gaps[2] / gaps[1] == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.parametrize("d", [3, 8, 40, math.inf])
@pytest.mark.parametrize("activation", [Ramp(), NonMonotone()], ids=repr)
def test_gradients_against_differences(d, activation):
    m, h = model(d, activation=activation), 1e-5
    r = np.array([0.3, 1.0, 2.7])
    gradient = m.feature_gradients(r)
    assert gradient.shape == (m.target.size, 1, 3)
    assert gradient[:, 0] == pytest.approx((m.features(r + h) - m.features(r - h)) / (2 * h), abs=1e-7)
    rho = Atoms(np.array([[0.7, 1.9]]), np.array([0.4, 0.6]))
    difference = (m.psi(rho, r + h) - m.psi(rho, r - h)) / (2 * h)
    assert m.psi_gradient(rho, r)[0] == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize("d", [8, 40, math.inf])
def test_potential_is_in_the_span_of_the_features(d):
    m = model(d)
    expected = -np.sum(m.target[:, None] * m.features(RADII), axis=0)
    assert m.potential(RADII) == pytest.approx(expected, abs=1e-9)


def test_scaling_of_the_data_is_a_scaling_of_the_radius():
    a, b = model(40, 1.8, 0.2), model(40, 4 * 1.8, 4 * 0.2)
    assert a.kernel((RADII,), (1.3,)) == pytest.approx(b.kernel((RADII / 2,), (0.65,)), abs=1e-9)
    assert a.initial_risk(0.8) == pytest.approx(b.initial_risk(0.4), abs=1e-13)


@pytest.mark.parametrize(
    ("d", "errors"),
    [
        (40, {4: 2e-6, 8: 5e-9, 10: 4e-10, 12: 5e-11}),
        (80, {6: 8e-10, 8: 2e-11}),
        (320, {4: 8e-11}),
        (20, {20: 9e-10, 30: 2.5e-11}),
    ],
)
def test_terms_of_the_series(d, errors):
    """The largest error of the series of J terms on these radii, to the one digit that is known."""
    m = model(d)
    r, s = np.meshgrid([0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], [0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    exact = kernel_by_angle(m, r, s)
    for terms, error in errors.items():
        f, g = (HermiteFeatures(m.activation, m.deviations, d, terms, 0.0)(x, 0) for x in (r, s))
        worst = np.max(np.abs(np.sum(f * g, axis=0) - exact))
        assert worst < 1.5 * error + 1e-12
        assert worst > 0.3 * error


@pytest.mark.parametrize("d", [3, 8, 40, 320, math.inf])
@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), PiecewiseLinear([-0.5, 0.0, 1.0], [1.0, 0.3, 2.0])],
                         ids=repr)
def test_the_cone_at_zero_radius(d, activation):
    """A knot at 0 makes a cone of Psi: values and slopes at r = 0 are the limits from r > 0."""
    m, h = model(d, activation=activation), 1e-7
    at_zero = float(activation(0.0))
    assert m.potential(0.0) == pytest.approx(0.0, abs=1e-15)
    assert m.diagonal(0.0) == pytest.approx(at_zero**2, abs=1e-13)
    assert m.kernel((0.0,), (RADII,)) == pytest.approx(m.kernel((h,), (RADII,)), abs=1e-5)
    assert m.kernel((0.0,), (0.0,)) == pytest.approx(at_zero**2, abs=2 * m.tolerance * np.max(m.diagonal(RADII)))
    slopes = m.feature_gradients(0.0)
    assert np.isfinite(slopes).all()
    assert slopes[:, 0] == pytest.approx((m.features(h) - m.features(0.0)) / h, abs=1e-5)
    rho = atom(0.0)
    slope = m.psi_gradient(rho, 0.0)[0]
    assert slope == pytest.approx(float(m.psi(rho, h) - m.psi(rho, 0.0)) / h, abs=1e-5)


def test_small_weights_of_the_non_monotone_activation_are_driven_to_zero():
    activation = NonMonotone()
    turn = brentq(lambda s: activation.gaussian_mean(s, 1), 0.1, 0.5, xtol=1e-15)
    assert turn == pytest.approx(0.28167036614, abs=1e-11)
    m = IsotropicGaussian(320, delta=0.5, activation=activation)
    rho = atom(0.0)
    assert m.risk(rho) == pytest.approx(7.25, abs=1e-12)  # 1 + sigma(0)^2
    assert m.psi_gradient(rho, 0.0)[0] > 0.1
    assert min(m.psi(rho, RADII)) < m.psi(rho, 0.0)  # stationary, not optimal


@pytest.mark.parametrize(
    "activation",
    [Ramp(), Tanh(), Erf(), Polynomial([0.4]), PiecewiseLinear([0, 1], [1.0, 4.0], 0.5, 0.5), Polynomial([0.4, 2.0])],
    ids=repr,
)
@pytest.mark.parametrize("d", [5, 40, math.inf])
def test_bounded_features_at_infinity(d, activation):
    m = model(d, activation=activation)
    (limit,) = m.limit_points()
    assert limit.mass == 1.0
    assert m.features(1e6) == pytest.approx(limit.features, abs=1e-5)
    if math.isfinite(limit.diagonal):  # approached as 1/r
        gaps = [abs(m.diagonal(r) - limit.diagonal) for r in (20.0, 80.0)]
        assert gaps[1] <= 0.3 * gaps[0] + 1e-13
        assert gaps[1] < 0.03 * limit.diagonal
    else:
        assert m.diagonal(1e4) > 1e6


@pytest.mark.parametrize(
    "activation", [ReLU(0.3), Polynomial([0.4, 1.0, -0.3, 0.2]), PiecewiseLinear([0, 1], [1.0, 4.0], 0.5, -2.0),
                   Softplus()], ids=repr)
@pytest.mark.parametrize("d", [5, 40, math.inf])
def test_growing_features_at_infinity(d, activation):
    m = model(d, activation=activation)
    (limit,) = m.limit_points()
    power = 2 if isinstance(activation, Polynomial) else 1
    assert (limit.mass, limit.diagonal) == (0.0, math.inf)
    gaps = [np.max(np.abs(m.features(r) / r**power - limit.features)) for r in (5.0, 20.0)]
    assert gaps[1] < 0.3 * gaps[0]
    assert gaps[1] < 0.2


def test_activations_of_others_have_no_known_tail():
    class Other(Tanh):
        def kernel_arguments(self):
            return super().kernel_arguments()._replace(code=77)

    assert tail_at_infinity(Other()) is None
    m = model(math.inf, activation=Other())
    assert m.limit_points() == ()
    assert m.search_box() == m.grid(8).bounds


# -------------------------------------------------------------------- energies and risks
@pytest.mark.parametrize("d", [8, 40, math.inf])
def test_risk_is_twice_the_energy(d):
    m = model(d)
    grid = m.grid(cells=150)
    rho = m.initial_density(0.8, grid)
    assert 2 * m.energy()(rho) == pytest.approx(m.risk(rho), abs=1e-9)
    second_moment = rho.expect(lambda r: r**2)
    assert m.energy(ridge=0.3)(rho) == pytest.approx(0.5 * m.risk(rho) + 0.15 * second_moment, abs=1e-9)
    ridged = m.energy(ridge=0.3).first_variation(rho)
    assert ridged - 0.5 == pytest.approx(m.psi(rho, grid.centers[0], ridge=0.3), abs=1e-9)


def test_entropy_is_that_of_the_full_space():
    d, kappa, beta = 40, 0.8, 7.0
    m = model(d)
    rho = m.initial_density(kappa, m.grid(cells=4000))
    normal = -0.5 * d * (1 + math.log(2 * math.pi * kappa**2 / d))  # int rho log rho of N(0, kappa^2/d I)
    assert m.energy(beta=beta)(rho) - m.energy()(rho) == pytest.approx(normal / beta, abs=2e-4)


@pytest.mark.parametrize("d", [1, 2, 40, 320, 5000])
def test_grid_carries_the_measure_of_the_spheres(d):
    m = model(d)
    grid = m.grid(cells=50, r_max=2.0)
    assert np.isfinite(grid.log_weight).all()
    last = d * np.log(grid.edges[0][-1]) + np.log1p(-((grid.edges[0][-2] / grid.edges[0][-1]) ** d))
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    assert grid.log_reference[-1] == pytest.approx(log_ball + last, rel=1e-12)


def test_default_grid_grows_for_noise():
    m = model(40)
    assert m.grid().bounds == ((0.0, pytest.approx(3.5 * 1.5)),)
    assert m.grid(beta=100.0, ridge=0.01).bounds[0][1] > math.sqrt(40) + 7
    assert m.grid(cells=7, r_max=3.0).shape == (7,)


@pytest.mark.parametrize(
    ("m", "kappa", "risk"),
    [
        (model(40), 0.8, 2.3848899178),
        (model(40, 3.24, 0.04), 0.8, 1.7044817079),
        (model(320, 1.5, 0.5, NonMonotone()), 0.1, 7.9037593978),
        (model(320, 1.5, 0.5, NonMonotone()), 0.4, 7.7654952069),
    ],
)
def test_initial_risk(m, kappa, risk):
    assert m.initial_risk(kappa) == pytest.approx(risk, abs=1e-10)
    errors = [abs(m.risk(m.initial_density(kappa, m.grid(cells=n))) - risk) for n in (1000, 2000, 4000)]
    assert errors[2] < 1e-4
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)  # cell averages at cell centers: second order


@pytest.mark.parametrize("d", [1, 3, 40, 320, 20000])
def test_initial_density_is_the_chi_law_in_both_tails(d):
    m, kappa = model(d), 0.8
    grid = m.grid(cells=700, r_max=8.0)
    rho = m.initial_density(kappa, grid)
    law = chi(d, scale=kappa / math.sqrt(d))
    e = grid.edges[0]
    exact = np.where(e[:-1] > kappa, law.sf(e[:-1]) - law.sf(e[1:]), law.cdf(e[1:]) - law.cdf(e[:-1]))
    keep = exact > 1e-290
    assert rho.masses[keep] == pytest.approx(exact[keep], rel=1e-9)
    assert rho.mass == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("kappa", [0.333, 0.8, 1.0, 5.1])
def test_initial_density_of_the_limit_is_a_delta_of_exact_mean(kappa):
    m = model(math.inf)
    rho = m.initial_density(kappa, m.grid(cells=100))
    assert rho.mean() == pytest.approx(kappa, abs=1e-13)
    assert np.count_nonzero(rho.values) <= 2


@pytest.mark.parametrize(("d", "nodes"), [(1, 12), (2, 40), (3, 20), (40, 40), (320, 60), (5000, 30)])
def test_initial_atoms_are_a_gauss_rule(d, nodes):
    """Exact for even powers of r up to 4 nodes - 2: E r^(2k) = (2 kappa^2/d)^k Gamma(d/2 + k) / Gamma(d/2)."""
    kappa = 0.7
    rho = model(d).initial_atoms(kappa, nodes)
    assert rho.points.shape == (1, nodes)
    assert (rho.bounds, rho.powers) == (((0.0, math.inf),), (d - 1.0,))
    assert rho.mass == pytest.approx(1.0, abs=1e-14)
    assert np.all(np.diff(rho.points[0]) > 0)
    for k in (1, 2, nodes // 2, nodes, 2 * nodes - 1):
        moment = np.sum(np.exp(np.log(rho.weights) + 2 * k * np.log(rho.points[0])))
        exact = math.exp(k * math.log(2 * kappa**2 / d) + math.lgamma(0.5 * d + k) - math.lgamma(0.5 * d))
        assert moment == pytest.approx(exact, rel=1e-11 * nodes)


def test_gauss_rule_against_scipy():
    for d in (1, 4, 9):
        chi_nodes, weights = gauss_chi_rule(d, 16)
        x, w = roots_genlaguerre(16, 0.5 * d - 1)
        assert 0.5 * chi_nodes**2 == pytest.approx(x, rel=1e-12)
        assert weights == pytest.approx(w / w.sum(), rel=1e-10)  # also the weight of 1e-22


@pytest.mark.parametrize("nodes", [1, 400, 900])
def test_gauss_rules_of_any_size_do_not_overflow(nodes):
    rho = model(40).initial_atoms(0.8, nodes)
    assert np.isfinite(rho.weights).all()
    assert rho.mass == pytest.approx(1.0, abs=1e-13)
    assert rho.expect(lambda r: r**2) == pytest.approx(0.64, rel=1e-12)


@pytest.mark.parametrize(("d", "activation"), [(40, Ramp()), (320, NonMonotone()), (80, Tanh()), (math.inf, Ramp())])
def test_initial_atoms_have_the_initial_risk(d, activation):
    m = model(d, activation=activation)
    assert m.risk(m.initial_atoms(0.8)) == pytest.approx(m.initial_risk(0.8), abs=1e-9)


def test_initial_atoms_of_the_limit():
    rho = model(math.inf).initial_atoms(0.8)
    assert (rho.points.tolist(), rho.weights.tolist()) == ([[0.8]], [1.0])


# -------------------------------------------------------------------- stationary points
@pytest.mark.parametrize(
    ("delta", "radius", "risk"),
    [
        (0.2, 1.447922190144, 0.625456874492),
        (0.5, 1.549494549788, 0.194472082915),
        (0.8, 2.018053972144, 0.003120865215),
    ],
)
def test_stationary_delta_of_the_limit(delta, radius, risk):
    (found,) = IsotropicGaussian(np.inf, delta=delta).stationary_deltas()
    assert found.radius == pytest.approx(radius, abs=2e-12)
    assert found.risk == pytest.approx(risk, abs=2e-12)


def test_stationary_deltas_of_the_non_monotone_activation():
    unstable, stable = model(math.inf, 1.5, 0.5, NonMonotone()).stationary_deltas()
    assert unstable.radius == pytest.approx(0.247504850862, abs=1e-11)
    assert unstable.curvature < 0 < stable.curvature
    assert stable.radius == pytest.approx(1.754709177584, abs=1e-11)
    assert stable.risk == pytest.approx(0.175757325820, abs=1e-11)


def test_stationary_delta_at_finite_dimension():
    (found,) = IsotropicGaussian(40, delta=0.5).stationary_deltas()
    assert found.radius == pytest.approx(1.55499987, abs=2e-8)
    assert found.risk == pytest.approx(0.2467732089, abs=2e-10)
    m, h = IsotropicGaussian(40, delta=0.5), 1e-4
    here, around = atom(found.radius), found.radius + h * np.array([-1.0, 0.0, 1.0])
    psi = m.psi(here, around)
    assert m.psi_gradient(here, found.radius)[0] == pytest.approx(0.0, abs=1e-12)
    assert found.curvature == pytest.approx((psi[0] - 2 * psi[1] + psi[2]) / h**2, abs=1e-5)
    (other,) = IsotropicGaussian(40, delta=0.8).stationary_deltas()
    assert (other.radius, other.risk) == pytest.approx((2.01836903, 0.0455098960), abs=5e-9)


def test_threshold_of_linear_instability():
    def curvature(ratio):
        return IsotropicGaussian(40, ratio**2, 1.0).stationary_deltas()[0].curvature

    assert brentq(curvature, 2.2, 3.0, xtol=1e-9) == pytest.approx(2.587033, abs=1e-6)


def as_ratio(deviation):
    return (1 + deviation) / (1 - deviation)


@pytest.mark.slow
def test_thresholds_at_finite_dimension():
    found = IsotropicGaussian.critical_deltas(40, convention="deviation")
    assert found.upper == pytest.approx(0.4310128, abs=1e-7)
    assert found.lower == pytest.approx(0.0298161, abs=1e-7)
    assert as_ratio(found.unstable) == pytest.approx(2.587033, abs=1e-6)


@pytest.mark.slow
def test_no_single_delta_is_optimal_in_low_dimension():
    found = IsotropicGaussian.critical_deltas(10)
    assert (found.lower, found.upper) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "activation"), [(64, Ramp()), (200, NonMonotone())])
def test_thresholds_against_the_optimum(d, activation):
    """One atom between them and two outside, by the least risk over all measures."""
    found = IsotropicGaussian.critical_deltas(d, activation)
    for delta, atoms in [(found.lower - 2e-3, 2), (found.lower + 2e-3, 1), (found.upper - 2e-3, 1),
                         (found.upper + 2e-3, 2)]:
        assert IsotropicGaussian(d, delta=delta, activation=activation).minimum_risk().weights.size == atoms
    curvatures = [min(IsotropicGaussian(d, delta=found.unstable + h, activation=activation).stationary_deltas(),
                      key=lambda s: s.risk).curvature for h in (-1e-6, 1e-6)]
    assert curvatures[0] > 0 > curvatures[1]
    assert found.unstable > found.upper
    assert found.convention == "variance"


def test_infinity_is_the_competitor():
    m = IsotropicGaussian(40, delta=0.4310127394189, convention="deviation")
    assert delta_margin(m)[0] == pytest.approx(0.0, abs=1e-10)
    rho = atom(min(m.stationary_deltas(), key=lambda s: s.risk).radius)
    (limit,) = m.limit_points()
    at_infinity = (m.moments(rho) - m.target) @ limit.features
    assert at_infinity == pytest.approx(float(m.psi(rho, *rho.points)[0]), abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "ratio", "variance", "deviation"),
    [(Ramp(), 2.8038647565514586, 0.7743085891643356, 0.4742189515136238),
     (NonMonotone(), 2.6940326956868706, 0.7578050989858173, 0.4585862755532220)],
    ids=repr,
)
def test_threshold_of_perfect_classification(activation, ratio, variance, deviation):
    """Above it a radius with q(tau_+ r) >= 1 and q(tau_- r) <= -1 exists; values by 30-digit arithmetic."""
    up = brentq(lambda s: activation.gaussian_mean(s) - 1.0, 1.0, 9.0, xtol=1e-14)
    down = brentq(lambda s: activation.gaussian_mean(s) + 1.0, 0.3, 9.0, xtol=1e-14)
    assert up / down == pytest.approx(ratio, abs=1e-14)
    square = (up / down) ** 2
    assert (square - 1) / (square + 1) == pytest.approx(variance, abs=1e-14)
    assert (up / down - 1) / (up / down + 1) == pytest.approx(deviation, abs=1e-14)
    for convention, value in (("variance", variance), ("deviation", deviation)):
        found = IsotropicGaussian.critical_deltas(np.inf, activation, convention)
        assert found.lower == 0.0
        assert (found.upper, found.unstable) == pytest.approx((value, value), abs=2e-13)
    at = IsotropicGaussian(np.inf, delta=deviation, convention="deviation", activation=activation)
    plus, minus = at.deviations
    assert activation.gaussian_mean([plus * up / plus, minus * up / plus]) == pytest.approx([1.0, -1.0], abs=1e-12)


# -------------------------------------------------------------------- trajectories
def characteristics(m, kappa, times, nodes=40, clock=2.0):
    """Radii on Gauss-Laguerre nodes of the chi law, moved by r' = -clock dPsi/dr."""
    if math.isinf(m.d):
        r0, weights = np.array([kappa]), np.ones(1)
    else:
        half, weights = roots_genlaguerre(nodes, 0.5 * m.d - 1.0)
        r0, weights = kappa * np.sqrt(2.0 * half / m.d), weights / gamma(0.5 * m.d)
    flow = solve_ivp(lambda t, r: -clock * m.psi_gradient(Atoms(r[None], weights), r)[0], (0, times[-1]), r0,
                     t_eval=times, rtol=1e-10, atol=1e-12, method="LSODA")
    states = [Atoms(r[None], weights) for r in flow.y.T]
    return np.array([m.risk(s) for s in states]), np.array([np.sum(s.points * s.weights) for s in states])


def test_trajectory_of_the_ramp():
    risk, mean = characteristics(model(40), 0.8, [0.0, 0.1, 1.0, 3.0])
    assert risk == pytest.approx([2.3848899178, 0.93594332, 0.05992200, 0.04543994], abs=2e-8)
    assert mean[:3] == pytest.approx([0.7950161, 1.1659538, 1.8877332], abs=1e-7)


def test_trajectory_does_not_depend_on_the_clock():
    slides, _ = characteristics(model(40), 0.8, [0.1, 1.0])
    card, _ = characteristics(model(40), 0.8, [0.2, 2.0], clock=1.0)
    assert card == pytest.approx(slides, abs=1e-8)


def test_trajectories_of_other_data():
    risk, _ = characteristics(model(40, 3.24, 0.04), 0.8, [0.0, 0.3])
    assert risk == pytest.approx([1.7044817079, 1.18058111], abs=2e-8)
    risk, _ = characteristics(model(math.inf), 0.8, [0.1])
    assert risk == pytest.approx([0.893211009], abs=1e-8)


# -------------------------------------------------------------------- finite width
def test_finite_width_excess_of_a_sphere():
    m = IsotropicGaussian(40, delta=0.5)
    own = float(m.diagonal(1.55499987))
    assert own == pytest.approx(15.0318252221, abs=1e-9)
    expected = m.risk(atom(1.55499987)) + m.finite_width_excess(atom(1.55499987)) / 10
    assert expected == pytest.approx(1.7130763, abs=1e-7)
    x = np.random.default_rng(1177).standard_normal((2000, 10, 40))
    x *= 1.55499987 / np.linalg.norm(x, axis=-1, keepdims=True)
    risks = m.population_risk(x)
    assert np.mean(risks) == pytest.approx(expected, abs=4 * np.std(risks) / math.sqrt(2000))


def test_expected_risk_of_a_wide_network():
    m = model(40)
    rho = m.initial_density(0.8, m.grid(cells=2000))
    draws = m.population_risk(np.stack([m.initial_theta(60, 0.8, np.random.default_rng(901 + k)) for k in range(300)]))
    assert np.mean(draws) == pytest.approx(m.risk(rho) + m.finite_width_excess(rho) / 60,
                                           abs=4 * np.std(draws) / math.sqrt(300))


@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), Tanh(), Erf(), Polynomial([0.2, 1.0, 0.4])], ids=repr)
@pytest.mark.parametrize("d", [1, 2, 40])
def test_population_risk_against_all_pairs_in_closed_form(d, activation):
    m = model(d, activation=activation)
    w = m.initial_theta(6, 1.5, np.random.default_rng(313))
    w[1] = 1.3 * w[0]  # parallel, opposite, nearly parallel and dead neurons
    w[2] = -w[0]
    w[3] = w[0] + 1e-7
    w[4] = 0.0
    r = np.linalg.norm(w, axis=1)
    scale = np.where(np.outer(r, r) > 0, np.outer(r, r), 1.0)
    cosine = np.clip(w @ w.T / scale, -1, 1)
    pairs = [m.activation.pair_expectation(tau * r[:, None], tau * r[None, :], cosine) for tau in m.deviations]
    q = [m.activation.gaussian_mean(tau * r).mean() for tau in m.deviations]
    expected = 1.0 - q[0] + q[1] + 0.5 * sum(p.mean() for p in pairs)
    assert m.population_risk(w) == pytest.approx(expected, abs=1e-7 if d == 1 else 2e-12)


def test_population_risk_against_fresh_samples():
    m = model(5, activation=NonMonotone())
    w = m.initial_theta(30, 1.2, np.random.default_rng(77))
    x, y = m.sample_data(200_000, np.random.default_rng(79))
    losses = (y - m.activation(x @ w.T).mean(axis=1)) ** 2
    assert m.population_risk(w) == pytest.approx(losses.mean(), abs=4 * losses.std() / math.sqrt(losses.size))


def test_population_risk_is_rotation_and_permutation_invariant():
    m, rng = model(12), np.random.default_rng(55)
    w = m.initial_theta(40, 0.8, rng)
    rotation, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    assert m.population_risk(w @ rotation) == pytest.approx(m.population_risk(w), abs=1e-12)
    assert m.population_risk(rng.permutation(w)) == pytest.approx(m.population_risk(w), abs=1e-12)
    assert m.project(w @ rotation) == pytest.approx(m.project(w), abs=1e-13)
    assert m.population_risk(np.stack([w, 2 * w])).shape == (2,)


def test_population_risk_in_blocks(monkeypatch):
    from wgflow.reduced_models import isotropic_gaussian
    from wgflow.reduced_models.features import neuron_pairs as _neuron_pairs

    m = model(10)
    w = m.initial_theta(50, 0.8, np.random.default_rng(57))
    whole = m.population_risk(np.stack([w, w[::-1]]))
    monkeypatch.setattr(_neuron_pairs, "_BLOCK", 120)
    monkeypatch.setattr(isotropic_gaussian, "_CHUNK", 1)
    assert m.population_risk(np.stack([w, w[::-1]])) == pytest.approx(whole, abs=1e-14)


def test_samples_follow_the_stated_law():
    m = model(6, 1.8, 0.2)
    x, y = m.sample_data(40_000, np.random.default_rng(99))
    assert set(np.unique(y)) == {-1.0, 1.0}
    assert abs(y.mean()) < 0.02
    assert x[y > 0].var(axis=0) == pytest.approx(np.full(6, 1.8), rel=0.05)
    assert x[y < 0].var(axis=0) == pytest.approx(np.full(6, 0.2), rel=0.05)


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d=0, tau_plus2=1.0, tau_minus2=1.0), "d=0"),
        (dict(d=-3, tau_plus2=1.0, tau_minus2=1.0), "d=-3"),
        (dict(d=2.5, tau_plus2=1.0, tau_minus2=1.0), "d must be an int"),
        (dict(d=np.nan, tau_plus2=1.0, tau_minus2=1.0), "d must be an int"),
        (dict(d=-np.inf, tau_plus2=1.0, tau_minus2=1.0), "d must be an int"),
        (dict(d=True, tau_plus2=1.0, tau_minus2=1.0), "d must be an int"),
        (dict(d="40", tau_plus2=1.0, tau_minus2=1.0), "d must be an int"),
        (dict(d=40, tau_plus2=0.0, tau_minus2=1.0), "tau_plus2=0"),
        (dict(d=40, tau_plus2=1.0, tau_minus2=-1.0), "tau_minus2=-1"),
        (dict(d=40, tau_plus2=1.0, tau_minus2=np.nan), "tau_minus2=nan"),
        (dict(d=40, tau_plus2=np.inf, tau_minus2=1.0), "tau_plus2=inf"),
        (dict(d=40, tau_plus2=1.0), "both tau_plus2 and tau_minus2"),
        (dict(d=40), "both tau_plus2 and tau_minus2"),
        (dict(d=40, tau_plus2=1.0, tau_minus2=1.0, delta=0.2), "not both"),
        (dict(d=40, delta=1.0), "delta=1"),
        (dict(d=40, delta=-0.1), "delta=-0.1"),
        (dict(d=40, delta=0.2, convention="std"), "convention='std'"),
        (dict(d=40, delta=0.2, tolerance=0.0), "tolerance=0"),
        (dict(d=40, delta=0.2, activation=np.tanh), "activation must be"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        IsotropicGaussian(**arguments)


def test_conventions():
    assert IsotropicGaussian(4, delta=0.5).deviations == pytest.approx((math.sqrt(1.5), math.sqrt(0.5)))
    assert IsotropicGaussian(4.0, delta=0.5, convention="deviation").deviations == pytest.approx((1.5, 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.energy(beta=0.0), "beta=0"),
        (lambda m: m.energy(ridge=-1.0), "ridge=-1"),
        (lambda m: m.energy(beta="hot"), "beta must be a number"),
        (lambda m: m.initial_density(0.0, m.grid(cells=20)), "kappa=0"),
        (lambda m: m.initial_density(np.nan, m.grid(cells=20)), "kappa=nan"),
        (lambda m: m.initial_density(5.0, m.grid(cells=20)), "larger range"),
        (lambda m: m.initial_density(0.8, Grid([(0, 1), (0, 1)], cells=4)), "2 axes"),
        (lambda m: m.grid(r_max=-1.0), "r_max=-1"),
        (lambda m: m.risk(np.ones(4)), "rho must be a Density"),
        (lambda m: m.risk(Density.uniform(Grid([(0, 1), (0, 1)], cells=4))), "2 axes"),
        (lambda m: m.population_risk(np.ones((3, 7))), "theta has shape"),
        (lambda m: m.population_risk(np.full((3, 40), np.nan)), r"theta\[0, 0\] is nan"),
        (lambda m: m.project(np.ones((3, 40), complex)), "real numbers"),
        (lambda m: m.initial_atoms(0.0), "kappa=0"),
        (lambda m: m.initial_atoms(0.8, 0), "nodes=0"),
        (lambda m: m.initial_atoms(0.8, 2.5), "nodes must be an int"),
        (lambda m: m.critical_deltas(0), "d=0"),
        (lambda m: m.critical_deltas(40, convention="std"), "convention='std'"),
        (lambda m: m.critical_deltas(40, np.tanh), "activation must be"),
        (lambda m: m.initial_theta(0, 0.8, np.random.default_rng(3)), "n_neurons=0"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(model(40))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.energy(beta=10.0),
        lambda m: m.n_parameters,
        lambda m: m.population_risk(np.ones((2, 3))),
        lambda m: m.sample_data(3, np.random.default_rng(3)),
        lambda m: m.initial_density(7.0, m.grid(cells=20)),
    ],
)
def test_the_limit_refuses_what_it_does_not_have(call):
    with pytest.raises(InvalidInput, match=r"inf|outside"):
        call(model(math.inf))


def test_activation_of_the_wrong_kind_is_a_type_error():
    with pytest.raises(InvalidType):
        IsotropicGaussian(40, delta=0.2, activation="ramp")
