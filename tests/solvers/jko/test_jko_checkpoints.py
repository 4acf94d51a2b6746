"""Checkpoints of JKO: every inner solver goes on from any step with the bits of a run that was not interrupted."""

from __future__ import annotations

import hashlib
import signal

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import StorageError
from wgflow.files import archives as _npz
from wgflow.files.checkpoints import KIND
from wgflow.jko_steps import pack_steps
from wgflow.solvers.jko import JKO

LINE = wg.Grid([(-3, 3)], cells=60)
PLANE = wg.Grid([(-3, 3), (-2, 2)], cells=(16, 12))
START = {1: wg.Density.gaussian(LINE, 0.4, 0.1), 2: wg.Density.gaussian(PLANE, [0.4, 0.2], 0.3)}


def well(beta=10.0):
    return wg.Entropy(beta) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)


def pulled(pull=0.3):
    return well() + wg.Interaction(wg.Convolution(lambda z: pull * z**2))


def porous(m=2.0):
    return 0.3 * wg.PowerEntropy(m) + wg.Potential(lambda x: x**2 / 2)


def plane():
    return wg.Entropy(4.0) + wg.Potential(lambda x, y: x**2 / 2 + y**2)


def digest(solution) -> str:
    found = hashlib.sha256()
    header, columns = pack_steps(solution.jko_steps)
    for array in (solution.t, solution.energy, *(rho.values for rho in solution.densities), *columns.values(),
                  *solution.history.to_dict().values()):
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    proof = {name: value for name, value in solution.certificate.to_dict().items() if name != "settings"}
    found.update(repr((header, proof)).encode())
    return found.hexdigest()


CASES = [(energy, {"inner": inner, "order": order, "tau": 0.15 if energy is plane else 0.3}, None)
         for inner, order in (("quantile", 1), ("quantile", 2), ("linearized", 1), ("linearized", 2),
                              ("back-and-forth", 1), ("entropic", 1))
         for energy in (well, pulled, porous, plane) if not (inner == "quantile" and energy is plane)]
CASES += [(well, {"inner": "quantile", "tau": 0.3}, [0.0, 0.25, 0.7, 1.5]),
          (well, {"inner": "quantile", "tau": 0.5, "adaptive": True}, None),
          (pulled, {"inner": "quantile", "tau": 0.5, "adaptive": True, "order": 2}, [0.3, 1.5]),
          (well, {"inner": "linearized", "tau": 0.5, "adaptive": True, "rtol": 1e-2}, None),
          (well, {"inner": "linearized", "tau": 0.3, "options": {"metric": "linear"}}, None),
          (pulled, {"inner": "linearized", "tau": 0.3, "options": {"metric": "linear"}}, None),
          (well, {"inner": "entropic", "tau": 0.3, "options": {"debiased": False, "estimate_bias": False}}, None)]


@pytest.mark.parametrize(("energy", "settings", "t_eval"), [
    pytest.param(e, s, t, id=f"{e.__name__}-{s['inner']}-{k}",
                 marks=[pytest.mark.slow] if e in (porous, plane) and s["inner"] != "quantile" else [])
    for k, (e, s, t) in enumerate(CASES)])
