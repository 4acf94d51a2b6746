"""Separable data without noise and ridge: the risk falls to 0, weights grow, and margins become the largest ones.

The linear network has the margin of the support vector machine (in the Euclidean norm of its weights), which
scikit-learn finds. The rectifier network has the largest margin among functions of variation norm 1 (Chizat and Bach,
Implicit bias of gradient descent for wide two-layer neural networks trained with the logistic loss, 2020), a linear
program over measures on the circle of directions.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.svm import SVC

import wgflow as wg
from wgflow.activations import Polynomial, ReLU
from wgflow.losses import Exponential, Logistic
from wgflow.reduced_models import FiniteData
from wgflow.validation import run_sgd

X = np.array([(1, 0.2), (-0.4, -1.0), (2.2, 1.1), (1.5, 2.0), (-2.5, -0.8), (-1.2, -2.6)])
Y = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


def hard_margin():
    """The shortest w with y <w, x> >= 1: each sample with its mirror image keeps the plane at the origin."""
    machine = SVC(kernel="linear", C=1e8, tol=1e-10).fit(np.concatenate([X, -X]), np.concatenate([Y, -Y]))
    return machine.coef_[0]


@pytest.mark.parametrize("loss", [Logistic(), Exponential()], ids=repr)
def test_the_linear_network_becomes_the_support_vector_machine(loss):
    r"""w(t) = what log t + O(1), with what of the machine (Soudry et al. 2018): its increments and directions."""
    best, model = hard_margin(), FiniteData(X, Y, Polynomial([0.0, 1.0]), loss=loss)
    assert (Y * (X @ best)).min() == pytest.approx(1.0, abs=1e-6)
    times = [0.0, 1.0, 1e2, 1e4, 1e6, 1e8]
    sol = wg.solve(model.energy(), wg.Atoms([[0.3, -0.2], [-0.5, 0.1]], [0.5, 0.5]), (0.0, times[-1]),
                   method=wg.Lagrangian(), t_eval=times)
    assert sol.certificate.ok
    w = np.array([law.points @ law.weights for law in sol.densities])
    lengths = np.linalg.norm(w, axis=1)
    assert (np.diff(sol.energy) < 0).all()
    assert sol.energy[-1] < 2e-8
    assert (np.diff(lengths) > 0).all()
    assert lengths[-1] > 18
    np.testing.assert_allclose((w[-1] - w[-2]) / math.log(100.0), best, atol=2e-3)
    angles = np.arccos(w @ best / lengths / np.linalg.norm(best))[1:]
    assert (np.diff(angles) < 0).all()
    # The rest of w(t) is bounded, so that the angle falls as 1 / log t.
    assert angles[-1] * math.log(1e8) < 1.2 * angles[-2] * math.log(1e6)
    margins = (X @ w[1:].T * Y[:, None]).min(axis=0) / lengths[1:] * np.linalg.norm(best)
    assert (np.diff(margins) > 0).all()
    assert 0.993 < margins[-1] <= 1.0


def test_the_rectifier_network_has_the_largest_margin_in_variation_norm():
    x, y = np.array([-1.5, -0.6, 0.2, 0.9, 1.7]), np.array([1.0, -1.0, -1.0, 1.0, 1.0])
    turn = 2 * np.pi * np.arange(2000) / 2000
    outputs = np.maximum(np.outer(x, np.cos(turn)) + np.sin(turn), 0.0) * y[:, None]
    program = linprog(np.append(np.zeros(4000), -1.0), A_ub=np.column_stack([-outputs, outputs, np.ones(5)]),
                      b_ub=np.zeros(5), A_eq=np.append(np.ones(4000), 0.0)[None], b_eq=[1.0],
                      bounds=[(0, None)] * 4000 + [(None, None)])
    model = FiniteData(x, y, ReLU(), trains_readout=True, loss=Logistic())
    # All five samples in each step: gradient descent. A step moves 2-homogeneous neurons, of norm (a^2 + b^2 + w^2)/2.
    run = run_sgd(model, 100, 0.02, [0.0, 10.0, 100.0, 1000.0], rng=3, kappa=0.5, batch_size=5, replacement=False)
    norms = 0.5 * np.mean(np.sum(run.theta[0] ** 2, axis=2), axis=1)
    margins = np.array([(y * model.outputs(wg.Atoms(theta.T, np.full(100, 0.01)))).min() for theta in run.theta[0]])
    shares = margins / norms / -program.fun
    assert (np.diff(run.risk[0]) < 0).all()
    assert run.risk[0, -1] < 1e-3
    assert (np.diff(norms) > 0).all()
    assert norms[-1] > 40
    assert shares[0] < 0 < 0.85 < shares[2] < shares[3] <= 1.0
    assert shares[3] > 0.94
