"""Exact solutions of Wasserstein gradient flows, as problems to be solved and compared.

Each problem knows its grid, energy and initial density, and the exact solution: ``density(grid, t)`` as cell averages
and ``quantities(t)`` (moments, free energy, dissipation) by name, with ``measure(rho)`` giving the same quantities of
a computed density and ``errors(rho, t)`` the difference. Where the support is bounded, ``front(t)`` says where it ends;
where the JKO scheme has exact steps, they are in ``jko_table(tau, steps)`` and ``jko_errors(rho, tau, steps)``. All
parameters are free. `wgflow.validation.verify` runs them all.

====================== =====================================================================================
problem                what it tests
====================== =====================================================================================
`Heat`                 diffusion alone
`OrnsteinUhlenbeck`    quadratic potential with any symmetric matrix, one to four axes; transport at beta = inf
`Box`                  no-flux walls, cosine modes, the exact rate of the two-point flux
`Sedimentation`        a constant drift against a wall
`ConstantMobility`     a mobility matrix, one to four axes: Gaussians
`MobilityWell`         a mobility that grows with x^2: moments
`PowerMobility`        the same between walls: modes
`MobilityJump`         two media in contact: a mobility that jumps
`TwoCells`             the rate of the Scharfetter-Gummel flux
`CosineTransport`      nonlinear transport without diffusion on the circle
`QuadraticAttraction`  attraction and confinement of a mixture of Gaussians; also at beta = inf
`RankOne`              the smallest network: a rank-one interaction
`QuadraticActivation`  a network of quadratic activation: second moments by a matrix Riccati equation
`DesaiZwanzig`         nonconvex potential and attraction, a phase transition
`Kuramoto`             a phase transition on the circle
`DoubleWellDecay`      slow exchange between two wells, the spectrum of the generator
`Barenblatt`           nonlinear diffusion from a point: porous medium (a front) and fast diffusion (algebraic tails)
`PorousMedium`         the same in a quadratic well
`WaitingTime`          a front that rests until a known time
`LogGas`               logarithmic repulsion on the line, a semicircle
`NewtonianBall`        Newtonian repulsion, one or two axes, a uniform ball
`NewtonianLine`        Newtonian repulsion on the line from any mixture of Gaussians
`NewtonianCloud`       Newtonian repulsion in the plane from a Gaussian
`KellerSegelLine`      logarithmic attraction against diffusion: moments, collapse, the stationary density
`CompactAggregation`   exponential attraction against quadratic diffusion: a compact aggregate
====================== =====================================================================================

`UniformPair`, `NormalUniform` and `GaussianPair` are pairs of laws of known W2 distance.
"""

from __future__ import annotations

from .aggregation import CompactAggregation, KellerSegelLine
from .base import ExactProblem, StateProblem
from .charges import LogGas, NewtonianBall, NewtonianCloud, NewtonianLine
from .distances import ExactDistance, GaussianPair, NormalUniform, UniformPair
from .double_well import DoubleWellDecay
from .friction import ConstantMobility, MobilityJump, MobilityWell, PowerMobility
from .gaussian import Heat, OrnsteinUhlenbeck, RankOne
from .meanfield import DesaiZwanzig, Kuramoto
from .mixture import CosineTransport, QuadraticAttraction
from .modes import Box, Sedimentation
from .porous_medium import Barenblatt, PorousMedium, WaitingTime
from .quadratic_activation import QuadraticActivation
from .two_cells import TwoCells

__all__ = [
    "Barenblatt",
    "Box",
    "CompactAggregation",
    "ConstantMobility",
    "CosineTransport",
    "DesaiZwanzig",
    "DoubleWellDecay",
    "ExactDistance",
    "ExactProblem",
    "GaussianPair",
    "Heat",
    "KellerSegelLine",
    "Kuramoto",
    "LogGas",
    "MobilityJump",
    "MobilityWell",
    "NewtonianBall",
    "NewtonianCloud",
    "NewtonianLine",
    "NormalUniform",
    "OrnsteinUhlenbeck",
    "PorousMedium",
    "PowerMobility",
    "QuadraticActivation",
    "QuadraticAttraction",
    "RankOne",
    "Sedimentation",
    "StateProblem",
    "TwoCells",
    "UniformPair",
    "WaitingTime",
]
