"""The PDE held against particles: laws and risks at every time, each against a computed band."""

from .comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
