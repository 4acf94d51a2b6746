"""Two Gaussian classes: the arguments that give their variances, and the initial law of the limit d = inf."""

from __future__ import annotations

import numpy as np

from wgflow.checks import check_positive
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import FloatArray

CONVENTIONS = ("variance", "deviation")


def class_variances(plus: float | None, minus: float | None, delta: float | None,
                    convention: str) -> tuple[float, float]:
    """Return the variances of the two classes, given themselves or by their distance delta from 1."""
    check_convention(convention)
    if delta is None:
        if plus is None or minus is None:
            raise InvalidInput("give both tau_plus2 and tau_minus2, or delta with its convention")
        return check_positive("tau_plus2", plus), check_positive("tau_minus2", minus)
    if plus is not None or minus is not None:
        raise InvalidInput("give either tau_plus2 and tau_minus2, or delta, not both")
    delta = check_positive("delta", delta, zero=True)
    if delta >= 1.0:
        raise InvalidInput(f"delta={delta:g} must be < 1, so that both classes have a positive variance")
    return (1.0 + delta, 1.0 - delta) if convention == "variance" else ((1.0 + delta) ** 2, (1.0 - delta) ** 2)


def check_convention(convention: str) -> None:
    """Refuse what is no convention for delta."""
    if convention not in CONVENTIONS:
        raise InvalidInput(f"convention={convention!r} must be 'variance' or 'deviation'")


def delta_masses(kappa: float, grid: Grid) -> FloatArray:
    """Return the masses of a delta at ``kappa``, shared by the two nearest cell centers so that its mean is kappa."""
    centers, edges, masses = grid.centers[0], grid.edges[0], np.zeros(grid.shape)
    if not edges[0] <= kappa <= edges[-1]:
        return masses
    i = int(np.clip(np.searchsorted(centers, kappa) - 1, 0, centers.size - 2))
    share = np.clip((kappa - centers[i]) / (centers[i + 1] - centers[i]), 0.0, 1.0)
    masses[i], masses[i + 1] = 1.0 - share, share
    return masses
