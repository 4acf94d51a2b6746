"""What is compared: cases, which are problems on one grid, and contests, where every method chooses its own grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from network import NETWORK
from problems import ANISOTROPIC, DOUBLE_WELL, MCKEAN_VLASOV
from three_axes import ROTATED


@dataclass(frozen=True)
class Case:
    """A problem on a grid, and the speed ratios that wgflow should reach there."""

    name: str
    problem: Any
    cells: tuple[int, ...]
    target: float  # against the best SciPy referee
    target_fipy: float = 100.0


@dataclass(frozen=True)
class Contest:
    """A problem, the errors to be reached, and the grids on which finite volumes may try.

    ``output`` is the grid on which methods without cells hand over their result.
    """

    name: str
    problem: Any
    targets: tuple[float, ...]
    grids: list[tuple[int, ...]]
    output: tuple[int, ...]


def ladder(low: int, high: int, ratio: float) -> list[int]:
    """Return even numbers from low to high, each about ``ratio`` times the one before."""
    found, number = [low], float(low)
    while (number := number * ratio) <= high * (1 + 1e-9):
        found.append(2 * round(number / 2))
    return found


def squares(low: int, high: int, ratio: float, ndim: int) -> list[tuple[int, ...]]:
    return [(n,) * ndim for n in ladder(low, high, ratio)]


PLANE = (1e-2, 4e-3, 1.7e-3, 1e-3, 1e-4, 1e-5, 1e-6)

CASES = {
    case.name: case
    for case in (
        Case("1d-400", DOUBLE_WELL, (400,), 1.0),
        Case("1d-4096", DOUBLE_WELL, (4096,), 1.0),
        Case("2d-128", ANISOTROPIC, (128, 128), 4.0),
        Case("2d-256", ANISOTROPIC, (256, 256), 4.0),
        Case("2d-512", ANISOTROPIC, (512, 512), 4.0),
        Case("mv-128", MCKEAN_VLASOV, (128, 128), 4.0),
        Case("mv-256", MCKEAN_VLASOV, (256, 256), 4.0),
        Case("3d-64", ROTATED, (64, 64, 64), 1.0),
        Case("network-400", NETWORK, (400,), 1.0),
    )
}

CONTESTS = {
    contest.name: contest
    for contest in (
        Contest(
            "1d", DOUBLE_WELL, (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8), squares(24, 1 << 16, 1.25, 1), (400,)
        ),
        Contest("2d", ANISOTROPIC, PLANE, squares(24, 1024, 2**0.25, 2), (128, 128)),
        Contest("mv", MCKEAN_VLASOV, PLANE, squares(24, 1024, 2**0.25, 2), (128, 128)),
        Contest("3d", ROTATED, (4e-2, 1e-2, 4e-3, 1e-3, 1e-4, 1e-5), squares(20, 160, 2**0.25, 3), (64, 64, 64)),
        Contest("network", NETWORK, (1e-2, 1e-3, 1e-4, 1e-5, 1e-6), squares(64, 1 << 14, 2**0.5, 1), (400,)),
    )
}

QUICK = ["1d-400", "2d-128", "mv-128", "network-400", "1d", "2d", "mv"]


def chosen(names: list[str] | None) -> tuple[list[Case], list[Contest]]:
    """Return the cases and contests that are meant: one by name, a contest with all cases of its problem, or all.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    if not names:
        return list(CASES.values()), list(CONTESTS.values())
    unknown = [name for name in names if name not in CASES and name not in CONTESTS]
    if unknown:
        raise ValueError(f"unknown case {unknown[0]!r}; there are {', '.join([*CONTESTS, *CASES])}")
    contests = [CONTESTS[name] for name in names if name in CONTESTS]
    exact = [CASES[name] for name in names if name in CASES]
    own = [] if exact else [case for case in CASES.values() if any(case.problem is c.problem for c in contests)]
    return exact or own, contests
