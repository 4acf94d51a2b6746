"""The certificate of a solution: properties checked at every accepted step, from the numbers of the run."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.audit.open_ends import HOLDS, judge_outside
from wgflow.densities import Density
from wgflow.uphill import uphill

__all__ = ["Certificate", "largest_drift", "largest_rise"]

#: Largest relative change of the mass with which ``ok`` is True, for every method.
MASS_TOLERANCE = 1e-13
#: Largest rise of the energy in a step, divided by max(1, |F|), with which ``ok`` is True, for every method.
ENERGY_TOLERANCE = 1e-12
#: Largest relative difference between energy lost and dissipation integrated, for runs with error control.
DISSIPATION_TOLERANCE = 0.05
#: Largest part of the law's path in steps of another scheme than the one asked for with which ``ok`` is True.
SUBSTITUTED_TOLERANCE = 1e-5
#: Largest part of the mass that may have been moved in a step by driving that the step cannot have followed.
DRIVE_TOLERANCE = 0.01
#: Largest distance of the energy lost from the bounds of the dissipation integrated, relative to it.
GAP_TOLERANCE = 0.05
#: A run may miss more of its equation than was expected of it: where it is this many times as much, it has failed.
CLEARLY = 3.0
#: Where more of the mass lies at an end of the grid, what the equation demands there is not resolved.
BOUNDARY_LAYER = 0.2
#: More mass than this at an artificial boundary is mentioned by ``explain``.
BOUNDARY_NOTICE = 1e-6


@dataclass(frozen=True)
class Certificate:
    r"""Checks and measures of a solution, from the run itself.

    Attributes
    ----------
    mass_drift : float
        Largest relative change of the mass over all accepted steps.
    min_density : float
        Smallest cell average of the run; never negative in a valid run. For atoms their smallest weight, a constant.
    max_energy_increase : float
        Largest rise of the free energy in one accepted step, divided by max(1, abs(F)); 0 if it never rose. For
        particles with noise it is the rise of F without its entropy, which may rise and is not judged.
    dissipation_defect : float or None
        :math:`|F(0) - F(T) - \int_0^T D\,dt|` divided by max(1, F(0) - F(T)), with D the dissipation at accepted steps;
        for atoms it is integrated along with their paths. None for particles with noise, which have no entropy.
    boundary_mass : float
        Largest part of the mass ever in the outermost 1 % of the cells at a no-flux end of an axis; for atoms, on a
        bound (other than the origin of a coordinate with a power). Reported; ``mass_outside`` is judged.
    n_accepted, n_rejected, n_fallback : int
        Numbers of accepted steps, of rejected ones, and of accepted ones by the unconditional fallback.
    residual : float
        Largest residual of an inner solver; 0 where the method has none.
    error_estimate : float or None
        Estimated error of the density (L1, relative to the mass). With ``solve(..., error_estimate=True)`` that of
        `Solution.estimate_error` at the end; otherwise the sum of the local time errors, an upper estimate, and None
        for fixed steps.
    error_order, energy_error : float or None
        The order that this estimate observed in the width of the cells, and its error of the last energy; None without
        it (or, of the order, where none was to be seen).
    edi_defect : float or None
        With the JKO method of order 1, the largest :math:`F_{k+1} + W_2^2 / (2 \tau) - F_k` over max(1, abs(F_k)); 0 if
        the energy-dissipation inequality held at every step. None for other methods.
    bias : float or None
        Estimated distance (W2) by which regularization moves the law, summed over the steps; None for methods without
        regularization.
    completed, controlled : bool
        Whether the end of the time span was reached; whether steps were chosen by an error tolerance.
    settings, versions : dict
    atomic, noisy : bool
        Whether the law is represented by atoms; whether these are random particles, a sample of the law. A sample
        proves neither energy decay nor a small error: compare it with error bands (`wgflow.validation.compare`).
    grid_error : float or None
        Largest estimated error of the grid (L1, relative to the mass), of runs with a tolerance for both
        (``FiniteVolume(tol=...)``).
    grid_compared : bool
        Whether it was found by solves on half and a quarter of the cells (`Solution.estimate_grid_error`). Otherwise it
        is told from differences of neighboring cells, which see the density alone: not a kink of U, nor how errors add
        up over the run.
    scheme : str
        Of finite volumes: the order of the fluxes in space, and why it is 2 where it is not 4. Of atoms without noise:
        from when on they rest, if one step was taken from there to the end.
    substituted : float or None
        With the JKO method, the part of the path (the sum of W2 over the steps) in steps of another scheme than the one
        asked for: of first order in place of second, or with the linearized distance in place of the exact one. None
        for other methods.
    equation_defect, equation_bound : float or None
        What the change of a test function's integral misses of what the equation demands, and how much a right run of
        this resolution may miss, both relative to the parts of the demand (`wgflow.audit`); those of the test function
        and the part of the run for which their ratio is largest. None where nothing was audited.
    not_judged : str
        Why the equation could not be judged, and what to do; empty if it was.
    dissipation_gap : float or None
        How far the energy lost (less work) lies outside the integrals of the smaller and of the larger one of the
        dissipations at the two ends of each stretch, relative to it. Inside for every start, also where the dissipation
        is infinite at first. None where the dissipation at the start is not formed.
    n_dissipations : int or None
        After how many of the accepted steps the dissipation was formed: on grids of 4096 cells and more by fixed steps
        and on several axes not after each. The stretches between are longer, and their bounds wider. None where it is
        not known.
    unresolved : str
        Why the cells do not resolve the law at the end (`wgflow.audit.resolution`); empty if they do.
    functionals : tuple of str
        User-defined terms, known by their energy and first variation alone: no scheme guarantees in advance that F
        falls with them; it was checked at each step.
    unseen_pulse : float or None
        Where terms or time_scale change with time: a pulse that is shorter may have gone unseen between the times at
        which they were looked at. Give breakpoints around it (`TimeDependent`), or ``max_step``.
    mass_outside : float or None
        The largest part of the mass that is estimated to lie beyond the ends of the grid that stand for infinity, at
        any time of the run (`wgflow.audit.open_ends`); None where all ends are walls, origins or periodic. The law and
        all its numbers are in error by about as much.
    outside_at : str
        At which end most of it is, in words.
    unbounded : bool
        Whether the coordinates are known to go on beyond these ends, as those of reduced models do. Elsewhere walls
        may be meant, and much mass there cannot be judged.
    missed_drive : float or None
        The largest part of the mass that may have been moved in one step by what was seen of terms that change with
        time, and what the step was too long to follow.
    sample_size : float or None
        Where the initial law was made of samples (`Density.from_samples`), their (effective) number n.
    sample_error : tuple of float
        The standard errors :math:`\sigma / \sqrt n` of the means of such an initial law, one for each axis.
    """

    mass_drift: float
    min_density: float
    max_energy_increase: float
    dissipation_defect: float | None
    boundary_mass: float
    n_accepted: int
    n_rejected: int
    n_fallback: int
    residual: float = 0.0
    error_estimate: float | None = None
    edi_defect: float | None = None
    bias: float | None = None
    error_order: float | None = None
    energy_error: float | None = None
    completed: bool = True
    controlled: bool = False
    settings: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    atomic: bool = False
    noisy: bool = False
    scheme: str = ""
    grid_error: float | None = None
    functionals: tuple[str, ...] = ()
    substituted: float | None = None
    unseen_pulse: float | None = None
    missed_drive: float | None = None
    equation_defect: float | None = None
    equation_bound: float | None = None
    not_judged: str = ""
    dissipation_gap: float | None = None
    n_dissipations: int | None = None
    sample_size: float | None = None
    sample_error: tuple[float, ...] = ()
    unresolved: str = ""
    mass_outside: float | None = None
    outside_at: str = ""
    unbounded: bool = False
    stopped: str = ""
    grid_compared: bool = False

    def checks(self) -> dict[str, tuple[bool | None, str]]:
        """Return each check by its name: True, False, or None if it could not be judged; and a sentence."""
        checks: dict[str, tuple[bool | None, str]] = {
            "completed": (self.completed, "the run stopped before the end of the time span" if not self.completed
                          else f"the run was ended where it was told to: {self.stopped}" if self.stopped
                          else "the end of the time span was reached"),
            "mass": (self.mass_drift <= MASS_TOLERANCE,
                     f"mass changed by {self.mass_drift:.1e} (at most {MASS_TOLERANCE:.0e})"),
            "sign": (self.min_density >= 0, f"the smallest {'weight' if self.atomic else 'cell average'} was "
                     f"{self.min_density:.3g} (at least 0)"),
        }
        if self.mass_outside is not None:
            checks["boundary"] = self._boundary(self.mass_outside)
        if self.substituted is not None:
            checks["scheme"] = (self.substituted <= SUBSTITUTED_TOLERANCE, self._substitution())
        if self.grid_error is not None and self.settings.get("tol"):
            checks["tolerance"] = self._tolerance(self.settings["tol"])
        if self.missed_drive is not None:
            checks["drive"] = (self.missed_drive <= DRIVE_TOLERANCE,
                               f"what a step could not follow of terms that change with time moved up to "
                               f"{self.missed_drive:.1e} of the mass (at most {DRIVE_TOLERANCE:g})"
                               + ("" if self.missed_drive <= DRIVE_TOLERANCE else "; take shorter steps"))
        if self.not_judged or self.equation_defect is not None:
            checks["equation"] = self._equation()
        if self.unresolved:
            checks["resolution"] = None, self.unresolved
        if self.noisy:
            return checks
        checks["energy"] = (self.max_energy_increase <= ENERGY_TOLERANCE,
                       f"the largest rise of the free energy in a step was {self.max_energy_increase:.1e} "
                       f"of max(1, |F|) (at most {ENERGY_TOLERANCE:.0e})")
        if self.dissipation_gap is not None:
            where = "within" if self.dissipation_gap == 0 else f"{self.dissipation_gap:.1e} outside"
            formed = ("" if self.n_dissipations is None or self.n_dissipations >= self.n_accepted
                      else f", formed after {self.n_dissipations} of {self.n_accepted} steps")
            checks["dissipation"] = (
                self.dissipation_gap <= GAP_TOLERANCE or not self.controlled,
                f"the energy lost lies {where} the bounds of the dissipation integrated{formed} "
                + (f"(at most {GAP_TOLERANCE:g} outside)" if self.controlled
                   else "(fixed steps: reported, not judged)"))
        elif self.dissipation_defect is not None and self.controlled:
            checks["dissipation"] = (
                self.dissipation_defect <= DISSIPATION_TOLERANCE,
                f"energy lost and dissipation integrated differ by {self.dissipation_defect:.1e} "
                f"(at most {DISSIPATION_TOLERANCE:g})")
        return checks

    def _boundary(self, outside: float) -> tuple[bool | None, str]:
        """Return whether the ends that stand for infinity are far enough away, and a sentence."""
        tol = self.settings.get("tol")
        allowed = tol if tol else (self.error_estimate or 0.0) + (self.grid_error or 0.0)
        answer = judge_outside(outside, self.unbounded, allowed, sample=self.noisy)
        part = f"an estimated part {outside:.1e}" if outside else "less than 1e-06"
        if answer:
            within = f" (the run may be off by {allowed:.1e} anyway)" if outside > HOLDS else ""
            return True, f"{part} of the mass lies beyond the ends of the grid, which stand for infinity{within}"
        if self.unbounded:
            return answer, (f"{part} of the mass lies beyond the ends of the grid, which stand for infinity, most of "
                            f"it at {self.outside_at}: enlarge the grid there")
        return answer, (f"{part} of the mass lies beyond the ends of the grid if they stand for infinity, most of it "
                        f"at {self.outside_at}: enlarge the grid there, or say boundary='no-flux' if the domain ends "
                        "there")

    def _substitution(self) -> str:
        """Return a sentence on the steps of another scheme than the one asked for."""
        if not self.n_fallback:
            return "every step was taken by the scheme asked for"
        words = (f"{self.n_fallback} of {self.n_accepted} steps, {self.substituted:.1e} of the path, were taken by "
                 f"another scheme than the one asked for (at most {SUBSTITUTED_TOLERANCE:.0e} of the path)")
        passed = self.substituted is not None and self.substituted <= SUBSTITUTED_TOLERANCE
        return words if passed else words + "; take a smaller tau, or on one axis inner='quantile'"

    def _equation(self) -> tuple[bool | None, str]:
        """Return whether the run solves its equation, and a sentence."""
        words = ""
        if self.equation_defect is not None and self.equation_bound is not None:
            words = (f"tested in weak form, the equation holds up to {self.equation_defect:.1e} of its terms (at most "
                     f"{self.equation_bound:.1e} at this resolution)")
            missed = (f"tested in weak form, the equation misses {self.equation_defect:.1e} of its terms (at most "
                      f"{self.equation_bound:.1e} at this resolution)")
            layer = self.boundary_mass > BOUNDARY_LAYER
            if self.equation_defect > CLEARLY * self.equation_bound and not layer:
                return False, f"{missed}: another equation was solved, or something happens between the steps"
            if self.equation_defect > self.equation_bound:
                return None, f"{missed}: " + (
                    "mass is pressed against an end of the grid, within cells" if layer else
                    "its errors are larger than estimated, or its equation is wrong by a few percent; take more "
                    f"{'particles' if self.noisy else 'atoms' if self.atomic else 'cells'}, or shorter steps, and look "
                    "whether this goes away")
        if self.not_judged and self.noisy:
            return True, f"the equation could not be judged (a sample: reported): {self.not_judged}"
        if self.not_judged and not self.controlled:
            return True, f"the equation could not be judged (fixed steps: reported): {self.not_judged}"
        if self.not_judged:
            return None, f"the equation could not be judged: {self.not_judged}"
        return True, words

    def _tolerance(self, tol: float) -> tuple[bool, str]:
        """Return whether the estimated errors are within a tolerance, and a sentence."""
        grid, time = self.grid_error or 0.0, self.error_estimate or 0.0
        order = 4.0 if "fourth" in self.scheme else 2.0
        how = "" if self.grid_compared else ", by the differences of neighboring cells,"
        words = (f"estimated errors (L1): {grid:.1e} of the grid{how} and {time:.1e} of the steps "
                 f"(together at most {tol:g})")
        if grid + time > tol and grid > 0.5 * tol:
            words += f"; take {(2.0 * grid / tol) ** (1.0 / order):.2g} times the cells of each axis"
        return grid + time <= tol, words

    @property
    def verdict(self) -> str:
        """``"failed"`` if a check failed, else ``"not judged"`` if one could not be judged, else ``"holds"``."""
        answers = [answer for answer, _ in self.checks().values()]
        return "failed" if False in answers else "not judged" if None in answers else "holds"

    @property
    def ok(self) -> bool:
        """Whether every check holds: the verdict is "holds"."""
        return self.verdict == "holds"

    def explain(self) -> str:
        """Return the certificate in words."""
        heads = {"holds": "all checks passed", "failed": "NOT ALL CHECKS PASSED",
                 "not judged": "nothing failed, but not everything could be judged"}
        marks = {True: "ok  ", False: "FAIL", None: "?   "}
        lines = [f"certificate: {heads[self.verdict]}"]
        lines += [f"  {marks[answer]} {text}" for answer, text in self.checks().values()]
        lines.append(f"  {self.n_accepted} steps accepted, {self.n_rejected} rejected, "
                     f"{self.n_fallback} by the fallback")
        if self.scheme:
            lines.append(f"  {self.scheme}")
        if self.energy_error is not None:
            order = "" if self.error_order is None else f", observed order {self.error_order:.2f}"
            lines.append(f"  estimated error {self.error_estimate:.1e} of the density (L1), {self.energy_error:.1e} of "
                         f"the energy (Richardson{order})")
        elif self.error_estimate is not None:
            lines.append(f"  estimated time error {self.error_estimate:.1e} (L1, summed over the run)")
        if self.unseen_pulse is not None:
            lines.append(f"  what changes with time was looked at every {self.unseen_pulse:.2g} or more often: shorter "
                         "pulses may have gone unseen")
        if self.sample_size is not None:
            errors = ", ".join(f"{error:.1e}" for error in self.sample_error)
            lines.append(f"  the initial law is one of {self.sample_size:.6g} samples: its means are known up to "
                         f"{errors} (one standard error); solution.estimate_error() carries it through the flow")
        if self.residual:
            lines.append(f"  largest residual of the inner solver {self.residual:.1e}")
        if self.edi_defect is not None:
            lines.append("  F(k+1) + W2^2/(2 tau) <= F(k) held at every step" if self.edi_defect <= 0 else
                         f"  F(k+1) + W2^2/(2 tau) exceeded F(k) by at most {self.edi_defect:.1e} of max(1, |F|)")
        if self.dissipation_defect is not None and "dissipation" not in self.checks():
            lines.append(f"  energy lost and dissipation integrated differ by {self.dissipation_defect:.1e} (fixed "
                         "steps: reported, not judged)")
        if self.bias is not None:
            lines.append(f"  regularization moved the law by about {self.bias:.1e} (W2, summed over the steps)")
        if self.functionals:
            lines.append(f"  note: that F falls with {', '.join(self.functionals)} was checked at each step; no scheme "
                         "guarantees it in advance")
        if self.noisy:
            lines.append("  note: a random sample of the law, whose energy and dissipation are not judged")
        if self.mass_outside is None and self.atomic and self.boundary_mass > BOUNDARY_NOTICE:
            lines.append(f"  note: up to {self.boundary_mass:.1e} of the mass lay on a bound of a coordinate")
        elif self.mass_outside is None and self.boundary_mass > BOUNDARY_NOTICE:
            lines.append(f"  note: up to {self.boundary_mass:.1e} of the mass lay at a wall of the grid, in 1 % of its "
                         "cells")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """Return all fields as plain numbers, strings and dictionaries, with ``ok`` and ``verdict``."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"ok": self.ok, "verdict": self.verdict}

    def __repr__(self) -> str:
        defect = "" if self.dissipation_defect is None else f", dissipation defect {self.dissipation_defect:.1e}"
        return (f"Certificate({self.verdict}: {self.n_accepted} steps, mass drift {self.mass_drift:.1e}, least density "
                f"{self.min_density:.1e}, energy rise {self.max_energy_increase:.1e}{defect})")

    def _repr_html_(self) -> str:
        return str(uphill("wgflow.pictures.html", "certificate_html")(self))


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    from importlib.metadata import PackageNotFoundError, version

    found = [("python", platform.python_version()), ("machine", platform.machine())]
    for name in ("wgflow", "numpy", "scipy", "numba"):
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "unknown"))
    return tuple(found)


