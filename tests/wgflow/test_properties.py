"""What every accepted step keeps, on random problems: sign, mass, decay of the energy; and Gibbs states that stay.

The energy is formed here once more from the stored densities and a full table of U, in plain NumPy; nothing is taken
from the certificate on trust.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.calls import memory
from wgflow.testing import (
    RandomFlow,
    assert_energy_decays,
    assert_mass_conserved,
    assert_nonnegative,
    flows,
    smooth_flows,
)

MASS, ENERGY = 1e-13, 1e-12


@pytest.fixture(scope="module", autouse=True)
def _keep_every_density():
    """Keep the density of every accepted step, not a thinned choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SNAPSHOTS", 100_000)
        yield


def value_of(problem: RandomFlow, rho) -> float:
    """F in plain NumPy: of the values at the nodes, where a density has them."""
    rho = rho.nodal or rho
    volumes = rho.grid.volumes
    m = rho.values * volumes
    total = (m * problem.V).sum() + 0.5 * m.ravel() @ problem.table @ m.ravel()
    if math.isfinite(problem.beta):
        there = rho.values > 0
        w = 0.0 if rho.grid.log_weight is None else rho.grid.log_weight[there]
        total += (m[there] * (np.log(m[there] / volumes[there]) - w)).sum() / problem.beta
    return float(total)


def speed_of(problem: RandomFlow) -> float:
    """L1 norm of d rho/dt at the start by Scharfetter-Gummel fluxes, edge by edge."""
    m = problem.rho.masses
    psi = problem.V + (problem.table @ m.ravel()).reshape(m.shape)
    if math.isfinite(problem.beta) and problem.grid.log_weight is not None:
        psi = psi - problem.grid.log_weight / problem.beta
    change = np.zeros(m.shape)
    for axis in range(m.ndim):
        n = m.shape[axis]
        h, d = problem.grid.widths[axis], problem.grid.distances[axis]
        for i in range(n if problem.grid.periodic[axis] else n - 1):
            k = (i + 1) % n
            here, there = (tuple(j if a == axis else slice(None) for a in range(m.ndim)) for j in (i, k))
            rise = psi[there] - psi[here]
            if math.isfinite(problem.beta):
                z = np.clip(problem.beta * rise, -600, 600)
                small = np.abs(z) < 1e-8
                up = np.where(small, 1.0, z / np.expm1(np.where(small, 1.0, z))) / problem.beta
                down = up + rise
            else:
                up, down = np.maximum(-rise, 0), np.maximum(rise, 0)
            flux = up / (h[i] * d[i]) * m[here] - np.maximum(down, 0) / (h[k] * d[i]) * m[there]
            change[here] -= flux
            change[there] += flux
    return float(np.abs(change).sum()) / problem.rho.mass


@st.composite
def methods(draw):
    """A span and settings: six fixed steps of any size, or an adaptive run that may hit its limit of steps."""
    dt = 10.0 ** draw(st.floats(-3, 3))
    corrected = draw(st.sampled_from([True, True, False]))
    order = draw(st.sampled_from([None, None, 2]))
    if draw(st.sampled_from([False, False, False, True])):
        rtol = draw(st.sampled_from([1e-2, 1e-3]))
        return dt, dict(rtol=rtol, max_steps=60, corrected=corrected, order=order)
    return 6 * dt, dict(dt=dt, corrected=corrected, order=order)


def check_run(problem: RandomFlow, span: float, options: dict):
    sol = wg.solve(problem.energy, problem.rho, (0, span), method=wg.FiniteVolume(**options), throw=False)
    assert sol.success or "max_steps" in sol.message
    assert len(sol.densities) == sol.certificate.n_accepted + 1
    fourth = "fourth" in sol.certificate.scheme
    assert all((rho.nodal is not None) == fourth for rho in sol.densities)
    # Averages over cells, and values at their centers, where the run has these.
    nodal = SimpleNamespace(t=sol.t, densities=[rho.nodal or rho for rho in sol.densities], is_atomic=False)
    for laws in (sol, nodal):
        assert_nonnegative(laws)
        assert_mass_conserved(laws, MASS)
        total = math.fsum(laws.densities[0].masses.ravel())
        assert abs(total / math.fsum(problem.rho.masses.ravel()) - 1) <= MASS
    assert_energy_decays(sol, lambda rho: value_of(problem, rho), ENERGY)
    F = np.array([value_of(problem, rho) for rho in sol.densities])
    scale = max(1.0, np.abs(problem.V).max() + np.abs(problem.table).max()) * max(1.0, total) ** 2
    for values in (F, [problem.energy(rho) for rho in sol.densities]):
        np.testing.assert_allclose(values, sol.energy, rtol=1e-11, atol=1e-11 * scale)
    certificate = sol.certificate
    assert certificate.min_density >= 0.0
    assert certificate.mass_drift <= MASS
    assert certificate.max_energy_increase <= ENERGY
    # A step of this length that leaves every cell as it was is a frozen run, unless the start is stationary.
    if speed_of(problem) * options.get("dt", 0.01 * span) > 1e-9:
        assert (sol.final.masses != sol.densities[0].masses).any()
        assert F[-1] < F[0]
    return sol


@settings(max_examples=100)
@given(flows(), methods())
def test_sign_mass_and_energy_decay(problem, method):
    check_run(problem, *method)


@pytest.mark.slow
@settings(max_examples=2000)
@given(flows(), methods())
def test_sign_mass_and_energy_decay_in_two_thousand_cases(problem, method):
    check_run(problem, *method)


def check_smooth_run(problem, span, options):
    sol = check_run(problem, span, {**options, "corrected": True, "order": None})
    assume("fourth" in sol.certificate.scheme)


@settings(max_examples=50)
@given(smooth_flows(), methods())
def test_sign_mass_and_energy_decay_by_fluxes_of_fourth_order(problem, method):
    check_smooth_run(problem, *method)


@pytest.mark.slow
@settings(max_examples=2000)
@given(smooth_flows(), methods())
def test_sign_mass_and_energy_decay_by_fluxes_of_fourth_order_in_two_thousand_cases(problem, method):
    check_smooth_run(problem, *method)


@settings(max_examples=60)
@given(flows())
def test_most_starts_are_not_stationary(problem):
    # The guard of the test above lets few cases go: only transport that has nowhere to go, from single cells. Mass in
    # one cell behind barriers of beta (V + U) >> 1 stays there for longer than this test can tell from for ever.
    beta, start, V_scale, U_scale = (problem.drawn[k] for k in (2, 5, 6, 7))
    assume(beta < 1e3 and (start not in ("delta", "deltas", "tiny") or beta * (V_scale + U_scale) < 4.0))
    assert speed_of(problem) > 1e-9
