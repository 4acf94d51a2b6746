"""Sweeps: one function at many parameters, on the processes of this machine or on a cluster, with restart."""

from __future__ import annotations

from .result import SweepResult
from .sweeping import sweep

__all__ = ["SweepResult", "sweep"]
