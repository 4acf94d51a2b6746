"""Exceptions of wgflow: a message names the argument, the value, the rule and the fix.

An exception that is raised during a solve has ``.partial``, the Solution up to the last accepted step, so that nothing
computed is lost.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConvergenceError",
    "InvalidInput",
    "InvalidType",
    "ResourceError",
    "StorageError",
    "WGFlowError",
    "WGFlowWarning",
]


class WGFlowError(Exception):
    """Base class of all wgflow exceptions.

    Attributes
    ----------
    partial : Solution, SweepResult or None
        The solution up to the error, if a solve was under way; of a sweep whose items failed, the result of the others.
    """

    partial: Any = None


class InvalidInput(WGFlowError, ValueError):
    """An argument has a value that the mathematics or the method does not allow."""


class InvalidType(InvalidInput, TypeError):
    """An argument is of a kind that cannot be used (a string for a number, complex for real)."""


class ConvergenceError(WGFlowError, RuntimeError):
    """A solve could not continue, or missed its tolerance.

    Parameters
    ----------
    message : str
        Sentence on what happened, where, and what to change.
    reason : str
        One of ``"step too small"``, ``"max steps"``, ``"non-finite"``, ``"callback"``, ``"blow-up"``, ``"mass"``,
        ``"energy increase"``, ``"time limit"``, ``"tolerance"``, ``"bound"``.
    t, dt : float, optional
        Time and step at which it happened.
    """

    def __init__(self, message: str, *, reason: str = "tolerance", t: float | None = None, dt: float | None = None):
        super().__init__(message)
        self.reason, self.t, self.dt = reason, t, dt


class ResourceError(WGFlowError, MemoryError):
    """The request needs more memory than is allowed; raised before anything large is allocated."""


class StorageError(WGFlowError, OSError):
    """A file could not be written, read or trusted."""


class WGFlowWarning(UserWarning):
    """The input is legal, but probably not what was meant."""
