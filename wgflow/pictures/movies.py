"""Movies of solutions: animated GIF, MP4 where ffmpeg is installed, or a page of HTML."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.errors import InvalidInput, StorageError
from wgflow.progress import Progress, Reporter, check_progress

from .figures import STYLE, new_figure
from .solutions import frame_of

__all__ = ["animate_solution"]

#: What stands on the buttons of a page.
BUTTONS = {"minus": "slower", "fast-backward": "|&lt;&lt;", "step-backward": "|&lt;", "backward": "&lt;",
           "pause": "stop", "play": "&gt;", "step-forward": "&gt;|", "fast-forward": "&gt;&gt;|", "plus": "faster"}


def animate_solution(sol: Any, path: Any, *, frames: int = 60, fps: int = 12,
                     progress: Progress = False) -> Path:
    """Write the path of laws as a movie (one or two axes); return the file's path.

    Parameters
    ----------
    sol : Solution
    path : path-like
        Ends in ``.gif``, ``.html`` (a page with a slider over time and buttons, its pictures inside, which needs no
        network) or, where the program ffmpeg is found, ``.mp4``.
    frames, fps : int, optional
        Largest number of snapshots, and number of them a second.
    progress : bool or callable
        As in `wgflow.solve`; a function is called with the frames that are done, and all of them.

    Raises
    ------
    InvalidInput
        If the path has another ending, ffmpeg is needed and missing, or the solution has more than two axes.
    StorageError
        If the file cannot be written.
    """
    import matplotlib as mpl

    path, progress = Path(path), check_progress(progress)
    ndim = sol.densities[0].ndim if sol.is_atomic else sol.grid.ndim
    if ndim > 2:
        raise InvalidInput(f"animations show one or two axes, the solution has {ndim}: animate a marginal")
    chosen = np.unique(np.linspace(0, sol.t.size - 1, min(frames, sol.t.size)).astype(int))
    with mpl.rc_context(STYLE):
        writer = _writer(path, fps)
        figure = new_figure(5.2, 3.8 if ndim == 1 else 4.6)
        axes = figure.add_subplot()
        try:
            with writer.saving(figure, str(path), dpi=100), Reporter("movie", progress) as report:
                frame = frame_of(sol, chosen)
                for k, i in enumerate(chosen):
                    axes.clear()
                    frame(axes, int(i))
                    writer.grab_frame()
                    report(k + 1, len(chosen))
            if path.suffix.lower() == ".html":
                path.write_text(_alone(path.read_text(encoding="utf-8")), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write the animation {path}: {error}") from error
    return path


def _alone(page: str) -> str:
    """Return a page of matplotlib's with letters on its buttons, whose icons would come from the network."""
    page = re.sub(r'<link rel="stylesheet"\s+href="https?://[^"]*">', '<meta charset="utf-8">', page)
    page = page.replace("padding: 0;\n    width: 36px;", "padding: 0 4px;\n    min-width: 36px;")  # the words are wider
    return re.sub(r'<i class="fa fa-([a-z-]+)(?: fa-flip-horizontal)?"></i>',
                  lambda found: BUTTONS["backward" if "flip" in found[0] else found[1]], page)


def _writer(path: Path, fps: int) -> Any:
    """Return matplotlib's writer of a kind of file."""
    from matplotlib.animation import FFMpegWriter, HTMLWriter, PillowWriter

    suffix = path.suffix.lower()
    if suffix == ".gif":
        return PillowWriter(fps=fps)
    if suffix == ".html":
        return HTMLWriter(fps=fps, embed_frames=True, default_mode="loop")
    if suffix != ".mp4":
        raise InvalidInput(f"path must end in .gif, .html or .mp4, got {path.name!r}")
    if not FFMpegWriter.isAvailable() and not _use_bundled_ffmpeg():
        raise InvalidInput(f"path={path.name!r}: MP4 is written by the program ffmpeg, which is not found; install "
                           "it (or pip install imageio-ffmpeg), or write a .html or a .gif")
    return FFMpegWriter(fps=fps)


def _use_bundled_ffmpeg() -> bool:
    """Let matplotlib use the ffmpeg that the package imageio-ffmpeg brings, until its settings are restored."""
    import matplotlib as mpl

    try:
        mpl.rcParams["animation.ffmpeg_path"] = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True
