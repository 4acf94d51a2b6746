"""Kernels of nonlinear diffusion: readable twins, corrections by dense matrices, and examples by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled import nonlinear_sweep as kernel
from wgflow.energies import nonlinear_fluxes
from wgflow.energies.internal_energies import InternalEnergy, PowerEntropy
from wgflow.grids import log_power_cell_average


# ---------------------------------------------------------------- the twins: one line, dense matrices
def twin_mean(r1, r2, h1, h2, p1, p2):
    if abs(r1 - r2) <= kernel.NEAR * (r1 + r2) or h1 == h2:
        return (r1 + r2) / 2
    return float(np.clip((p1 - p2) / (h1 - h2), min(r1, r2), max(r1, r2)))


def twin_flux(law, r1, r2, u1, u2, up=1.0, down=1.0, phi=1.0):
    (h1, h2), (p1, p2) = (a[0] for a in law.evaluate(np.array([[r1, r2]]))[:2])
    a, b = h1 - h2, u1 - u2
    v = a + b
    slack = 4 * 2.0**-52 * (abs(h1) + abs(h2) + abs(u1) + abs(u2))
    if abs(v) <= slack:
        return 0.0
    v -= math.copysign(slack, v)

    def upwind(speed):
        return up * r1 if speed > 0 else down * r2

    if a * b >= 0:
        return phi * (p1 - p2) + upwind(b) * b
    return phi * twin_mean(r1, r2, h1, h2, p1, p2) * v if abs(a) > abs(b) else upwind(v) * v


def twin_factors(law, r, psi, h, d, periodic):
    """Koren's face values seen from both cells of each edge, over the density of the cell; and phi."""
    n = len(r)
    inside = range(n) if periodic else range(1, n - 1)
    falls, rises = np.zeros(n), np.zeros(n)
    for i in inside:
        falls[i] = (r[i] - r[i - 1]) / d[i - 1] * h[i] / 2
        rises[i] = (r[(i + 1) % n] - r[i]) / d[i] * h[i] / 2
    bend = 2 * (rises - falls)
    ahead, behind = np.zeros(n), np.zeros(n)
    for i in inside:
        fall, rise = falls[i], rises[i]
        limit = 2 * min(abs(fall), abs(rise)) if fall * rise > 0 else 0.0
        if all(bend[k] * bend[i] > bend[i] ** 2 / 4 for k in (i - 1, (i + 1) % n)):
            limit = abs(fall) + abs(rise)
        limit = min(limit, 0.9 * r[i])
        ahead[i] = np.clip((fall + 2 * rise) / 3, -limit, limit)
        behind[i] = np.clip((2 * fall + rise) / 3, -limit, limit)
    if not periodic:
        ends = (h[0] / 2 * (r[1] - r[0]) / d[0], h[-1] / 2 * (r[-1] - r[-2]) / d[-1])
        for i, slope in zip((0, n - 1), ends):
            ahead[i] = behind[i] = np.clip(slope, -0.9 * r[i], 0.9 * r[i])
    edges = [(i, (i + 1) % n) for i in range(len(d))]
    slope, pressure = (a[0] for a in law.evaluate(r[None])[:2])
    up = np.array([1 + ahead[i] / r[i] if r[i] > 0 else 1.0 for i, k in edges])
    down = np.array([1 - behind[k] / r[k] if r[k] > 0 else 1.0 for i, k in edges])
    phi = np.ones(len(d))
    for e, (i, k) in enumerate(edges):
        mean = twin_mean(r[i], r[k], slope[i], slope[k], pressure[i], pressure[k])
        face = up[e] * r[i] if slope[i] + psi[i] > slope[k] + psi[k] else down[e] * r[k]
        if mean > 0:
            phi[e] = np.clip(face / mean, 0.5, 2.0)
    return up, down, phi


