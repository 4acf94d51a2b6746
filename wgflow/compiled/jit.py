"""The compiler options of wgflow: `numba.njit`, cached on disk where possible and in memory otherwise."""

from __future__ import annotations

import warnings

import numba

from wgflow.errors import WGFlowWarning


def jit(function=None, **options):
    """Compile like ``numba.njit`` with wgflow's settings: C division, no GIL, cache on disk.

    A read-only installation with an unwritable home directory makes ``cache=True`` raise when the function is
    decorated; the function is then compiled in memory in each process, with a warning.
    """
    if function is None:
        return lambda f: jit(f, **options)
    settings = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True, **options}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError as error:
        warnings.warn(f"numba cannot cache {function.__name__} on disk ({error}); compiling in memory",
                      WGFlowWarning, stacklevel=2)
        return numba.njit(**settings)(function)
