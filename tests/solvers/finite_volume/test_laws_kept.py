"""Laws that are kept without a copy are never written to again, and what steps tell of them is so."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.audit.open_ends import Outermost
from wgflow.energies.dissipation import dissipation_on_grid
from wgflow.recorder import Recorder
from wgflow.solvers.finite_volume.stepper import Stepper

LINE, PLANE = wg.Grid((-3, 3), cells=40), wg.Grid([(-3, 3), (-2, 2)], cells=(24, 16))
WELL = wg.Potential(lambda *x: sum(v**2 for v in x) / 2 + np.cos(3 * x[0]) / 5)
PULL = wg.Interaction(wg.Convolution(lambda *z: -np.exp(-sum(v**2 for v in z))))
MOVING = wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - np.sin(3 * t)) ** 2))
RUNS = {
    "line": (wg.Entropy(4.0) + WELL, LINE, {"dt": 0.05}),
    "line, adaptive, second order": (wg.Entropy(4.0) + WELL, LINE, {"order": 2}),
    "line, interaction": (wg.Entropy(4.0) + WELL + PULL, LINE, {"dt": 0.05}),
    "line, interaction, midpoint": (wg.Entropy(4.0) + WELL + PULL, LINE, {"scheme": "midpoint"}),
    "line, long steps": (wg.Entropy(50.0) + 20 * PULL, LINE, {"dt": 2.0}),
    "line, driven": (wg.Entropy(4.0) + MOVING, LINE, {"dt": 0.05}),
    "line, porous": (wg.PowerEntropy(2.0) + WELL, LINE, {"dt": 0.05}),
    "line, without diffusion": (1.0 * WELL, LINE, {"dt": 0.05}),
    "plane": (wg.Entropy(4.0) + WELL, PLANE, {}),
    "plane, interaction": (wg.Entropy(4.0) + WELL + PULL, PLANE, {"dt": 0.05}),
    "plane, without splitting": (wg.Entropy(4.0) + WELL, PLANE, {"splitting": "none"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_laws_kept_without_a_copy_stay_and_are_what_the_steps_tell(name, monkeypatch):
    energy, grid, settings = RUNS[name]
    seen, original = [], Recorder.step

    def step(self, step):
        if step.fresh:
            seen.append((step, step.law.copy()))
        original(self, step)

    monkeypatch.setattr(Recorder, "step", step)
    rho = wg.Density.gaussian(grid, mean=[0.3] * grid.ndim, cov=0.3 * np.eye(grid.ndim))
    sol = wg.solve(energy, rho, (0, 0.5), wg.FiniteVolume(threads=1, **settings))
    assert seen or name == "line, without diffusion"
    for step, law in seen:
        np.testing.assert_array_equal(step.law, law)
        assert step.mass == pytest.approx(law.sum(), rel=1e-14)
        assert step.min_density == law.min() / grid.volumes.flat[0]
    history = sol.history
    assert np.abs(history.mass - history.mass[0]).max() <= 1e-14
    for energy_there, density in zip(sol.energy, sol.densities):
        if "driven" not in name:
            assert energy(density) == pytest.approx(energy_there, abs=1e-12 * max(1.0, abs(energy_there)))


@pytest.mark.parametrize("name", ["line", "line, interaction", "plane", "plane, interaction"])
@pytest.mark.parametrize("order", [None, 2])
def test_the_dissipation_of_logarithms_that_are_known(name, order, monkeypatch):
    energy, grid, _ = RUNS[name]
    found, original = [], Stepper.dissipation

    def dissipation(self, state):
        found.append(original(self, state))
        self.looked_at = None
        assert found[-1] == pytest.approx(original(self, state), rel=1e-11)
        assert found[-1] == pytest.approx(dissipation_on_grid(self.energies.at(state.t), state.masses), rel=1e-9)
        return found[-1]

    monkeypatch.setattr(Stepper, "dissipation", dissipation)
    rho = wg.Density.gaussian(grid, mean=[0.3] * grid.ndim, cov=0.3 * np.eye(grid.ndim))
    wg.solve(energy, rho, (0, 0.5), wg.FiniteVolume(threads=1, dt=0.02, order=order))
    assert len(found) > 2


def test_what_lies_at_open_ends(rng):
    for grid in (LINE, PLANE, wg.Grid([(-1, 1), (0, 2), (0, 1)], cells=(4, 5, 6))):
        masses = rng.random(grid.shape)
        expected = 0.0
        for axis, pair in enumerate(grid.open_ends):
            for side, is_open in zip((0, -1), pair):
                length = float(grid.edges[axis][-1] - grid.edges[axis][0])
                expected += is_open * masses.take(side, axis).sum() * length / grid.widths[axis][side]
        assert Outermost(grid).most_outside(masses) == pytest.approx(expected, rel=1e-13)
        assert expected > 0


def test_masses_and_fields_of_other_shapes_are_spread_or_refused():
    on_grid = (wg.Entropy(4.0) + WELL).assemble(LINE)
    masses = np.full(40, 1 / 40)
    assert on_grid.frozen_energy(masses, np.array(2.0)) == pytest.approx(on_grid.frozen_energy(masses, None) + 2.0)
    with pytest.raises(ValueError, match="masses of 39 cells on a grid of 40"):
        on_grid.energy(masses[1:])
    with pytest.raises(ValueError, match="broadcast"):
        on_grid.frozen_energy(masses, np.zeros(39))
