"""Solutions on disk: `save`, `load` and `to_dataset`; the code is in `wgflow.files.solutions`."""

from wgflow.files.solutions import load, save, to_dataset

__all__ = ["load", "save", "to_dataset"]
