"""Checkpoints of runs: `Checkpoint` and `resume`; the code is in `wgflow.files.checkpoints`."""

from wgflow.files.checkpoints import Checkpoint, resume

__all__ = ["Checkpoint", "resume"]