def test_cut_at_any_step_and_resumed(energy, settings, t_eval, tmp_path):
    rho0, path = START[2 if energy is plane else 1], tmp_path / "run"
    whole = wg.solve(energy(), rho0, (0, 1.5), JKO(**settings), t_eval=t_eval)
    count = whole.certificate.n_accepted
    assert count >= 5
    for cut in range(1, count + 1, max(1, count // 6)):
        path.unlink(missing_ok=True)
        part = wg.solve(energy(), rho0, (0, 1.5), JKO(**settings, max_steps=int(cut)), t_eval=t_eval, checkpoint=path,
                        throw=False)
        # Adaptive steps come in pairs.
        assert part.success == (cut >= count - settings.get("adaptive", False))
        again = wg.resume(path, energy=energy(), method=JKO(**settings))
        assert digest(again) == digest(whole), f"cut after {cut} steps"
        assert digest(wg.resume(path, energy=energy())) == digest(whole), "a finished run is given back as it was"


def test_meshes_that_grew_are_kept(tmp_path):
    # Order 2 needs the step before on its own, coarser mesh.
    energy, rho0, path = wg.Entropy(20.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2), START[1], tmp_path / "run"
    settings = {"tau": 0.4, "order": 2}
    whole = wg.solve(energy, rho0, (0, 4), JKO(**settings))
    cells = [step.extras["cells"] for step in whole.jko_steps]
    assert cells[-1] > cells[0]
    for cut in range(1, whole.certificate.n_accepted):
        path.unlink(missing_ok=True)
        wg.solve(energy, rho0, (0, 4), JKO(**settings, max_steps=cut), checkpoint=path, throw=False)
        assert digest(wg.resume(path, energy=energy, method=JKO(**settings))) == digest(whole)


def test_a_clock_that_speeds_up_and_an_extension(tmp_path):
    path, scale = tmp_path / "run", lambda t: 1 + t
    whole = wg.solve(well(), START[1], (0, 1), JKO(tau=0.1), time_scale=scale)
    wg.solve(well(), START[1], (0, 1), JKO(tau=0.1, max_steps=4), time_scale=scale, checkpoint=path, throw=False)
    assert digest(wg.resume(path, energy=well(), time_scale=scale, method=JKO(tau=0.1))) == digest(whole)
    longer = wg.resume(path, 2.0, energy=well(), time_scale=scale)
    assert longer.success
    assert longer.t[-1] == 2.0
    assert longer.certificate.n_accepted == 20
    assert digest(wg.resume(path, energy=well(), time_scale=scale)) == digest(longer)


class Stop(BaseException):
    """Something from outside that no code of the package expects."""


@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt, MemoryError, ValueError])
def test_an_exception_inside_a_step(kind, tmp_path, monkeypatch):
    from wgflow.solvers.jko.quantile.solver import QuantileSolver

    whole, path = wg.solve(well(), START[1], (0, 1), JKO(tau=0.1, order=2)), tmp_path / "run"
    for where in ("_look", "_derivatives", "extrapolate", "distance_squared"):
        original = getattr(QuantileSolver, where)
        for cut in (3, 5):
            calls = [0]

            def failing(self, *arguments, calls=calls, cut=cut, original=original):
                calls[0] += 1
                if calls[0] == cut:
                    raise kind("from outside")
                return original(self, *arguments)

            path.unlink(missing_ok=True)
            with monkeypatch.context() as patch:
                patch.setattr(QuantileSolver, where, failing)
                with pytest.raises(kind):
                    wg.solve(well(), START[1], (0, 1), JKO(tau=0.1, order=2), checkpoint=path)
            assert digest(wg.resume(path, energy=well())) == digest(whole), f"stopped in call {cut} of {where}"


# -------------------------------------------------------------------- signals
LONG_RUN = """
    def start(t_end, path):
        rho0 = wg.Density.gaussian(wg.Grid([(-3, 3)], cells=60), 0.4, 0.1)
        energy = wg.Entropy(10.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
        wg.solve(energy, rho0, (0, t_end), wg.JKO(tau=0.02), checkpoint=path)
"""


@pytest.mark.slow
def test_signals(tmp_path, killer):
    kill = killer(LONG_RUN)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        path = tmp_path / f"run{int(number)}"
        code = kill(path, number, lambda path=path: path.exists() and _npz.peek(path, KIND)["state"]["steps"] > 5)
        assert code == {signal.SIGTERM: 143, signal.SIGKILL: -9}.get(number, code)
        assert code != 0
        few = wg.resume(path, energy=well(), method=JKO(tau=0.02, max_steps=3), throw=False)
        done = few.certificate.n_accepted
        assert done > 3
        whole = wg.solve(well(), START[1], (0, 1000), JKO(tau=0.02, max_steps=done), throw=False)
        assert np.array_equal(few.final.values, whole.final.values)
        assert few.jko_steps == whole.jko_steps