def twin_residual(law, m, start, psi, volumes, reach, factors):
    out = m - start
    for e, c in enumerate(reach):
        i, k = e, (e + 1) % len(m)
        flux = c * twin_flux(law, m[i] / volumes[i], m[k] / volumes[k], psi[i], psi[k], *(f[e] for f in factors))
        out[i] += flux
        out[k] -= flux
    return out


LAWS = [[(1.0, 2.0)], [(0.4, 0.6)], [(1.0, 1.5), (0.3, 4.0)], []]


def make_law(powers, entropy):
    energy = sum((c * PowerEntropy(m) for c, m in powers), wg.FreeEnergy([]))
    return nonlinear_fluxes.Diffusion((energy + entropy * wg.Entropy(1.0)).assemble(wg.Grid([(0, 1)], cells=2)))


@pytest.mark.parametrize("powers", LAWS)
@pytest.mark.parametrize("entropy", [0.0, 0.7])
def test_the_law(powers, entropy, rng):
    r = rng.random((2, 9)) * 4
    slope, pressure, stiff, bend = make_law(powers, entropy).evaluate(r)
    terms = [(c, PowerEntropy(m)) for c, m in powers]
    assert slope == pytest.approx(sum(c * t.derivative(r) for c, t in terms) + entropy * np.log(r), rel=1e-13)
    H = sum(c * t.H(r) for c, t in terms) + entropy * r * (np.log(r) - 1)
    assert pressure == pytest.approx(r * slope - H, rel=1e-12)
    assert bend == pytest.approx(sum(c * t.second_derivative(r) for c, t in terms) + entropy / r, rel=1e-13)
    assert stiff == pytest.approx(r * bend, rel=1e-13)


def test_the_law_of_a_users_H_adds_to_the_others(rng):
    own = InternalEnergy(lambda r: np.cosh(r) - 1, np.sinh, np.cosh, up_to=50.0)
    energy = 0.5 * own + 2 * PowerEntropy(3.0)
    r = rng.random((1, 9)) * 4
    slope, pressure, stiff, bend = nonlinear_fluxes.Diffusion(energy.assemble(wg.Grid([(0, 1)], cells=2))).evaluate(r)
    assert slope == pytest.approx(0.5 * np.sinh(r) + 3 * r**2, rel=1e-13)
    assert pressure == pytest.approx(0.5 * (r * np.sinh(r) - np.cosh(r) + 1) + 2 * r**3, rel=1e-12)
    assert stiff == pytest.approx(0.5 * r * np.cosh(r) + 6 * r**2, rel=1e-13)
    assert bend == pytest.approx(0.5 * np.cosh(r) + 6 * r, rel=1e-13)


