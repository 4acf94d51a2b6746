"""Observed orders of the L1 error at fronts: of porous media, and of charges."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.validation import exact

LINE = (51, 71, 101, 141, 201)
DRIFT = {"mean": 0.5, "stiffness": 1.5}

# By fluxes one cell at a front, where the density is like distance^(1/(m - 1)), is an error of order 1 + 1/(m - 1); by
# points fronts are of second order.
POROUS = [
    ("m = 2", exact.Barenblatt(), 1.9, 1.8),
    ("m = 3", exact.Barenblatt(m=3.0), 1.9, 1.4),
    ("m = 4", exact.Barenblatt(m=4.0), 1.9, 1.15),
    ("m = 2, drifting", exact.PorousMedium(**DRIFT), 1.9, 2.0),
    ("m = 3, drifting", exact.PorousMedium(m=3.0, **DRIFT), 1.9, 1.4),
    ("m = 4, drifting", exact.PorousMedium(m=4.0, **DRIFT), 1.9, 1.15),
]
CHARGES = [
    ("growing semicircle", exact.LogGas(), LINE, {"rtol": 1e-9}, 1.5),
    ("growing semicircle by fluxes", exact.LogGas(), LINE, {"rtol": 1e-6, "order": 2}, 1.0),
    ("semicircle at rest", exact.LogGas(t_end=6.0), LINE, {"rtol": 1e-6}, 1.35),
    ("disk", exact.NewtonianBall(), (32, 45, 64, 90), {"rtol": 1e-6}, 1.0),
]


def observed(problem, cells, **settings):
    errors = []
    for n in cells:
        grid = problem.grid(n)
        sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end),
                       wg.FiniteVolume(**settings))
        assert sol.certificate.verdict != "failed", sol.certificate.explain()
        errors.append(problem.errors(sol.final)["density"])
    return -np.polyfit(np.log(cells), np.log(errors), 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "points", "fluxes"), [case[1:] for case in POROUS], ids=[c[0] for c in POROUS])
def test_fronts_of_porous_media(problem, points, fluxes):
    assert observed(problem, LINE, rtol=1e-9) >= points
    assert observed(problem, LINE, rtol=1e-6, order=2) >= fluxes


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "cells", "options", "least"), [case[1:] for case in CHARGES],
                         ids=[case[0] for case in CHARGES])
def test_fronts_of_charges(problem, cells, options, least):
    assert observed(problem, cells, **options) >= least
