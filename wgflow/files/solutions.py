"""Solutions on disk: CF NetCDF (``.nc``, with the io extra) and NumPy's archives (``.npz``, always).

Both hold the same data to the last bit: times, densities (or atoms), energies, history, grid and certificate. Functions
are not stored, so a loaded solution has ``free_energy`` None. Files are read as data and checked before they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.certificate import Certificate, library_versions
from wgflow.checks import check_memory
from wgflow.densities import Density
from wgflow.energies.nodes import with_nodes
from wgflow.error_estimates import ErrorEstimate
from wgflow.errors import InvalidInput, InvalidType, ResourceError, StorageError, WGFlowError
from wgflow.jko_steps import NO_STEPS, TITLES, pack_steps, unpack_steps
from wgflow.solution import History, Solution

from .agreement import check_masses
from .archives import (
    FORMAT,
    HDF5_START,
    check_seal,
    decode,
    encode,
    open_regular,
    read_npz,
    replacing,
    seal,
    target_of,
    write_npz,
)
from .grids import pack_axes, unpack_grid, unpack_mobility
from .netcdf import write_netcdf
from .rows import Rows, pieces
from .unfinished import is_checkpoint, load_unfinished

if TYPE_CHECKING:
    import xarray

__all__ = ["load", "save", "to_dataset", "variables"]

CONVENTIONS = "CF-1.11"
#: Other programs may compress files; no filter of HDF5 exceeds this ratio on real data.
HDF5_RATIO = 1000
#: Parts of the header, each an attribute of a NetCDF file.
HEADER = ("problem", "certificate", "settings", "versions")
#: Names in a dataset that no axis may take.
RESERVED = ("time", "density", "energy", "dissipation", "log_weight", "step", "bound", "atom", "weight", "jko_step",
            "center_values")
HISTORY_NAMES = {
    "t": "time after the step", "dt": "length of the step", "energy": "free energy after the step",
    "mass": "mass after the step", "min_density": "smallest cell average after the step",
    "accepted": "steps accepted so far", "rejected": "steps rejected so far",
    "fallback": "whether the step took the unconditional fallback",
    "work": "work done so far by terms that change with time",
}
#: Columns of the history that files of format 1 lack; they are 0 for such files.
ADDED_COLUMNS = ("work",)
INSTALL = "pip install 'wgflow[io]' (that is: xarray h5netcdf h5py)"


def save(solution: Solution, path: str | os.PathLike[str]) -> None:
    """Write a solution to a file, atomically: an old file of that name is unchanged until the new one is complete.

    Parameters
    ----------
    solution : Solution
    path : path
        Ends in ``.nc`` (CF NetCDF) or ``.npz`` (arrays that `numpy.load` reads).

    Raises
    ------
    InvalidInput
        If the path has another ending.
    StorageError
        If the file cannot be written, or xarray, h5netcdf or h5py is missing for ``.nc``.
    """
    suffix = _suffix(path)
    if suffix == ".npz":
        write_npz(path, "solution", *_pack(solution))
        return
    _need_io("writing NetCDF files")
    variables, _, attributes = _described(solution)
    with replacing(path) as temporary:
        with temporary.open("r+b") as file:
            write_netcdf(file, variables, attributes)
        seal(temporary, "solution")


def load(path: str | os.PathLike[str]) -> Solution:
    """Read a solution that `Solution.save` wrote: the same bits, except that ``free_energy`` is None.

    A checkpoint of `solve` is read too, as the Solution so far: its last snapshot is the state in the file, ``status``
    is 1 unless the run had reached its end, and the equation is not judged. The run may be going on in another process.

    Parameters
    ----------
    path : path
        A file of any of the three kinds, which is recognized by its content, not by its name.

    Raises
    ------
    StorageError
        If there is no such file, or it is not a complete and unchanged solution or checkpoint of a known version.
    ResourceError
        If the file claims more than fits in memory; raised before anything is allocated.
    """
    with open_regular(path) as file:
        hdf5 = file.read(8) == HDF5_START
    if not hdf5 and is_checkpoint(path):
        return load_unfinished(path)
    header, arrays = _read_netcdf(path) if hdf5 else read_npz(path, "solution")
    try:
        return _unpack(header, arrays)
    except ResourceError:
        raise
    except (WGFlowError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is not a solution that can be used: {type(error).__name__}: {error}") from error


def to_dataset(solution: Solution) -> xarray.Dataset:
    """Return a solution as an xarray.Dataset after the CF conventions.

    Variables: ``density(time, axes...)``, ``energy(time)``, ``dissipation(time)`` if the energy is available, the cell
    edges of each axis (``x_edges``, and as CF bounds ``x_bounds``), ``log_weight`` on weighted grids,
    ``center_values(time, axes...)`` where the solver held values at the centers of the cells, the history of accepted
    steps as ``history_*`` along ``step``, and the results of steps of the JKO scheme as ``jko_*`` along ``jko_step``.
    Atoms have coordinates ``x(time, atom)`` and ``weight(atom)`` in place of density and edges. Attributes hold
    certificate, settings, versions and problem as JSON, and the SHA-256 digest of all this.
    """
    _need_io("datasets")
    import xarray

    found, coordinates, attributes = _described(solution)
    whole = {name: (dims, values.stacked() if isinstance(values, Rows) else values, attrs)
             for name, (dims, values, attrs) in found.items()}
    return xarray.Dataset({k: v for k, v in whole.items() if k not in coordinates},
                          {k: whole[k] for k in coordinates}, attributes)


def _described(solution: Solution) -> tuple[dict[str, tuple], list[str], dict]:
    """Return variables (dimensions, values, attributes), the names of those that are coordinates, and attributes."""
    header, arrays = _pack(solution)
    variables: dict = {"time": (["time"], arrays["t"], _text("time", axis="T"))}
    describe = _atom_variables if solution.is_atomic else _grid_variables
    coordinates = ["time", *describe(solution, header["problem"]["axes"], arrays, variables)]
    variables["energy"] = (["time"], arrays["energy"], _text("free energy"))
    if "dissipation" in arrays:
        variables["dissipation"] = (["time"], arrays["dissipation"], _text("-dF/dt at time_scale 1"))
    for name, title in HISTORY_NAMES.items():
        variables[f"history_{name}"] = (["step"], arrays[f"history_{name}"], _text(title))
    for column in header["problem"]["jko_steps"]["columns"]:
        name = column["name"]
        title = TITLES.get(name, f"JKO step: {name}")
        variables[f"jko_{name}"] = (["jko_step"], arrays[f"jko_{name}"], _text(title))
    texts = {part: json.dumps(encode(header[part]), allow_nan=False) for part in HEADER}
    return variables, coordinates, {
        "Conventions": CONVENTIONS, "title": "Wasserstein gradient flow", "source": header["source"],
        "wgflow_format": FORMAT, **texts, "sha256": _digest(texts, arrays)}


def _grid_variables(solution: Solution, axes: list[dict], arrays: dict, variables: dict) -> list[str]:
    """Add the densities and their grid; return the names of the coordinates."""
    names = [axis["variable"] for axis in axes]
    for k, (name, centers) in enumerate(zip(names, solution.grid.centers)):
        edges = arrays[f"edges_{k}"]
        title = solution.grid.names[k]
        variables[name] = ([name], centers, _text(f"{title}, cell centers", bounds=f"{name}_bounds"))
        variables[f"{name}_bounds"] = ([name, "bound"], np.stack([edges[:-1], edges[1:]], 1), {})
        variables[f"{name}_edges"] = ([f"{name}_edge"], edges, _text(f"{title}, cell edges"))
    if "log_weight" in arrays:
        variables["log_weight"] = (names, arrays["log_weight"],
                                   _text("logarithm of the cell averages of the reference measure"))
    variables["density"] = (["time", *names], arrays["density"],
                            _text("density, cell averages", cell_methods=" ".join(f"{n}: mean" for n in names)))
    if "center_values" in arrays:
        variables["center_values"] = (["time", *names], arrays["center_values"],
                                      _text("density at the cell centers, as the solver held it"))
    return names


def _atom_variables(solution: Solution, axes: list[dict], arrays: dict, variables: dict) -> list[str]:
    """Add the paths and the weights of atoms, which have no coordinates but time."""
    for k, axis in enumerate(axes):
        variables[axis["variable"]] = (["time", "atom"], arrays[f"points_{k}"], _text(f"{axis['name']} of each atom"))
    variables["weight"] = (["atom"], arrays["weights"], _text("mass of each atom"))
    return []


def _text(long_name: str, **more) -> dict:
    return {"long_name": long_name, "units": "1", **more}


def _suffix(path) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError as error:
        raise InvalidType(f"path={path!r}: need the path of a file, such as 'run.nc'") from error
    suffix = Path(name).suffix.lower()
    if suffix not in (".nc", ".npz"):
        text = "; solution.to_csv(path) writes tables of text" if suffix in (".csv", ".txt", ".tsv") else ""
        raise InvalidInput(f"path={name!r} must end in .nc (CF NetCDF) or .npz (NumPy){text}")
    target_of(path)
    return suffix


def _need_io(what: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in ("xarray", "h5netcdf", "h5py") if find_spec(name) is None]
    if missing:
        raise StorageError(f"{what} needs {' and '.join(missing)}: {INSTALL}; "
                           "solution.save('run.npz') works without")


# -------------------------------------------------------------------- solution <-> header and arrays
def _pack(solution: Solution) -> tuple[dict, dict[str, Any]]:
    certificate, pack = solution.certificate, _pack_atoms if solution.is_atomic else _pack_densities
    axes, arrays = pack(solution)
    proof = {f.name: getattr(certificate, f.name) for f in fields(Certificate)}
    jko_header, jko_arrays = pack_steps(solution.jko_steps)
    header = {
        "source": f"wgflow {library_versions()['wgflow']}",
        "settings": proof.pop("settings"), "versions": proof.pop("versions"), "certificate": proof,
        "problem": {
            "axes": axes, "format": FORMAT,
            "method": solution.method, "status": solution.status, "message": solution.message,
            "time_scale": None if callable(solution.time_scale) else solution.time_scale,
            "mobility": None if solution.mobility is None else {
                "numbers": solution.mobility.numbers, "text": repr(solution.mobility)},
            "errors": {str(k): found.to_dict() for k, found in solution.errors.items()},
            "jko_steps": jko_header, "center_values": "center_values" in arrays,
        },
    }
    arrays |= jko_arrays
    arrays |= {"t": solution.t, "energy": solution.energy}
    if solution.has_dissipation:
        arrays["dissipation"] = solution.dissipation
    arrays |= {f"history_{name}": column for name, column in solution.history.to_dict().items()}
    return header, arrays


def _pack_densities(solution: Solution) -> tuple[list[dict], dict[str, Any]]:
    grid, laws = solution.grid, solution.densities
    axes = [axis | {"variable": variable} for axis, variable in zip(pack_axes(grid), variables(grid.names))]
    arrays: dict = {"density": Rows(len(laws), lambda k: laws[k].values)}
    if all(rho.nodal is not None for rho in laws):
        arrays["center_values"] = Rows(len(laws), lambda k: laws[k].nodal.values)
    arrays |= {f"edges_{k}": edges for k, edges in enumerate(grid.edges)}
    if grid.log_weight is not None:
        arrays["log_weight"] = grid.log_weight
    return axes, arrays


def _pack_atoms(solution: Solution) -> tuple[list[dict], dict[str, Any]]:
    laws = solution.densities
    rho = laws[0]
    axes = [{"name": name, "variable": variable, "bounds": bounds, "power": power, "periodic": periodic}
            for name, variable, bounds, power, periodic
            in zip(rho.names, variables(rho.names), rho.bounds, rho.powers, rho.periodic)]

    def path(k: int) -> Rows:
        return Rows(len(laws), lambda j: laws[j].points[k])

    return axes, {"weights": rho.weights} | {f"points_{k}": path(k) for k in range(len(rho.points))}


def variables(names) -> list[str]:
    """Return names that NetCDF allows, all different, none of them taken."""
    taken = set(RESERVED) | {f"history_{name}" for name in HISTORY_NAMES}
    found: list[str] = []
    for name in names:
        variable = re.sub(r"\W", "_", name, flags=re.ASCII)
        variable = variable if re.match(r"[A-Za-z]", variable) else f"axis_{variable}"
        variable = f"axis_{variable}" if variable.startswith("jko_") else variable
        while taken & {variable, *(variable + end for end in ("_bounds", "_edges", "_edge"))}:
            variable += "_axis"
        taken |= {variable, *(variable + end for end in ("_bounds", "_edges", "_edge"))}
        found.append(variable)
    return found


def _unpack(header: dict, arrays: dict[str, np.ndarray]) -> Solution:
    from .schema import Problem, check_certificate, check_estimate, check_table

    problem = header["problem"]
    check_table(problem, Problem, "problem")
    check_certificate({**header["certificate"], "settings": header["settings"], "versions": header["versions"]})
    densities = _unpack_laws(problem["axes"], arrays)
    if problem.get("center_values"):
        for rho, values in zip(densities, arrays["center_values"], strict=True):
            with_nodes(rho, values)
    if problem.get("format", 1) == 1:
        arrays = {f"history_{name}": np.zeros(arrays["history_t"].shape) for name in ADDED_COLUMNS} | arrays
    history = History({name: arrays[f"history_{name}"].copy() for name in History.NAMES})
    certificate = Certificate(**header["certificate"], settings=header["settings"], versions=header["versions"])
    one = {name: arrays[name].shape for name in ("t", "energy", "dissipation") if name in arrays}
    if not densities or set(one.values()) != {(len(densities),)}:
        raise StorageError(f"{len(densities)} densities, but {one}")
    if len({getattr(history, name).shape for name in History.NAMES}) > 1 or history.t.ndim != 1 or not len(history):
        raise StorageError("its history has columns of different lengths")
    if not (np.isfinite(arrays["t"]).all() and (np.diff(arrays["t"]) > 0).all()):
        raise StorageError("its times do not increase")
    check_masses(((f"the law at t={t:g}", law.weights if isinstance(law, Atoms) else law.masses)
                  for t, law in zip(arrays["t"].tolist(), densities)), history.mass, certificate.mass_drift)
    solution = Solution(t=arrays["t"].copy(), densities=densities, energy=arrays["energy"].copy(), history=history,
                        certificate=certificate, status=problem["status"], message=problem["message"],
                        free_energy=None, method=problem["method"], time_scale=problem["time_scale"],
                        jko_steps=unpack_steps(problem.get("jko_steps", NO_STEPS), arrays),
                        stopped=certificate.stopped)
    solution.mobility = unpack_mobility(problem.get("mobility"))
    if "dissipation" in arrays:
        vars(solution)["dissipation"] = arrays["dissipation"].copy()
    for k, found in problem.get("errors", {}).items():
        check_estimate(found)
        solution.errors[int(k)] = ErrorEstimate.from_dict(found)
    first = densities[0]
    if isinstance(first, Density) and solution.t[0] == history.t[0]:
        first.sample_size = certificate.sample_size
    return solution


def _unpack_laws(axes: list[dict], arrays: dict[str, np.ndarray]) -> list:
    if "weights" not in arrays:
        grid = unpack_grid(axes, arrays)
        return [Density(grid, values) for values in arrays["density"]]
    bounds, powers, names, periodic = ([axis[key] for axis in axes] for key in ("bounds", "power", "name", "periodic"))
    paths = np.stack([arrays[f"points_{k}"] for k in range(len(axes))], axis=1)
    return [Atoms(points, arrays["weights"], bounds, powers, names, periodic) for points in paths]


# -------------------------------------------------------------------- NetCDF
def _digest(texts: dict[str, str], arrays: Mapping[str, np.ndarray | Rows]) -> str:
    """Return the SHA-256 digest of all that makes up a solution; what others add to the file is left out."""
    digest = hashlib.sha256("\0".join(texts[part] for part in HEADER).encode(errors="surrogatepass"))
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name} {array.dtype.kind} {array.shape}\0".encode())
        for part in pieces(array):
            digest.update(np.ascontiguousarray(part).data.cast("B"))
    return digest.hexdigest()


def _read_netcdf(path) -> tuple[dict, dict[str, np.ndarray]]:
    _need_io("reading NetCDF files")
    import h5py

    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # A damaged HDF5 file can hang the HDF5 library, so the digest of all bytes is checked before it reads the file.
        # Only a file that another program wrote (a dataset kept by xarray, an attribute added) has no such digest.
        if size != _hdf5_end(file):
            check_seal(file, path, "solution", size)
        try:
            with h5py.File(file, "r") as data:
                if "wgflow_format" not in data.attrs:
                    raise StorageError(f"{path} is not a wgflow file")
                version = int(np.ravel(data.attrs["wgflow_format"])[0])
                if version > FORMAT:
                    raise StorageError(f"{path} was written by format {version}, this wgflow reads up to {FORMAT}; "
                                       "upgrade wgflow")
                texts = {part: str(data.attrs[part]) for part in HEADER}
                header = {part: decode(text) for part, text in texts.items()}
                arrays = {name: _read_variable(data, variable, path, size)
                          for name, variable in _layout(header["problem"], data).items()}
                expected = str(data.attrs["sha256"])
        except (WGFlowError, MemoryError):
            raise
        except Exception as error:  # a damaged HDF5 file can fail in many ways
            raise StorageError(f"{path} is truncated or damaged: {type(error).__name__}: {error}") from error
    arrays["history_fallback"] = arrays["history_fallback"].astype(bool)
    if _digest(texts, arrays) != expected:
        raise StorageError(f"{path} is damaged: its checksum (SHA-256) does not agree; take another copy")
    return header, arrays


def _hdf5_end(file) -> int:
    """Return where the superblock says that an HDF5 file ends; -1 if it cannot be read."""
    file.seek(0)
    head = file.read(56)
    place = {0: 40, 1: 44, 2: 28, 3: 28}.get(head[8]) if len(head) == 56 else None
    return -1 if place is None else int.from_bytes(head[place:place + 8], "little")


def _layout(problem: dict, data) -> dict[str, str]:
    """Return the name of the variable for each array."""
    layout = {"t": "time", "energy": "energy"}
    layout |= {name: name for name in ("density", "center_values", "dissipation", "log_weight") if name in data}
    if "density" in data:
        layout |= {f"edges_{k}": f"{axis['variable']}_edges" for k, axis in enumerate(problem["axes"])}
    else:
        layout |= {"weights": "weight"} | {f"points_{k}": axis["variable"] for k, axis in enumerate(problem["axes"])}
    added = () if "history_work" in data or problem.get("format", 1) > 1 else ADDED_COLUMNS
    layout |= {f"history_{name}": f"history_{name}" for name in HISTORY_NAMES if name not in added}
    columns = [f"jko_{column['name']}" for column in problem.get("jko_steps", NO_STEPS)["columns"]]
    return layout | dict(zip(columns, columns))


def _read_variable(data, name: str, path, size: int) -> np.ndarray:
    """Return one variable, after checking that its bytes lie in this file and are no more than the file has."""
    import h5py

    if name not in data:
        raise StorageError(f"{path} is damaged: it has no variable {name!r}")
    if not isinstance(data.get(name, getlink=True), h5py.HardLink):
        raise StorageError(f"{path}: variable {name!r} is a link to another place, which is not followed")
    variable = data[name]
    if not isinstance(variable, h5py.Dataset) or variable.is_virtual or variable.external:
        raise StorageError(f"{path}: variable {name!r} does not hold its own values")
    if variable.dtype.kind not in "fib" or variable.dtype.itemsize > 8:
        raise StorageError(f"{path}: variable {name!r} has dtype {variable.dtype}")
    if variable.nbytes > HDF5_RATIO * size:
        raise ResourceError(f"{path}: variable {name!r} claims shape {variable.shape}, {variable.nbytes} bytes, in a "
                            f"file of {size}; do not trust this file")
    check_memory(variable.nbytes, f"{path}: variable {name!r}", "read it on a larger machine")
    return np.asarray(variable[...])
