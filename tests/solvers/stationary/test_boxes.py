"""Boxes that cut: states that lean on the end of reduced coordinates say so, and models choose boxes that hold them."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, WGFlowWarning
from wgflow.reduced_models import AnisotropicGaussian, FiniteData, IsotropicGaussian
from wgflow.reduced_models.radial_laws import noisy_deviation

MODEL = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)


@pytest.mark.parametrize(("beta", "ridge", "least"), [(10.0, 0.1, -2.518212), (3.0, 0.05, -22.316004),
                                                      (100.0, 0.01, -0.104204)])
def test_a_model_chooses_a_box_that_holds_its_noisy_state(beta, ridge, least):
    # The least energies are those of a box three times as wide, extrapolated.
    energy, found = MODEL.energy(beta=beta, ridge=ridge), []
    with warnings.catch_warnings():
        warnings.simplefilter("error", WGFlowWarning)
        for cells in (800, 1600):
            star = wg.stationary(energy, MODEL.grid(cells, beta=beta, ridge=ridge))
            assert star.boundary_mass < 1e-12
            found.append(star.energy)
        wide = MODEL.grid(4800, r_max=3 * MODEL.grid(8, beta=beta, ridge=ridge).bounds[0][1])
        assert wg.stationary(energy, wide).energy == pytest.approx(found[1], abs=2 * abs(found[1] - found[0]))
    assert (4 * found[1] - found[0]) / 3 == pytest.approx(least, abs=2e-6)


def test_two_lengths_hold_theirs_too():
    model = AnisotropicGaussian(d=40, s0=10, delta=0.5)
    grid = model.grid((80, 60), beta=10.0, ridge=0.1)
    star = wg.stationary(model.energy(beta=10.0, ridge=0.1), grid)
    wider = model.grid((120, 90), tuple(1.5 * high for _, high in grid.bounds))
    assert star.energy == pytest.approx(wg.stationary(model.energy(beta=10.0, ridge=0.1), wider).energy, abs=1e-12)


@pytest.mark.parametrize("noise", [{"beta": 10.0, "ridge": 0.1}, {"beta": 30.0, "ridge": 0.03}])
def test_a_box_that_cuts_is_told_with_its_remedy(noise):
    with pytest.warns(WGFlowWarning, match=r"beyond the box \[0, 5.25\].*enlarge it; model.grid\(cells, beta"):
        star = wg.stationary(MODEL.energy(**noise), MODEL.grid(400))
    assert star.boundary_mass > 1e-3
    assert star.residual < 1e-12  # which says nothing of the box
    assert star.verdict == "failed"
    assert star.mass_outside > 1e-2
    assert "enlarge" in star.explain()
    assert "those of the box" in star.message
    right = wg.stationary(MODEL.energy(**noise), MODEL.grid(400, **noise))
    assert right.ok
    assert "enlarge" not in right.explain()


def test_walls_are_told_without_a_warning():
    # Sedimentation stands on the floor of its box, which is declared.
    with warnings.catch_warnings():
        warnings.simplefilter("error", WGFlowWarning)
        star = wg.stationary(wg.Entropy(1.0) + wg.Potential(lambda x: 5 * x),
                             wg.Grid((0, 1), cells=100, boundary="no-flux"))
        ring = wg.stationary(wg.Entropy(1.0) + wg.Potential(np.cos), wg.Grid((-3, 3), cells=100, boundary="periodic"))
        weighted = wg.Grid((-1, 1), cells=100, boundary="no-flux")
        weighted = wg.Grid(edges=weighted.edges, log_weight=-weighted.centers[0], boundary=weighted.boundary)
        wg.stationary(wg.Entropy(1.0) + wg.Potential(np.cos), weighted)
    assert star.boundary_mass == pytest.approx(-math.expm1(-0.05) / -math.expm1(-5.0), rel=1e-3)
    assert "lies at walls" in star.explain()
    assert star.mass_outside is None
    assert ring.boundary_mass == 0


def test_the_law_under_noise_and_ridge_alone():
    # Ornstein and Uhlenbeck: s' = -2 lambda c s + 2 c / beta for the variance s.
    t = np.linspace(0, 3, 30001)
    for kappa, ridge, beta in ((2.0, 0.7, 5.0), (0.1, 0.7, 5.0), (1.0, 0.0, 20.0)):
        s, c = kappa**2 / 4, 2.0
        for step in np.diff(t):
            middle = s + 0.5 * step * (2 * c / beta - 2 * ridge * c * s)
            s += step * (2 * c / beta - 2 * ridge * c * middle)
        expected = math.sqrt(max(s, kappa**2 / 4))
        assert noisy_deviation(kappa, 4, beta, ridge, 3.0, c) == pytest.approx(expected, rel=1e-7)
    assert noisy_deviation(None, 4, 5.0, 0.2, None, 2.0) == 1.0
    assert noisy_deviation(3.0, 9, math.inf, 0.2, None, 2.0) == 1.0
    assert noisy_deviation(3.0, 9, 5.0, 0.0, None, 2.0) == 1.0  # no ridge, no end: nothing is known
    right = {"kappa": 1.0, "n": 4, "beta": 1.0, "ridge": 1.0, "t_end": 1.0, "time_scale": 1.0}
    for wrong in ({"beta": 0.0}, {"ridge": -1.0}, {"t_end": -1.0}, {"kappa": -1.0}):
        with pytest.raises(InvalidInput):
            noisy_deviation(**(right | wrong))


def test_grids_hold_the_start_and_what_noise_makes_of_it():
    plain = MODEL.grid(400).bounds[0][1]
    assert MODEL.grid(400, kappa=0.8).bounds[0][1] == plain
    grid = MODEL.grid(400, kappa=5.0)
    assert MODEL.initial_density(5.0, grid).mass == pytest.approx(1)
    # Without ridge the weights diffuse: at the end of the span the box holds them.
    grid = MODEL.grid(400, kappa=0.8, beta=10.0, t_end=2.0)
    sol = wg.solve(MODEL.energy(beta=10.0), MODEL.initial_density(0.8, grid), (0, 2), time_scale=MODEL.time_scale)
    assert sol.certificate.boundary_mass < 1e-9
    data = FiniteData(np.array([[1.0], [-1.0]]), [1.0, -1.0])
    assert data.grid(beta=0.5, t_end=4.0).bounds[0][1] > 6 * math.sqrt(2 * 2.0 * 4.0 / 0.5)
