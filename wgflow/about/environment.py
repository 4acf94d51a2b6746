"""Where a result was computed: versions, libraries that are optional, threads, the cache of compiled functions."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wgflow.certificate import library_versions

__all__ = ["environment"]

#: Libraries on which no number of a solve depends, or only that of one method; by the names of their distributions.
OTHERS = ("fipy", "matplotlib", "typer", "rich", "filelock", "llvmlite")
#: Libraries that come with the extras of wgflow.
OPTIONAL = ("xarray", "h5netcdf", "h5py", "POT", "distributed", "hypothesis", "pydantic")
#: Variables that change how wgflow and its libraries run.
VARIABLES = ("NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "NUMBA_THREADING_LAYER", "OMP_NUM_THREADS",
             "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS")


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def environment() -> dict[str, str]:
    """Return what a report of a fault needs: {name: version or setting}, in the order in which it is printed.

    First the versions on which the numbers of a solution depend (its certificate has the same), then the machine, the
    other libraries, the optional ones, and the variables of the process that are set.
    """
    import numba

    found = library_versions()
    found["platform"] = platform.platform()
    found["executable"] = sys.executable
    found["wgflow at"] = str(Path(__file__).resolve().parents[1])
    found["processors"] = str(os.cpu_count())
    found["numba threads"] = str(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    found |= {name: _version_of(name) for name in (*OTHERS, *OPTIONAL)}
    return found | {name: os.environ[name] for name in VARIABLES if name in os.environ}
