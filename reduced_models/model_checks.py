"""`check_model`: whether the methods of a reduced model fit together, and fit the network that it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_flag, check_positive
from wgflow.densities import Density
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grid_checks import MAX_AXES
from wgflow.grids import Grid

from .base import FloatArray, NetworkModel, ReducedModel
from .model_report import ModelCheck, ModelReport, kernel_error, place
from .sampled_checks import CELLS, NetworkSamples, SampledCheck

__all__ = ["check_model"]

#: The seed of the samples and points, unless the user gives another.
SEED = 20261
#: Characters of a model's repr in a report.
TITLE = 120
#: Points at which derivatives are compared with differences.
POINTS = 48
#: Steps of these differences, as a part of the range of a coordinate.
STEP = 1e-5
#: Disagreement with differences that passes, relative to a feature's largest derivative, ...
SLOPE_TOLERANCE = 1e-5
#: ... and relative to the largest derivative of all features, for features that are tiny.
TINY_SLOPE = 1e-6
#: Cells of each axis of the grid on which energy and risk are compared, by number of axes.
ENERGY_CELLS = {1: 200, 2: 32, 3: 12, 4: 8}
#: Disagreement of two exact formulas that passes, relative to the larger of 1 and the largest value.
EXACT = 1e-9


def check_model(
    model: ReducedModel,
    *,
    kappa: float = 0.8,
    samples: int = 20_000,
    false_alarm: float = 1e-4,
    rng: int | np.random.Generator | None = SEED,
    throw: bool = True,
) -> ModelReport:
    r"""Check a reduced model against itself and against samples of its own network.

    Formulas are compared with each other: shapes; derivatives with differences; V with the features; the kernel with
    its diagonal, :math:`U(\theta,\theta) \le` ``diagonal``; :math:`2F = R` at ``beta=inf, ridge=0`` (of an energy that
    regularizes by itself, F less the model's ``penalty(rho)`` = R); the reference
    measure of the grid with ``log_weight``; the masses of the initial laws. A `NetworkModel` is compared with what it
    draws, :math:`(x, y)` from ``sample_data`` and :math:`\theta, \theta'` from ``initial_theta``:

    .. math::
        V(\theta) = -E[y\,\sigma_*(x; \theta)], \qquad
        U(\theta, \theta') = E[\sigma_*(x; \theta)\,\sigma_*(x; \theta')], \qquad
        R_N = E\,(y - \hat y(x))^2, \qquad E\,R_N = R(\rho_0) + K/N,

    and so are the mean and deviation of the initial laws, and the mean step of SGD, which must be
    :math:`-s\,\nabla\Psi` with the model's clock s = ``time_scale``. The coordinates must be isometric, as a radius is
    and its square is not: their Jacobian has :math:`J J^T = I`; and the reference measure w must be that of the
    parameters, which is to say :math:`\Delta_\theta\,c_k = \partial_k \log w` for each coordinate :math:`c_k(\theta)`.

    Samples are judged by their means over 64 batches and Student's law, at a level that shares ``false_alarm`` among
    all of them. That is exact for normal means; for heavy tails, such as those of polynomials, it is approximate, the
    better the more samples. The fixed seed makes the outcome repeatable.

    Parameters
    ----------
    model : ReducedModel
        Networks are taken at ``kappa / 2``, ``kappa`` and ``2 kappa``.
    kappa : float
        Scale of the initial law.
    samples : int
        Samples of each comparison, at least 640. Errors of a few percent are seen with the default.
    false_alarm : float
        Probability, between 0 and 1, that a right model fails.
    rng : int, Generator or None
        As in :func:`numpy.random.default_rng`.
    throw : bool
        Whether to raise where a check fails; otherwise the report says so.

    Returns
    -------
    ModelReport
        ``.passed``, ``.failed``, ``.explain()``, and the checks by name.

    Raises
    ------
    InvalidInput
        If a check fails; the message names the first, ``.partial`` is the report.

    Examples
    --------
    >>> from wgflow.reduced_models import LinearNeuron
    >>> check_model(LinearNeuron([2.0, 0.5], [1.0, -1.0], noise_variance=0.3)).passed
    True
    """
    if not isinstance(model, ReducedModel):
        raise InvalidType(f"model must be a ReducedModel, got {type(model).__name__}")
    kappa, samples = check_positive("kappa", kappa), check_count("samples", samples, 640)
    if not 0.0 < check_positive("false_alarm", false_alarm) < 1.0:
        raise InvalidInput(f"false_alarm={false_alarm:g}: a probability must be < 1")
    throw, generator = check_flag("throw", throw), np.random.default_rng(rng)
    checks = _formulas(model, kappa, generator)
    if not isinstance(model, NetworkModel) or not math.isfinite(model.input_dimension):
        checks.append(ModelCheck("samples", None, "no network to draw from, so that V, U and risk were compared with "
                                                  "each other only"))
    else:
        checks += _network(NetworkSamples(model, kappa, samples, generator), false_alarm)
    report = ModelReport(_title(model), tuple(checks), false_alarm)
    if throw:
        report.raise_if_failed()
    return report


def _title(model: ReducedModel) -> str:
    if type(model).__repr__ is object.__repr__:
        return f"{type(model).__name__} ({model.name})"
    text = repr(model)
    return text if len(text) <= TITLE else f"{text[:TITLE]}..."


def _guarded(name: str, check: Callable[[], ModelCheck]) -> ModelCheck:
    """Return the check, or one that failed by what the model raised."""
    try:
        return check()
    except Exception as error:
        return ModelCheck(name, False, f"{type(error).__name__}: {error}", error=error)


def _compared(name: str, deviation: float, allowed: float, text: str) -> ModelCheck:
    return ModelCheck(name, bool(deviation <= allowed), text, float(deviation), float(allowed))


def _network(samples: NetworkSamples, false_alarm: float) -> list[ModelCheck]:
    """Return the checks of a network; the statistics of all of them share the probability of a false alarm."""
    drawn: list[ModelCheck | SampledCheck] = []
    for name, make in samples.all_checks():
        try:
            drawn.append(make())
        except Exception as error:
            drawn.append(ModelCheck(name, False, f"{type(error).__name__}: {error}", error=error))
    count = sum(check.differences.size for check in drawn if isinstance(check, SampledCheck))
    return [check.judged(false_alarm / max(count, 1)) if isinstance(check, SampledCheck) else check for check in drawn]


# -------------------------------------------------------------------- formulas against each other
def _formulas(model: ReducedModel, kappa: float, rng: np.random.Generator) -> list[ModelCheck]:
    has_grid = model.n_coordinates <= MAX_AXES
    if not has_grid:
        low, high = np.full(model.n_coordinates, -2.0 * kappa), np.full(model.n_coordinates, 2.0 * kappa)
    else:
        try:
            low, high = np.array(_grid_of(model).bounds).T
        except Exception as error:
            return [ModelCheck("grid", False, f"{type(error).__name__}: {error}", error=error)]
    # Steps of the differences stay inside.
    points = low[:, None] + (high - low)[:, None] * (0.01 + 0.98 * rng.random((model.n_coordinates, POINTS)))
    steps = STEP * (high - low)
    checks = [
        _guarded("shapes", lambda: _shapes(model, points)),
        _guarded("feature_gradients", lambda: _gradients(model, points, steps)),
        _guarded("squared_norm_gradient", lambda: _norm_gradient(model, points, steps)),
        *([_guarded("potential", lambda: _potential(model, points)),
           _guarded("diagonal", lambda: _diagonal(model, points))] if model.quadratic else
          [ModelCheck("potential", None, f"with {model.loss!r} the energy is not quadratic: there are no V and U"
                      if isinstance(model, NetworkModel) else "the energy is not quadratic: there are no V and U")]),
    ]
    if not has_grid:
        return [*checks, ModelCheck("grid", None, f"{model.n_coordinates} coordinates are more than a grid has")]
    limit = isinstance(model, NetworkModel) and math.isinf(model.input_dimension)
    return [
        *checks,
        ModelCheck("grid", None, "a limit of infinite dimension has no reference measure") if limit else
        _guarded("grid", lambda: _reference(model)),
        _guarded("initial_density", lambda: _masses(model, kappa)),
        _guarded("energy", lambda: _energy(model, kappa)),
    ]


def _grid_of(model: ReducedModel) -> Grid:
    return model.grid(CELLS[model.n_coordinates])


def _shapes(model: ReducedModel, points: FloatArray) -> ModelCheck:
    if not isinstance(model.name, str) or model.target.ndim != 1:
        return ModelCheck("shapes", False, f"name is {model.name!r}, target has shape {model.target.shape}; need a "
                                           "string and (k,)")
    k, dim = model.target.size, model.n_coordinates
    for shape in ((), (3,), (2, 3)):
        at = [np.broadcast_to(axis[0], shape) for axis in points]
        wanted = {
            "features": (k, *shape), "feature_gradients": (k, dim, *shape), "diagonal": shape,
            "squared_norm": shape, "squared_norm_gradient": (dim, *shape),
        } | ({"potential": shape} if model.quadratic else {})
        for name, expected in wanted.items():
            found = np.shape(getattr(model, name)(*at))
            if found != expected:
                return ModelCheck("shapes", False, f"{name} at coordinates of shape {shape} has shape {found}; need "
                                                   f"{expected}, of (features, coordinates, *shape) those that it "
                                                   f"has; target has {k} features")
    if model.quadratic and model.signs.shape != (k,):
        return ModelCheck("shapes", False, f"signs has shape {model.signs.shape}; need ({k},), as target has")
    return ModelCheck("shapes", True, f"{k} features of {dim} coordinates")


def _differences(
    name: str, model: ReducedModel, value: Callable[..., FloatArray], slope: Callable[..., FloatArray],
    points: FloatArray, steps: FloatArray,
) -> ModelCheck:
    """Compare derivatives (k, n_coordinates, n) with central differences of values (k, n)."""
    slopes = slope(*points)
    scales = np.max(np.abs(slopes), axis=(1, 2))
    largest = max(float(np.max(scales)), np.finfo(float).tiny)
    worst, text = -1.0, ""
    for axis, step in enumerate(steps):
        shift = np.zeros((len(steps), 1))
        shift[axis] = step
        quotient = (value(*(points + shift)) - value(*(points - shift))) / (2.0 * step)
        # By the mean value theorem a kink between the two points may turn the slope by no more than it turns there.
        room = np.abs(slope(*(points + shift))[:, axis] - slope(*(points - shift))[:, axis])
        allowed = SLOPE_TOLERANCE * scales[:, None] + TINY_SLOPE * largest + room
        ratio = np.abs(slopes[:, axis] - quotient) / allowed
        ratio = np.where(np.isnan(ratio), math.inf, ratio)
        k, i = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        if ratio[k, i] > worst:
            worst = float(ratio[k, i])
            text = (f"the derivative of number {k} in {model.coordinate_names[axis]} at {place(model, points[:, i])} "
                    f"is {slopes[k, axis, i]:.8g}, by differences {quotient[k, i]:.8g}")
    return _compared(name, worst, 1.0, text if worst > 1.0 else f"agree with differences at {points.shape[1]} points")


def _gradients(model: ReducedModel, points: FloatArray, steps: FloatArray) -> ModelCheck:
    return _differences("feature_gradients", model, model.features, model.feature_gradients, points, steps)


def _norm_gradient(model: ReducedModel, points: FloatArray, steps: FloatArray) -> ModelCheck:
    return _differences("squared_norm_gradient", model, lambda *c: model.squared_norm(*c)[None],
                        lambda *c: model.squared_norm_gradient(*c)[None], points, steps)


def _potential(model: ReducedModel, points: FloatArray) -> ModelCheck:
    own, formed = model.potential(*points), ReducedModel.potential(model, *points)
    allowed = (EXACT + kernel_error(model)) * _scale(model, points)
    i = int(np.argmax(np.abs(own - formed)))
    text = f"V{place(model, points[:, i])} = {own[i]:.8g}, from features and target {formed[i]:.8g}"
    return _compared("potential", abs(own[i] - formed[i]), allowed, text)


def _diagonal(model: ReducedModel, points: FloatArray) -> ModelCheck:
    if (model.signs < 0.0).any():
        return ModelCheck("diagonal", None, "signs of both kinds bound nothing")
    own, kernel = model.diagonal(*points), model.kernel(tuple(points), tuple(points))
    excess = kernel - own
    i = int(np.argmax(excess))
    text = f"at {place(model, points[:, i])} it is {own[i]:.8g}, the kernel of two neurons there {kernel[i]:.8g}"
    allowed = (EXACT + kernel_error(model)) * _scale(model, points)
    return _compared("diagonal", max(float(excess[i]), 0.0), allowed, text + ", which cannot be larger")


def _scale(model: ReducedModel, points: FloatArray) -> float:
    """Return the size of the kernel on points, at least 1."""
    return max(1.0, float(np.max(np.abs(model.diagonal(*points)))))


def _reference(model: ReducedModel) -> ModelCheck:
    grid = _grid_of(model)
    try:
        Potential(model.potential, reference=model.log_weight).check_reference(grid, scaled=False)
    except InvalidInput as error:
        has = "no" if grid.log_weight is None else "another"
        return ModelCheck("grid", False, f"grid() returns a grid with {has} reference measure where log_weight() has "
                                         "one of its own; let grid return self.weighted(cells)", error=error)
    return ModelCheck("grid", True, "has the reference measure of log_weight")


def _masses(model: ReducedModel, kappa: float) -> ModelCheck:
    rho, atoms = model.initial_density(kappa, _grid_of(model)), model.initial_atoms(kappa)
    deviation = max(abs(rho.mass - 1.0), abs(float(np.sum(atoms.weights)) - 1.0), -float(rho.values.min()))
    return _compared("initial_density", deviation, EXACT, f"mass {rho.mass:.10g}, of initial_atoms "
                     f"{float(np.sum(atoms.weights)):.10g}, least value {rho.values.min():.3g}")


def _energy(model: ReducedModel, kappa: float) -> ModelCheck:
    energy, grid = model.energy(), model.grid(ENERGY_CELLS[model.n_coordinates])
    penalty = getattr(model, "penalty", None)
    laws: list[tuple[str, Density | Atoms]] = [("a uniform law", Density.uniform(grid))]
    # An energy that regularizes by itself holds an entropy, which atoms have none of; it is the risk plus a penalty.
    laws.append(("the initial density", model.initial_density(kappa, grid)) if penalty else
                ("initial_atoms", model.initial_atoms(kappa)))
    unit, left = (1.0, "F - penalty") if penalty else (model.risk_per_energy, f"{model.risk_per_energy:g}F")
    worst, text = -1.0, ""
    for name, rho in laws:
        twice, risk = unit * (energy.energy(rho) - (penalty(rho) if penalty else 0.0)), model.risk(rho)
        if not abs(twice - risk) <= worst:
            worst, text = abs(twice - risk), f"{left} = {twice:.10g} and R = {risk:.10g} at {name}"
    points = np.stack([axis.ravel() for axis in grid.mesh()])
    return _compared("energy", worst, (EXACT + 2.0 * kernel_error(model)) * _scale(model, points), text)
