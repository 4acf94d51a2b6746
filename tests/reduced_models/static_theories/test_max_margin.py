"""Max-margin classification: reference values, limits, the equations, and finite sizes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.activations import Polynomial, ReLU, Tanh
from wgflow.reduced_models import MaxMargin
from wgflow.reduced_models.static_theories.max_margin_runs import largest_margin


def test_reference_value():
    theory = MaxMargin(ReLU(), 4, 2)
    assert (theory.margin, theory.error) == pytest.approx((0.6490475, 0.2483142), abs=6e-8)


def test_four_equations_by_plain_sampling():
    """The four equations at the solution, with the averages taken over a drawn spectrum and drawn labels."""
    theory = MaxMargin(Tanh(), 2.0, 1.5, "logistic")
    rng = np.random.default_rng(7)
    log_c2, ratio, log_mu, _ = theory._solution
    c2, mu, kappa = np.exp(log_c2), np.exp(log_mu), theory.margin
    c1 = ratio * c2
    w = rng.standard_normal((1600, 800))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    _, linear, nonlinear = theory.coefficients
    ell = linear**2 * np.linalg.eigvalsh(w.T @ w) + nonlinear**2
    share = 1 - nonlinear**2 / ell
    v = share.mean()
    t, z = rng.standard_normal((2, 400_000))
    seen = np.sqrt(v) * t + np.sqrt(1 - v) * rng.standard_normal(t.size)
    y = np.where(rng.random(t.size) < 1 / (1 + np.exp(-seen)), 1, -1)
    slack = np.maximum(kappa - c1 * y * t - c2 * z, 0.0)
    f = np.sqrt(np.mean(slack**2))
    nu, f1 = -np.mean(slack * z) / f / c2, -np.mean(slack * y * t) / f
    eta = f1 - c1 * nu
    d, floor = mu + nu * ell, mu + nu * nonlinear**2

    def tr(p, q):
        return (np.mean(ell**p / d**q) + nonlinear ** (2 * p) / floor**q) / 1.5

    def rq(p, q):
        return np.mean(share / v * ell**p / d**q)

    assert tr(1, 2) + eta**2 * rq(1, 2) == pytest.approx(1.0, rel=0.02)
    assert c1 == pytest.approx(-eta * rq(1, 1), rel=0.02)
    assert tr(2, 2) + eta**2 * rq(2, 2) == pytest.approx(c1**2 + c2**2, rel=0.02)
    assert f == pytest.approx(tr(1, 1), rel=0.02)
    assert np.mean(c1 * y * t + c2 * z <= 0) == pytest.approx(theory.error, abs=0.003)


@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(["sign", "logistic", "probit"]))
@settings(max_examples=25, deadline=None)
def test_every_pair_has_an_answer(log_psi1, log_psi2, link):
    theory = MaxMargin(ReLU(), 10.0**log_psi1, 10.0**log_psi2, link)
    assert theory.margin >= 0.0
    if theory.separable:
        assert 0.0 < theory.error < 0.5
    else:
        assert theory.margin == 0.0


def test_more_samples_have_a_smaller_margin():
    margins = [MaxMargin(ReLU(), 3.0, psi2).margin for psi2 in (0.3, 1.0, 3.0, 6.0, 40.0)]
    assert all(b < a for a, b in itertools.pairwise(margins))
    assert margins[-1] == 0.0


def test_threshold_of_coin_flips():
    """Labels that do not depend on x are separable up to n = 2 N: Cover's theorem."""
    coin = lambda z: np.full_like(z, 0.5)  # noqa: E731
    assert MaxMargin(ReLU(), 1.3, 2.5, coin).separable
    assert not MaxMargin(ReLU(), 1.3, 2.7, coin).separable
    assert MaxMargin(ReLU(), 1.3, 2.0, coin).error == pytest.approx(0.5, abs=1e-12)


def test_named_links_are_their_functions():
    from scipy.special import expit, ndtr

    for name, function in (("logistic", expit), ("probit", ndtr), ("sign", lambda z: (z > 0) * 1.0)):
        named, own = MaxMargin(Tanh(), 2.0, 1.0, name), MaxMargin(Tanh(), 2.0, 1.0, function)
        assert (own.margin, own.error) == pytest.approx((named.margin, named.error), rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["sign", "logistic"])
def test_finite_size(link):
    theory = MaxMargin(ReLU(), 3.0, 1.0, link)
    for equivalent in (True, False):
        found = theory.simulate(100, 10, equivalent=equivalent, rng=3)
        assert abs(found.margin.mean - theory.margin) < 3 * found.margin.standard_error + 2 * theory.margin / 100
        assert abs(found.error.mean - theory.error) < 3 * found.error.standard_error + 0.02


def test_largest_margin_against_a_known_one():
    rows = np.array([[2.0, 1.0], [2.0, -1.0], [5.0, 0.5]])
    margin, a = largest_margin(rows)
    assert margin == pytest.approx(2.0)
    assert a == pytest.approx([1.0, 0.0])
    assert largest_margin(np.array([[1.0, 0.0], [-1.0, 0.0]]))[0] == 0.0


@pytest.mark.parametrize("shape", [(40, 70), (60, 40), (80, 30)])
def test_largest_margin_against_a_support_vector_machine(shape):
    svm = pytest.importorskip("sklearn.svm")
    rng = np.random.default_rng(shape)
    rows = rng.standard_normal(shape) + 0.3 / np.sqrt(shape[1])
    rows[:, 0] = np.abs(rows[:, 0])
    margin, a = largest_margin(rows)
    # Every row with both signs and both labels: by symmetry the machine's intercept is 0.
    machine = svm.LinearSVC(loss="hinge", C=1e6, fit_intercept=False, tol=1e-9, max_iter=200_000, random_state=1)
    found = machine.fit(np.vstack([rows, -rows]), np.repeat([1, -1], len(rows))).coef_[0]
    assert margin == pytest.approx(np.min(rows @ found) / np.linalg.norm(found), rel=1e-5)
    assert a == pytest.approx(found / np.linalg.norm(found), abs=1e-3)


def test_unsolved_margins_are_told(monkeypatch):
    import importlib

    home = importlib.import_module("wgflow.reduced_models.static_theories.max_margin_runs")
    rows = np.random.default_rng(3).standard_normal((20, 30))
    monkeypatch.setattr(home, "nnls", lambda a, b, maxiter: (np.ones(a.shape[1]), 0.0))
    with pytest.raises(wg.ConvergenceError, match="is between"):
        largest_margin(rows)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"psi1": 0.0}, "psi1"), ({"psi2": -2.0}, "psi2"), ({"link": "tanh"}, "choose 'sign'"), ({"link": 3}, "link=3"),
    ({"link": lambda z: z}, "probabilities"), ({"activation": Polynomial([0.0, 1.0])}, "nonlinear"),
    ({"activation": Polynomial([0.0, 0.0, 1.0])}, "even"), ({"link": lambda z: 1 / 0}, "ZeroDivisionError"),
])
def test_bad_input(arguments, words):
    with pytest.raises(wg.InvalidInput, match=words):
        MaxMargin(**{"activation": ReLU(), "psi1": 2.0, "psi2": 1.0, **arguments})


def test_error_without_a_margin_is_refused():
    with pytest.raises(wg.InvalidInput, match="cannot be separated"):
        _ = MaxMargin(ReLU(), 1.0, 30.0).error
