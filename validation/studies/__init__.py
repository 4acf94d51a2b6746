"""The experiments of the mean-field literature, each reproduced from first principles and judged.

``wgflow reproduce NAME`` runs one from the command line; in Python ``get(name).run(folder)`` returns a `StudyReport`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from wgflow.calls.explained import nearest
from wgflow.errors import InvalidInput

from .base import Check, Study, StudyReport, Table

__all__ = ["Check", "Study", "StudyReport", "Table", "get", "names"]

#: Each study by its name on the command line, and its module.
_HOMES = {
    "isotropic-histogram": "isotropic_histogram",
    "isotropic-animation": "isotropic_animation",
    "anisotropic-relu": "anisotropic_relu",
    "predicting-failure": "predicting_failure",
    "noisy-sgd": "noisy_sgd",
    "finite-width": "finite_width",
    "desai-zwanzig": "desai_zwanzig",
    "kuramoto": "kuramoto",
    "logistic-training": "logistic_training",
    "error-against-neurons": "slopes.neurons",
    "error-against-step-size": "slopes.steps",
    "error-against-dimension": "slopes.dimensions",
    "error-against-time": "slopes.horizons",
    "noise-conventions": "slopes.noise",
    "mean-field-against-kernel": "mean_field_against_kernel",
    "ntk-error": "ntk_error",
    "double-descent": "static.double_descent",
    "max-margin": "static.max_margin",
    "quadratic-target": "static.quadratic_target",
    "staircase": "static.staircase",
    "demo": "demo",
}


def names() -> tuple[str, ...]:
    """Return the names of all studies."""
    return tuple(_HOMES)


def get(name: str) -> Study:
    """Return the study of a name, or the one in a Python file of one's own.

    Parameters
    ----------
    name : str
        One of `names`, or the path of a file (``mine/study.py``) that defines ``STUDY``.

    Raises
    ------
    InvalidInput
        If there is none; the message lists those there are.
    """
    module = _module_of(name)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise InvalidInput(f"{name} has no STUDY; end the file with STUDY = YourStudy()")
    return study


def _module_of(name: str) -> ModuleType:
    if name.endswith(".py"):
        path = Path(name)
        # A name of its own: a file called random.py must not stand in for another module.
        spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise InvalidInput(f"no study: there is no file {name}")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickles look their module up by its name.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    if name not in _HOMES:
        near = nearest(str(name), _HOMES)
        raise InvalidInput(f"no study is called {name!r}; {f'did you mean {near}? ' if near else ''}there are "
                           f"{', '.join(_HOMES)}, and files that end in .py")
    home = f"{__name__}.{_HOMES[name]}"
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name != home:
            raise
        raise InvalidInput(f"the table of studies has {name!r} in {home}, which is not there") from error
