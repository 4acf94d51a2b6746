"""The flow that a study in TOML describes, made and checked before anything is computed, and its run."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow import activations
from wgflow.checks import call_user
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.internal_energies import Entropy, PowerEntropy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput, StorageError, WGFlowError
from wgflow.files.checkpoints import end_of_run
from wgflow.flows import make_flow
from wgflow.grids import Grid
from wgflow.interactions import Convolution
from wgflow.reduced_models import (
    AnisotropicGaussian,
    FiniteData,
    IsotropicGaussian,
    KernelLimit,
    KLRegularizedNetwork,
    LinearNeuron,
    NetworkModel,
    QuadraticActivation,
    ReducedModel,
    ReLUNetwork,
)
from wgflow.solution import Solution
from wgflow.solvers import JKO, FiniteVolume, FiPy, Lagrangian, Method
from wgflow.validation.sweeps.sweep_files import function_in_file
from wgflow.verbs import resume, solve
from wgflow.watching import stop as conditions

from .formulas import Formula
from .reading import read_study

if TYPE_CHECKING:
    from wgflow.validation.comparison.result import Comparison

    from .tables import CompareTable, EnergyTable, GridTable, SolveTable, StartTable, StudyTables

__all__ = ["Study", "load_study"]

#: By their names, as [model] gives them.
MODELS: dict[str, type[ReducedModel]] = {model.__name__: model for model in (
    IsotropicGaussian, AnisotropicGaussian, ReLUNetwork, FiniteData, KernelLimit, KLRegularizedNetwork, LinearNeuron,
    QuadraticActivation)}
METHODS: dict[str, type[Method]] = {"FiniteVolume": FiniteVolume, "JKO": JKO, "Lagrangian": Lagrangian, "FiPy": FiPy}
#: Libraries that files of a kind need, beyond those of wgflow itself.
NEEDS = {"nc": ("xarray", "h5netcdf")}


@dataclass(frozen=True)
class Study:
    """A flow and what becomes of its solution.

    Attributes
    ----------
    path : Path
        The TOML file.
    title : str
    energy : FreeEnergy
    rho0 : Density
    time_scale : float or Formula
        A formula in t.
    t_end : float
    t_eval : tuple of float or None
    method : Method
    folder : Path
        Where results go.
    files : tuple of {"npz", "nc", "csv"}
    picture, checkpoint : bool
    particles : CompareTable or None
        The particles that the solution is compared with.
    network : (NetworkModel, dict) or None
        The model, and beta, ridge and kappa of SGD.
    mobility : optional
        A(x), as `wgflow.solve` takes it.
    stop : tuple of conditions
    """

    path: Path
    title: str
    energy: FreeEnergy
    rho0: Density
    time_scale: float | Callable[[float], float]
    t_end: float
    t_eval: tuple[float, ...] | None
    method: Method
    folder: Path
    files: tuple[str, ...]
    picture: bool
    checkpoint: bool
    particles: CompareTable | None
    network: tuple[NetworkModel, dict[str, Any]] | None
    mobility: Any = None
    stop: tuple[conditions.Condition, ...] = ()

    @property
    def checkpoint_file(self) -> Path:
        """The file in which the state of the run is kept."""
        return self.folder / "checkpoint.npz"

    def run(self, **settings: Any) -> Solution:
        """Solve the flow; a run that stops early returns the Solution so far, with ``status`` 1.

        Parameters
        ----------
        **settings
            Of `wgflow.solve`, such as ``progress``.
        """
        self._make_folder()
        return solve(self.energy, self.rho0, (0.0, self.t_end), self.method, t_eval=self.t_eval,
                     time_scale=self.time_scale, mobility=self.mobility, stop=self.stop or None,
                     checkpoint=self.checkpoint_file if self.checkpoint else None,
                     throw=False, **settings)

    def resume(self, checkpoint: Path, **settings: Any) -> Solution:
        """Go on with a run from its checkpoint, to the end that the study has now; see `wgflow.resume`.

        Raises
        ------
        StorageError
            If the file is no checkpoint, or that of another energy or method.
        InvalidInput
            If the run has passed ``t_end`` already.
        """
        end = end_of_run(checkpoint)
        later = tuple(t for t in self.t_eval or () if t > end) or None
        self._make_folder()
        return resume(checkpoint, self.t_end, energy=self.energy, method=self.method, mobility=self.mobility,
                      stop=self.stop or None,
                      time_scale=self.time_scale if callable(self.time_scale) else None,
                      t_eval=later if self.t_end > end else None, throw=False, **settings)

    def compare(self, solution: Solution, **settings: Any) -> Comparison | None:
        """Run the particles of the study and compare them with a solution; None without [compare].

        Parameters
        ----------
        solution : Solution
        **settings
            Of `wgflow.validation.run_sgd` and `run_langevin`, such as ``progress``.
        """
        from wgflow.validation import compare, run_langevin, run_sgd

        given = self.particles
        if given is None:
            return None
        if self.network is not None and given.step_size is not None:
            model, noise = self.network
            runs: Any = run_sgd(model, given.n_particles, given.step_size, self.t_eval or (), given.seed, given.n_runs,
                                **noise, **settings)
        else:
            runs = run_langevin(self.energy, self.rho0, given.n_particles, self.t_eval or (), given.seed, given.n_runs,
                                dt=given.step_size, time_scale=self.time_scale, mobility=self.mobility, **settings)
        return compare(solution, runs)

    def write(self, solution: Solution) -> list[Path]:
        """Write the solution in the forms that were asked for, the picture and ``report.txt``; return the files."""
        written = []
        for kind in self.files:
            path = self.folder / ("density.csv" if kind == "csv" else f"solution.{kind}")
            solution.to_csv(path) if kind == "csv" else solution.save(path)
            written.append(path)
        if self.picture:
            written.append(self.folder / "solution.png")
            solution.plot(written[-1])
        return [*written, self._text("report.txt", f"{self.title}\n\n{solution.message}\n{solution.explain()}\n")]

    def write_comparison(self, comparison: Comparison) -> list[Path]:
        """Write ``comparison.txt`` and the picture; return the files."""
        written = [self._text("comparison.txt", f"{comparison.verdict}\n\n{comparison.table()}\n")]
        if self.picture:
            written.append(self.folder / "comparison.png")
            comparison.plot(written[-1])
        return written

    def _text(self, name: str, text: str) -> Path:
        path = self.folder / name
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error
        return path

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use the folder {self.folder}: {error}") from error


def load_study(path: Path) -> Study:
    """Return the study that a TOML file describes, wholly checked: its formulas are evaluated on its grid.

    Raises
    ------
    InvalidInput
        If something in it breaks a rule; a line for each fault of the tables.
    StorageError
        If the file, or a Python file that it names, cannot be read.
    """
    tables = read_study(path)
    try:
        return _made(path, tables)
    except WGFlowError as error:
        raise type(error)(f"{path}: {error}") from error


@contextmanager
def _within(table: str) -> Iterator[None]:
    """Say in which table of a study a fault is that a part of the core finds."""
    try:
        yield
    except WGFlowError as error:
        raise type(error)(str(error) if f"[{table}]" in str(error) else f"in [{table}]: {error}") from error


def _made(path: Path, tables: StudyTables) -> Study:
    with _within("solve.method"):
        method = _method(tables.solve)
    scale: Any
    energy, rho0, scale, network = _problem(path, tables)
    t_end, output = tables.solve.t_end, tables.output
    times = tables.solve.t_eval
    times = np.linspace(0.0, t_end, times).tolist() if isinstance(times, int) else times
    for kind in output.files:
        lacking = [name for name in NEEDS.get(kind, ()) if importlib.util.find_spec(name) is None]
        if lacking:
            raise InvalidInput(f"files in [output]: {kind!r} needs {' and '.join(lacking)}: pip install 'wgflow[io]'")
    folder = Path("out", "run", path.stem) if output.folder is None else path.parent / output.folder
    with _within("solve"):
        if isinstance(tables.solve.time_scale, str):
            scale = Formula(tables.solve.time_scale, ["t"], "time_scale in [solve]")
        scale = tables.solve.time_scale if isinstance(tables.solve.time_scale, float) else scale
        mobility = _mobility(tables.solve.mobility, rho0.grid.names)
        stop = () if tables.solve.stop is None else tuple(
            getattr(conditions, name)(value) for name, value in tables.solve.stop.model_dump(exclude_none=True).items())
        make_flow(energy, rho0, (0.0, t_end), times, scale, method, mobility)
    return Study(path, tables.title or path.stem, energy, rho0, scale, t_end, None if times is None else tuple(times),
                 method, folder, tuple(dict.fromkeys(output.files)), output.picture,
                 output.checkpoint and method.KEEPS_CHECKPOINTS, tables.compare, network, mobility, stop)


def _mobility(given: Any, names: Any) -> Any:
    """A number, a formula, or a list or rows of them, as `wgflow.solve` takes them."""
    if isinstance(given, list):
        return [_mobility(each, names) for each in given]
    return Formula(given, names, "mobility in [solve]") if isinstance(given, str) else given


def _problem(path: Path, tables: StudyTables) -> tuple[FreeEnergy, Density, float, Any]:
    """The energy, the initial law, the time scale, and the network with the settings of its noise."""
    if tables.model is not None:
        with _within("model"):
            return _of_model(tables.model.model_dump(exclude_none=True), tables.solve.t_end)
    if tables.grid is None or tables.energy is None or tables.start is None:
        raise InvalidInput("[grid], [energy] and [start], or [model], are missing")
    with _within("grid"):
        grid = _grid(tables.grid)
    with _within("energy"):
        energy = _energy(tables.energy, grid, path)
        energy.on_grid(grid)
    with _within("start"):
        return energy, _start(tables.start, grid, path), 1.0, None


def _method(solve: SolveTable) -> Method:
    settings = {} if solve.method is None else solve.method.model_dump(exclude_none=True, exclude={"name"})
    if solve.tol is not None:
        settings["tol"] = solve.tol
    return METHODS["FiniteVolume" if solve.method is None else solve.method.name](**settings)


def _of_model(given: dict[str, Any], t_end: float) -> tuple[FreeEnergy, Density, float, Any]:
    """Make a model of the keys that it takes, its grid and its initial law of those that they take."""
    table: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    kind = MODELS[table.pop("name")]
    if "activation" in table:
        table["activation"] = getattr(activations, table["activation"])()
    for name in ("cells", "r_max"):
        if isinstance(table.get(name), list):
            table[name] = tuple(table[name])
    model: Any = kind(**_taken(kind, table))
    noise = _taken(model.energy, table)
    ends = {"t_end": t_end} if "beta" in noise else {}
    grid = model.grid(**_taken(model.grid, table | ends))
    start = _taken(model.initial_density, table)
    network = (model, noise | {"kappa": table["kappa"]}) if isinstance(model, NetworkModel) else None
    return model.energy(**noise), model.initial_density(grid=grid, **start), model.time_scale, network


def _taken(function: Callable[..., Any], table: dict[str, Any]) -> dict[str, Any]:
    """The keys that are arguments of a function."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in table.items() if name in known}


