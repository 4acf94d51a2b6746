"""Regression with a Kullback-Leibler penalty: the limit of noisy gradient descent with weight decay."""

from .complexity import ComplexityBounds
from .duality import RegularizedMinimum
from .network import KernelFloor, KLRegularizedNetwork

__all__ = ["ComplexityBounds", "KLRegularizedNetwork", "KernelFloor", "RegularizedMinimum"]
