"""The tables of a study in TOML and what each key may be, by pydantic; whoever reads a study imports this module then.

The description of a key is what messages and editors say of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .kinds import Cells, Count, NotNegative, Number, Pair, Positive, Table, Text, key, needed
from .model_tables import ModelTable

__all__ = ["StudyTables"]

Word = Literal["no-flux", "periodic", "infinity"]
Words = Annotated[list[Word], Field(min_length=2, max_length=2)]
Place = Annotated[str, Field(pattern=r"^.+\.py:[^\W\d]\w*$")]


class GridTable(Table):
    """The box and its cells."""

    bounds: Pair | Annotated[list[Pair], Field(min_length=1, max_length=4)] = needed(
        "a pair [lo, hi], or a list with a pair for each of one to four axes")
    cells: Cells | list[Cells] = needed("an integer >= 2, or a list with one for each axis")
    boundary: Word | list[Word | Words] = key(
        '"infinity", "no-flux" or "periodic", what the ends of the box are, or a list with a word, or a pair of words, '
        "for each axis", "infinity")
    names: list[Text] | None = key("a list with the name of each axis; x, y, z, w by default")


class EnergyTable(Table):
    """The terms of the energy, of which there is at least one."""

    beta: Positive | None = key("a finite number > 0, the inverse temperature of the entropy; leave it out for none")
    power: Positive | None = key(
        "a finite number > 0 and not 1, the exponent m of the energy rho^m / (m - 1), for nonlinear diffusion")
    potential: Text | None = key('a formula in the coordinates, such as "x**4/4 - x**2/2"')
    potential_file: Place | None = key('a function of the coordinates in a Python file, "file.py:name"')
    interaction: Text | None = key(
        'a formula in the displacement z (z1, z2, ... on several axes), even in it, such as "z**2/2"')
    interaction_file: Place | None = key('a function of the displacement in a Python file, "file.py:name"')
    interaction_average: bool | None = key(
        "true or false: whether the interaction is averaged over cells, as one that is infinite at 0 must be")


class FiniteVolumeTable(Table):
    """Settings of `FiniteVolume`."""

    name: Literal["FiniteVolume"]
    dt: Positive | None = key("a finite number > 0, a fixed step; by default steps are adaptive")
    rtol: Positive | None = key("a number > 0 and < 1, the tolerance of the local error")
    tol: Positive | None = key("a number > 0 and < 1, the tolerance of the whole run")
    max_step: Positive | None = key("a finite number > 0, the longest step")
    max_steps: Count | None = key("an integer >= 1, the steps after which the run stops")
    time_limit: Positive | None = key("a finite number > 0, the seconds after which the run stops")
    scheme: Literal["extrapolated", "midpoint"] | None = key('"extrapolated" or "midpoint"')
    order: Literal[2, 4] | None = key("2 or 4, the order of the fluxes in space; by default the better one")
    splitting: Literal["strang", "none"] | None = key('"strang" or "none"')
    corrected: bool | None = key("true or false: whether fluxes of order 2 are corrected")
    threads: Count | None = key("an integer >= 1, the number of threads")


class JKOTable(Table):
    """Settings of `JKO`."""

    name: Literal["JKO"]
    tau: Positive = needed("a finite number > 0, the step")
    inner: Literal["quantile", "linearized", "back-and-forth", "entropic"] | None = key(
        '"quantile", "linearized", "back-and-forth" or "entropic"')
    order: Annotated[int, Field(ge=1, le=2)] | None = key("1 or 2, the order in time")
    tol: Positive | None = key("a finite number > 0, the largest residual of a step")
    max_iterations: Count | None = key("an integer >= 1, the most iterations of the inner solver")
    adaptive: bool | None = key("true or false: whether steps are adaptive")
    rtol: Positive | None = key("a finite number > 0, the tolerance of adaptive steps")
    max_steps: Count | None = key("an integer >= 1, the steps after which the run stops")
    time_limit: Positive | None = key("a finite number > 0, the seconds after which the run stops")


class LagrangianTable(Table):
    """Settings of `Lagrangian`."""

    name: Literal["Lagrangian"]
    n_particles: Count | None = key("an integer >= 1, the atoms that are made of the initial law")
    rng: Annotated[int, Field(ge=0)] | None = key("an integer >= 0, the seed: needed with noise (beta)")
    rtol: Positive | None = key("a number > 0 and < 1, the tolerance of the solver of differential equations")
    ode: Literal["DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA"] | None = key(
        '"DOP853", "RK45", "RK23", "Radau", "BDF" or "LSODA", the solver of differential equations')
    dt: Positive | None = key("a finite number > 0, the step of particles with noise")
    max_steps: Count | None = key("an integer >= 1, the steps after which the run stops")
    time_limit: Positive | None = key("a finite number > 0, the seconds after which the run stops")


class FiPyTable(Table):
    """Settings of `FiPy`."""

    name: Literal["FiPy"]
    dt: Positive | None = key("a finite number > 0, the step; by default a 200th of the time span")
    order: Annotated[int, Field(ge=1, le=2)] | None = key("1 or 2, the order in time")
    tol: Positive | None = key("a finite number > 0, the change at which the iteration of a step ends")
    max_sweeps: Count | None = key("an integer >= 1, the iterations of a step after which it fails")
    max_steps: Count | None = key("an integer >= 1, the steps after which the run stops")
    time_limit: Positive | None = key("a finite number > 0, the seconds after which the run stops")


class StopTable(Table):
    """Conditions of which the first that holds ends the run."""

    stationary: Positive | None = key("a finite number > 0, the speed of the law in W2 below which it is at rest")
    energy_below: Number | None = key("a finite number, the free energy at which the run ends")
    mass_at_boundary: Positive | None = key("a number > 0 and < 1, the part of the mass at an end")


class StartTable(Table):
    """The initial law: mean and cov of a normal law, or the uniform one, or a formula, or a function."""

    mean: Number | list[Number] | None = key(
        "a finite number, the mean of a normal law, or a list with one for each axis")
    cov: Positive | list[Positive] | list[list[Number]] | None = key(
        "a number > 0, the variance of a normal law, or a list with one for each axis, or the rows of the covariance")
    uniform: bool | None = key("true, for the uniform law; leave it out for another one")
    formula: Text | None = key("a formula in the coordinates, at least 0; it is normalized")
    file: Place | None = key('a function of the coordinates in a Python file, "file.py:name"; it is normalized')


class SolveTable(Table):
    """How long, and by which method."""

    t_end: Positive = needed("a finite number > 0, the end of the time span, which begins at 0")
    t_eval: Annotated[int, Field(ge=2, le=1_000_000)] | list[NotNegative] | None = key(
        "a list of increasing numbers between 0 and t_end, the times at which the law is kept; or an integer from 2 to "
        "1,000,000, their number at equal distances")
    tol: Positive | None = key("a number > 0 and < 1, the tolerance of the whole run by FiniteVolume")
    time_scale: Positive | Text | None = key(
        'a finite number > 0, the factor of the whole equation, or a formula in the time t, such as "1 + t"')
    mobility: Positive | Text | list[Positive | Text] | list[list[Number | Text]] | None = key(
        "a number > 0 or a formula in the coordinates, A(x), or a list with one for each axis, or the rows of a "
        "symmetric matrix of them")
    stop: StopTable | None = key(
        "a table with stationary, energy_below or mass_at_boundary, of which the first ends the run")
    method: Annotated[FiniteVolumeTable | JKOTable | LagrangianTable | FiPyTable,
                      Field(discriminator="name")] | None = key(
        'a table with name = "FiniteVolume", "JKO", "Lagrangian" or "FiPy" and settings of that method')


class CompareTable(Table):
    """Particles beside the solution: SGD of networks for a model, Langevin particles for an energy."""

    n_particles: Annotated[int, Field(ge=2, le=10**8)] = needed("an integer >= 2, the particles (neurons) of a run")
    n_runs: Annotated[int, Field(ge=1, le=10_000)] = key("an integer >= 1, the independent runs", 3)
    step_size: Positive | None = key(
        "a finite number > 0, the step: needed for SGD of a model, by default chosen for Langevin particles")
    seed: Annotated[int, Field(ge=0)] = needed("an integer >= 0, the seed of the random numbers")


class OutputTable(Table):
    """What is written, and where."""

    folder: Text | None = key("the folder of the results, relative to the study; by default out/run/NAME below the "
                               "folder where the command is given")
    files: list[Literal["npz", "nc", "csv"]] = key('a list of "npz", "nc", "csv"', ["npz"])
    picture: bool = key("true or false: whether laws and energy are drawn", True)
    checkpoint: bool = key("true or false: whether a checkpoint is kept, from which `wgflow resume` goes on", True)


class StudyTables(Table):
    """A study of wgflow: [grid], [energy] and [start], or [model]; [solve]; [compare]; [output]."""

    title: Text | None = key("a line about the study")
    grid: GridTable | None = key("the table [grid]: bounds, cells, boundary, names")
    energy: EnergyTable | None = key("the table [energy]: beta, power, potential, interaction")
    start: StartTable | None = key("the table [start]: mean and cov, or uniform, or formula, or file")
    model: Annotated[ModelTable, Field(discriminator="name")] | None = key(
        "the table [model] with the name of a reduced model and its keys, in place of [grid], [energy], [start]")
    solve: SolveTable = needed("the table [solve]: t_end, t_eval, tol, time_scale, mobility, stop, method")
    compare: CompareTable | None = key("the table [compare]: n_particles, n_runs, step_size, seed")
    output: OutputTable = key("the table [output]: folder, files, picture, checkpoint", OutputTable())
