"""The command line: ``wgflow demo``, ``wgflow warmup``, ``wgflow versions``.

Nothing imports this module but the ``wgflow`` script, so that ``import wgflow`` needs neither Typer nor rich. A wrong
option and an error of wgflow each give one line and exit code 2; a comparison that fails gives exit code 1.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import typer

from wgflow.errors import StorageError, WGFlowError

__all__ = ["main"]

logger = logging.getLogger("wgflow.cli")
SGD_TIMES = (0.0, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 3.0)
CACHE_FORMAT = 1


@contextmanager
def _progress(label: str) -> Iterator[Callable[[float], None]]:
    """Yield ``report(share)``: a bar on a terminal, a log line for every tenth elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=1.0)
            yield lambda share: bar.update(task, completed=share)
        return
    shown = [0]

    def report(share: float) -> None:
        tenth = int(10 * share)
        if tenth > shown[0]:
            shown[0] = tenth
            logger.info("%s: %d %%", label, 10 * tenth)

    yield report


def _key(settings: dict[str, Any]) -> str:
    """A short name for settings, the same in every process."""
    text = json.dumps({**settings, "format": CACHE_FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_run(path: Path, shape: tuple[int, int]) -> dict[str, np.ndarray] | None:
    """A cached SGD run, or None if there is none that can be trusted."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            run = {name: data[name] for name in ("coordinates", "risk")}
        if run["coordinates"].shape[:2] == shape and run["risk"].shape == shape[:1] and np.isfinite(run["risk"]).all():
            return run
    except Exception as error:  # whatever a damaged file raises, the cure is the same: run again
        logger.info("ignoring the damaged cache file %s (%s)", path.name, error)
    return None


def _write_run(path: Path, run: dict[str, np.ndarray]) -> None:
    """Write under another name, then rename: a file with this name is always whole."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, coordinates=run["coordinates"], risk=run["risk"])
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}") from error


def _sgd_runs(model: Any, out: Path, *, neurons: int, step_size: float, runs: int, seed: int, kappa: float,
              fresh: bool) -> SimpleNamespace:
    """Independent SGD runs, two or more at a time (the kernel holds no lock), each kept in a file of its own."""
    from concurrent.futures import ThreadPoolExecutor
    from importlib.metadata import version

    from wgflow.validation import run_sgd

    settings = {"model": repr(model), "wgflow": version("wgflow"), "neurons": neurons, "step_size": step_size,
                "seed": seed, "kappa": kappa, "times": SGD_TIMES, "numpy": np.__version__.split(".")[0]}
    files = [out / f"sgd-{_key(settings)}-{k}.npz" for k in range(runs)]
    found = [None if fresh else _read_run(file, (len(SGD_TIMES), neurons)) for file in files]
    missing = [k for k in range(runs) if found[k] is None]
    if not missing:
        logger.info("SGD: %d runs read from %s", runs, out)
    shares = dict.fromkeys(missing, 0.0)
    with _progress(f"SGD, {len(missing)} runs of {neurons} neurons") as report:

        def one(k: int) -> dict[str, np.ndarray]:
            def advance(done: int, total: int) -> None:
                shares[k] = done / total
                report(sum(shares.values()) / len(shares))

            result = run_sgd(model, neurons, step_size, SGD_TIMES, np.random.SeedSequence(seed, spawn_key=(k,)),
                             kappa=kappa, store_theta=False, progress=advance)
            run = {"coordinates": result.coordinates[0], "risk": result.risk[0]}
            _write_run(files[k], run)
            return run

        if missing:
            with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
                for k, run in zip(missing, pool.map(one, missing)):
                    found[k] = run
    stacked = {name: np.stack([run[name] for run in found if run is not None]) for name in ("coordinates", "risk")}
    return SimpleNamespace(t=np.array(SGD_TIMES), model=model, n_neurons=neurons, step_size=step_size, **stacked)


def _demo(out: Path, neurons: int, step_size: float, runs: int, cells: int, seed: int, fresh: bool) -> bool:
    """Solve, run SGD, compare, draw, explain; returns whether certificate and comparison passed."""
    import wgflow as wg

    start = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use the folder {out}: {error}") from error
    kappa, t_end = 0.8, SGD_TIMES[-1]
    print("Two classes of Gaussian data, x ~ N(0, 1.8 I) or N(0, 0.2 I) in 40 dimensions, and a two-layer network.\n"
          "As it widens, SGD becomes a Wasserstein gradient flow for the law of |w|, one PDE in one variable.\n")
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    grid = model.grid(cells=cells)
    times = np.unique(np.concatenate([SGD_TIMES, np.linspace(0.0, np.cbrt(t_end), 61) ** 3]))
    times = times[np.concatenate([[True], np.diff(times) > 1e-9])]
    sol = wg.solve(model.energy(), model.initial_density(kappa, grid), (0.0, t_end), t_eval=times,
                   time_scale=model.time_scale)
    print(f"PDE      {sol.certificate.n_accepted} steps on {cells} cells in {time.perf_counter() - start:.1f} s, "
          f"risk {model.risk(sol.densities[0]):.4f} -> {model.risk(sol.densities[-1]):.4f}")
    begin = time.perf_counter()
    sgd = _sgd_runs(model, out, neurons=neurons, step_size=step_size, runs=runs, seed=seed, kappa=kappa, fresh=fresh)
    final = sgd.risk[:, -1]
    print(f"SGD      {runs} run{'s' if runs > 1 else ''} of {neurons} neurons in 40 dimensions, "
          f"{round(t_end / step_size)} steps each, in {time.perf_counter() - begin:.1f} s, "
          f"risk -> {', '.join(f'{r:.4f}' for r in final)}")
    begin = time.perf_counter()
    comparison = wg.validation.compare(sol, sgd)
    print(f"Compare  {comparison.inside.size} laws, moments and risks against computed bands "
          f"in {time.perf_counter() - begin:.1f} s\n")
    comparison.plot(out / "comparison.png")
    sol.plot(out / "solution.png")
    report = "\n\n".join([comparison.verdict, comparison.table(), sol.certificate.explain()])
    try:
        (out / "report.txt").write_text(report + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {out / 'report.txt'}: {error}") from error
    print(sol.certificate.explain() + "\n")
    print(comparison.verdict + "\n")
    print(f"Pictures and tables: {out / 'comparison.png'}, {out / 'solution.png'}, {out / 'report.txt'} "
          f"({time.perf_counter() - start:.0f} s in all)")
    return comparison.passed and sol.certificate.ok


def _warmup() -> None:
    """Call every kind of kernel once on a small problem, so that the compiled code is on disk."""
    import wgflow as wg

    grid = wg.Grid((-3, 3), cells=32)
    plane = wg.Grid([(-2, 2), (-2, 2)], cells=(12, 12))
    starts = wg.Density.gaussian(grid, 0.5, 0.3), wg.Density.gaussian(plane, [0.3, 0.0], [0.2, 0.3])
    for start in starts:
        transport = wg.Potential(lambda *x: sum(0.5 * c**2 for c in x))
        for energy in (transport, transport + wg.Entropy(2.0)):
            wg.solve(energy, start, (0.0, 0.05))
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    radial = model.grid(cells=64)
    wg.solve(model.energy(), model.initial_density(0.8, radial), (0.0, 0.01), time_scale=model.time_scale)
    wg.validation.run_sgd(model, 16, 1e-4, [0.0, 0.001], rng=3)


app = typer.Typer(name="wgflow", help="Wasserstein gradient flows, certified.", add_completion=False,
                  rich_markup_mode=None, pretty_exceptions_enable=False)


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
    """Solve the isotropic Gaussian model, run SGD beside it, and hold one against the other."""
    raise typer.Exit(0 if _demo(out, neurons, step_size, runs, cells, seed, fresh) else 1)


@app.command()
def warmup() -> None:
    """Compile the kernels once, so that later runs start fast (for images and CI)."""
    start = time.perf_counter()
    _warmup()
    print(f"kernels ready after {time.perf_counter() - start:.1f} s")


@app.command()
def versions() -> None:
    """Print the versions of Python, wgflow and what its numbers depend on."""
    import wgflow

    wgflow.show_versions()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

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
        print("wgflow: interrupted; SGD runs that had finished are kept", file=sys.stderr)
        return 130
    except Exception as error:
        # Typer's and click's own errors (unknown option, bad value, abort) know how to say themselves in one line.
        if not hasattr(error, "exit_code"):
            raise
        words = error.format_message() if hasattr(error, "format_message") else "aborted"
        print(f"wgflow: {' '.join(words.split())} (wgflow --help lists what there is)", file=sys.stderr)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
