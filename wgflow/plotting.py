"""Pictures in a common style; the code is in `wgflow.pictures`.

Figures are made without pyplot, so that nothing global changes and no window or display is needed. Every function
returns the ``matplotlib.figure.Figure`` and writes it if given a path (PNG, PDF, SVG by its ending).
"""

from wgflow.pictures.atoms import plot_atoms
from wgflow.pictures.comparisons import plot_comparison
from wgflow.pictures.drifts import plot_drift
from wgflow.pictures.energies import plot_energy
from wgflow.pictures.figures import (
    ALARM,
    FAINT,
    FLOW,
    INK,
    PARTICLE,
    STYLE,
    new_figure,
    save_figure,
    time_axis,
    visible_range,
)
from wgflow.pictures.laws import plot_law
from wgflow.pictures.movies import animate_solution
from wgflow.pictures.solutions import plot_solution

__all__ = ["ALARM", "FAINT", "FLOW", "INK", "PARTICLE", "STYLE", "animate_solution", "new_figure", "plot_atoms",
           "plot_comparison", "plot_drift", "plot_energy", "plot_law", "plot_solution", "save_figure", "time_axis",
           "visible_range"]
