"""Every method and every kind of term: the flow of the whole energy, or a refusal that names the term.

The referee shares nothing with the package: the first variation of each term is written out here, on the cells of a
line, and the flow is that of plain central fluxes, integrated by SciPy. A method passes if its moments after a short
time miss the referee's by a small part of what the term does to them, so that a term that is left out, halved or taken
with another sign is seen.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import wgflow as wg
from wgflow import FreeEnergy, InvalidInput
from wgflow.solvers.stationary import stationary, stationary_branches

GRID = wg.Grid((-3.0, 3.0), cells=160, boundary="no-flux")
X, H = GRID.centers[0], float(GRID.widths[0][0])
RHO0 = wg.Density.from_function(GRID, lambda x: np.exp(-((x - 0.4) ** 2)) * (1 + 0.4 * np.sin(2 * x))).normalized()
SPAN = 0.1
#: Part of a term's effect on the moments by which a method of second order may miss the referee.
CLOSE = 0.06
#: The same for a random sample, and for a method of first order with a regularization.
ROUGH = 0.3


class Crowding(wg.Term):
    """A functional of a user's own: the cube of the density averaged over a neighborhood."""

    def average(self, rho):
        x = rho.grid.centers[0]
        return np.exp(-((x[:, None] - x) ** 2) / 0.5) @ rho.masses

    def energy(self, rho):
        return float((self.average(rho) ** 3 * rho.grid.volumes).sum() / 3)

    def first_variation(self, rho):
        x = rho.grid.centers[0]
        return np.exp(-((x[:, None] - x) ** 2) / 0.5) @ (self.average(rho) ** 2 * rho.grid.volumes)


class Kind(NamedTuple):
    """A term, its first variation on the line from densities and the time, its energy, and names in messages."""

    term: wg.Term
    slope: object
    energy: object
    names: str


def pairs(w):
    """First variation and energy of a kernel of the distance."""
    table = w(np.abs(X[:, None] - X))
    return (lambda r, t: table @ r * H), (lambda r, t: 0.5 * H * H * r @ table @ r)


def local(h, h1):
    return (lambda r, t: h1(r)), (lambda r, t: H * h(r).sum())


def field(v):
    return (lambda r, t: v(X, t)), (lambda r, t: H * (v(X, t) * r).sum())


def crowd():
    table = np.exp(-((X[:, None] - X) ** 2) / 0.5)
    return (lambda r, t: table @ ((table @ r * H) ** 2 * H)), (lambda r, t: H * ((table @ r * H) ** 3).sum() / 3)