def make_line(rng, law, periodic, n=9, empty=True):
    """A random line: masses with holes, Psi, cells, conductances, factors."""
    widths = rng.uniform(0.5, 1.5, n)
    distances = 0.5 * (widths + np.roll(widths, -1))[: n if periodic else n - 1]
    volumes = widths * rng.uniform(0.5, 2.0, n)
    m = rng.random(n) ** 3 * (rng.random(n) < 0.8 if empty else 1.0)
    psi = rng.normal(size=n) * 3
    factors = twin_factors(law, m / volumes, psi, widths, distances, periodic)
    return m, psi, widths, distances, volumes, rng.uniform(0.5, 3.0, distances.size), factors


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("powers", LAWS)
def test_reconstruction_and_fluxes(powers, periodic, rng):
    law = make_law(powers, 0.2 if not powers else 0.0)
    for _ in range(20):
        m, psi, widths, distances, volumes, reach, factors = make_line(rng, law, periodic)
        r = (m / volumes)[None]
        slope, pressure = law.evaluate(r)[:2]
        found = [np.empty((1, distances.size)) for _ in range(4)]
        kernel.reconstruct(r, slope, pressure, psi[None], widths, distances, periodic, *found[:3])
        for a, b in zip(found, factors):
            assert a[0] == pytest.approx(b, rel=1e-12, abs=1e-14)
        kernel.fluxes(r, slope, pressure, psi[None], reach[None], *(f[None] for f in factors), found[3])
        total = twin_residual(law, m, m, psi, volumes, reach, factors)
        change = np.zeros(m.size)
        for e, flux in enumerate(found[3][0]):
            change[e] += flux
            change[(e + 1) % m.size] -= flux
        assert change == pytest.approx(total, rel=1e-11, abs=1e-13)
        # The dissipation is the work of these fluxes.
        mu = slope[0] + psi
        work = sum(flux * (mu[e] - mu[(e + 1) % m.size]) for e, flux in enumerate(found[3][0]))
        rate = kernel.dissipation(r, slope, pressure, psi[None], reach[None], *(f[None] for f in factors))
        assert rate == pytest.approx(work, rel=1e-12)
        assert rate >= 0


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("powers", LAWS)
@pytest.mark.parametrize("n", [2, 3, 9])
def test_newton_corrections(powers, periodic, n, rng):
    law = make_law(powers, 0.2 if not powers else 0.0)
    for _ in range(10):
        m, psi, _, _, volumes, reach, _ = make_line(rng, law, periodic, max(n, 3), empty=False)
        m, psi, volumes, reach = m[:n] + 0.05, psi[:n], volumes[:n], reach[:n if periodic else n - 1]
        factors = [rng.uniform(0.6, 1.4, reach.size) for _ in range(3)]
        start = rng.random(n)
        jacobian = np.empty((n, n))
        for k in range(n):
            step = np.zeros(n)
            step[k] = 1e-6 * m[k]
            ends = [twin_residual(law, m + s * step, start, psi, volumes, reach, factors) for s in (1, -1)]
            jacobian[:, k] = (ends[0] - ends[1]) / (2 * step[k])
        expected = np.linalg.solve(jacobian, -twin_residual(law, m, start, psi, volumes, reach, factors))
        moved, shares, sizes, status = m[None].copy(), np.ones(1), np.full(1, math.inf), np.zeros(1, dtype=np.int64)
        total = np.array([1e6])  # so that the correction is not cut to a part of the mass
        r = (m / volumes)[None]
        kernel.newton(moved, r, *law.evaluate(r), psi[None], start[None], volumes[None], np.ones(1), reach[None],
                      *(f[None] for f in factors), periodic, np.array([1e-12]), total, shares, sizes, status)
        assert status[0] == 0
        assert sizes[0] == pytest.approx(np.abs(expected).sum(), rel=1e-5)
        if (m + expected >= 0.1 * m).all():
            assert moved[0] == pytest.approx(m + expected, rel=1e-5, abs=1e-6)


def test_the_ends_of_newtons_method():
    # A state at rest has no correction; a law that is no number loses the line, and only that line.
    law = make_law([(1.0, 2.0)], 0.0)
    m = np.full((2, 5), 0.2)
    slope, pressure, stiff, bend = law.evaluate(m)
    slope[1, 2] = math.nan
    ones, status, sizes = np.ones((2, 5)), np.zeros(2, dtype=np.int64), np.full(2, math.inf)
    kernel.newton(m, m.copy(), slope, pressure, stiff, bend, 0 * ones, m.copy(), ones, np.ones(2), ones, ones, ones,
                  ones, True, np.full(2, 1e-13), np.ones(2), np.ones(2), sizes, status)
    assert status.tolist() == [kernel.DONE, kernel.LOST]
    assert sizes[0] == 0.0
    assert (m == 0.2).all()


@pytest.mark.parametrize("periodic", [True, False])
def test_push_keeps_mass_and_sign(periodic, rng):
    for _ in range(50):
        n = 8
        transfer = rng.normal(size=(1, n if periodic else n - 1))
        moved = 2 * rng.random((1, n))
        out = np.empty((1, n))
        kernel.push(moved, transfer, np.ones(1), out)
        assert out.min() >= 0
        assert out.sum() == pytest.approx(moved.sum(), rel=1e-14)
        whole = moved.copy()
        for e, t in enumerate(transfer[0]):
            whole[0, e] -= t
            whole[0, (e + 1) % n] += t
        if whole.min() >= 0:
            assert out == pytest.approx(whole, abs=1e-14)
        kernel.push(moved, 1e-3 * transfer, np.zeros(1), out)
        assert (out == moved).all()


