"""Checkpoints of runs: `Checkpoint` writes them, `resume` continues from them."""

from wgflow.files.checkpoints import Checkpoint
from wgflow.resuming import resume

__all__ = ["Checkpoint", "resume"]
