"""Errors of a solution's numbers: of the grid, of the steps, of the box, of a sample it started from."""

from .result import ErrorBar, ErrorEstimate

__all__ = ["ErrorBar", "ErrorEstimate"]
