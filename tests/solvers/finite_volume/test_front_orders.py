"""Observed orders of the L1 error at fronts: of porous media, and of charges."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.validation import exact

LINE = (51, 71, 101, 141, 201)
DRIFT = {"mean": 0.5, "stiffness": 1.5}

# At a front the density is like distance^(1/(m - 1)), so that one cell there is an error of order 1 + 1/(m - 1).
POROUS = [
    ("m = 2", exact.Barenblatt(), 1.8),
    ("m = 3", exact.Barenblatt(m=3.0), 1.4),
    ("m = 4", exact.Barenblatt(m=4.0), 1.15),
    ("m = 2, drifting", exact.PorousMedium(**DRIFT), 2.0),
    ("m = 3, drifting", exact.PorousMedium(m=3.0, **DRIFT), 1.4),
    ("m = 4, drifting", exact.PorousMedium(m=4.0, **DRIFT), 1.15),
]
CHARGES = [
    ("growing semicircle", exact.LogGas(), LINE, 1.0),
    ("semicircle at rest", exact.LogGas(t_end=6.0), LINE, 1.35),
    ("disk", exact.NewtonianBall(), (32, 45, 64, 90), 1.0),
]


def order(problem, cells):
    errors = []
    for n in cells:
        grid = problem.grid(n)
        sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end), wg.FiniteVolume(rtol=1e-6))
        assert sol.certificate.verdict != "failed", sol.certificate.explain()
        errors.append(problem.errors(sol.final)["density"])
    return -np.polyfit(np.log(cells), np.log(errors), 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "least"), [case[1:] for case in POROUS], ids=[case[0] for case in POROUS])
def test_fronts_of_porous_media(problem, least):
    assert order(problem, LINE) >= least


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "cells", "least"), [c[1:] for c in CHARGES], ids=[c[0] for c in CHARGES])
def test_fronts_of_charges(problem, cells, least):
    assert order(problem, cells) >= least
