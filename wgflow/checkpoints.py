"""Checkpoints of runs: `Checkpoint`, which writes them, and `resume`, which takes them up."""

from wgflow.files.checkpoints import Checkpoint
from wgflow.resuming import resume

__all__ = ["Checkpoint", "resume"]
