"""Pictures that several studies share; each carries the conventions it was made with."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgflow import plotting
from wgflow.densities import Density
from wgflow.errors import StorageError
from wgflow.solution import Solution

from ..particles import SGDResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["animate_against_particles", "save_picture"]

#: Colors of an animation; a file with one table of few colors is half as large.
_COLORS = 32
#: Letters of the conventions that fit into an inch.
_LETTERS_AN_INCH = 17


def save_picture(figure: Figure, path: Path, conventions: str) -> Path:
    """Write the conventions under a figure, and the figure to a file, and return the path."""
    width = int(_LETTERS_AN_INCH * figure.get_size_inches()[0])
    figure.supxlabel("\n".join(textwrap.wrap(conventions, width)), x=0.01, ha="left", fontsize=7.5,
                     color=plotting.FAINT)
    plotting.save_figure(figure, path)
    return path


def animate_against_particles(sol: Solution, sgd: SGDResult, path: Path, conventions: str, *, fps: int = 10) -> Path:
    """Write a GIF of a one-dimensional density with the histogram of all neurons over it, a frame for each ``sgd.t``.

    Parameters
    ----------
    sol : Solution
        With densities at the times of ``sgd``.
    sgd : SGDResult
    path : Path
        Ends in ``.gif``.
    conventions : str
        Printed under every frame.
    fps : int
        Frames a second.
    """
    import matplotlib as mpl
    from matplotlib.animation import PillowWriter

    laws = [rho for rho in map(sol.density, sgd.t) if isinstance(rho, Density)]
    low, high = plotting.visible_range(laws)
    bins = np.linspace(low, high, 41)
    # A density that ends as a spike would flatten all other frames. The legend has a line of its own above the curves.
    top = 1.25 * min(max(float(law.values.max()) for law in laws), 4 * np.median([law.values.max() for law in laws]))
    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(5.6, 4.0)
        axes = figure.add_subplot()
        note = "\n".join(textwrap.wrap(conventions, int(_LETTERS_AN_INCH * 5.6)))
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7, color=plotting.FAINT)
        writer = PillowWriter(fps=fps)
        try:
            with writer.saving(figure, str(path), dpi=100):
                for j, law in enumerate(laws):
                    axes.clear()
                    x = np.ravel(sgd.coordinates[:, j, :, 0])
                    axes.stairs(np.histogram(x, bins)[0] / (x.size * np.diff(bins)), bins, fill=True,
                                color=plotting.PARTICLE, alpha=0.55, label=f"SGD, N = {sgd.n_neurons}")
                    axes.plot(law.grid.centers[0], law.values, color=plotting.FLOW, label="PDE")
                    axes.set_xlim(low, high)
                    axes.set_ylim(0, top)
                    axes.set_xlabel("|w|")
                    axes.set_ylabel("density")
                    risk = float(np.mean(sgd.risk[:, j]))
                    axes.set_title(f"t = {sgd.t[j]:.3g}    risk of the network {risk:.3f}, "
                                   f"of the PDE {sgd.model.risk(law):.3f}")
                    axes.legend(loc="upper right", ncols=2)
                    writer.grab_frame()
            _share_colors(path, fps)
        except OSError as error:
            raise StorageError(f"cannot write the animation {path}: {error}") from error
    return path


def _share_colors(path: Path, fps: int) -> None:
    """Write a GIF again with one table of colors for all frames, that of the frame in the middle."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    table = frames[len(frames) // 2].quantize(_COLORS, method=Image.Quantize.MAXCOVERAGE)
    first, *others = (frame.quantize(palette=table, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=1000 // fps, loop=0, optimize=True)