OWN = wg.InternalEnergy(lambda r: r**2 + 0.5 * r**4, lambda r: 2 * r + 2 * r**3, lambda r: 2 + 6 * r**2)
REFERENCE = wg.Density.gaussian(GRID, -0.5, 0.8)
LOGS = np.log(REFERENCE.values)
KINDS = {
    "entropy": Kind(wg.Entropy(1.5), *local(lambda r: r * np.log(r) / 1.5, lambda r: np.log(r) / 1.5),
                    "Entropy|with noise"),
    "relative entropy": Kind(wg.RelativeEntropy(REFERENCE, 2.0),
                             lambda r, t: (np.log(r) - LOGS) / 2, lambda r, t: H * (r * (np.log(r) - LOGS)).sum() / 2,
                             "Entropy|reference|with noise"),
    "power 2": Kind(wg.PowerEntropy(2), *local(lambda r: r**2, lambda r: 2 * r),
                    "PowerEntropy|nonlinear diffusion"),
    "power 3.5": Kind(2 * wg.PowerEntropy(3.5), *local(lambda r: 2 * r**3.5 / 2.5, lambda r: 7 * r**2.5 / 2.5),
                      "PowerEntropy|nonlinear diffusion"),
    "power 0.6": Kind(0.5 * wg.PowerEntropy(0.6), *local(lambda r: -(r**0.6) / 0.8, lambda r: -0.75 * r**-0.4),
                      "PowerEntropy|nonlinear diffusion"),
    "own H": Kind(OWN, *local(lambda r: r**2 + 0.5 * r**4, lambda r: 2 * r + 2 * r**3),
                  "InternalEnergy|nonlinear diffusion"),
    "potential": Kind(wg.Potential(lambda x: x**4 / 4 - x), *field(lambda x, t: x**4 / 4 - x), "Potential"),
    "driven": Kind(wg.TimeDependent(lambda t: wg.Potential(lambda x: (1 + 20 * t) * (x - 1) ** 2 / 2)),
                   *field(lambda x, t: (1 + 20 * t) * (x - 1) ** 2 / 2),
                   "TimeDependent|changes with time"),
    "convolution": Kind(wg.Convolution(lambda z: -2 * np.exp(-z * z)), *pairs(lambda z: -2 * np.exp(-z * z)),
                        "Convolution"),
    "repulsion": Kind(wg.Convolution(lambda z: 2 * np.exp(-z * z)), *pairs(lambda z: 2 * np.exp(-z * z)),
                      "Convolution"),
    "low rank": Kind(wg.LowRank(lambda x: np.array([np.sin(x), x]), [2.0, 1.0]),
                     lambda r, t: 2 * np.sin(X) * (np.sin(X) @ r) * H + X * (X @ r) * H,
                     lambda r, t: (np.sin(X) @ r * H) ** 2 + 0.5 * (X @ r * H) ** 2, "LowRank"),
    "dense": Kind(wg.Dense(lambda x, y: 2 * np.minimum(x, y)), lambda r, t: 2 * np.minimum(X[:, None], X) @ r * H,
                  lambda r, t: H * H * r @ np.minimum(X[:, None], X) @ r, "Dense"),
    "named": Kind(wg.Interaction(wg.interactions.power(2.5)), *pairs(lambda z: z**2.5 / 2.5),
                  "power|not smooth at 0"),
    "crowding": Kind(3 * Crowding(), lambda r, t: 3 * crowd()[0](r, t), lambda r, t: 3 * crowd()[1](r, t),
                     "Crowding|known by its energy and first variation alone"),
}
BASE = {
    "entropy": Kind(wg.Entropy(4.0), *local(lambda r: r * np.log(r) / 4, lambda r: np.log(r) / 4),
                    "Entropy|with noise"),
    "power": Kind(0.3 * wg.PowerEntropy(2), *local(lambda r: 0.3 * r**2, lambda r: 0.6 * r),
                  "PowerEntropy|nonlinear diffusion|no linear diffusion"),
    "none": Kind(wg.Potential(lambda x: 0.5 * x * x), *field(lambda x, t: 0.5 * x * x),
                 "without an entropy|no linear diffusion|without noise|needs an internal energy"),
}
METHODS = {
    "finite volumes": (wg.FiniteVolume(), CLOSE),
    "finite volumes of order 2": (wg.FiniteVolume(order=2), CLOSE),
    "finite volumes of order 4": (wg.FiniteVolume(order=4), CLOSE),
    "finite volumes to a tolerance": (wg.FiniteVolume(tol=1e-3), CLOSE),
    "midpoint": (wg.FiniteVolume(scheme="midpoint", dt=0.005), CLOSE),
    "JKO quantile": (wg.JKO(tau=0.005, inner="quantile"), 2 * CLOSE),
    "JKO linearized": (wg.JKO(tau=0.005, inner="linearized"), 2 * CLOSE),
    "JKO back-and-forth": (wg.JKO(tau=0.01, inner="back-and-forth", tol=1e-4), 4 * CLOSE),
    "JKO entropic": (wg.JKO(tau=0.01, inner="entropic", tol=1e-6), ROUGH),
    "Lagrangian": (wg.Lagrangian(), CLOSE),
    "Langevin": (wg.Lagrangian(n_particles=2_000, dt=0.01, rng=7), ROUGH),
    "FiPy": (wg.FiPy(dt=0.01), CLOSE),
}


def moments(weights, x):
    mean = (weights * x).sum()
    return np.array([mean, (weights * (x - mean) ** 2).sum(), (weights * np.cos(2 * x)).sum()])


def slopes(parts, r, t):
    return sum(part.slope(r, t) for part in parts)


@functools.cache
def referee(base, kind):
    """Return densities at the end of the span, by central fluxes that know nothing of the package."""
    parts = [BASE[base]] + ([KINDS[kind]] if kind else [])

    def rate(t, r):
        mu = slopes(parts, np.maximum(r, 1e-12), t)
        flux = -0.5 * (r[1:] + r[:-1]) * np.diff(mu) / H
        return -np.diff(np.concatenate([[0.0], flux, [0.0]])) / H

    return solve_ivp(rate, (0, SPAN), RHO0.values, method="LSODA", rtol=1e-7, atol=1e-10).y[:, -1]


