"""The catalogue of exact solutions, run and judged."""

from .catalogue import families
from .report import Verification, Verified, check_path
from .runs import verify

__all__ = ["Verification", "Verified", "check_path", "families", "verify"]
