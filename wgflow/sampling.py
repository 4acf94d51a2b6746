"""Checks of the arguments with which points are drawn from a law."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from wgflow.errors import InvalidInput


def sampler(n: Any, rng: Any) -> np.random.Generator:
    """Return the generator for ``rng``, after checking the number of points n."""
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1:
        raise InvalidInput(f"n={n!r}: need an integer >= 1")
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"rng={rng!r}: need None, an int >= 0, a SeedSequence or a Generator") from error