def test_push_drops_what_would_empty_a_cell_and_what_relied_on_it():
    def pushed(moved, transfer, share=1.0):
        out = np.empty((1, len(moved)))
        kernel.push(np.array([moved]), np.array([transfer]), np.full(1, share), out)
        return out[0].tolist()

    # The first cell cannot give 2; the second can give 1/2.
    assert pushed([1.0, 1.0, 1.0], [2.0, 0.5]) == [1.0, 0.5, 1.5]
    # Half of all is affordable: as much as there is.
    assert pushed([1.0, 1.0, 1.0], [2.0, 0.5], share=0.5) == [0.0, 1.75, 1.25]
    # The second would have given what it got from the first.
    assert pushed([1.0, 0.25, 1.0], [2.0, 1.0]) == [1.0, 0.25, 1.0]
    assert pushed([1.0, 0.25, 1.0], [-1.0, -2.0]) == [1.0, 0.25, 1.0]
    # Over the seam of a ring, either way, and from cells on both of its sides.
    assert pushed([1.0, 1.0, 0.5], [0.0, 0.25, 0.5]) == [1.5, 0.75, 0.25]
    assert pushed([1.0, 1.0, 0.5], [0.25, 0.0, 0.75]) == [0.75, 1.25, 0.5]
    assert pushed([1.0, 1.0, 0.5], [0.25, 0.25, -2.0]) == [1.0, 0.75, 0.75]
    assert pushed([0.25, 1.0, 0.5], [0.5, 0.0, 1.0]) == [0.25, 1.0, 0.5]


def test_a_correction_leaves_each_cell_a_tenth_and_keeps_the_mass():
    m, delta = np.ones(4), np.array([-2.0, 1.0, 0.5, 0.5])
    kernel._move(m, delta, 0.25, 4.0)
    assert m.tolist() == [0.5, 1.25, 1.125, 1.125]
    m = np.ones(4)
    kernel._move(m, delta, 1.0, 4.0)
    assert m == pytest.approx(np.array([0.1, 2.0, 1.5, 1.5]) * 4 / 5.1, rel=1e-15)
    # An empty line stays empty, whatever is to be taken from it.
    m = np.zeros(4)
    kernel._move(m, np.full(4, -1e-300), 1.0, 1.0)
    assert m.tolist() == [0.0] * 4


@pytest.fixture
def correct(rng):
    """Newton's correction of a line with gravity, from given shares, sizes and bounds: moved masses and status."""
    law = make_law([(1.0, 2.0)], 0.0)
    m = 1.0 + rng.random((1, 7))
    start, psi, ones = rng.random((1, 7)), np.linspace(0, 1, 7)[None], np.ones((1, 7))

    def call(share=1.0, size=math.inf, bound=1e-12, total=1e6):
        moved, shares, sizes, status = m.copy(), np.full(1, share), np.full(1, size), np.zeros(1, dtype=np.int64)
        kernel.newton(moved, m.copy(), *law.evaluate(m), psi, start, ones, np.ones(1), ones[:, 1:], ones[:, 1:],
                      ones[:, 1:], ones[:, 1:], False, np.full(1, bound), np.full(1, total), shares, sizes, status)
        return (moved - m)[0], shares[0], sizes[0], status[0]

    return call


