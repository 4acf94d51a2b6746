"""FiniteData with any loss: reference values of two routes, duality gaps, conventions, and what is refused."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Tanh
from wgflow.errors import InvalidInput
from wgflow.losses import Exponential, Huber, Logistic, SmoothHinge, Square
from wgflow.reduced_models import FiniteData, KernelLimit

X = np.array([(1, 0.5), (-0.7, 1.2), (0.3, -1.1), (1.5, 1), (-1.2, -0.4)])
Y = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
LOSSES = [Square(), Logistic(), Exponential(), Huber(0.3), SmoothHinge(0.5)]


def model(loss, **options):
    return FiniteData(X, Y, Tanh(), loss=loss, output_scale=4.0, **options)


def ring_atoms():
    t = 2 * math.pi * np.arange(8) / 8
    ring = [np.stack([r * np.cos(t + turn), r * np.sin(t + turn)]) for r, turn in ((0.3, 0.0), (0.9, 0.2))]
    return wg.Atoms(np.concatenate(ring, axis=1), np.repeat([0.075, 0.05], 8))


# Characteristics at 1e-13, and n fixed-point equations by Newton's method on 400^2 Gauss points.
PATHS = {
    "square": (Square(), (0.5, 0.0100474227886, 0.00879797347357, 0.00522961434267, 0.000995631609941), 1.087483859),
    "logistic": (Logistic(), (0.69314718056, 0.240916565087, 0.0966260994556, 0.0364146046606, 0.0240220024223),
                 3.877752266),
}
AT_REST = {
    "square": (Square(), -0.0416790700538, 0.00580252194966, 1.14402013,
               (0.88331377, -1.1012435, 0.82687817, 0.97575124, -1.060001)),
    "logistic": (Logistic(), 0.0900795151676, 0.0739055059703, 1.805030564,
                 (2.492357, -2.832885, 2.0864501, 2.7678641, -2.8733677)),
}


@pytest.mark.parametrize("name", PATHS)
def test_particles_fall_along_the_reference_path(name):
    loss, energies, square = PATHS[name]
    own = model(loss)
    sol = wg.solve(own.energy(), ring_atoms(), (0, 40), method=wg.Lagrangian(rtol=1e-12), t_eval=[0, 0.5, 2, 10, 40])
    np.testing.assert_allclose(sol.energy, energies, rtol=3e-12)
    assert float((sol.final.weights * (sol.final.points**2).sum(axis=0)).sum()) == pytest.approx(square, abs=6e-10)
    assert own.mean_loss(sol.final) == pytest.approx(energies[-1], rel=3e-12)
    assert sol.certificate.ok


@pytest.mark.parametrize("name", AT_REST)
def test_at_rest_by_the_dual(name):
    loss, energy, mean_loss, square, outputs = AT_REST[name]
    own = model(loss)
    star = wg.stationary(own.energy(beta=20.0, ridge=0.1), wg.Grid([(-8, 8)] * 2, cells=(320, 320)))
    assert star.energy == pytest.approx(energy, abs=2e-12)
    assert own.mean_loss(star.density) == pytest.approx(mean_loss, abs=2e-12)
    x, y = star.density.grid.mesh()
    assert float(((x**2 + y**2) * star.density.masses).sum()) == pytest.approx(square, abs=6e-9)
    np.testing.assert_allclose(own.outputs(star.density), outputs, atol=6e-8)
    assert star.gap is not None
    assert star.gap < 1e-10
    assert abs(star.energy - star.dual_value) < 1e-13


@pytest.mark.parametrize("loss", [Logistic(), Exponential(), Huber(0.3), SmoothHinge(0.5)], ids=repr)
def test_the_dual_of_the_conjugate_is_the_energy_at_rest(loss):
    """- mean l*(y_k, n g_k) - log of the partition sum / beta at g_k = l'(y_k, f_k)/n: no value of Phi enters."""
    own, beta, ridge = model(loss), 20.0, 0.1
    grid = wg.Grid([(-8, 8)] * 2, cells=(160, 160))
    star = wg.stationary(own.energy(beta=beta, ridge=ridge), grid)
    f = own.outputs(star.density)
    g = loss.derivative(Y, f) / 5
    psi = np.tensordot(g * math.sqrt(5), own.features(*grid.mesh()), axes=1) + 0.5 * ridge * sum(
        c**2 for c in grid.mesh())
    partition = math.log(float((np.exp(-beta * (psi - psi.min())) * grid.volumes).sum())) - beta * psi.min()
    dual = -float(loss.conjugate(Y, 5 * g).mean()) - partition / beta
    assert star.energy - dual == pytest.approx(0.0, abs=1e-12)
    assert star.gap is not None
    assert star.gap < 1e-10
    # Any other g gives less: weak duality.
    for scale in (0.5, 0.9):
        psi_less = scale * (psi - 0.5 * ridge * sum(c**2 for c in grid.mesh())) + 0.5 * ridge * sum(
            c**2 for c in grid.mesh())
        lower = -float(loss.conjugate(Y, scale * 5 * g).mean()) - (
            math.log(float((np.exp(-beta * (psi_less - psi_less.min())) * grid.volumes).sum()))
            - beta * psi_less.min()) / beta
        assert lower < star.energy


