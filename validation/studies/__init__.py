"""The experiments of the mean-field literature, each reproduced from first principles and judged.

``wgflow reproduce NAME`` runs one from the command line; in Python ``get(name).run(folder)`` returns a `StudyReport`.
"""

from __future__ import annotations

import importlib

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
    "demo": "demo",
}


def names() -> tuple[str, ...]:
    """Return the names of all studies."""
    return tuple(_HOMES)


def get(name: str) -> Study:
    """Return the study of a name.

    Raises
    ------
    InvalidInput
        If there is none; the message lists those there are.
    """
    if name not in _HOMES:
        raise InvalidInput(f"no study is called {name!r}; there are {', '.join(_HOMES)}")
    return importlib.import_module(f"{__name__}.{_HOMES[name]}").STUDY
