"""Many compact steps with an interaction in one compiled call: the steps that Python takes one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled import compact
from wgflow.energies.nodes import node_grid
from wgflow.solvers.finite_volume import compact_run
from wgflow.solvers.finite_volume.compact import interpolated, speed_of_field
from wgflow.solvers.finite_volume.compact_sweeps import CompactSweeps
from wgflow.solvers.finite_volume.field_loop import FieldLoop

LINE = wg.Grid((-4, 4), cells=90)
CIRCLE = wg.Grid((0, 2 * math.pi), cells=64, boundary="periodic")
WELL = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
OFF = wg.Density.gaussian(LINE, 0.8, 0.2)
WAVE = wg.Density.from_function(CIRCLE, lambda x: 1.2 + np.sin(x))
ORDER = wg.LowRank(lambda x: np.stack([np.cos(x), np.sin(x)]), [-1.0, -1.0])
FLOWS = {
    "a quadratic kernel": (WELL + wg.Interaction(lambda x, y: (x - y) ** 2 / 2), OFF, {}),
    "a convolution": (WELL + wg.Convolution(lambda z: -np.exp(-z * z)), OFF, {"time_scale": 1.5}),
    "a table": (WELL + wg.Dense(lambda x, y: -np.exp(-((x - y) ** 2)) * (1 + 0.1 * x * y)), OFF, {}),
    "two of them": (WELL + ORDER + 0.5 * wg.Convolution(lambda z: z**2 / 2), OFF, {}),
    "oscillators": (wg.Entropy(1.5) + ORDER, WAVE, {}),
    "a convolution on a circle": (wg.Entropy(1.5) + wg.Convolution(lambda z: -np.cos(z)), WAVE, {}),
    "strong repulsion": (WELL + wg.Convolution(lambda z: 30 * np.exp(-z * z / 2)), OFF, {}),
}


def solved(name, settings=None):
    energy, rho, options = FLOWS[name]
    return wg.solve(energy, rho, (0, 2), t_eval=[0.3, 2.0], method=wg.FiniteVolume(**(settings or {})), **options)


@pytest.mark.parametrize("settings", [{}, {"rtol": 1e-6}, {"max_step": 0.02}], ids=str)
@pytest.mark.parametrize("name", FLOWS)
def test_the_loop_takes_the_steps_of_python(name, settings, monkeypatch):
    calls = []
    steps = compact_run.field_loop

    def counted(stepper, scale):
        found = steps(stepper, scale)
        calls.append(found)
        return found

    monkeypatch.setattr(compact_run, "field_loop", counted)
    loop = solved(name, settings)
    assert calls[0] is not None
    monkeypatch.setattr(compact_run, "field_loop", lambda stepper, scale: None)
    single = solved(name, settings)
    assert loop.certificate.ok
    assert loop.certificate.scheme == single.certificate.scheme == "fluxes of fourth order in space"
    assert loop.certificate.n_accepted == single.certificate.n_accepted > 10
    assert loop.certificate.n_rejected == single.certificate.n_rejected
    for a, b in zip(loop.densities, single.densities):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(loop.history.energy, single.history.energy, rtol=1e-12, atol=1e-13)
    assert loop.certificate.error_estimate == pytest.approx(single.certificate.error_estimate, rel=1e-6)
    rises = np.diff(loop.history.energy)
    assert rises.max() <= 1e-13 * max(1.0, np.abs(loop.history.energy).max())


@pytest.mark.parametrize("name", ["two of them", "oscillators"])
def test_the_dissipation_is_that_of_the_stepper(name, monkeypatch):
    seen = []
    take = FieldLoop.steps

    def compared(self, run, stop):
        found = take(self, run, stop)
        if found is not None:
            steps, last = found
            seen.append((steps.rate[-1], run.stepper.dissipation(last)))
        return found

    monkeypatch.setattr(FieldLoop, "steps", compared)
    # The last step of each call is looked at.
    monkeypatch.setattr("wgflow.solvers.finite_volume.field_loop.BATCH", 1)
    solved(name)
    assert len(seen) > 10
    np.testing.assert_allclose(*np.transpose(seen), rtol=1e-10)


@pytest.mark.parametrize("name", ["two of them", "a convolution on a circle"])
def test_steps_recorded_at_once_are_those_recorded_one_by_one(name):
    energy, rho, options = FLOWS[name]
    both = [wg.solve(energy, rho, (0, 2), callback=callback, **options) for callback in (None, lambda t, law: None)]
    for column in both[0].history.NAMES:
        np.testing.assert_array_equal(*(getattr(sol.history, column) for sol in both))
    np.testing.assert_array_equal(*(sol.final.values for sol in both))
    assert both[0].certificate == both[1].certificate


def test_most_steps_are_taken_in_the_loop(monkeypatch):
    taken = []
    one = compact_run.CompactRun._one

    def counted(self, control, stop):
        found = list(one(self, control, stop))
        taken.extend(found)
        return found

    monkeypatch.setattr(compact_run.CompactRun, "_one", counted)
    sol = solved("a convolution")
    assert 1 <= len(taken) <= 3 < sol.certificate.n_accepted


def test_extrapolation_and_speed_against_numpy():
    rng = np.random.default_rng(91)
    n = 12
    values, base, out = rng.standard_normal((3, n)), rng.standard_normal(n), np.empty((n, 1))
    times = (-0.8, -0.4, 0.0)
    compact._quadratic(0.3, *times, values, base, out)
    np.testing.assert_allclose(out[:, 0], base + interpolated(0.3, times, tuple(values)), rtol=1e-13, atol=1e-13)
    sweeps, m = CompactSweeps(node_grid(wg.Grid((0, 3), cells=n)), 1.0, False, 1), rng.random(n)
    assert compact._speed_of_field(m[:, None], base, 0.25) == pytest.approx(speed_of_field(m, base, sweeps), rel=1e-13)


def test_interactions_of_a_line_in_all_forms():
    rng = np.random.default_rng(47)
    n = 21
    m, features, signs = rng.random((n, 1)), rng.standard_normal((4, n)), rng.standard_normal(4)
    kernel, field = rng.standard_normal(n), np.empty(n)
    dense = kernel[np.abs(np.arange(n)[:, None] - np.arange(n))]
    compact._line_field(m, features, signs, np.concatenate([kernel[:0:-1], kernel]), n - 1, -1, field)
    np.testing.assert_allclose(field, (features.T * signs) @ (features @ m[:, 0]) + dense @ m[:, 0], atol=1e-12)
    compact._line_field(m, features[:0], signs[:0], dense.ravel(), 0, n, field)
    np.testing.assert_allclose(field, dense @ m[:, 0], atol=1e-12)
