"""The command line: ``wgflow demo``, ``run``, ``resume``, ``reproduce``, ``sweep``, ``verify``, ``info``, ``plot``, ...

Nothing imports this module but the ``wgflow`` script, so that ``import wgflow`` needs neither Typer nor rich. A wrong
option and an error of wgflow each give one line and exit code 2; a comparison that fails gives exit code 1.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from wgflow.errors import InvalidInput, StorageError, WGFlowError

if TYPE_CHECKING:
    from wgflow.solution import Solution
    from wgflow.validation.study_files.study import Study

__all__ = ["main"]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use the folder {folder}: {error}") from error


def _warmup() -> None:
    """Solve small problems by every method, so that their compiled functions are stored on disk."""
    import wgflow as wg
    from wgflow.progress import compilation_told, progress_of

    grid = wg.Grid((-3, 3), cells=32)
    plane = wg.Grid([(-2, 2), (-2, 2)], cells=(12, 12))
    line, square = wg.Density.gaussian(grid, 0.5, 0.3), wg.Density.gaussian(plane, [0.3, 0.0], [0.2, 0.3])
    well = wg.Potential(lambda *x: sum(0.5 * c**2 for c in x))
    charges = wg.Interaction(wg.interactions.log(-1.0))
    box = wg.Density.from_function(grid, lambda x: 1.0 * (abs(x) < 1.0))
    attraction = wg.Interaction(wg.Convolution(lambda *z: -np.exp(-sum(c * c for c in z))))
    circle = wg.Grid((0.0, 2 * np.pi), cells=32, boundary="periodic")
    phases = wg.Density.from_function(circle, lambda x: 1.2 + np.cos(x))
    oscillators = wg.Interaction(wg.LowRank(lambda x: np.stack([np.cos(x), np.sin(x)]), [-1.0, -1.0]))
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    split = wg.reduced_models.AnisotropicGaussian(d=10, s0=3, tau_plus2=1.8, tau_minus2=0.2)
    radial = model.grid(cells=64)
    jobs: list[Callable[[], object]] = [
        lambda: wg.solve(well + wg.Entropy(2.0), line, (0.0, 0.05)),
        lambda: wg.solve(1 * well, line, (0.0, 0.05)),
        lambda: wg.solve(well + wg.Entropy(2.0), square, (0.0, 0.05)),
        lambda: wg.solve(1 * well, square, (0.0, 0.05)),
        lambda: wg.solve(well + wg.Entropy(2.0), square, (0.0, 0.05), method=wg.FiniteVolume(order=2)),
        lambda: wg.solve(well + wg.Entropy(2.0), square, (0.0, 0.05), mobility=[[1.0, 0.3], [0.3, 1.0]]),
        lambda: wg.solve(wg.PowerEntropy(2.0), line, (0.0, 0.05)),
        *(partial(wg.solve, energy, box, (0.0, 0.05)) for energy in (well + wg.PowerEntropy(2.0), 1 * charges)),
        lambda: wg.solve(well + wg.Entropy(2.0), line, (0.0, 0.1), method=wg.FiniteVolume(dt=0.05)),
        lambda: wg.solve(well + wg.Entropy(2.0), square, (0.0, 0.05), method=wg.FiniteVolume(splitting="none")),
        # Long enough for steps that are taken by the compiled loop.
        lambda: wg.solve(wg.Entropy(2.0) + attraction, line, (0.0, 2.0)),
        lambda: wg.solve(wg.Entropy(2.0) + attraction, square, (0.0, 0.05)),
        lambda: wg.solve(wg.Entropy(2.0) + oscillators, phases, (0.0, 0.1)),
        lambda: wg.solve(wg.Entropy(2.0) + attraction, line, (0.0, 0.1), method=wg.FiniteVolume(scheme="midpoint")),
        lambda: wg.solve(1 * wg.Entropy(2.0), line, (0.0, 0.1), method=wg.JKO(tau=0.1)),
        *(partial(wg.solve, well + wg.Entropy(2.0), rho, (0.0, 0.1), method=wg.JKO(tau=0.1, inner=inner))
          for inner in ("linearized", wg.solvers.Linearized(metric="linear"), "back-and-forth", "entropic")
          for rho in (line, square)),
        lambda: wg.solve(wg.Entropy(2.0) + attraction, line, (0.0, 0.1), method=wg.JKO(tau=0.1)),
        lambda: wg.solve(wg.Entropy(2.0) + attraction, line, (0.0, 0.2), method=wg.JKO(0.1, "linearized", order=2)),
        lambda: wg.solve(well + wg.Entropy(2.0), square, (0.0, 0.2), method=wg.JKO(0.1, "linearized", order=2)),
        *(partial(wg.solve, well + wg.PowerEntropy(2.0), box, (0.0, 0.2), method=wg.JKO(tau=0.1, inner=inner))
          for inner in ("linearized", "back-and-forth")),
        lambda: wg.solve(1 * attraction, line, (0.0, 0.1), method=wg.Lagrangian()),
        lambda: wg.solve(model.energy(), model.initial_density(0.8, radial), (0.0, 0.01), time_scale=model.time_scale),
        lambda: wg.validation.run_sgd(model, 16, 1e-4, [0.0, 0.001], rng=3),
        lambda: wg.validation.run_sgd(model, 16, 1e-4, [0.0, 0.001], rng=3, batch_size=2),
        lambda: wg.validation.run_sgd(split, 16, 1e-4, [0.0, 0.001], rng=3),
    ]
    with compilation_told(), progress_of("warmup") as report:
        for k, job in enumerate(jobs):
            job()
            report((k + 1) / len(jobs))


app = typer.Typer(name="wgflow", help="Wasserstein gradient flows, certified.", add_completion=False,
                  rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        import wgflow

        print(f"wgflow {wgflow.__version__}")
        raise typer.Exit(0)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                          help="print the version of wgflow and stop")] = False,
) -> None:
    """Wasserstein gradient flows, certified."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for pictures, report and cached SGD runs")] = Path("out/demo"),
    neurons: Annotated[int, typer.Option(min=2, help="width of the networks")] = 800,
    step_size: Annotated[float, typer.Option(help="SGD step")] = 1e-5,
    runs: Annotated[int, typer.Option(min=1, help="independent SGD runs")] = 3,
    cells: Annotated[int, typer.Option(min=20, help="cells of the PDE's grid")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="seed of the SGD runs")] = 7,
    fresh: Annotated[bool, typer.Option("--fresh", help="run SGD again even if its results are cached")] = False,
) -> None:
    """Solve the isotropic Gaussian model, run SGD of networks, and compare the two."""
    from wgflow.validation.studies.demo import Demo

    start = time.perf_counter()
    _make_folder(out)
    print("Two classes of Gaussian data, x ~ N(0, 1.8 I) or N(0, 0.2 I) in 40 dimensions, and a two-layer network.\n"
          "As it widens, SGD becomes a Wasserstein gradient flow for the law of |w|, one PDE in one variable.\n")
    result = Demo(neurons, step_size, runs, cells, seed).result(out, fresh=fresh, say=print)
    paths = result.write(out)
    print(f"\n{result.sol.explain()}\n\n{result.comparison.verdict}\n\n"
          f"Pictures and tables: {', '.join(map(str, paths))} ({time.perf_counter() - start:.0f} s in all)")
    raise typer.Exit(0 if result.passed else 1)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="the experiment (--list names them all), or a file: mine/study.py")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="the small scale, within two minutes")] = False,
    listing: Annotated[bool, typer.Option("--list", help="list the experiments and stop")] = False,
    out: Annotated[Path, typer.Option(help="folder under which each experiment has one")] = Path("out/reproduce"),
    fresh: Annotated[bool, typer.Option("--fresh", help="run SGD again even if its results are cached")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the report, or the list, as JSON")] = False,
) -> None:
    """Reproduce an experiment of the mean-field literature: picture, table, certificate, verdict."""
    from wgflow.certificate import library_versions
    from wgflow.validation import studies

    if listing and json:
        print(_as_json([{"name": each, "title": studies.get(each).title} for each in studies.names()]))
        return
    if listing:
        width = max(map(len, studies.names()))
        for each in studies.names():
            print(f"{each:<{width}}  {studies.get(each).title}")
        return
    if not name:
        raise InvalidInput(f"reproduce needs the name of an experiment: {', '.join(studies.names())}")
    study, start = studies.get(name), time.perf_counter()
    folder = out / (f"{study.name}-quick" if quick else study.name)
    _make_folder(folder)
    report = study.run(folder, quick=quick, fresh=fresh)
    files, seconds = [*report.pictures, *report.write(folder)], time.perf_counter() - start
    if json:
        print(_as_json({**report.as_dict(), "scale": "quick" if quick else "full", "files": [str(f) for f in files],
                        "seconds": round(seconds, 3), "versions": library_versions()}))
    else:
        print(report.text())
        print(f"Pictures and tables are in {folder}: {', '.join(f.name for f in files)} ({seconds:.0f} s)")
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def sweep(
    plan: Annotated[Path, typer.Argument(help="TOML file: function = \"file.py:name\", [parameters], seed")],
    out: Annotated[Path, typer.Option(help="folder under which each sweep has one, with a file for each item")]
    = Path("out/sweep"),
    workers: Annotated[int | None, typer.Option(min=1, help="processes (default: one for each core)")] = None,
    retries: Annotated[int, typer.Option(min=0, help="how often an item is tried again whose worker died")] = 2,
    json: Annotated[bool, typer.Option("--json", help="print the items as JSON")] = False,
) -> None:
    """Call a function at all combinations of parameters, in parallel; what is done is kept and not done again."""
    from wgflow.validation.sweeps.sweep_files import sweep_from_file

    folder = out / plan.stem
    result = sweep_from_file(plan, folder=folder, executor=workers, retries=retries, progress=True, throw=False)
    table = result.table
    if json:
        print(_as_json({"items": [dict(zip(table.columns, row)) for row in table.rows],
                        "errors": {str(k): words for k, words in result.errors.items()}}))
    else:
        print(table.text())
        for index, words in result.errors.items():
            print(f"FAIL {result.parameters[index]}: {words}")
    try:
        (folder / "table.csv").write_text(table.csv(), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {folder / 'table.csv'}: {error}") from error
    raise typer.Exit(0 if result.success else 1)


def _as_json(value: object) -> str:
    """Return dictionaries and lists of plain values as JSON, where NaN and infinities are null."""
    import json

    def plain(part: object) -> object:
        if isinstance(part, dict):
            return {key: plain(each) for key, each in part.items()}
        if isinstance(part, list):
            return [plain(each) for each in part]
        return None if isinstance(part, float) and not np.isfinite(part) else part

    return json.dumps(plain(value), allow_nan=False)


@app.command()
def verify(
    family: Annotated[list[str] | None, typer.Option(help="only this family; may be given again")] = None,
    cells: Annotated[str, typer.Option(help="cells an axis of the grids, as in 50,100,200")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="one axis, at most 200 cells: within 20 s")] = False,
    save: Annotated[Path | None, typer.Option(help="write every error on every grid: .csv or .nc")] = None,
    listing: Annotated[bool, typer.Option("--list", help="list the families and stop")] = False,
) -> None:
    """Run the catalogue of exact solutions: errors, observed orders, mass, energy and time of every problem."""
    from wgflow.progress import progress_of
    from wgflow.validation.verification import runs as verification

    if listing:
        print("\n".join(verification.families()))
        return
    if save is not None:
        verification.check_path(save)
    try:
        counts = [int(n) for n in cells.split(",")] if cells else None
    except ValueError:
        raise InvalidInput(f"--cells {cells}: must be integers with commas between them, as in 50,100,200") from None
    with progress_of("verify") as report:
        found = verification.verify(family or None, cells=counts, quick=quick, report=report)
    found.print()
    if save is not None:
        found.save(save)
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def convergence(
    out: Annotated[Path, typer.Option(help="folder for the picture and the table")] = Path("out/convergence"),
    cells: Annotated[int, typer.Option(min=20, help="cells of the grids")] = 300,
    steps: Annotated[int, typer.Option(min=1, max=10, help="time steps 0.2, 0.1, ..., each half the one before")] = 4,
) -> None:
    """Run every method on the same problems: error against time step and cost."""
    from wgflow.progress import progress_of
    from wgflow.validation.convergence import convergence_study

    start = time.perf_counter()
    _make_folder(out)
    with progress_of("convergence") as report:
        study = convergence_study(taus=[0.2 / 2**k for k in range(steps)], cells=cells, report=report)
    table = study.table()
    study.plot(out / "convergence.png")
    try:
        (out / "convergence.txt").write_text(table + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {out / 'convergence.txt'}: {error}") from error
    print(table)
    print(f"\n{out / 'convergence.png'}, {out / 'convergence.txt'} ({time.perf_counter() - start:.0f} s)")
    raise typer.Exit(0 if all(run.certified for run in study.runs) else 1)


@app.command()
def warmup() -> None:
    """Compile the functions of all methods once, so that later runs start fast (for images and CI)."""
    start = time.perf_counter()
    _warmup()
    print(f"compiled functions ready after {time.perf_counter() - start:.1f} s")


@app.command()
def run(
    study: Annotated[Path | None, typer.Argument(help="TOML file: [grid], [energy], [start] or [model], and [solve]")]
    = None,
    check: Annotated[bool, typer.Option("--check", help="only say whether the study is in order")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema of studies, for editors")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Solve the flow that a TOML file describes: solution, certificate, picture."""
    if schema:
        from wgflow.validation.study_files.reading import json_schema

        print(_as_json(json_schema()))
        return
    if study is None:
        raise InvalidInput("run needs a study, as in wgflow run study.toml (docs/command-line.md shows one)")
    from wgflow.validation.study_files.study import load_study

    made = load_study(study)
    if check:
        print(f"{study} is in order")
        return
    _finish(made, made.run(progress=True), made.checkpoint_file if made.checkpoint else None, json)


@app.command()
def resume(
    checkpoint: Annotated[Path, typer.Argument(help="the checkpoint of a run of the study")],
    study: Annotated[Path, typer.Argument(help="the TOML file of the run; its t_end may have moved")],
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Go on with a run of a study from its checkpoint; one that was interrupted ends with the same bits."""
    from wgflow.validation.study_files.study import load_study

    made = load_study(study)
    _finish(made, made.resume(checkpoint, progress=True), checkpoint, json)


def _finish(study: Study, solution: Solution, checkpoint: Path | None, json: bool) -> None:
    """Write and print what a study gave; the exit code says whether it has its end and every check passed."""
    files = study.write(solution)
    comparison = study.compare(solution, progress=True) if solution.success else None
    files += study.write_comparison(comparison) if comparison is not None else []
    if json:
        compared = None if comparison is None else {"passed": comparison.passed, "verdict": comparison.verdict}
        print(_as_json({**_told(solution), "title": study.title, "files": [str(file) for file in files],
                        "comparison": compared}))
    else:
        verdict = "" if comparison is None else f"{comparison.verdict}\n"
        print(f"{study.title}\n{_summary(solution)}\n{verdict}{', '.join(map(str, files))}")
        if not solution.success and checkpoint is not None:
            print(f"go on with: wgflow resume {checkpoint} {study.path}")
    raise typer.Exit(0 if solution.success and solution.certificate.ok and (not comparison or comparison.passed) else 1)


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="a file of Solution.save, or a checkpoint of a run")],
    json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Say what is in a file: the solution, or the unfinished run, and its certificate."""
    import wgflow

    sol = wgflow.load(file)
    print(_as_json(_told(sol)) if json else _summary(sol))


def _told(sol: Solution) -> dict[str, object]:
    return {"method": sol.method, "t": sol.t.tolist(), "energy": sol.energy.tolist(), "status": sol.status,
            "message": sol.message, "steps": sol.history.steps, "verdict": sol.certificate.verdict,
            "checks": {name: answer for name, (answer, _) in sol.certificate.checks().items()}}


def _summary(sol: Solution) -> str:
    return (f"{sol.method}\n{sol.message}\nt = {sol.t[0]:g} to {sol.t[-1]:g}, {len(sol.t)} snapshots, "
            f"{sol.history.steps} steps, F = {sol.energy[0]:.6g} to {sol.energy[-1]:.6g}\n{sol.explain()}")


@app.command()
def cite(
    file: Annotated[Path, typer.Argument(help="a file of Solution.save, or a checkpoint of a run")],
    style: Annotated[str, typer.Option(help="text or bibtex")] = "text",
    json: Annotated[bool, typer.Option("--json", help="print the references as a JSON list")] = False,
) -> None:
    """Print the references for what made a solution: wgflow, and the publications behind its method."""
    import wgflow

    words = wgflow.cite(wgflow.load(file), style=style)
    print(_as_json(words.split("\n\n" if style == "bibtex" else "\n")) if json else words)


@app.command()
def plot(
    file: Annotated[Path, typer.Argument(help="a file of Solution.save, or a checkpoint of a run")],
    out: Annotated[Path | None, typer.Option(help="the picture (.png, .pdf, .svg) or movie (.gif, .html, .mp4); "
                                             "by default the file's name with .png")] = None,
) -> None:
    """Draw what is in a file: the laws and the energy, or a movie of the laws."""
    import wgflow

    sol, target = wgflow.load(file), file.with_suffix(".png") if out is None else out
    if target.suffix.lower() in (".gif", ".html", ".mp4"):
        sol.animate(target, progress=True)
    else:
        sol.plot(target)
    print(target)


@app.command()
def versions() -> None:
    """Print the versions of Python, wgflow and the libraries on which its numbers depend."""
    import wgflow

    wgflow.show_versions()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Parameters
    ----------
    arguments : list of str, optional
        ``sys.argv[1:]`` by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("numba", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = typer.main.get_command(app).main(args=arguments or ["--help"], prog_name="wgflow", standalone_mode=False)
        return int(code or 0)
    except WGFlowError as error:
        print(f"wgflow: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wgflow: interrupted; what had finished is kept", file=sys.stderr)
        return 130
    except Exception as error:
        # Typer's and click's own errors (unknown option, bad value, abort) have a message of one line.
        if not hasattr(error, "exit_code"):
            raise
        words = error.format_message() if hasattr(error, "format_message") else "aborted"
        print(f"wgflow: {' '.join(words.split())} (wgflow --help lists the commands)", file=sys.stderr)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
