"""The catalogue that `wgflow.validation.verify` runs: members of every exact family, with grids and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import exact
from ..exact import ExactDistance, ExactProblem, KellerSegelLine

__all__ = ["AnyCase", "Case", "CollapseCase", "DistanceCase", "catalogue", "families"]

#: Cells of the grids of one axis for smooth solutions.
_SMOOTH = (50, 71, 100, 141, 200)
#: For fronts: on the default box those that stand still or grow end at the same place in a cell on each of these.
_FRONT = (51, 71, 101, 141, 201, 281)
#: Cells an axis in the plane.
_PLANE = (32, 45, 64, 90, 128)
#: Cells an axis in space.
_SPACE = (20, 24, 29, 35, 42)
#: Tolerance of the time steps where the order of the space error is to be seen.
_FINE_TIME = 1e-8


@dataclass(frozen=True)
class Case:
    """One problem of the catalogue.

    Attributes
    ----------
    family, name : str
        The family as ``--family`` knows it, and the member.
    problem : ExactProblem
    cells : tuple of int
        Cells an axis of the grids, rising.
    limits : mapping of str to float
        Largest error of a quantity on the judged grid, where it is not the default of `verify`.
    density_limits : mapping of int to float
        Largest L1 error of the density on grids of so many cells.
    order : float or None
        Least observed order of the error in ``order_of``; None if it is not judged.
    order_of : str
        The L1 error of the density, or a quantity.
    settings : mapping
        Of FiniteVolume.
    jko : (float, int) or None
        Step and number of steps of the JKO scheme that are compared with the exact ones.
    slow : bool
        Left out at the quick scale.
    """

    family: str
    name: str
    problem: ExactProblem
    cells: tuple[int, ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    density_limits: Mapping[int, float] = field(default_factory=dict)
    order: float | None = None
    order_of: str = "density"
    settings: Mapping[str, Any] = field(default_factory=dict)
    jko: tuple[float, int] | None = None
    slow: bool = False

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.problem.grid(2).ndim


@dataclass(frozen=True)
class DistanceCase:
    """A pair of laws of known W2 distance."""

    family: str
    name: str
    problem: ExactDistance
    cells: tuple[int, ...] = _SMOOTH
    limit: float = 1e-3
    slow: bool = False


@dataclass(frozen=True)
class CollapseCase:
    """A flow that blows up before the time at which its second moment would be zero, and must be stopped there."""

    family: str
    name: str
    problem: KellerSegelLine
    cells: tuple[int, ...] = (50, 100, 200)
    slow: bool = False


AnyCase = Case | DistanceCase | CollapseCase


def catalogue() -> tuple[AnyCase, ...]:
    """Return all cases, one family after the other."""
    return (*_gaussian(), *_linear(), *_friction(), *_mean_field(), *_nonlinear(), *_charges(), *_aggregation(),
            *_distances())


def families() -> tuple[str, ...]:
    """Return the names of the families."""
    return tuple(dict.fromkeys(case.family for case in catalogue()))


def _smooth(family: str, name: str, problem: ExactProblem, **options: Any) -> Case:
    ndim = problem.grid(2).ndim
    defaults = {"cells": {1: _SMOOTH, 2: _PLANE, 3: _SPACE}[ndim], "order": 1.9, "slow": ndim > 1,
                "settings": {"rtol": _FINE_TIME if ndim == 1 else 1e-6}}
    return Case(family, name, problem, **{**defaults, **options})


def _fourth(family: str, name: str, problem: ExactProblem, **options: Any) -> Case:
    """Return a case for the fluxes of fourth order."""
    return _smooth(family, name, problem, **{
        "order": 3.5, "settings": {"rtol": 1e-11 if problem.grid(2).ndim == 1 else 1e-9}, **options})


def _carried(family: str, name: str, problem: ExactProblem, **options: Any) -> Case:
    """Return a case whose law is carried by points, fronts and all."""
    return _front(family, name, problem, **{"order": 1.8, "settings": {"rtol": 1e-9}, **options})


def _front(family: str, name: str, problem: ExactProblem, **options: Any) -> Case:
    ndim = problem.grid(2).ndim
    defaults = {"cells": _FRONT if ndim == 1 else (*_PLANE[:4], 113), "order": 1.3, "slow": ndim > 1,
                "settings": {"rtol": 1e-6}}
    return Case(family, name, problem, **{**defaults, **options})


def _gaussian() -> list[Case]:
    turn = ((1.523, 0.699), (0.699, 0.977))
    tilted = ((0.3, 0.12), (0.12, 0.2))
    full = ((1.2, 0.3, -0.2), (0.3, 0.9, 0.25), (-0.2, 0.25, 1.0))
    return [
        _fourth("heat", "N(0, 0.1)", exact.Heat(), jko=(0.05, 10)),
        _fourth("heat", "plane, tilted", exact.Heat(mean=(0.3, -0.2), variance=tilted, t_end=0.3)),
        _fourth("ornstein-uhlenbeck", "N(2, 0.25)", exact.OrnsteinUhlenbeck(), jko=(0.1, 10)),
        _fourth("ornstein-uhlenbeck", "plane, rotated K", exact.OrnsteinUhlenbeck(
            stiffness=turn, mean=(1.0, -0.5), variance=((0.4, 0.1), (0.1, 0.3)), beta=2.0)),
        _fourth("ornstein-uhlenbeck", "space, full K", exact.OrnsteinUhlenbeck(
            stiffness=full, mean=(0.6, -0.4, 0.2), variance=0.5, beta=1.5, t_end=0.5)),
        _smooth("transport", "quadratic well", exact.OrnsteinUhlenbeck(
            beta=math.inf, mean=0.5, variance=0.5, t_end=0.4), order=2.5, jko=(0.1, 4)),
        _smooth("transport", "cosine on the circle", exact.CosineTransport(), order=2.2),
        _smooth("transport", "attraction of a mixture", exact.QuadraticAttraction(beta=math.inf, t_end=0.3),
                order=2.5, settings={"rtol": 1e-7}, jko=(0.1, 3)),
        _fourth("rank-one", "phi = x", exact.RankOne(), jko=(0.1, 10)),
        _fourth("rank-one", "plane, rotated K", exact.RankOne(
            stiffness=turn, direction=(0.8, -0.6), target=0.7, mean=(-0.5, 0.5), variance=0.4, beta=2.0)),
        _fourth("quadratic-activation", "one weight", exact.QuadraticActivation(
            target=0.8, mean=0.3, variance=0.3)),
        _fourth("quadratic-activation", "two weights", exact.QuadraticActivation()),
    ]


def _linear() -> list[Case]:
    return [
        _fourth("box", "cosines 1 and 3", exact.Box()),
        _fourth("box", "plane, (1, 0) and (1, 1)", exact.Box(
            modes={(1, 0): 0.3, (1, 1): 0.3}, bounds=((0.0, 1.0), (-0.5, 1.0)))),
        _fourth("sedimentation", "g = 1", exact.Sedimentation()),
        _fourth("sedimentation", "upward, g = -2", exact.Sedimentation(
            gravity=-2.0, length=1.5, modes={1: 0.3}, beta=1.5, t_end=0.3)),
        _fourth("double-well", "beta = 4, late", exact.DoubleWellDecay(t_end=6.0), cells=(*_SMOOTH, 400),
                limits={"rate": 1e-4}),
        _fourth("double-well", "beta = 1", exact.DoubleWellDecay(beta=1.0, field=0.5), cells=(*_SMOOTH, 400),
                limits={"rate": 1e-4}),
        Case("two-cells", "z = 3", exact.TwoCells(), (2,), limits={"density": 1e-6},
             settings={"corrected": False, "rtol": 1e-9}),
    ]


def _friction() -> list[Case]:
    matrix = ((1.0, 0.45), (0.45, 0.4))
    oblique: dict[str, Any] = {"stiffness": ((1.2, -0.3), (-0.3, 0.8)), "mean": (0.8, -0.5), "beta": 2.0, "t_end": 0.5,
               "variance": ((0.3, 0.05), (0.05, 0.2))}
    return [
        _fourth("friction", "A = 1 + x^2, moments", exact.MobilityWell(), order_of="second_moment"),
        _fourth("friction", "A = x^2 between walls", exact.PowerMobility()),
        _fourth("friction", "constant A on the line", exact.ConstantMobility()),
        _fourth("friction", "plane, diagonal A", exact.ConstantMobility(
            mobility_matrix=((1.0, 0.0), (0.0, 0.3)), **oblique)),
        _smooth("friction", "two media, A = 1 and 5", exact.MobilityJump(), cells=(50, 70, 100, 140, 200)),
        _fourth("friction", "plane, full A", exact.ConstantMobility(mobility_matrix=matrix, **oblique)),
        _fourth("friction", "space, full A", exact.ConstantMobility(
            mobility_matrix=((1.0, 0.3, 0.1), (0.3, 0.8, -0.2), (0.1, -0.2, 0.6)), mean=(0.6, -0.4, 0.2),
            variance=0.5, beta=1.5, t_end=0.3)),
    ]


def _mean_field() -> list[Case]:
    # As exact as these grids ask for.
    reference: dict[str, Any] = {"bounds": (-3.5, 3.5), "size": 120, "tolerance": 1e-6}
    return [
        _fourth("quadratic-attraction", "two Gaussians", exact.QuadraticAttraction()),
        _fourth("quadratic-attraction", "one Gaussian", exact.QuadraticAttraction(
            weights=(1.0,), means=(0.8,), variances=(0.3,), confinement=0.8, beta=2.0), jko=(0.1, 5)),
        _fourth("desai-zwanzig", "t = 0.5", exact.DesaiZwanzig(**reference)),
        _fourth("desai-zwanzig", "t = 2", exact.DesaiZwanzig(t_end=2.0, **reference)),
        _smooth("kuramoto", "t = 1", exact.Kuramoto(), settings={"rtol": 1e-12}),
        _smooth("kuramoto", "t = 8", exact.Kuramoto(t_end=8.0), settings={"rtol": 1e-9}),
    ]


def _nonlinear() -> list[Case]:
    return [
        _carried("barenblatt", "m = 2", exact.Barenblatt(), cells=(50, 71, 100, 141, 200, 283, 400),
                 density_limits={200: 4e-6, 400: 1e-6}, jko=(0.1, 10)),
        _carried("barenblatt", "m = 1.5", exact.Barenblatt(m=1.5)),
        _carried("barenblatt", "m = 3", exact.Barenblatt(m=3.0), density_limits={281: 2e-6}),
        _carried("barenblatt", "m = 4", exact.Barenblatt(m=4.0), density_limits={281: 2e-6}),
        _front("barenblatt", "plane, m = 2", exact.Barenblatt(ndim=2), order=1.8),
        _carried("porous-medium", "well, m = 2", exact.PorousMedium(), jko=(0.1, 10)),
        _carried("porous-medium", "well, m = 2, drifting", exact.PorousMedium(mean=0.5, stiffness=1.5), jko=(0.1, 5)),
        _carried("porous-medium", "well, m = 3", exact.PorousMedium(m=3.0, t_end=0.4)),
        _smooth("fast-diffusion", "well, m = 0.75", exact.PorousMedium(m=0.75), settings={"rtol": 1e-7}),
        Case("waiting-time", "cos^2, m = 2", exact.WaitingTime(), _FRONT, limits={"escaped": 1e-5}),
        Case("waiting-time", "cos, m = 3", exact.WaitingTime(m=3.0), _FRONT, limits={"escaped": 1e-5}),
    ]


def _charges() -> list[Case]:
    # Of a jump that is carried along on the line only the error of the steps is left, on any grid: it is not an order.
    # The semicircle at rest is that of the cells, whose front
    # has an error of h^(3/2).
    return [
        _carried("log-gas", "semicircle", exact.LogGas(), density_limits={51: 1e-6}, order=1.5, jko=(0.1, 5)),
        _front("log-gas", "to rest", exact.LogGas(t_end=6.0), order=1.35),
        _smooth("newtonian-line", "two Gaussians", exact.NewtonianLine(), jko=(0.1, 5)),
        _front("newtonian-line", "uniform", exact.NewtonianBall(ndim=1), order=None,
               density_limits=dict.fromkeys(_FRONT, 1e-4)),
        _smooth("newtonian-plane", "Gaussian cloud", exact.NewtonianCloud()),
        _front("newtonian-plane", "disk", exact.NewtonianBall(), order=1.3, density_limits={113: 4e-3}),
    ]


def _aggregation() -> list[AnyCase]:
    return [
        _smooth("keller-segel", "moments", exact.KellerSegelLine(), order=None),
        _smooth("keller-segel", "stationary", exact.KellerSegelLine(start="stationary")),
        CollapseCase("keller-segel", "collapse, chi = 1.25 chi_c", exact.KellerSegelLine(attraction=2.5)),
        CollapseCase("keller-segel", "collapse, chi = 3 chi_c", exact.KellerSegelLine(attraction=6.0)),
        _front("compact-aggregation", "at rest", exact.CompactAggregation(stretch=1.0, t_end=20.0),
               order=None, limits={"density": 1e-4}),
        _front("compact-aggregation", "from 1.2 of its length", exact.CompactAggregation(), slow=True),
    ]


def _distances() -> list[DistanceCase]:
    return [
        DistanceCase("distances", "U[0, 1], U[2, 5]", exact.UniformPair()),
        DistanceCase("distances", "N(0, 1), U[-1, 1]", exact.NormalUniform()),
    ]
