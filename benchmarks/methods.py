"""Every method that serves a problem, with its ladder of settings; imported after the thread counts are set."""

from __future__ import annotations

import os
from typing import Any

import network
import referees
import specialists
import spectral
import three_axes
from measuring import Method
from network import NETWORK
from problems import Array

STEPS = [
    4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 57, 68, 80, 95, 113, 135, 160, 190, 226, 270, 320, 380, 450,
    540, 640, 760, 900, 1080, 1280, 1520, 1800, 2160, 2560, 3040, 3600, 4320, 5120,
]  # fmt: skip
DECADES = [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 3e-8, 1e-8, 1e-9, 1e-10]
DEFAULT: dict[str, Any] = {}
#: wgflow's own settings: the default, and tolerances as far apart as those of the others.
OWN: list[dict[str, Any]] = [DEFAULT, *[{"rtol": rtol} for rtol in (1e-1, 3e-2, *DECADES) if rtol >= 1e-8]]


def steps(**fixed: Any) -> list[dict[str, Any]]:
    return [{"steps": n, **fixed} for n in STEPS]


def decades(lowest: float, **fixed: Any) -> list[dict[str, Any]]:
    return [{"rtol": r, **fixed} for r in DECADES if r >= lowest]


def product(**choices: list[Any]) -> list[dict[str, Any]]:
    """Return all combinations, the last knob changing fastest."""
    found: list[dict[str, Any]] = [{}]
    for name, values in choices.items():
        found = [{**knobs, name: value} for knobs in found for value in values]
    return found


def run_wgflow(problem: Any, cells: tuple[int, ...], **settings: Any) -> Array:
    """Solve the same problem by wgflow's public functions."""
    import wgflow as wg

    settings = {"threads": int(os.environ.get("OMP_NUM_THREADS", "1")), **settings}
    if problem is NETWORK:
        return network.finite_volume(problem, cells, **settings)
    grid = wg.Grid(list(problem.bounds), cells=cells)
    energy = wg.Entropy(beta=problem.beta) + wg.Potential(problem.potential)
    if problem.interaction is not None:
        energy = energy + wg.Convolution(problem.interaction)
    start = wg.Density.from_values(grid, problem.start(cells), normalize=True)
    method = wg.FiniteVolume(**settings)
    return wg.solve(energy, start, (0.0, problem.t_end), method, t_eval=[problem.t_end]).densities[-1].values


def wgflow() -> Method:
    return Method("wgflow", "wgflow", run_wgflow, OWN)


def methods(problem: Any, own_grid: bool = False) -> list[Method]:
    """Return all referees for a problem; extrapolation is for those who choose their grid."""
    if problem is NETWORK:
        return _of_network()
    if problem.ndim == 3:
        found = _on_three_axes()
    elif problem.ndim == 1:
        found = _on_one_axis()
    else:
        found = _on_two_axes(problem.interaction is None)
    return [m for m in found if own_grid or "extrapolated" not in m.name]


def _on_one_axis() -> list[Method]:
    tr_bdf2 = specialists.extrapolated(referees.tr_bdf2)
    boxes = [2.2, 2.5, 2.8, 3.2, 4.0]
    modes = list(range(16, 161, 4))
    return [
        Method("LSODA (odeint)", "named", referees.lsoda, decades(1e-10, scheme="sg")),
        Method("LSODA (solve_ivp)", "named", referees.lsoda, decades(1e-10, scheme="sg", driver="solve_ivp")),
        Method("BDF (solve_ivp)", "named", referees.bdf, decades(1e-8, scheme="sg")),
        Method("TR-BDF2", "named", referees.tr_bdf2, steps(scheme="sg")),
        Method("TR-BDF2 extrapolated", "specialist", tr_bdf2, steps(scheme="sg")),
        Method("rational exp", "one-shot", specialists.rational, _poles()),
        Method("rational exp extrapolated", "one-shot", specialists.extrapolated(specialists.rational), _poles()),
        *[Method("Fourier expm", "spectral", spectral.fourier, [{}], product(reach=[r], modes=modes), True)
          for r in boxes],
        *[Method("Legendre expm", "spectral", spectral.legendre, [{}], product(reach=[r], modes=modes), True)
          for r in boxes],
    ]  # fmt: skip