def test_square_loss_is_the_model_without_a_loss():
    plain, square = FiniteData(X, Y, Tanh()), FiniteData(X, Y, Tanh(), loss=Square())
    atoms = ring_atoms()
    assert plain.risk(atoms) == square.risk(atoms) == pytest.approx(2 * square.mean_loss(atoms), rel=1e-14)
    assert plain.time_scale == square.time_scale == 2.0
    assert plain.quadratic
    assert repr(plain) == repr(square)
    assert model(Logistic()).time_scale == 1.0


def test_the_square_loss_as_any_loss_follows_the_quadratic_path():
    """The same l as functions, through MomentEnergy: the same flow on the clock of time_scale."""
    square, own = model(Square()), model(wg.losses.from_functions(
        Square().value, Square().derivative, Square().second_derivative))
    assert not own.quadratic
    grid = wg.Grid([(-3, 3)] * 2, cells=(48, 48))
    rho0 = wg.Density.gaussian(grid, [0.2, 0.0], 0.2 * np.eye(2))
    sols = [wg.solve(m.energy(beta=20.0, ridge=0.1), rho0, (0, 1)) for m in (square, own)]
    assert float(np.abs(sols[0].final.masses - sols[1].final.masses).sum()) < 1e-10
    assert sols[1].energy[-1] == pytest.approx(sols[0].energy[-1], abs=1e-12)
    a, b = (m.minimum_risk(box=[(-3, 3)] * 2) for m in (square, own))
    assert 2 * b.value == pytest.approx(a.value, abs=1e-10)
    law = wg.Atoms(a.measure.points, a.measure.weights)
    assert own.finite_width_excess(law) == pytest.approx(0.5 * square.finite_width_excess(law), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_first_variation_is_psi(loss):
    own, atoms, h = model(loss), ring_atoms(), 1e-6
    energy = own.energy()
    g = loss.derivative(Y, own.outputs(atoms)) / 5
    psi = 4.0 * g @ np.tanh(X @ atoms.points)
    np.testing.assert_allclose(own.psi(atoms, *atoms.points), psi, atol=1e-14)
    shift = energy.first_variation(atoms) - psi
    assert np.ptp(shift) < 1e-14
    bent = wg.Atoms(atoms.points, atoms.weights + h * np.r_[1.0, -1.0, np.zeros(14)])
    less = wg.Atoms(atoms.points, atoms.weights - h * np.r_[1.0, -1.0, np.zeros(14)])
    assert (energy(bent) - energy(less)) / (2 * h) == pytest.approx(psi[0] - psi[1], abs=1e-8)
    np.testing.assert_allclose(own.psi_gradient(atoms, *atoms.points), energy.gradient(atoms, atoms.points), atol=1e-14)
    theta = atoms.points.T
    gradient = own.network_gradient(theta)
    moved = theta.copy()
    moved[3, 1] += 1e-5
    back = theta.copy()
    back[3, 1] -= 1e-5
    slope = (own.population_risk(moved) - own.population_risk(back)) / 2e-5 * 16 / own.risk_per_energy
    assert gradient[3, 1] == pytest.approx(float(slope), abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_minimum_risk_has_a_gap(loss):
    """On data that no network fits, and on the five points; atoms on the edge of the box are told."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 2))
    y = np.where(x[:, 0] * x[:, 1] + 0.3 * rng.normal(size=30) > 0, 1.0, -1.0)
    for own in (FiniteData(x, y, Tanh(), loss=loss, output_scale=2.0), model(loss)):
        found = own.minimum_risk(box=[(-3, 3)] * 2)
        assert 0 <= found.gap < 1e-10
        assert found.value == pytest.approx(own.risk(found.measure), abs=1e-12)
        rivals = np.random.default_rng(5).uniform(-3, 3, size=(2, 40, 12))
        risks = [own.risk(wg.Atoms(rival.T, np.full(12, 1 / 12))) for rival in rivals.transpose(1, 2, 0)]
        assert min(risks) > found.value - 1e-15
        if not own.quadratic:
            with pytest.raises(InvalidInput, match="square loss alone"):
                found.expected_risk(10)


def test_minimum_risk_of_the_simplest_problem():
    """One sample and output in [-a, a]: l is least at the edge, log(1 + e^-a)."""
    own = FiniteData([[1.0]], [1.0], Tanh(), loss=Logistic())
    found = own.minimum_risk(box=[(-2.0, 2.0)])
    assert found.value == pytest.approx(math.log1p(math.exp(-math.tanh(2.0))), rel=1e-14)
    assert found.boundary_mass == 1.0
    assert found.gap < 1e-14


def test_finite_width_excess_is_the_first_order_of_the_expected_risk():
    own, rng = model(Logistic()), np.random.default_rng(11)
    atoms = ring_atoms()
    n, runs = 64, 40_000
    drawn = rng.choice(16, p=atoms.weights, size=(runs, n))
    outputs = (4.0 * np.tanh(X @ atoms.points))[:, drawn].mean(axis=2)
    risks = np.logaddexp(0.0, -Y[:, None] * outputs).mean(axis=0)
    told = own.risk(atoms) + own.finite_width_excess(atoms) / n
    assert risks.mean() - told == pytest.approx(0.0, abs=3 * risks.std() / math.sqrt(runs) + 0.02 / n)
    assert abs(risks.mean() - own.risk(atoms)) > 6 * risks.std() / math.sqrt(runs)


def test_a_readout_and_a_scale():
    own = FiniteData(X[:, :1], Y, Tanh(), trains_readout=True, loss=Logistic(), output_scale=2.5)
    atoms = wg.Atoms([[0.3, -0.5], [0.1, 0.2], [1.0, -0.4]], [0.4, 0.6])
    f = 2.5 * sum(w * a * np.tanh(X[:, 0] * v + b) for w, (a, b, v) in zip((0.4, 0.6), atoms.points.T))
    np.testing.assert_allclose(own.outputs(atoms), f, rtol=1e-14)
    assert own.risk(atoms) == pytest.approx(float(np.logaddexp(0, -Y * f).mean()), rel=1e-14)
    np.testing.assert_allclose(own.neuron_outputs(atoms.points.T[:, None], X[:, :1]),
                               2.5 * atoms.points[0][:, None] * np.tanh(
                                   np.outer(atoms.points[2], X[:, 0]) + atoms.points[1][:, None]), rtol=1e-14)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_check_model_holds_it_against_samples(loss):
    """Gradients, F and R, the steps of SGD and the risks of networks, with a scale of the output."""
    report = wg.reduced_models.check_model(model(loss, trains_readout=False), throw=False)
    assert report.passed, str(report)
    wrong = model(loss)
    wrong.moment_slopes = lambda z: 1.2 * type(wrong).moment_slopes(wrong, z)
    assert "step of SGD" in [check.name for check in wg.reduced_models.check_model(wrong, throw=False).failed]


# ---------------------------------------------------------------- who refuses
def test_labels_and_settings_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match=r"y\[0\] is 0.5: Logistic\(\) is a loss of two classes"):
        FiniteData(X, [0.5, 1, 1, 1, 1], loss=Logistic())
    with pytest.raises(InvalidInput, match=r"tolerance=0.1: .* square loss"):
        FiniteData(X, Y, loss=Logistic(), tolerance=0.1)
    with pytest.raises(InvalidInput, match="output_scale"):
        FiniteData(X, Y, output_scale=0.0)
    with pytest.raises(TypeError, match=r"Logistic is a class; make one, as in Logistic\(\)"):
        FiniteData(X, Y, loss=Logistic)
    with pytest.raises(TypeError, match="loss must be one of"):
        FiniteData(X, Y, loss="logistic")
    with pytest.raises(InvalidInput, match="not convex"):
        FiniteData(X, Y, loss=(lambda y, f: np.sin(f), lambda y, f: np.cos(f), lambda y, f: -np.sin(f)))
    for kind in (FiniteData, KernelLimit):
        with pytest.raises(InvalidInput, match=r"y has shape \(3,\) for 5 samples"):
            kind(X, Y[:3])


@pytest.mark.parametrize("ask", [lambda m: m.signs, lambda m: m.potential(0.1, 0.2),
                                 lambda m: m.kernel((0.1, 0.2), (0.1, 0.2))], ids=["signs", "potential", "kernel"])
def test_what_needs_a_quadratic_energy_refuses_by_name(ask):
    with pytest.raises(InvalidInput, match=r"FiniteData\(5 samples.*loss=Logistic\(\).*square loss alone"):
        ask(model(Logistic()))


@pytest.mark.parametrize("inner", ["linearized", "back-and-forth", "entropic"])
def test_jko(inner):
    own = FiniteData(X[:, :1], Y, Tanh(), loss=Logistic())
    grid = wg.Grid((-4, 4), cells=100)
    energy, rho0 = own.energy(beta=5.0, ridge=0.2), wg.Density.gaussian(grid, 0.0, 0.3)
    flow = wg.solve(energy, rho0, (0, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sol = wg.solve(energy, rho0, (0, 0.5), method=wg.JKO(tau=0.05, inner=inner))
    assert sol.certificate.ok, sol.certificate.explain()
    assert float(np.abs(sol.final.masses - flow.final.masses).sum()) < 0.02
    with pytest.raises(InvalidInput, match=r"risk of Logistic\(\): inner='quantile' knows"):
        wg.solve(energy, rho0, (0, 0.5), method=wg.JKO(tau=0.05))
