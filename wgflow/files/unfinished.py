"""Checkpoints read as solutions: what a run that has not ended, or goes on in another process, has computed so far."""

from __future__ import annotations

from typing import Any

import numpy as np

from wgflow.audit.step_record import StepRecord
from wgflow.certificate import Certificate, boundary_mass
from wgflow.densities import Density
from wgflow.energies.nodes import law_of_nodes, nodes_of_density, with_nodes
from wgflow.errors import StorageError, WGFlowError
from wgflow.grids import Grid
from wgflow.solution import Solution

from .agreement import check_run
from .archives import open_regular, read_npz
from .checkpoints import KIND, unpack_run
from .grids import unpack_grid, unpack_mobility

__all__ = ["is_checkpoint", "load_unfinished"]

#: Why a certificate of a checkpoint alone leaves something open.
NOT_JUDGED = "a checkpoint does not hold the functions of the energy; wgflow.resume, which is given them, judges it"


def is_checkpoint(path) -> bool:
    """Return whether a file begins as checkpoints do."""
    with open_regular(path) as file:
        return b"wgflow_checkpoint" in file.read(64)


def load_unfinished(path) -> Solution:
    """Return the Solution up to the state in a checkpoint, which is its last snapshot.

    ``status`` is 1 unless the run had reached its end. The certificate has what the record of the steps shows: mass,
    sign, energy; the equation is not judged without the energy's functions.

    Raises
    ------
    StorageError
        If the file is not a whole checkpoint.
    """
    header, arrays = read_npz(path, KIND)
    try:
        return _unpack(path, header, arrays)
    except (WGFlowError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is not a checkpoint that can be used: {type(error).__name__}: {error}") from error


def _on_cells(grid: Grid, masses: np.ndarray) -> Density:
    """Return the density of masses; of a damaged file they may be too large, which the density refuses in its words."""
    with np.errstate(over="ignore"):
        return Density(grid, masses / grid.volumes)


def _unpack(path, header: dict, arrays: dict[str, np.ndarray]) -> Solution:
    saved, state = unpack_run(header, arrays)
    if header.get("streamed"):
        # The snapshots are in a file of their own; here is the state alone.
        saved["snapshots"] = []
    told, columns = header["flow"], saved["columns"]
    grid = unpack_grid(told["axes"], arrays)
    first = Density(grid, arrays["rho0"])
    if "rho0_center_values" in arrays:
        with_nodes(first, arrays["rho0_center_values"])
    law_of: Any = law_of_nodes(first, nodes_of_density(first)) if state.get("holds") == "values at centers" else (
        lambda masses: _on_cells(grid, masses))
    check_run(grid, saved, state, first.masses)
    t0, t1, t = float(told["t0"]), float(told["t1"]), float(state["t"])
    if not (columns["t"] and columns["t"][-1] == t):
        raise ValueError(f"its state is at t={t!r}, its record ends elsewhere")
    reached = _reached(state, grid.shape)
    times = [time for time, _, _ in saved["snapshots"]]
    laws = [first if time == t0 else law_of(masses) for time, masses, _ in saved["snapshots"]]
    energies = [energy for _, _, energy in saved["snapshots"]]
    if reached is not None and (not times or times[-1] < t):
        density = law_of(reached) if "now_density" not in state else Density(grid, reached)
        times, laws, energies = [*times, t], [*laws, density], [*energies, columns["energy"][-1]]
    if not laws:
        raise ValueError("it has no snapshot yet")
    if not (np.diff(times) > 0).all():
        raise ValueError("its times do not increase")
    steps, done = StepRecord(), t >= t1
    steps.restore(columns, saved["of_steps"])
    name = str(header["method"]["method"])
    settings = ", ".join(f"{key}={value!r}" for key, value in header["method"].items() if key != "method")
    message = (f"a checkpoint at the end of the time span, t = {t:.6g}" if done else
               f"a checkpoint at t = {t:.6g} of {t1:g}; wgflow.resume({str(path)!r}, energy=...) goes on from it")
    mobility = None
    if "mobility" in arrays:
        mobility = unpack_mobility({"numbers": told.get("mobility"), "text": "Mobility(a function that is not stored)"})
    return Solution(t=times, densities=laws, energy=energies, history=steps.history(),
                    status=0 if done else 1, message=message, free_energy=None,
                    certificate=_certificate(header, saved, steps, laws, done),
                    method=f"{name}({settings})", time_scale=told["time_scale"], jko_steps=saved["jko_steps"],
                    mobility=mobility)


def _reached(state: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the masses, or of a step of JKO the density, of the law reached; None if the state does not show them."""
    for name in ("masses", "now_density"):
        array = state.get(name)
        if isinstance(array, np.ndarray) and array.shape == shape:
            return array
    return None


def _certificate(header: dict, saved: dict, steps: StepRecord, laws: list[Density], done: bool) -> Certificate:
    """Return what the record of the steps alone shows."""
    worst = steps.extremes()
    return Certificate(
        mass_drift=worst["drift"], min_density=worst["least"],
        max_energy_increase=worst["rise"], dissipation_defect=None,
        boundary_mass=max(boundary_mass(rho.masses, rho.grid) for rho in laws), n_accepted=steps.count - 1,
        n_rejected=int(saved["n_rejected"]), n_fallback=int(saved["n_fallback"]), residual=float(saved["residual"]),
        error_estimate=saved["error_estimate"], edi_defect=saved["edi_defect"], bias=saved["bias"], completed=done,
        controlled=True, settings=dict(header["method"]), versions=dict(header["versions"]), not_judged=NOT_JUDGED)
