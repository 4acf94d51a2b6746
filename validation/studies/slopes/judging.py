"""What the experiments of this folder share: checks of slopes, and reports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wgflow.errors import InvalidInput

from ..base import Check, StudyReport, Table
from .results import ErrorStudy

__all__ = ["HALF_WIDTH", "at_least_as_fast", "no_growth", "report_of", "runs_folder", "slope_check", "slope_is"]

#: Of the band about the slope that the theory predicts.
HALF_WIDTH = 0.05


def runs_folder(folder: Path, fresh: bool) -> Path:
    """Return the folder in which an experiment keeps its runs, emptied of them if they are to be made again."""
    runs = folder / "runs"
    if fresh:
        for item in runs.glob("item-*.npz"):
            item.unlink(missing_ok=True)
    return runs


def slope_check(label: str, study: ErrorStudy, quantity: str, kind: str, t: float, center: float,
                half_width: float = HALF_WIDTH) -> Check:
    """Judge whether a fitted slope lies in ``center`` +- ``half_width``."""
    words = f"{label}, t = {t:g}: {kind} of {quantity} has slope "
    try:
        fit = study.slope(quantity, kind, t)
    except InvalidInput as error:
        return Check(f"{words}none: {error}", False)
    return Check(f"{words}{fit}, predicted {center:g}, band {half_width:g}", fit.within(center, half_width))


def at_least_as_fast(label: str, study: ErrorStudy, quantity: str, t: float, slope: float = -0.5) -> Check:
    """Judge whether an error falls at least as fast as a power of the parameter."""
    fit = study.slope(quantity, "error", t)
    return Check(f"{label}, t = {t:g}: error of {quantity} has slope {fit}, at most {slope:g} + {HALF_WIDTH:g}",
                 fit.slope <= slope + HALF_WIDTH)


def slope_is(label: str, study: ErrorStudy, quantity: str, kind: str, t: float, slope: float, precision: float,
             level: float) -> Check:
    """Judge whether the interval of a slope holds the predicted one, and is narrow enough to say so.

    Parameters
    ----------
    slope : float
        The predicted one.
    precision : float
        Half the width that the interval may have: a wide one would hold anything.
    level : float
        Of the interval.
    """
    words = f"{label}, t = {t:g}: {kind} of {quantity} has slope "
    try:
        fit = study.slope(quantity, kind, t, level=level)
    except InvalidInput as error:
        return Check(f"{words}none: {error}", False)
    return Check(f"{words}{fit}, predicted {slope:g}, known to {precision:g} or better",
                 fit.contains(slope) and fit.high - fit.low <= 2.0 * precision)


def no_growth(label: str, study: ErrorStudy, quantity: str, t: float, precision: float, level: float) -> Check:
    """Judge whether the interval of an error's slope allows that it does not grow with the parameter."""
    fit = study.slope(quantity, "error", t, level=level)
    return Check(f"{label}, t = {t:g}: error of {quantity} has slope {fit}, at most 0, known to {precision:g} or "
                 "better", fit.low <= 0.0 and fit.high - fit.low <= 2.0 * precision)


def report_of(name: str, title: str, conventions: str, checks: Iterable[Check], studies: dict[str, ErrorStudy],
              pictures: tuple[Path, ...], tables: dict[str, Table] | None = None) -> StudyReport:
    """Return the report of an experiment: every study adds its data, its slopes, its notes and its certificates."""
    found, words, judged = dict(tables or {}), {}, list(checks)
    for label, study in studies.items():
        judged.append(Check(f"{label}: the certificates of the mean-field flows", study.certified))
        judged += [Check(f"{label}: {note}", False) for note in study.notes if study.certified]
        found[f"{label} slopes"], found[f"{label} errors"] = study.slopes(), study.table
        for k, sol in enumerate(study.solutions):
            words[f"{label}, flow {k + 1}"] = sol.certificate.explain()
    return StudyReport(name, title, conventions, tuple(judged), found, words, pictures)
