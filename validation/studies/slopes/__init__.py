"""How the error between SGD and its mean field falls: with neurons, step size, dimension, time and noise convention.

Each function takes any reduced model and returns data, fits with intervals, and a picture; the experiment
``wgflow reproduce error-against-neurons`` applies the first to a model of the literature and judges its slopes.
"""

from __future__ import annotations

from .dimensions import error_against_dimension
from .fits import SlopeFit, fit_slope
from .horizons import error_against_time, growth_rate
from .neurons import error_against_neurons
from .noise import NoiseConventions, noise_conventions
from .results import ErrorStudy
from .steps import error_against_step_size

__all__ = ["ErrorStudy", "NoiseConventions", "SlopeFit", "error_against_dimension", "error_against_neurons",
           "error_against_step_size", "error_against_time", "fit_slope", "growth_rate", "noise_conventions"]
