"""JKO steps: the result of each, and tables of them for files."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from wgflow.checks import LARGEST_COUNT, described
from wgflow.densities import Density
from wgflow.errors import InvalidInput

__all__ = ["JKOStep", "pack_steps", "unpack_steps"]


@dataclass(frozen=True)
class JKOStep:
    r"""The result of one JKO step.

    Attributes
    ----------
    density : Density or None
        :math:`\rho_{k+1}` on the grid; None in the steps that a Solution keeps (``sol.jko_steps``), whose densities
        are its snapshots.
    w2_squared : float
        :math:`W_2^2(\rho_{k+1}, \rho_k)`, the cost of transport of the whole mass (not divided by it).
    energy : float
        :math:`F(\rho_{k+1})`, as the inner solver discretizes it: the number whose decrease it guarantees.
    gap : float or None
        Primal value less dual value of the step, :math:`\ge 0`, where the method has a dual.
    residual : float
        Dimensionless defect of optimality; a step is accepted if it is at most the tolerance. Where there is a gap it
        is the gap relative to a scale of the step that the method states, else a norm of the Euler-Lagrange equation.
    iterations : int
        Iterations of the inner solver.
    tau : float
        Length of the step on the clock of the gradient flow (time_scale in it).
    bias : float or None
        Estimated distance to the step without regularization, where the method regularizes and estimates it.
    dissipation : float or None
        :math:`-dF/dt = \int \rho |\nabla \delta F / \delta \rho|^2` at :math:`\rho_{k+1}`, where the method forms it;
        else W2^2 / tau^2 stands for it.
    round_off : float or None
        A bound on what rounding does to the energy, where that may be more than 1e-13 of max(1, abs(F)).
    blur : float or None
        Bound of what regularization adds to F in this step, where the method regularizes without debiasing.
    blur_length : float or None
        The distance, approximately, by which regularization moves the density.
    metric : str or None
        The distance that the step was solved with, where the method has several: "exact" or "linear".
    extras : mapping
        Further results of the method by name (floats, ints, strings), for information only. The attributes from
        ``dissipation`` to ``metric`` can be read here, too, as in earlier versions: ``step.extras["metric"]``. A plain
        mapping given here sets them.
    state : dict
        Data for the next step beside the density (Lagrangian positions, dual potentials for a warm start): arrays,
        numbers and None by name, so that it can be stored in a checkpoint.
    """

    density: Density | None
    w2_squared: float
    energy: float
    gap: float | None
    residual: float
    iterations: int
    tau: float
    bias: float | None = None
    extras: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    dissipation: float | None = None
    round_off: float | None = None
    blur: float | None = None
    blur_length: float | None = None
    metric: str | None = None

    def __post_init__(self):
        own = self.extras.own if isinstance(self.extras, _Extras) else dict(self.extras)
        for name in ATTRIBUTES:
            if name in own:
                object.__setattr__(self, name, own.pop(name))
        attributes = {name: getattr(self, name) for name in ATTRIBUTES if getattr(self, name) is not None}
        object.__setattr__(self, "extras", _Extras(own, attributes))

    @property
    def rho(self) -> Density:
        """The density of a step that has one."""
        if self.density is None:
            raise InvalidInput("the steps of a Solution keep no density: its snapshots are in sol.densities")
        return self.density

    def summary(self) -> JKOStep:
        """Return the same step without its density and state, all numbers those of Python."""
        plain = {name: _plain(getattr(self, name)) for name in NUMBERS + ATTRIBUTES}
        extras = {name: _plain(value) for name, value in self.extras.items() if name not in ATTRIBUTES}
        return replace(self, density=None, state={}, extras=extras, **plain)


class _Extras(Mapping[str, Any]):
    """The extras of a step, and its attributes of `ATTRIBUTES` read by name; it does not change.

    ``own`` are the extras alone.
    """

    def __init__(self, own: dict[str, Any], attributes: dict[str, Any]):
        self.own, self._all = own, {**own, **attributes}

    def __getitem__(self, name: str) -> Any:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return repr(self._all)


#: The numbers of a step, in the order of the columns of a table; `bias` and `gap` may be None.
NUMBERS = ("w2_squared", "energy", "gap", "residual", "iterations", "tau", "bias")
#: The attributes of a step that files store among its extras; None if a method does not report them.
ATTRIBUTES = ("dissipation", "round_off", "blur", "blur_length", "metric")
TITLES = {
    "w2_squared": "squared Wasserstein distance of the step", "energy": "free energy after the step, as solved",
    "gap": "primal less dual value of the step", "residual": "defect of optimality of the step",
    "iterations": "iterations of the inner solver", "tau": "length of the step on the clock of the flow",
    "bias": "distance to the step without regularization, estimated", "dissipation": "-dF/dt after the step",
    "round_off": "largest rounding error of the free energy", "blur": "largest effect of regularization on F",
    "blur_length": "distance by which regularization moves the density",
}
#: The header of a table without steps.
NO_STEPS: dict = {"count": 0, "columns": [], "texts": {}}
#: For each kind of column, the type in the file and the type of the values read from it.
KINDS: dict[str, tuple[type, type]] = {"float": (float, float), "int": (np.int64, int), "bool": (np.int64, bool)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def pack_steps(steps: Sequence[JKOStep]) -> tuple[dict, dict[str, np.ndarray]]:
    """Return steps as columns: a header that goes into JSON, and an array for each column of numbers (``jko_<name>``).

    The header has ``count``, ``columns`` (name, kind, whether it is one of the extras, the steps that lack it) and
    ``texts`` (extras that are strings).
    """
    columns: list[dict] = []
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, list] = {}
    extras = dict.fromkeys(name for step in steps for name in step.extras)
    for name, extra in [(name, False) for name in NUMBERS] + [(name, True) for name in extras]:
        values = [step.extras.get(name) if extra else getattr(step, name) for step in steps]
        missing = [k for k, value in enumerate(values) if value is None]
        if len(missing) == len(steps):
            continue
        if any(isinstance(value, str) for value in values):
            texts[name] = values
            continue
        kind = _kind_of([value for value in values if value is not None])
        columns.append({"name": name, "kind": kind, "extra": extra, "missing": missing})
        arrays[f"jko_{name}"] = np.array([0 if value is None else value for value in values], dtype=KINDS[kind][0])
    return {"count": len(steps), "columns": columns, "texts": texts}, arrays


def _kind_of(values: list) -> str:
    if all(isinstance(value, (bool, np.bool_)) for value in values):
        return "bool"
    return "int" if all(isinstance(value, numbers.Integral) for value in values) else "float"


def unpack_steps(header: dict, arrays: Mapping[str, np.ndarray]) -> tuple[JKOStep, ...]:
    """Return the steps of a table made by `pack_steps`.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the header and the arrays do not fit together.
    """
    count = header["count"]
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"{described(count)} JKO steps")
    for column in header["columns"]:
        array = arrays[f"jko_{column['name']}"]
        if array.shape != (count,) or not (column["extra"] or column["name"] in NUMBERS):
            raise ValueError(f"JKO steps: column {column['name']!r} has shape {array.shape}, there are {count} steps")
    if count and not header["columns"]:
        raise ValueError(f"{count} JKO steps without numbers")
    values: list[dict] = [dict.fromkeys(NUMBERS) for _ in range(count)]
    extras: list[dict] = [{} for _ in range(count)]
    for column in header["columns"]:
        name, missing, array = column["name"], set(column["missing"]), arrays[f"jko_{column['name']}"]
        restored = KINDS[column["kind"]][1]
        for k, value in enumerate(array.tolist()):
            if k not in missing:
                (extras if column["extra"] else values)[k][name] = restored(value)
    for name, texts in header["texts"].items():
        for k, text in enumerate(texts):
            if text is not None:
                extras[k][name] = str(text)
    for k, found in enumerate(values):
        if any(found[name] is None for name in NUMBERS if name not in ("gap", "bias")):
            raise ValueError(f"JKO steps: step {k} lacks a number")
        if not math.isfinite(found["tau"]):
            raise ValueError(f"JKO steps: step {k} has tau={found['tau']}")
    return tuple(JKOStep(None, **found, extras=more) for found, more in zip(values, extras))
