"""Sweeps that are described by a TOML file: a function in a Python file, the lists of its parameters, a seed.

    function = "mine/widths.py:risk"
    seed = 7

    [parameters]
    n_neurons = [100, 400, 1600]
    step_size = [1e-4, 1e-3]
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wgflow.errors import InvalidInput
from wgflow.files.archives import open_regular
from wgflow.files.texts import read_toml

from .result import SweepResult
from .sweeping import sweep

__all__ = ["FileFunction", "function_in_file", "sweep_from_file"]

KEYS = {"function", "parameters", "seed"}


@dataclass(frozen=True)
class FileFunction:
    """A function in a Python file, which each process loads for itself.

    Attributes
    ----------
    path : str
    name : str
    digest : str
        SHA-256 of the file, by which kept results are found: a change anywhere in it is another function.
    """

    path: str
    name: str
    digest: str

    def __call__(self, **arguments: Any) -> Any:
        """Call the function."""
        return self.load()(**arguments)

    def load(self) -> Callable[..., Any]:
        """Return the function.

        Raises
        ------
        InvalidInput
            If the file has no function of that name, or has changed since the sweep began.
        """
        if _digest(Path(self.path)) != self.digest:
            raise InvalidInput(f"{self.path} has changed while the sweep was running; start the sweep again")
        module = sys.modules.get(f"sweep_{self.digest}")
        if module is None:
            spec = importlib.util.spec_from_file_location(f"sweep_{self.digest}", self.path)
            if spec is None or spec.loader is None:
                raise InvalidInput(f"{self.path} is not a Python file; need one whose name ends in .py")
            module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                raise InvalidInput(f"{self.path} cannot be imported: {type(error).__name__}: {error}") from error
            sys.modules[spec.name] = module
        found = getattr(module, self.name, None)
        if not callable(found):
            raise InvalidInput(f"{self.path} has no function {self.name}")
        return found


def sweep_from_file(path: Path, **settings: Any) -> SweepResult:
    """Run the sweep that a TOML file describes.

    Parameters
    ----------
    path : Path
        With the keys ``function`` ("file.py:name", the file relative to the TOML file), ``[parameters]`` (a list for
        each argument) and, if the function draws random numbers, ``seed``.
    **settings
        Of `sweep`: ``folder``, ``executor``, ``retries``, ``progress``, ``throw``.

    Raises
    ------
    InvalidInput
        If the file is not such a description, or longer than any is.
    StorageError
        If it or the file of the function cannot be read.
    """
    plan = read_toml(path)
    unknown = sorted(set(plan) - KEYS)
    if unknown:
        raise InvalidInput(f"{path} has the key {unknown[0]!r}; there are {', '.join(sorted(KEYS))}")
    function = function_in_file(str(plan.get("function", "")), path, "function")
    return sweep(function, plan.get("parameters", {}), rng=plan.get("seed"), **settings)


def function_in_file(text: str, path: Path, key: str) -> FileFunction:
    """Return the function that a key of a TOML file names as "file.py:name"; the Python file is imported.

    Parameters
    ----------
    text : str
        What the key says; the Python file is relative to the TOML file.
    path : Path
        The TOML file.
    key : str
        The key, for messages.

    Raises
    ------
    InvalidInput
        If the text is not of that form, the file cannot be imported, or has no function of that name.
    StorageError
        If the Python file cannot be read.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place.endswith(".py") or "\0" in place or not name.isidentifier():
        raise InvalidInput(f"{path}: {key}={text!r}; need \"file.py:name\"")
    source = (path.parent / place).resolve()
    function = FileFunction(str(source), name, _digest(source))
    function.load()
    return function


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.sha256(file.read()).hexdigest()
