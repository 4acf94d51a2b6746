"""Exact solutions of Wasserstein gradient flows, as problems to be solved and compared.

Each problem knows its grid, energy and initial density, and the exact solution: ``density(grid, t)`` as cell averages
and ``quantities(t)`` (moments, free energy, dissipation) by name, with ``measure(rho)`` giving the same quantities of
a computed density and ``errors(rho, t)`` the difference. All parameters are free.

====================== =====================================================================================
problem                what it tests
====================== =====================================================================================
`Heat`                 diffusion alone
`OrnsteinUhlenbeck`    quadratic potential with any symmetric matrix, one to four axes; transport at beta = inf
`Box`                  no-flux walls, cosine modes, the exact rate of the two-point flux
`Sedimentation`        a constant drift against a wall
`CosineTransport`      nonlinear transport without diffusion on the circle
`QuadraticAttraction`  attraction and confinement of a mixture of Gaussians; also at beta = inf
`RankOne`              the smallest network: a rank-one interaction
`DesaiZwanzig`         nonconvex potential and attraction, a phase transition
`Kuramoto`             a phase transition on the circle
`DoubleWellDecay`      slow exchange between two wells, the spectrum of the generator
====================== =====================================================================================
"""

from __future__ import annotations

from .exact_base import ExactProblem
from .exact_double_well import DoubleWellDecay
from .exact_gaussian import Heat, OrnsteinUhlenbeck, RankOne
from .exact_meanfield import DesaiZwanzig, Kuramoto
from .exact_mixture import CosineTransport, QuadraticAttraction
from .exact_modes import Box, Sedimentation

__all__ = [
    "Box",
    "CosineTransport",
    "DesaiZwanzig",
    "DoubleWellDecay",
    "ExactProblem",
    "Heat",
    "Kuramoto",
    "OrnsteinUhlenbeck",
    "QuadraticAttraction",
    "RankOne",
    "Sedimentation",
]
