"""The memory that a run asks for, against what it takes; and refusals before anything is taken."""

import tracemalloc

import numpy as np
import pytest

import wgflow as wg
from wgflow import checks
from wgflow.calls.memory import held, snapshots_at_most
from wgflow.flows import make_flow


def bowl(*x):
    return sum(v**2 for v in x) / 2


LINEAR = wg.Entropy(4.0) + wg.Potential(bowl)
POROUS = wg.PowerEntropy(2.0) + wg.Potential(bowl)
EVEN = wg.FiniteVolume(dt=0.01)
CASES = {
    "order 4": (LINEAR, EVEN, (120, 120), {}),
    "order 4 on a line": (LINEAR, EVEN, (30_000,), {}),
    "order 4 in space": (LINEAR, EVEN, (24, 24, 24), {}),
    "many snapshots": (LINEAR, EVEN, (80, 80), {"t_eval": np.linspace(0, 0.02, 30)}),
    "order 2": (LINEAR, wg.FiniteVolume(dt=0.01, order=2), (120, 120), {}),
    "porous medium": (POROUS, EVEN, (100, 100), {}),
    "convolution": (LINEAR + wg.Interaction(wg.Convolution(lambda x, y: -np.exp(-(x**2) - y**2))), EVEN, (100, 100),
                    {}),
    "low rank": (LINEAR + wg.Interaction(wg.LowRank(lambda x, y: np.stack([x, y, x * y]))), EVEN, (100, 100), {}),
    "dense": (LINEAR + wg.Interaction(wg.Dense(lambda x, y: np.exp(-((x - y) ** 2)), table=True)), EVEN, (2500,), {}),
    "a mobility": (LINEAR, EVEN, (100, 100), {"mobility": lambda x, y: 1 + x**2}),
    "JKO quantile": (LINEAR, wg.JKO(tau=0.01), (4000,), {}),
    "JKO entropic": (LINEAR, wg.JKO(tau=0.01, inner="entropic"), (30, 30), {}),
    "JKO back-and-forth": (POROUS, wg.JKO(tau=0.01, inner="back-and-forth"), (60, 60), {}),
}
WORDS = "a run on 3600 cells with .* snapshots needs .* GiB, 0.000466 GiB are free for this process; take fewer cells"


def density(cells):
    return wg.Density.uniform(wg.Grid([(-3, 3)] * len(cells), cells=cells))


@pytest.mark.parametrize("name", CASES)
def test_a_run_takes_what_it_asks_for(name):
    energy, method, cells, options = CASES[name]
    wg.solve(energy, density((16 if len(cells) == 1 else 8,) * len(cells)), (0, 0.02), method, **options)
    tracemalloc.start()
    try:
        solution = wg.solve(energy, density(cells), (0, 0.02), method, **options)
        taken = tracemalloc.get_traced_memory()[1]
        assert solution.certificate.n_accepted >= 2
    finally:
        tracemalloc.stop()
    flow = make_flow(energy, density(cells), (0, 0.02), options.get("t_eval"), 1.0, method, options.get("mobility"))
    method.begin(flow)
    asked = held(flow) + flow.reserved
    # A table of a function is made by blocks, which are as large on every grid.
    assert taken <= 1.1 * asked + (5e7 if name == "dense" else 2e6)
    assert asked <= 2 * taken + 2e6


@pytest.mark.parametrize(("energy", "method", "options", "words"), [
    (LINEAR, EVEN, {}, WORDS),
    (LINEAR, EVEN, {"t_eval": np.linspace(0, 0.02, 200)}, "t_eval: 200 snapshots.*GiB are free.*fewer times"),
    (POROUS, wg.JKO(tau=0.01, inner="back-and-forth"), {}, WORDS),
])
def test_a_run_that_does_not_fit_is_refused_before_it_begins(monkeypatch, energy, method, options, words):
    rho0 = density((60, 60))
    monkeypatch.setattr(checks, "SMALL_REQUEST", 0.0)
    monkeypatch.setattr(checks, "available_memory", lambda: 500_000)
    monkeypatch.setattr("wgflow.solvers.finite_volume.method.CompactRun", None)
    monkeypatch.setattr("wgflow.solvers.jko.method.JKORun", None)
    with pytest.raises(wg.ResourceError, match=words):
        wg.solve(energy, rho0, (0, 0.02), method, **options)


def test_snapshots_are_counted_as_they_are_kept():
    for steps in (3, 100):
        method = wg.FiniteVolume(dt=1.0 / steps)
        flow = make_flow(LINEAR, density((16, 16)), (0, 1), None, 1.0, method)
        kept = len(wg.solve(LINEAR, density((16, 16)), (0, 1), method).t)
        assert kept <= snapshots_at_most(flow, steps + 1)
    flow = make_flow(LINEAR, density((16, 16)), (0, 1), [0.0, 0.5, 1.0], 1.0, EVEN)
    assert 3 <= snapshots_at_most(flow, np.inf) <= 4


def test_snapshots_that_nobody_chose_are_as_many_as_find_room(monkeypatch):
    """A run whose steps are not known before is not refused for snapshots that it would not need."""
    rho0 = density((60, 60))
    plenty = wg.solve(LINEAR, rho0, (0, 0.5), wg.FiniteVolume(rtol=1e-8))
    flow = make_flow(LINEAR, rho0, (0, 0.5), None, 1.0, wg.FiniteVolume(rtol=1e-8))
    wg.FiniteVolume(rtol=1e-8).begin(flow)
    whole = flow.reserved
    monkeypatch.setattr(checks, "SMALL_REQUEST", 0.0)
    asked = []
    for free in (2 * whole, 0.85 * whole):
        monkeypatch.setattr(checks, "available_memory", lambda free=free: free)
        wg.FiniteVolume(rtol=1e-8).begin(flow)
        asked.append(flow.reserved)
        assert flow.reserved <= free
    assert asked[0] == whole
    few = wg.solve(LINEAR, rho0, (0, 0.5), wg.FiniteVolume(rtol=1e-8))
    assert len(few.t) < len(plenty.t)
    assert (few.final.values == plenty.final.values).all()
    assert few.certificate.verdict == plenty.certificate.verdict


@pytest.mark.parametrize("where", ["V", "time_scale", "stop"])
def test_memory_that_ends_is_no_fault_of_a_function(where):
    """As in the words of NumPy, where an array that it makes does not fit."""
    def full(*args):
        raise MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)")

    energy = wg.Entropy(4.0) + wg.Potential(full if where == "V" else bowl)
    options = {"time_scale": full} if where == "time_scale" else {"stop": full} if where == "stop" else {}
    with pytest.raises(wg.ResourceError, match=r"7\.45 GiB.*GiB are free for this process; take fewer") as caught:
        wg.solve(energy, density((16, 16)), (0, 0.02), EVEN, **options)
    assert "raised" not in str(caught.value)
    if where == "stop":
        assert caught.value.partial.status == 1