def _on_two_axes(linear: bool) -> list[Method]:
    """Return the methods for two axes; the band of a Jacobian is as wide as the grid there."""
    found = [
        Method("BDF (solve_ivp)", "named", referees.bdf, decades(1e-6, scheme="sg")),
        Method("TR-BDF2", "named", referees.tr_bdf2, steps(scheme="sg")),
        Method("ADI", "specialist", specialists.adi, steps(scheme="sg")),
        Method("ADI extrapolated", "specialist", specialists.extrapolated(specialists.adi), steps(scheme="sg")),
        Method("RKC", "specialist", specialists.rkc, steps(scheme="sg")),
        *_spectral([2.4, 2.6, 3.0, 3.4], [24, 28, 32, 36, 40, 48, 56, 64, 80], [5.0, None], [8.0, 12.0]),
    ]
    if linear:
        found += [
            Method("LSODA (odeint)", "named", referees.lsoda, decades(1e-8, scheme="sg"), most=128),
            Method("rational exp", "one-shot", specialists.rational, _poles()),
        ]
    else:
        found.append(Method("SBDF2", "named", referees.sbdf2, steps(scheme="sg")))
    return found


def _on_three_axes() -> list[Method]:
    strang, douglas = three_axes.strang, three_axes.douglas
    return [
        Method("BDF (solve_ivp)", "named", referees.bdf, decades(1e-6, scheme="sg"), most=28),
        Method("TR-BDF2 (BiCGStab)", "named", three_axes.tr_bdf2_krylov, steps(scheme="sg")),
        Method("Strang + CN", "specialist", strang, steps(scheme="sg")),
        Method("Douglas ADI", "specialist", douglas, steps(scheme="sg")),
        Method("Strang + CN extrapolated", "specialist", specialists.extrapolated(strang), steps(scheme="sg")),
        Method("Douglas ADI extrapolated", "specialist", specialists.extrapolated(douglas), steps(scheme="sg")),
        Method("RKC", "specialist", specialists.rkc, steps(scheme="sg")),
        *_spectral([2.2, 2.4, 2.6, 3.0], [16, 20, 24, 28, 32, 40, 48], [5.0, 8.0], [5.0]),
    ]


def _of_network() -> list[Method]:
    modes = [24, 28, 32, 40, 48, 56, 64, 80, 96, 128]
    boxes = [(1.4, 1.0), (1.5, 1.1), (1.6, 1.2), (1.7, 1.4), (2.2, 2.0)]
    return [
        Method("LSODA (odeint)", "named", network.lsoda, decades(1e-10)),
        Method("BDF (solve_ivp)", "named", network.bdf, decades(1e-8)),
        Method("Crank-Nicolson", "specialist", network.crank_nicolson, steps()),
        *[
            Method("Lawson-RK4", "spectral", network.spectral, steps(), rungs, True)
            for rungs in (product(middle=[m], reach=[r], modes=modes) for m, r in boxes)
        ],
    ]


def _poles() -> list[dict[str, Any]]:
    return [{"poles": n, "scheme": "sg"} for n in (4, 6, 8, 10, 12)]


def _spectral(boxes: list[float], modes: list[int], caps: list, caps_of_etd: list[float]) -> list[Method]:
    """Return the spectral methods on several axes, one climb for each box and bound of the slopes."""
    lawson = [product(reach=[r], cap=[c], modes=modes) for r in boxes for c in caps]
    etd = [product(reach=[r], cap=[c], modes=modes) for r in boxes for c in caps_of_etd]
    ladder = [knobs for knobs in steps() if knobs["steps"] <= 640]
    return [
        *[Method("Lawson-RK4", "spectral", spectral.lawson, ladder, rungs, True) for rungs in lawson],
        *[Method("ETD-RK4", "spectral", spectral.etd, ladder, rungs, True) for rungs in etd],
    ]


def fipy(problem: Any) -> list[Method]:
    """Return FiPy for problems on one or two axes."""
    import fipy_referee

    if problem is NETWORK or problem.ndim > 2:
        return []
    knobs = {} if problem.interaction is None else {"sweeps": 2}
    return [Method("FiPy", "fipy", fipy_referee.fipy, [{"steps": n, **knobs} for n in STEPS[5:29:2]])]
