"""How kernels are compiled: `numba.njit` with wgflow's settings, and functions called by kernels compiled only once.

Numba compiles each function that a kernel calls as if Python called it, too: with a wrapper that unpacks the arguments,
optimized with all that it calls, translated to machine code and stored; the caller then is optimized with all of it
again. Here a function has two compiled forms. `Kernel` is called from Python and is what Numba makes of any function.
For kernels that call it, it stands as its `Part`: intermediate code that has not been optimized, without wrapper and
without machine code. The kernel takes it in and is optimized as a whole, once. That halves the time to compile. Where
it costs no speed, loops are vectorized but not unrolled (``jit(unrolled=False)``), which takes off some more.
With a version of Numba newer than those tried, functions are compiled as Numba does it.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import types
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, Flags
from numba.core.compiler_machinery import PassManager
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

from wgflow.errors import WGFlowWarning

from .stored_code import seal_files, stranger_of

#: The newest version of Numba with which parts were tried, by the whole test suite; 0.61 to 0.65 by a few solves.
NEWEST = (0, 68)
#: Whether functions called by kernels are compiled as parts: parts rest on Numba's own classes, which may change.
PARTS = None not in numba.version_info.short and numba.version_info.short <= NEWEST
#: Whether LLVM takes options one by one: not in older versions.
TUNED = hasattr(llvm, "create_pipeline_tuning_options")
#: Numba's settings, which it makes at run time.
CONFIG: Any = numba.config
#: C division, no GIL, no second wrapper for callers in C.
SETTINGS = {"nopython": True, "error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect no garbage within the block: the search among a compiler's many objects takes a tenth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Flags(Flags):
    """Numba's options, compared by those that are set: the types of each operation are looked up by them, too."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Flags) and self._values == other._values


class _Dispatcher(CPUDispatcher):
    """A dispatcher of Numba that compiles with `_Flags`."""

    _compiler: Any

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if PARTS:
            self._compiler._customize_flags = _Flags


class _RolledLibrary(JITCodeLibrary):
    """Machine code of a kernel whose loops are not unrolled: sums have the order that they have with unrolled loops."""

    def _optimize_final_module(self):
        """Optimize as Numba does, with other options: cheaply, so that few reference counts are left, and in full."""
        cheap, builder = self._codegen._module_pass_manager(loop_vectorize=False, slp_vectorize=False, opt=0,
                                                            cost="cheap")
        cheap.run(self._final_module, builder)
        options = llvm.create_pipeline_tuning_options(speed_level=CONFIG.OPT)
        options.loop_vectorization, options.slp_vectorization = CONFIG.LOOP_VECTORIZE, CONFIG.SLP_VECTORIZE
        options.loop_unrolling = False
        builder = llvm.create_pass_builder(self._codegen._tm, options)
        full = builder.getModulePassManager()
        full.add_refprune_pass()
        full.run(self._final_module, builder)


class _PartLibrary(JITCodeLibrary):
    """Intermediate code that is linked into that of others, and never executed by itself."""

    def finalize(self) -> None:
        """Take in the code of the functions called, and leave the rest to the kernel."""
        for library in dict.fromkeys(self._linking_libraries):
            if hasattr(self, "_reload_init"):  # not in older versions of Numba
                self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


def _passes(state) -> PassManager:
    """Return Numba's passes but two, which look for closures and for expressions of arrays: kernels have neither."""
    passes = DefaultPassBuilder.define_nopython_pipeline(state)
    passes.passes = [entry for entry in passes.passes if entry[0] not in (InlineClosureLikes, NopythonRewrites)]
    passes.finalize()
    return passes


class _RolledCompiler(CompilerBase):
    """Numba's passes, with `_RolledLibrary`."""

    def define_pipelines(self):
        state = self.state
        state.library = _RolledLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return [_passes(state)]


class _PartCompiler(CompilerBase):
    """Numba's passes up to intermediate code."""

    APART = False

    def define_pipelines(self):
        state = self.state
        state.flags.no_compile, state.flags.noalias = True, self.APART
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return [_passes(state)]


class _ApartCompiler(_PartCompiler):
    """The same, with the promise that no array that is written to overlaps another one."""

    APART = True


class Part(_Dispatcher):
    """A function as it is compiled for the kernels that call it."""

    def get_call_template(self, args, kws):
        """Take a constant as any number of its type: functions are not compiled again for each."""
        return super().get_call_template(tuple(map(types.unliteral, args)),
                                         {name: types.unliteral(kind) for name, kind in kws.items()})

    def add_overload(self, cres) -> None:
        """Register the compiled form under a name of its own: there is no entry for Python that could be its name."""
        cres = cres._replace(entry_point=object())
        self.targetctx.insert_user_function(cres.entry_point, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres


class Kernel(_Dispatcher):
    """A function as it is compiled for Python, and stored on disk."""

    #: Whether arrays do not overlap; see `jit`.
    apart = False
    _place_sought = False
    _cache: Any

    def _find_place(self) -> None:
        """Find a place for the compiled code on disk; at the first use, since for all kernels the search takes a while.

        A read-only installation with an unwritable home directory has no place: the function is then compiled in memory
        in each process, with a warning. So it is where the place could hold code of another user.
        """
        if self._place_sought:
            return
        self._place_sought = True
        try:
            self.enable_caching()
        except RuntimeError as error:
            warnings.warn(f"numba cannot cache {self.py_func.__name__} on disk ({error}); compiling in memory",
                          WGFlowWarning, stacklevel=2)
            return
        folder = self._cache.cache_path
        if folder is None:
            return
        stranger = stranger_of(folder, self.py_func.__code__.co_filename)
        if stranger is not None:
            self._cache = NullCache()
            warnings.warn(f"compiled code is not kept in {folder}, since {stranger}; compiling in memory. Set "
                          "NUMBA_CACHE_DIR to a folder of your own", WGFlowWarning, stacklevel=2)
        elif PARTS:
            seal_files(self._cache)

    @cached_property
    def part(self) -> Part:
        """The same function for other kernels."""
        options = {**self.targetoptions, "no_cpython_wrapper": True}
        return Part(self.py_func, targetoptions=options, pipeline_class=_ApartCompiler if self.apart else _PartCompiler)

    @property
    def _numba_type_(self):
        return types.Dispatcher(self.part if PARTS else self)

    def compile(self, sig):
        """Compile for arguments of the types given, unless that is done or stored."""
        with _garbage_kept():
            self._find_place()
            return super().compile(sig)


def jit(function=None, *, unrolled: bool = True, apart: bool = False, **options):
    """Compile like ``numba.njit`` with wgflow's settings: C division, no GIL, cache on disk.

    A kernel with ``unrolled=False`` compiles in less time, and has the same bits. With ``apart=True`` other kernels
    promise, wherever they call the function, that no array which it writes to overlaps another of its arguments: short
    loops over several arrays then vectorize, to the same bits, without a look at where each array lies. Such a function
    takes no slices of its arguments. With the environment variable ``NUMBA_DISABLE_JIT=1`` the function stays Python's,
    for debuggers and coverage; it is as silent about overflow and division by zero as compiled code is.
    """
    if function is None:
        return lambda f: jit(f, unrolled=unrolled, apart=apart, **options)
    if CONFIG.DISABLE_JIT:
        return np.errstate(all="ignore")(function)
    compiler = {"pipeline_class": _RolledCompiler} if PARTS and TUNED and not unrolled else {}
    kernel = Kernel(function, targetoptions={**SETTINGS, **options}, **compiler)
    kernel.apart = apart
    return kernel
