"""How functionals of particles scatter about the mean field: the central limit theorem of the empirical law."""

from .prediction import Scatter, predict_scatter

__all__ = ["Scatter", "predict_scatter"]