def check_refusal(error, *kinds):
    """Hold a refusal to its rule: it names a term, or the kind of it that the method does not serve or misses."""
    names = [name for kind in kinds for name in kind.names.split("|")]
    assert any(name in str(error) for name in names), f"the refusal names none of {names}: {error}"


#: FiPy takes seconds for each flow.
CASES = [(method, kind, base) for method in METHODS for kind in KINDS for base in BASE
         if base == "entropy" or method != "FiPy"]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind", "base"), CASES)
def test_the_flow_of_the_whole_energy_or_a_refusal(method, kind, base):
    how, close = METHODS[method]
    energy = BASE[base].term + KINDS[kind].term
    try:
        sol = wg.solve(energy, RHO0, (0, SPAN), method=how, progress=False)
    except InvalidInput as error:
        check_refusal(error, BASE[base], KINDS[kind])
        return
    final = sol.final
    atoms = isinstance(final, wg.Atoms)
    found = moments(final.weights, final.points[0]) if atoms else moments(final.masses, X)
    expected, without = moments(referee(base, kind) * H, X), moments(referee(base, None) * H, X)
    if method == "Langevin" and base != "none":
        # The same random numbers without the term: what chance does cancels.
        alone = wg.solve(FreeEnergy([(1.0, BASE[base].term)]), RHO0, (0, SPAN), method=how).final
        found = found + without - moments(alone.weights, alone.points[0])
    effect = np.abs(expected - without).max()
    assert effect > 5e-3, "the case shows nothing"
    assert np.abs(found - expected).max() <= close * effect, (found, expected, without)
    if not atoms:
        # The energy that the solution reports is that of the term too.
        r = final.values
        value = sum(part.energy(np.maximum(r, 1e-300), SPAN) for part in (BASE[base], KINDS[kind]))
        assert sol.energy[-1] == pytest.approx(value, abs=0.02 * max(1.0, abs(value)))


@pytest.mark.parametrize("base", BASE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", [
    pytest.param(stationary, id="stationary"),
    pytest.param(lambda *a: stationary_branches(*a, max_branches=2)[0], id="stationary_branches",
                 marks=pytest.mark.slow),
])
def test_a_stationary_state_of_the_whole_energy_or_a_refusal(search, kind, base):
    energy = BASE[base].term + KINDS[kind].term + wg.Potential(lambda x: 0.3 * x * x)
    try:
        star = search(energy, GRID)
    except InvalidInput as error:
        check_refusal(error, BASE[base], KINDS[kind])
        return
    r = star.density.values
    filled = r > 1e-9
    mu = slopes([BASE[base], KINDS[kind]], np.maximum(r, 1e-300), 0.0) + 0.3 * X * X
    # Named kernels are averaged over cells, which moves a smooth one by the square of the width.
    assert np.ptp(mu[filled]) <= 1e-3 * (1 + np.ptp(KINDS[kind].slope(np.maximum(r, 1e-300), 0.0)[filled]))
    assert (mu[~filled] >= mu[filled].min() - 1e-3).all()
    value = sum(part.energy(np.maximum(r, 1e-300), 0.0) for part in (BASE[base], KINDS[kind]))
    value += H * (0.3 * X * X * r).sum()
    assert star.energy == pytest.approx(value, abs=1e-3 * max(1.0, abs(value)))


@pytest.mark.parametrize("base", BASE)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "driven"])
def test_the_dissipation_and_the_first_variation_of_the_whole_energy(kind, base):
    energy = BASE[base].term + KINDS[kind].term
    mu = slopes([BASE[base], KINDS[kind]], RHO0.values, 0.0)
    own = energy.first_variation(RHO0)
    assert np.ptp(own - mu) <= 2e-3 * np.ptp(mu)
    fall = H * (0.5 * (RHO0.values[1:] + RHO0.values[:-1]) * (np.diff(mu) / H) ** 2).sum()
    assert energy.dissipation(RHO0) == pytest.approx(fall, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_estimate_is_one_of_the_whole_flow(kind):
    energy = BASE["entropy"].term + KINDS[kind].term
    try:
        sol = wg.solve(energy, RHO0, (0, SPAN), method=wg.FiniteVolume(order=2), error_estimate=True)
        found = sol.certificate.error_estimate
    except InvalidInput as error:
        check_refusal(error, KINDS[kind])
        return
    miss = np.abs(sol.final.values - referee("entropy", kind)).sum() * H
    effect = np.abs(referee("entropy", kind) - referee("entropy", None)).sum() * H
    assert 0 < found < 0.2 * effect
    assert miss <= 20 * found + 0.02 * effect
