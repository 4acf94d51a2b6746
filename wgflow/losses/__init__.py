"""Losses l(y, f) of a label y and an output f: values, derivatives in f, and convex conjugates."""

from .base import KernelLoss, Loss, from_functions
from .named import Exponential, Huber, Logistic, SmoothHinge, Square

__all__ = ["Exponential", "Huber", "KernelLoss", "Logistic", "Loss", "SmoothHinge", "Square", "from_functions"]