def _grid(table: GridTable) -> Grid:
    bounds = [table.bounds] if isinstance(table.bounds[0], float) else table.bounds
    given = table.boundary if isinstance(table.boundary, list) else [table.boundary] * len(bounds)
    ends = [tuple(each) if isinstance(each, list) else (each, each) for each in given]
    boundary = [tuple(None if word == "infinity" else word for word in pair) for pair in ends]
    return Grid(bounds, table.cells, boundary=boundary, names=table.names)


def _energy(table: EnergyTable, grid: Grid, path: Path) -> FreeEnergy:
    displacement = ["z"] if grid.ndim == 1 else [f"z{k + 1}" for k in range(grid.ndim)]
    potential = _function(table.potential, table.potential_file, "potential", grid.names, path)
    interaction = _function(table.interaction, table.interaction_file, "interaction", displacement, path)
    terms: list[Any] = []
    if table.beta is not None:
        terms.append(Entropy(table.beta))
    if table.power is not None:
        terms.append(PowerEntropy(table.power))
    if potential is not None:
        terms.append(Potential(potential))
    if interaction is not None:
        at_zero = np.asarray(call_user(interaction, [np.zeros(1)] * grid.ndim, "interaction"))
        if table.interaction_average is None and not np.isfinite(at_zero).all():
            raise InvalidInput(f"interaction is {at_zero.flat[0]} at displacement 0; with interaction_average = true "
                               "its averages over cells are taken")
        terms.append(Convolution(interaction, average=table.interaction_average))
    return FreeEnergy([(1.0, term) for term in terms])


def _start(table: StartTable, grid: Grid, path: Path) -> Density:
    if table.uniform:
        return Density.uniform(grid)
    if table.mean is not None:
        return Density.gaussian(grid, table.mean, table.cov)
    return Density.from_function(grid, _function(table.formula, table.file, "formula", grid.names, path, "start"))


def _function(formula: str | None, place: str | None, key: str, names: Any, path: Path,
              table: str = "energy") -> Callable[..., Any] | None:
    """The function that a formula gives, or a Python file; None if neither is there."""
    if formula is not None:
        return Formula(formula, names, f"{key} in [{table}]")
    if place is None:
        return None
    return function_in_file(place, path, f"{'file' if table == 'start' else f'{key}_file'} in [{table}]").load()