def test_the_share_of_a_correction_grows_while_corrections_shrink(correct):
    whole, _, size, _ = correct()
    assert size == pytest.approx(np.abs(whole).sum(), rel=1e-14)
    # A first correction doubles the share that is given, up to 1.
    for share, made in ((0.25, 0.5), (0.5, 1.0), (0.75, 1.0)):
        delta, kept, found, status = correct(share=share)
        assert (kept, status) == (made, 0)
        assert delta == pytest.approx(made * whole, rel=1e-12)
        assert found == size
    # One that is hardly smaller than the last (by less than a tenth of the share) is halved, down to a quarter.
    for share, made in ((1.0, 0.5), (0.5, 0.25), (0.25, 0.25)):
        assert correct(share=share, size=1.02 * size)[1] == made
        assert correct(share=share, size=size / (1.0 - 0.101 * share))[1] == min(2 * share, 1.0)
    # No correction moves more than three tenths of the mass.
    delta, share, _, _ = correct(total=size)
    assert share == pytest.approx(0.3, rel=1e-14)
    assert np.abs(delta).sum() == pytest.approx(0.3 * size, rel=1e-12)


def test_when_corrections_end(correct):
    size = correct()[2]
    assert correct(bound=1.001 * size)[3] == kernel.DONE
    assert correct(bound=0.999 * size)[3] == 0
    # Near its bound a correction that did not halve is the last.
    assert correct(bound=1.00005e-4 * size, size=1.999 * size)[3] == kernel.DONE
    assert correct(bound=1.00005e-4 * size, size=2.001 * size)[3] == 0
    assert correct(bound=0.99995e-4 * size, size=1.999 * size)[3] == 0


def test_falls_within_rounding_drive_nothing():
    ulp = 2.0**-52
    assert kernel._fall(1.0 + 7 * ulp, 1.0, 0.0, 0.0) == 0.0
    assert kernel._fall(1.0 + 16 * ulp, 1.0, 0.0, 0.0) == pytest.approx(8 * ulp, rel=1e-6)
    assert kernel._fall(0.0, 0.0, 1.0, 1.0 + 7 * ulp) == 0.0
    assert kernel._fall(0.0, 0.0, 1.0, 1.0 + 16 * ulp) == pytest.approx(-8 * ulp, rel=1e-6)


def test_weights_at_edges():
    edges = np.linspace(0, 2, 21)
    for power in (1, 2, 3):
        weights = np.exp(log_power_cell_average(edges, power))[None]
        found = nonlinear_fluxes.edge_weights(weights, False)[0]
        assert found[1:-1] == pytest.approx(edges[2:-2] ** power, rel=1e-12)
        if power < 3:
            assert found == pytest.approx(edges[1:-1] ** power, rel=1e-12)
    # Steep weights stay between their neighbors.
    weights = np.exp(log_power_cell_average(edges[5:], 200))[None]
    found = nonlinear_fluxes.edge_weights(weights, False)[0]
    assert (found >= weights[0, :-1]).all()
    assert (found <= weights[0, 1:]).all()
    ring = np.exp(0.3 * np.sin(2 * np.pi * (np.arange(40) + 0.5) / 40))[None]
    turned = nonlinear_fluxes.edge_weights(np.roll(ring, 7), True)
    assert turned == pytest.approx(np.roll(nonlinear_fluxes.edge_weights(ring, True), 7), rel=1e-15)
    assert turned[0] == pytest.approx(np.exp(0.3 * np.sin(2 * np.pi * (np.arange(40) - 6) / 40)), rel=2e-3)


def test_lines_go_and_come_back(rng):
    grid = wg.Grid([(0, 1), (0, 2), (0, 3)], cells=(3, 4, 5))
    values = rng.random(grid.shape)
    for axis in range(3):
        cells = nonlinear_fluxes.Lines(grid, axis)
        lines = cells.lines(values)
        assert lines.shape == (60 // grid.shape[axis], grid.shape[axis])
        assert (cells.back(lines) == values).all()
        assert (np.diff(lines[0]) == np.diff(np.moveaxis(values, axis, -1).reshape(-1, grid.shape[axis])[0])).all()
        # Volumes over conductances: width times distance, here the square of the width.
        assert cells.volumes[:, 1:] / cells.conductances == pytest.approx(grid.widths[axis][0] ** 2, rel=1e-13)