def library_versions() -> dict[str, str]:
    """Return the versions of Python, wgflow and the libraries on which the numbers depend, in a table of one's own."""
    return dict(_versions())


def largest_rise(energy: np.ndarray) -> float:
    """Return the largest rise of an energy in a step, over max(1, abs(F)); 0 if it never rose, NaN if one is NaN.

    From infinity, as of atoms in one place that repel each other, nothing rises.
    """
    before = energy[:-1]
    with np.errstate(all="ignore"):
        rises = np.where(np.isposinf(before), 0.0, np.diff(energy) / np.maximum(1.0, np.abs(before)))
    return float(np.max(rises, initial=0.0))


def largest_drift(mass: np.ndarray) -> float:
    """Return the largest change of a mass, relative to the first; not finite if that is 0 or one is NaN."""
    with np.errstate(all="ignore"):
        return float(np.abs(mass / mass[0] - 1).max())


def boundary_mass(masses: np.ndarray, grid) -> float:
    """Return the largest part of the mass in the outermost 1 % of the cells (at least one) at a no-flux end of an axis.

    The lower end of a weighted axis that starts at 0 is the origin of a radius, not an artificial boundary.
    """
    largest = 0.0
    for axis in range(grid.ndim):
        if grid.periodic[axis]:
            continue
        count, natural = max(1, grid.shape[axis] // 100), grid.log_weight is not None and grid.edges[axis][0] == 0.0
        if masses.ndim == count == 1:
            low, high = masses.item(0), masses.item(-1)
        else:
            lines = masses.swapaxes(0, axis)
            low, high = float(lines[:count].sum()), float(lines[-count:].sum())
        largest = max(largest, high, 0.0 if natural else low)
    return largest / float(masses.sum())


def mass_on_bounds(points: np.ndarray, rho) -> float:
    """Return the largest part of the mass of atoms, moved to ``points``, that lies on a bound.

    The origin of a coordinate with a power, a radius, is not an artificial bound.
    """
    largest = 0.0
    for x, (lo, hi), power, periodic in zip(points, rho.bounds, rho.powers, rho.periodic):
        if not periodic:
            low = 0.0 if power > 0 and lo == 0.0 else float(rho.weights[x <= lo].sum())
            largest = max(largest, low, float(rho.weights[x >= hi].sum()))
    return largest / float(rho.weights.sum())


def of_sample(rho: Density | Atoms) -> dict[str, Any]:
    """Return what a certificate says of an initial law that was made of samples."""
    if not isinstance(rho, Density) or rho.sample_size is None:
        return {}
    variances = np.diag(np.atleast_2d(rho.cov()))
    return {"sample_size": rho.sample_size, "sample_error": tuple(np.sqrt(variances / rho.sample_size).tolist())}
