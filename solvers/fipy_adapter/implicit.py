"""Implicit steps by FiPy, on any of its meshes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import ConvergenceError

__all__ = ["Array", "Implicit", "quiet"]

#: Factor by which a linear solve must reduce the residual.
LINEAR_TOLERANCE = 1e-12
#: A residual below this, relative to the state, is round-off.
ROUND_OFF = 1e-12
#: Negative mass, as a part of the whole, that is an error: a step of order 2 is then not accurate.
NEGATIVE_MASS = 1e-3
#: FiPy's LU solver refines a solution at most this many times.
REFINEMENTS = 10

Array = NDArray[np.float64]


@contextmanager
def quiet():
    """Suppress FiPy's warnings; what they report is checked here, and ends a run."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


class Implicit:
    r"""Implicit steps of :math:`\partial_t\rho = \nabla\cdot(\rho\nabla\Psi) + \nabla\cdot(D\nabla\rho)` by FiPy.

    Parameters
    ----------
    fipy : module
    mesh : fipy mesh
    diffusion : float
        D, if there is no ``law``.
    psi : callable
        Psi at the cell centers as a function of the density; arrays of one value a cell.
    nonlocal_psi : bool
        Whether Psi depends on the density.
    method : FiPy
        Its ``order``, ``tol`` and ``max_sweeps`` are used.
    law : Diffusion, optional
        D as a function of the density.
    """

    def __init__(self, fipy, mesh, diffusion: float, psi: Callable[[Array], Array], nonlocal_psi: bool, method,
                 law=None):
        self.fipy, self.mesh, self.diffusion, self.psi, self.law = fipy, mesh, diffusion, psi, law
        self.iterated = nonlocal_psi or law is not None
        self.method, self.change = method, 0.0
        self.equation: Any = None
        self.volumes = np.asarray(mesh.cellVolumes, dtype=float)
        with quiet():
            self.rho = self.fipy.CellVariable(mesh=mesh, value=0.0, hasOld=True)
            self.potential = self.fipy.CellVariable(mesh=mesh, value=0.0)
            self.solver = self.fipy.LinearLUSolver(criterion="initial", tolerance=LINEAR_TOLERANCE)

    def step(self, values: Array, scaled: float, t: float, dt: float) -> Array:
        """Return the density after a step of length ``scaled`` on the flow's own clock; t and dt are for messages."""
        if self.method.order == 1:
            new = self._euler(values, scaled, t, dt)
        else:
            new = 2.0 * self._euler(values, 0.5 * scaled, t, dt) - values
        mass = float((values * self.volumes).sum())
        if not np.isfinite(new).all():
            raise ConvergenceError(f"FiPy's step from t = {t:.6g} gives values that are not finite; take a smaller dt",
                                   reason="non-finite", t=t, dt=dt)
        lost = -float((np.minimum(new, 0.0) * self.volumes).sum())
        if lost > NEGATIVE_MASS * mass:
            raise ConvergenceError(f"FiPy's step from t = {t:.6g}, dt = {dt:.3g}, gives {lost / mass:.1e} of the mass "
                                   "a negative sign; take a smaller dt, or order=1", reason="tolerance", t=t, dt=dt)
        return new

    def _euler(self, values: Array, dt: float, t: float, told: float) -> Array:
        self.rho.setValue(values)
        self.rho.updateOld()
        mass = float((values * self.volumes).sum())
        for _ in range(self.method.max_sweeps):
            before = np.array(self.rho.value)
            self._solve(before, dt, t, told)
            change = float((np.abs(self.rho.value - before) * self.volumes).sum()) / mass
            if not self.iterated:
                return np.array(self.rho.value)
            if change <= self.method.tol:
                self.change = max(self.change, change)
                return np.array(self.rho.value)
            if not math.isfinite(change):
                break
        raise ConvergenceError(f"FiPy's step from t = {t:.6g}, dt = {told:.3g}: the density still changes by "
                               f"{change:.1e} after {self.method.max_sweeps} iterations, tol {self.method.tol:g}; take "
                               "a smaller dt, or more max_sweeps", reason="tolerance", t=t, dt=told)

    def _solve(self, now: Array, dt: float, t: float, told: float) -> None:
        """Do one linear solve with Psi and D of the density ``now``."""
        with quiet():
            if self.iterated or self.equation is None:
                self.equation = self._equation(now)
            try:
                self.equation.solve(var=self.rho, dt=dt, solver=self.solver)
            except (RuntimeError, ValueError, ArithmeticError) as error:
                raise ConvergenceError(f"FiPy's linear solver failed at t = {t:.6g}: {error}; take a smaller dt",
                                       reason="tolerance", t=t, dt=told) from error
        told_by = self.solver.convergence.info
        scale = float(np.linalg.norm(self.rho.value))
        if told_by["iterations"] >= REFINEMENTS and not told_by["residual"] <= ROUND_OFF * scale:
            raise ConvergenceError(f"FiPy's linear solver stopped at residual {told_by['residual']:.1e} at t = {t:.6g};"
                                   " take a smaller dt", reason="tolerance", t=t, dt=told)

    def _equation(self, now: Array):
        """Return the equation with Psi and D of a density; its terms keep the weights of their first use."""
        fp = self.fipy
        self.potential.setValue(self.psi(now))
        velocity = fp.FaceVariable(mesh=self.mesh, rank=1, value=-np.asarray(self.potential.faceGrad.value))
        if self.law is not None:
            faces = np.maximum(np.asarray(self.rho.arithmeticFaceValue.value), 0.0)
            coefficient = fp.FaceVariable(mesh=self.mesh, value=self.law.evaluate(faces[None])[2][0])
            return fp.TransientTerm() + fp.UpwindConvectionTerm(coeff=velocity) == fp.DiffusionTerm(coefficient)
        if self.diffusion > 0:
            drift = fp.ExponentialConvectionTerm(coeff=velocity)
            return fp.TransientTerm() + drift == fp.DiffusionTerm(self.diffusion)
        return fp.TransientTerm() + fp.UpwindConvectionTerm(coeff=velocity)
