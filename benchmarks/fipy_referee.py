"""FiPy as a referee in benchmarks: nothing but its own operators in the loop, and its known pitfalls avoided.

`wgflow.FiPy` is the same scheme as a method of `wgflow.solve`, with each step checked and measured.

* ``LinearLUSolver(criterion="initial")``: the default criterion is tested before the first solve, and small steps would
  change nothing, silently.
* the scipy solver suite, chosen before the import; ``sys.argv`` is hidden from FiPy, which parses it at import;
* the equation is rebuilt every step where the drift changes (usnistgov/fipy issue 1223);
* the nonlocal drift is iterated within the step (``sweeps``), not lagged;
* beside FiPy's implicit Euler, the implicit midpoint rule, which is of second order in time at no extra cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from problems import Problem
from referees import Array, Cells, Convolution, spacings

from wgflow.solvers.fipy_adapter import load


def fipy(problem: Problem, cells: Cells, *, steps: int, midpoint: bool = True, sweeps: int = 2) -> Array:
    """Solve with exponential fluxes by implicit Euler or implicit midpoint rule (half an Euler step, extrapolated)."""
    fp = load()
    h = spacings(problem, cells)
    if problem.ndim == 1:
        mesh = fp.Grid1D(nx=cells[0], dx=h[0]) + problem.bounds[0][0]
    else:
        mesh = fp.Grid2D(nx=cells[0], ny=cells[1], dx=h[0], dy=h[1]) + [[lo] for lo, _ in problem.bounds]
    # FiPy's first axis is the fastest: transpose on the way in and out
    rho = fp.CellVariable(mesh=mesh, value=problem.start(cells).T.ravel(), hasOld=True)
    potential = problem.potential(*problem.mesh(cells))
    psi = fp.CellVariable(mesh=mesh, value=potential.T.ravel())
    solver = fp.LinearLUSolver(criterion="initial")

    def equation() -> Any:
        drift = fp.ExponentialConvectionTerm(coeff=-psi.faceGrad)
        return fp.TransientTerm() + drift == fp.DiffusionTerm(1 / problem.beta)

    dt = problem.t_end / steps / (2 if midpoint else 1)
    fixed = equation()
    convolve = Convolution(problem, cells) if problem.interaction is not None else None
    for _ in range(steps):
        rho.updateOld()
        if convolve is None:
            fixed.solve(var=rho, dt=dt, solver=solver)
        else:
            for _ in range(sweeps):
                now = np.ascontiguousarray(rho.value.reshape(cells[::-1]).T)
                psi.setValue((potential + convolve(now)).T.ravel())
                equation().solve(var=rho, dt=dt, solver=solver)
        if midpoint:
            rho.setValue(2 * rho.value - rho.old.value)
    return np.ascontiguousarray(rho.value.reshape(cells[::-1]).T)
