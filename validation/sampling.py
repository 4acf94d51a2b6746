"""The samples that SGD sees: fresh ones of a model, or those of a finite sample, pass after pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_flag, real_array
from wgflow.errors import InvalidInput
from wgflow.reduced_models.base import NetworkModel
from wgflow.reduced_models.finite_data import FiniteData

__all__ = ["SampleStream", "check_sample"]

Array = NDArray[np.float64]

#: Samples drawn at a time. Fixed, so that a run sees the same data whatever its output times are.
SAMPLE_BLOCK = 1024


def check_sample(model: NetworkModel, sample: object, replacement: bool) -> tuple[Array, Array] | None:
    """Return the inputs and labels that SGD draws from, or None where ``model.sample_data`` gives the samples."""
    d = model.n_parameters - (2 if model.trains_readout else 0)
    check_flag("replacement", replacement)
    if sample is None and isinstance(model, FiniteData):
        return model.x, model.y
    if sample is None:
        if not replacement:
            raise InvalidInput(f"replacement=False needs a finite sample: {model.name} draws fresh samples without "
                               "end; give sample=model.sample_data(n, rng)")
        return None
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise InvalidInput("sample must be a pair (x, y), such as model.sample_data(n, rng) returns")
    x, y = real_array(sample[0], "sample[0]"), real_array(sample[1], "sample[1]")
    if x.ndim != 2 or x.shape[1] != d or len(x) == 0 or y.shape != x.shape[:1]:
        raise InvalidInput(f"sample has shapes {x.shape} and {y.shape}: need (n, {d}) and (n,), n >= 1")
    for name, array in (("sample[0]", x), ("sample[1]", y)):
        if not np.isfinite(array).all():
            raise InvalidInput(f"{name}{[int(i) for i in np.argwhere(~np.isfinite(array))[0]]} is not finite")
    model.loss.check_labels(y)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


class SampleStream:
    """Samples one after the other, from a generator of their own; how many are taken at a time changes none of them.

    Fresh samples of the model where ``sample`` is None; else samples drawn with replacement, or, without, every sample
    once a pass in an order drawn anew for each pass.
    """

    def __init__(self, model: NetworkModel, sample: tuple[Array, Array] | None, replacement: bool,
                 rng: np.random.Generator):
        self.model, self.sample, self.replacement, self.rng = model, sample, replacement, rng
        self._x, self._y, self._used = np.empty((0, int(model.input_dimension))), np.empty(0), 0

    def take(self, count: int) -> tuple[Array, Array]:
        """Return the next ``count`` samples, shapes (count, d) and (count,)."""
        parts, missing = [], count
        while missing > 0:
            if self._used == self._y.size:
                self._x, self._y = self._block()
                self._used = 0
            part = slice(self._used, min(self._used + missing, self._y.size))
            parts.append((self._x[part], self._y[part]))
            missing -= part.stop - part.start
            self._used = part.stop
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])

    def _block(self) -> tuple[Array, Array]:
        if self.sample is None:
            return self.model.sample_data(SAMPLE_BLOCK, self.rng)
        x, y = self.sample
        chosen = self.rng.integers(y.size, size=SAMPLE_BLOCK) if self.replacement else self.rng.permutation(y.size)
        return x[chosen], y[chosen]
