"""What the tables in files must look like: types and ranges of every value that is read, checked before it is used.

A digest shows that a file has not changed since somebody wrote it, not that wgflow did. The tables are typed
dictionaries, checked by pydantic; whoever reads a file imports this module then, not before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from wgflow.certificate import Certificate
from wgflow.checks import LARGEST_COUNT, described

__all__ = ["Audit", "Axis", "FiniteVolumeState", "JKOState", "Particles", "Problem", "Record", "SnapshotNumbers",
           "Snapshots", "Told", "check_certificate", "check_estimate", "check_table"]


#: Largest int up to which floats hold all of them.
LONGEST_INT = 2**53


def _no_long_int(value: Any) -> Any:
    """Refuse an int that NumPy would make an object of; shorter ones may stand for floats."""
    if isinstance(value, int) and abs(value) > LONGEST_INT:
        raise ValueError(f"must be a float, or an int of at most {LONGEST_INT}")
    return value


#: A float, infinite or NaN too.
Real = Annotated[float, BeforeValidator(_no_long_int)]
#: A float that is neither infinite nor NaN.
Finite = Annotated[Real, Field(allow_inf_nan=False)]
#: A finite float >= 0, and one > 0.
NotNegative = Annotated[Real, Field(allow_inf_nan=False, ge=0.0)]
Positive = Annotated[Real, Field(allow_inf_nan=False, gt=0.0)]
#: An int >= 0 in which arrays and loops can count.
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class Axis(TypedDict):
    """An axis of a grid (see `wgflow.files.grids`)."""

    name: str
    boundary: str
    origin: NotRequired[bool]
    open_ends: NotRequired[list[bool]]


class Told(TypedDict):
    """The problem of a checkpoint."""

    t0: Finite
    t1: Finite
    time_scale: Positive | None
    axes: list[Axis]
    diffusion: NotNegative
    energy: str
    sample_size: NotRequired[Positive | None]
    internal: list[Real]


class OfSteps(TypedDict):
    """What is told of all steps of a run, of which the file may have a part."""

    stride: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    count: Count
    drift: NotRequired[Real]
    rise: NotRequired[Real]
    least: NotRequired[Real]
    longest: NotRequired[Real]


class Record(TypedDict):
    """The counters of a recorder."""

    rows: Count
    of_steps: NotRequired[OfSteps]
    n_snapshots: Count
    n_jko_steps: Count
    stride: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    since_snapshot: Count
    n_rejected: Count
    n_fallback: Count
    dissipated: Real
    boundary: Real
    residual: Real
    error_estimate: Real | None
    grid_error: Real | None
    edi_defect: Real | None
    bias: Real | None
    _last_rate: tuple[Real, Real] | None
    least: NotRequired[Real | None]
    most: NotRequired[Real | None]
    outside: NotRequired[Real | None]
    outside_at: NotRequired[str]
    outermost: NotRequired[Real]
    n_rates: NotRequired[Count | None]


class Audit(TypedDict):
    """What the audit of a run has kept beside its samples."""

    may_miss: NotNegative
    stride: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    steps: Count
    failure: str
    judged_by: str


class StepControl(TypedDict):
    """The choice of step lengths of `FiniteVolume`, of fluxes of second order; the rest comes with the first step."""

    dt: NotNegative
    total_error: NotNegative
    left: Finite | None
    dt_floor: NotRequired[NotNegative]
    trust: NotRequired[int]
    last_error: NotRequired[Finite | None]
    last_speed: NotRequired[Finite | None]


class CompactStepControl(TypedDict):
    """The choice of step lengths of `FiniteVolume`, of fluxes of fourth order."""

    growth: Positive
    ladder: bool
    dt: NotNegative
    total_error: NotNegative
    dt_floor: NotNegative
    wanted: Annotated[Real, Field(gt=0.0)]
    high_order: NotRequired[bool]


class FiniteVolumeState(TypedDict):
    """The numbers of a state of `FiniteVolume`, without its arrays."""

    t: Finite
    clock: Finite
    energy: Finite
    previous_dt: Finite
    work: Finite
    left: NotRequired[Finite | None]
    holds: NotRequired[str]
    steps: Count
    measured: Finite
    controller: StepControl | CompactStepControl | None


class _Numbers(TypedDict):
    w2_squared: Finite
    energy: Finite
    gap: Finite | None
    residual: Finite
    iterations: Count
    tau: NotNegative
    bias: Finite | None


class _JKOStep(TypedDict):
    numbers: _Numbers
    plain: dict[str, Finite | bool | None]


class JKOState(TypedDict):
    """The numbers of a state of `JKO`, without its arrays."""

    t: Finite
    tau: Positive
    clock: Finite
    steps: Count
    row: Annotated[list[Finite], Field(min_length=3, max_length=3)]
    now: _JKOStep
    before: NotRequired[_JKOStep]
    total: NotRequired[Finite]
    work: NotRequired[Finite]


class Problem(TypedDict):
    """The problem of a stored solution."""

    axes: list[dict[str, Any]]
    method: str
    status: int
    message: str
    time_scale: Positive | None
    jko_steps: NotRequired[dict[str, Any]]
    errors: NotRequired[dict[str, dict[str, Any]]]


class Particles(TypedDict):
    """What a folder of particles says of their runs."""

    n_neurons: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    step_size: NotNegative
    seed_entropy: Any
    seed_state: dict[str, Any]
    beta: Annotated[Real, Field(gt=0.0)]
    ridge: NotNegative
    noise_constant: Positive
    batch_size: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    n_samples: Annotated[int, Field(ge=1, le=LARGEST_COUNT)] | None
    replacement: bool
    xi: Positive | None
    simulator: str
    t: Annotated[list[NotNegative], Field(min_length=1)]
    model: NotRequired[str | None]


class Snapshots(TypedDict):
    """What a folder of snapshots says of itself: its settings, runs and times, and the shapes of its arrays."""

    about: dict[str, Any]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_COUNT)]], Field(min_length=2, max_length=2)]
    arrays: dict[str, list[Count]]
    key: str


class SnapshotNumbers(TypedDict):
    """The numbers beside one snapshot of particles."""

    steps: NotRequired[Count]
    risk: NotRequired[Real]


class _Parts(TypedDict):
    space: Real | None
    time: Real | None
    box: Real | None
    sample: Real | None


_Bars = _Parts | tuple[_Parts | None, ...] | None


class _Estimate(TypedDict, total=False):
    t: Finite
    density: _Parts | None
    w1: _Bars
    energy: _Parts
    mean: _Bars
    variance: _Bars
    functional: _Parts | None
    functional_name: str
    order: Real | None
    trusted: bool
    cells: tuple[tuple[Count, ...], ...]
    notes: tuple[str, ...]


def check_table(table: Any, kind: Any, what: str) -> None:
    """Check a table that was read from a file; keys that the kind does not name are left alone.

    Parameters
    ----------
    table : object
    kind : type
        A TypedDict, or any other type that pydantic knows. Types are strict: no number is made of a text.
    what : str
        The table's name, for the message.

    Raises
    ------
    ValueError
        With the place, the rule and the value of the first fault.
    """
    try:
        _checker(kind).validate_python(table, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join([what, *map(str, first["loc"])])
        raise ValueError(f"{place} = {described(first['input'])}: {first['msg'].lower()}") from error


def check_certificate(proof: Any) -> None:
    """Check the table from which a `Certificate` is made: a type for each of its attributes; see `check_table`."""
    check_table(proof, _proof(), "certificate")
    if proof.get("energy_error") is not None and proof.get("error_estimate") is None:
        raise ValueError("certificate.energy_error is given without error_estimate: they are made together")


def check_estimate(found: Any) -> None:
    """Check the table from which an `ErrorEstimate` is made; see `check_table`."""
    check_table(found, _Estimate, "errors")


@lru_cache
def _proof() -> type:
    types: dict[str, Any] = get_type_hints(Certificate)
    # A certificate of a former version lacks what came later; it itself says what it cannot do without.
    return TypedDict("_Proof", types, total=False)  # type: ignore[operator, no-any-return, misc]


@lru_cache
def _checker(kind: Any) -> Any:
    return TypeAdapter(kind)
