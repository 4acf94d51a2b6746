"""What a report of results needs beside the numbers: the versions they were computed with, and whom to cite."""

from __future__ import annotations

from .citations import cite
from .environment import environment

__all__ = ["cite", "environment"]
