"""Rates of return at a stationary state: linear_rate against the response of the mean, from another discretization."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import brentq

import wgflow as wg
from wgflow.validation.exact import DesaiZwanzig
from wgflow.validation.studies.bifurcation import late_flow

REACH = 4.0


def rate_by_response(model: DesaiZwanzig, branch: str, cells: int) -> float:
    r"""Return the largest root of theta chi(lambda) = 1, chi the response of the mean to a force at a fixed mean field.

    A perturbation with the mean m(t) = m* + a e^(lambda t) feels the force theta a e^(lambda t), and by the
    fluctuation-dissipation theorem chi(lambda) = beta sum_n c_n mu_n / (lambda + mu_n): mu_n are the rates of the
    Fokker-Planck operator with the mean field at rest and c_n = <x phi_n>^2. At lambda = 0 this is theta beta Var = 1.
    """
    h = 2 * REACH / cells
    x = -REACH + h * (np.arange(cells) + 0.5)
    mean = model.stationary(branch)["mean"]
    W = model.beta * (model.potential(x) + 0.5 * model.coupling * (x - mean) ** 2)
    law = np.exp(-(W - W.min()))
    law /= law.sum()
    # Jumps to neighbors with exp(-dW/2)/(beta h^2), which are in balance with the law; here made symmetric.
    up = np.exp(-0.5 * np.diff(W))
    diagonal = (np.append(up, 0.0) + np.insert(1.0 / up, 0, 0.0)) / (model.beta * h**2)
    rates, vectors = eigh_tridiagonal(diagonal, np.full(cells - 1, -1.0 / (model.beta * h**2)))
    mu, c = rates[1:], ((np.sqrt(law) * x) @ vectors[:, 1:]) ** 2
    assert abs(rates[0]) < 1e-9

    def margin(growth: float) -> float:
        return model.coupling * model.beta * float((c * mu / (growth + mu)).sum()) - 1.0

    return brentq(margin, -mu[0] * (1 - 1e-12), 50.0, xtol=1e-14, rtol=1e-13)


@pytest.mark.parametrize(("beta", "theta"), [(1.0, 1.0), (2.1, 1.0), (2.18, 1.0), (2.2, 1.0), (2.25, 1.0), (6.0, 1.0),
                                             (4.0, 0.1), (4.0, 0.46), (4.0, 0.47), (4.0, 3.0)])
def test_linear_rates_are_those_of_the_response_of_the_mean(beta, theta):
    model = DesaiZwanzig(coupling=theta, beta=beta)
    for branch in ("ordered", "disordered"):
        coarse, middle, fine = (rate_by_response(model, branch, cells) for cells in (200, 400, 800))
        # Errors in h^2 and h^4.
        first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
        # Near the transition the rate is a small difference of rates of order 1, to which errors are relative.
        assert model.linear_rate(branch) == pytest.approx((16 * second - first) / 15, abs=2e-7)


@pytest.mark.parametrize("sign", [-1, 1])
def test_rates_vanish_linearly_at_the_transition_and_the_ordered_one_is_twice_the_other(sign):
    critical = DesaiZwanzig().critical_beta()
    slopes = []
    for share in (1e-3, 5e-4):
        model = DesaiZwanzig(beta=critical * (1 + sign * share))
        slopes.append(model.linear_rate("disordered") / (sign * share))
        ratio = model.linear_rate("ordered") / model.linear_rate("disordered")
        assert ratio == pytest.approx(-2.0 if sign > 0 else 1.0, abs=5 * share)
    assert slopes[1] == pytest.approx(slopes[0], rel=2e-3)


@pytest.mark.parametrize("beta", [2.0, 2.3])
def test_late_flows_near_the_transition_return_at_the_linear_rate(beta):
    model = DesaiZwanzig(beta=beta)
    grid, limit = model.grid(100), model.stationary_mean()
    flow = late_flow(model, wg.Density.gaussian(grid, 0.5, 0.2), lambda rho: float(rho.mean()), -model.linear_rate(),
                     limit, 0.1)
    assert flow.certified
    assert flow.rate == pytest.approx(-model.linear_rate(), rel=1e-4)
    assert math.isclose(flow.order, limit, abs_tol=1e-5)
