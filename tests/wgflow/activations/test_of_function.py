"""A user's own activation against the built-in one that is the same function, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, expit

import wgflow as wg
from wgflow.activations import Erf, Polynomial, Smooth, Softplus, Tanh
from wgflow.errors import InvalidInput, InvalidType
from wgflow.reduced_models import FiniteData, IsotropicGaussian
from wgflow.validation import run_gradient_flow, run_sgd

PAIRS = {
    "tanh": (Smooth(np.tanh), Tanh()),
    "erf": (Smooth(erf), Erf()),
    "softplus": (Smooth(lambda t: np.logaddexp(0, t)), Softplus()),
    "softplus with its slope": (Smooth(lambda t: np.logaddexp(0, t), expit), Softplus()),
    "tanh with its slope": (Smooth(np.tanh, lambda t: 1 / np.cosh(t) ** 2), Tanh()),
}
SCALES = np.array([1e-3, 0.3, 1.0, 4.0, 30.0])
OFFSETS = np.array([0.0, -0.7, 0.5, 2.0, 0.0])
#: Of averages of the function, of its first, and of its second derivative.
ALLOWED = (2e-13, 2e-12, 2e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_averages_are_those_of_the_function(name):
    ours, theirs = PAIRS[name]
    t = np.linspace(-30, 30, 301)
    assert np.array_equal(ours(t), theirs(t))
    assert np.abs(ours.derivative(t) - theirs.derivative(t)).max() < ALLOWED[1]
    for order, offset_order in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
        a, b = (one.hermite_coefficients(SCALES, 12, order, offset=OFFSETS, offset_order=offset_order)
                for one in (ours, theirs))
        assert np.abs(a - b).max() < ALLOWED[order + offset_order] * max(1, np.abs(b).max()), (order, offset_order)
    for rho in (-1.0, 0.3, 0.97, 1.0):
        a, b = (one.pair_expectation(SCALES[1:4], SCALES[2:5], rho, offset1=0.3) for one in (ours, theirs))
        assert np.abs(a - b).max() < 1e-12 * max(1, np.abs(b).max())
    for order in (0, 1, 2):
        a, b = (one.sphere_mean(np.array([0.0, 0.5, 5.0]), 7, order) for one in (ours, theirs))
        assert np.abs(a - b).max() < ALLOWED[order]


def test_the_table_of_compiled_loops():
    """Cubics with values and slopes of the function, straight beyond, or not a number where it is not."""
    from wgflow.compiled.sgd import _activate

    for (ours, _), allowed in zip(PAIRS.values(), (1e-9, 1e-9, 1e-9, 1e-9, 1e-9)):
        z = np.random.default_rng(0).uniform(-100, 100, 20_000)
        values, slopes = np.empty_like(z), np.empty_like(z)
        _activate(*ours.kernel_arguments(), z, values, slopes)
        assert np.abs(values - ours(z)).max() < allowed * 100
        assert np.abs(slopes - ours.derivative(z)).max() < 3e-6
        inner = np.abs(z) < 20
        assert np.abs(values - ours(z))[inner].max() < allowed
    waves = Smooth(np.sin)
    z = np.array([-65.0, -63.9, 0.5, 63.9, 64.5])
    values, slopes = np.empty_like(z), np.empty_like(z)
    _activate(*waves.kernel_arguments(), z, values, slopes)
    assert np.isnan(values).tolist() == [True, False, False, False, True]
    assert np.abs(values - np.sin(z))[1:4].max() < 1e-9


def test_everything_of_a_model():
    """V, U, the risk, the flow and SGD of a network with a function are those with the built-in one."""
    own, built_in = (IsotropicGaussian(delta=0.8, d=10, activation=sigma) for sigma in PAIRS["softplus"])
    r = np.linspace(0.01, 6, 50)
    rho = [model.initial_density(0.8, model.grid(cells=60)) for model in (own, built_in)]
    assert abs(own.risk(rho[0]) - built_in.risk(rho[1])) < 1e-11
    flows = [wg.solve(model.energy(beta=100.0), law, (0, 1)) for model, law in zip((own, built_in), rho)]
    assert np.abs(flows[0].final.masses - flows[1].final.masses).sum() < 1e-9
    a, b = (run_sgd(model, 20, 1e-3, [0.0, 0.05], rng=3) for model in (own, built_in))
    assert np.abs(a.coordinates - b.coordinates).max() < 1e-8
    a, b = (run_gradient_flow(model, 20, [0.0, 0.5], rng=3) for model in (own, built_in))
    assert np.abs(a.coordinates - b.coordinates).max() < 1e-7
    x, y = np.array([[0.5], [-1.0], [2.0]]), np.array([1.0, -1.0, 0.5])
    own, built_in = (FiniteData(x, y, sigma) for sigma in (Smooth(np.tanh), Tanh()))
    assert np.abs(own.potential(r) - built_in.potential(r)).max() < 1e-13


@pytest.mark.parametrize(("function", "words"), [
    (np.abs, "is not smooth near"), (lambda t: np.maximum(t - 2.5, 0), "is not smooth near 2.5"),
    (lambda t: np.tanh(1e5 * t), "is not smooth near"), (lambda t: 1.0, r"returned shape \(\)"),
    (lambda t: np.exp(np.exp(np.exp(t))), "must be finite"), (lambda t: t if t > 0 else 0, "raised ValueError"),
    (3, "must be callable"), (lambda t: t + 1j, "complex"),
])
def test_what_is_refused(function, words):
    with pytest.raises((InvalidInput, InvalidType), match=words):
        Smooth(function)


def test_a_wrong_derivative_is_refused():
    with pytest.raises(InvalidInput, match="is not that of the function: near"):
        Smooth(np.tanh, lambda t: 1 - np.tanh(t))
    with pytest.raises(InvalidType, match=r"Smooth\(function\)"):
        FiniteData([1.0], [1.0], np.tanh)


def test_equality_and_words():
    assert Smooth(np.tanh) == Smooth(np.tanh) != Smooth(np.sin)
    assert repr(Smooth(np.tanh)) == "Smooth(tanh)"
    assert Smooth(np.tanh, length_scale=2.0).length_scale == 2.0
    # Another road to a polynomial, which has closed forms.
    cubic = Smooth(lambda t: t - t**3 / 10)
    exact = Polynomial([0, 1, 0, -0.1]).gaussian_mean(1.0, offset=0.5)
    assert abs(cubic.gaussian_mean(1.0, offset=0.5) - exact) < 1e-12