# -------------------------------------------------------------------- what is refused
@pytest.fixture
def stopped(tmp_path):
    path = tmp_path / "run"
    wg.solve(porous(), START[1], (0, 1), JKO(tau=0.1, order=2, max_steps=4), checkpoint=path, throw=False)
    return path


def test_another_internal_energy_is_refused(stopped):
    for other in (porous(2.1), porous() + wg.PowerEntropy(3.0), wg.Potential(lambda x: x**2 / 2) + wg.Entropy(1.0)):
        with pytest.raises(StorageError, match="energy: "):
            wg.resume(stopped, energy=other)


@pytest.mark.parametrize("change", [{"tau": 0.2}, {"inner": "linearized"}, {"order": 1}, {"options": {"cells": 40}}])
def test_another_method_is_refused(stopped, change):
    with pytest.raises(StorageError, match="only max_steps, time_limit can change"):
        wg.resume(stopped, energy=porous(), method=JKO(**({"tau": 0.1, "order": 2} | change)))


@pytest.mark.parametrize(("name", "spoil"), [
    ("state_now_masses", lambda a: a[:-1]), ("state_now_masses", lambda a: -a),
    ("state_now_masses", lambda a: a + np.nan),
    ("state_now_last", lambda a: a[::-1].copy()), ("state_now_last", lambda a: a + 10.0),
    ("state_now_positions", lambda a: np.append(a, 1.0)), ("state_now_velocity", lambda a: a / 0.0),
    ("state_now_depths", lambda a: a - 1), ("state_now_depths", lambda a: a + 99),
    ("state_now_density", lambda a: a[:-1]), ("state_before_last", lambda a: a[:3]),
])
def test_crafted_states_are_refused(stopped, name, spoil):
    header, arrays = _npz.read_npz(stopped, KIND)
    with np.errstate(all="ignore"):
        arrays = {key: spoil(value) if key == name else value for key, value in arrays.items()}
    _npz.write_npz(stopped, KIND, header, arrays)
    with pytest.raises(StorageError, match="state that can be used"):
        wg.resume(stopped, energy=porous())


@pytest.mark.parametrize("part", ["state_now_masses", "state_now_density", "state_now_last", "state_before_depths"])
def test_every_part_is_needed(stopped, part):
    header, arrays = _npz.read_npz(stopped, KIND)
    _npz.write_npz(stopped, KIND, header, {key: value for key, value in arrays.items() if key != part})
    with pytest.raises(StorageError):
        wg.resume(stopped, energy=porous())


def test_numbers_are_needed_too(stopped):
    header, arrays = _npz.read_npz(stopped, KIND)
    for name in ("tau", "clock", "steps", "row", "now"):
        state = {key: value for key, value in header["state"].items() if key != name}
        _npz.write_npz(stopped, KIND, header | {"state": state}, arrays)
        with pytest.raises(StorageError):
            wg.resume(stopped, energy=porous())


@pytest.mark.parametrize("inner", ["linearized", "back-and-forth", "entropic"])
def test_states_on_another_grid_are_refused(tmp_path, inner):
    path = tmp_path / "run"
    wg.solve(well(), START[1], (0, 1), JKO(tau=0.1, inner=inner, max_steps=3), checkpoint=path, throw=False)
    header, arrays = _npz.read_npz(path, KIND)
    names = [name for name in arrays if name.startswith("state_now_") and name != "state_now_density"]
    assert names
    for name in names:
        _npz.write_npz(path, KIND, header, arrays | {name: arrays[name].ravel()[:-1]})
        with pytest.raises(StorageError, match="state that can be used"):
            wg.resume(path, energy=well())
