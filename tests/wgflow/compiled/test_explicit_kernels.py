"""The explicit steps without diffusion against readable NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from wgflow.compiled import explicit


def reconstructed(r, h, d, periodic):
    """Return slopes of the density times h/2 at the right and left end of each cell, by loops."""
    n = r.size

    def gap(i):
        """Return the slope over the edge to the left of cell i, in units of density."""
        if not periodic and i in (0, n):
            return 0.0
        return (r[i % n] - r[i - 1]) / d[(i - 1) % n]

    fall = np.array([0.5 * h[i] * gap(i) for i in range(n)])
    rise = np.array([0.5 * h[i] * gap(i + 1) for i in range(n)])
    bend = rise - fall
    inner = [periodic or 0 < i < n - 1 for i in range(n)]
    bend = np.where(inner, bend, 0.0)
    up, down = np.zeros(n), np.zeros(n)
    for i in range(n):
        if not inner[i]:
            continue
        neighbors = bend[i - 1], bend[(i + 1) % n]
        smooth = all(b * bend[i] > 0.25 * bend[i] ** 2 for b in neighbors)
        low, high = abs(fall[i]), abs(rise[i])
        limit = low + high if smooth else (2 * min(low, high) if fall[i] * rise[i] > 0 else 0.0)
        limit = min(limit, 0.9 * r[i])
        up[i] = np.clip((fall[i] + 2 * rise[i]) / 3, -limit, limit)
        down[i] = np.clip((2 * fall[i] + rise[i]) / 3, -limit, limit)
    return up, down


def upwind(m, psi, h, d, periodic):
    """Return the fluxes over the edges 0..n, edge i to the left of cell i."""
    n, r = m.size, m / h
    up, down = reconstructed(r, h, d, periodic)
    flux = np.zeros(n + 1)
    for i in range(0 if periodic else 1, n):
        a = (psi[i - 1] - psi[i]) / d[(i - 1) % n]
        flux[i] = a * (r[i - 1] + up[i - 1]) if a > 0 else a * (r[i] - down[i])
    flux[n] = flux[0]
    return flux


def euler(m, dt, flux, periodic):
    """Return m plus dt times the fluxes, where no cell gives more than it has."""
    n = m.size
    part = [min(1.0, m[i] / out) if (out := dt * (max(flux[i + 1], 0) + max(-flux[i], 0))) > m[i] else 1.0
            for i in range(n)]
    new = m.copy()
    for i in range(0 if periodic else 1, n):
        given = dt * flux[i] * part[i - 1 if flux[i] > 0 else i]
        new[i - 1] -= given
        new[i] += given
    return np.maximum(new, 0.0)


def problem(seed, periodic, uneven, n=41):
    rng = np.random.default_rng(seed)
    h = rng.uniform(0.5, 2.0, n) if uneven else np.full(n, 0.7)
    d = 0.5 * (h + np.roll(h, -1)) if periodic else 0.5 * (h[1:] + h[:-1])
    smooth = 1.2 + np.sin(np.arange(n) * 0.3)
    m = h * np.where(rng.random(n) < 0.3, rng.random(n), smooth)
    m[:4] = 0.0
    lines = np.zeros((4, n))
    lines[0], lines[1], lines[3] = 1 / h, h / 2, 1 / h
    lines[2] = 1 / np.roll(d, 1) if periodic else np.append(0.0, 1 / d)
    return rng, h, d, m, lines


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
def test_fluxes_and_stages_against_numpy(periodic, uneven):
    rng, h, d, m, lines = problem(31, periodic, uneven)
    n = m.size
    potential, field = rng.standard_normal((2, n))
    work, flux, speed, x = np.empty((5, n + 2)), np.empty(n + 1), np.empty(n + 1), np.empty(n)
    explicit._fluxes(m, potential, field, lines, periodic, work, flux, speed)
    wanted = upwind(m, potential + field, h, d, periodic)
    np.testing.assert_allclose(flux, wanted, rtol=1e-12, atol=1e-13)
    for dt in (1e-3, 0.5, 10.0):
        explicit._euler(m, dt, flux, periodic, work[0], x)
        np.testing.assert_allclose(x, euler(m, dt, wanted, periodic), rtol=1e-12, atol=1e-13)
        assert x.min() >= 0
        assert x.sum() == pytest.approx(m.sum(), rel=1e-14)
    psi = potential + field
    fall = np.roll(psi, 1) - psi
    assert explicit._fall(flux, potential, field, periodic) == pytest.approx(float((flux[:n] * fall).sum()), rel=1e-12)
    assert (flux[:n] * fall).min() >= 0


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("scale", [0.01, 0.7])
def test_a_step_against_numpy(periodic, scale):
    """One step of the compiled loop, with features and a table, is Shu and Osher's with the field at each stage."""
    rng, h, d, m, lines = problem(57, periodic, False)
    n = m.size
    potential, features = rng.standard_normal(n), np.zeros((4, n))
    features[:3] = rng.standard_normal((3, n))
    signs, table = np.array([0.3, 0.2, 0.1, 0.0]), rng.standard_normal(2 * n - 1)
    table = table + table[::-1]
    U = (features.T * signs) @ features + np.array([table[n - 1 - i:2 * n - 1 - i] for i in range(n)])
    U *= scale
    # An attraction would do as well: what matters is that F falls.
    U -= U.min() if scale > 0.5 else 0.0
    full = np.ascontiguousarray(U).ravel()
    dt = 1e-4

    def stage(m):
        return euler(m, dt, upwind(m, potential + U @ m, h, d, periodic), periodic)

    one = stage(m)
    two = 0.75 * m + 0.25 * stage(one)
    three = (m + 2 * stage(two)) / 3
    rows, laws, fields = np.empty((1, 8)), np.empty((1, n)), np.empty((1, n))
    control = np.array([dt, 0.0, 1e-12])

    def energy(m):
        return float(m @ potential + 0.5 * m @ U @ m)

    found = explicit.explicit_steps(m, potential, features, 0 * signs, full, (0, n), lines, periodic,
                                      (0.0, dt, 1.0, 1.0, energy(m), m.sum()), control, (1e-3, 0.2, 1e-9, 1e-3), rows,
                                      laws, fields)
    assert found[0] == 1
    np.testing.assert_allclose(laws[0], three, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(fields[0], U @ three, rtol=1e-11, atol=1e-11)
    assert rows[0, 2] == pytest.approx(energy(three), rel=1e-12)
    assert rows[0, 5:7] == pytest.approx([three.sum(), (three / h).min()], rel=1e-12)
    d_heun, change = np.abs(three - (2 * two - m)).sum(), np.abs(three - m).sum()
    assert rows[0, 4] == pytest.approx(d_heun * (d_heun / change) ** 0.5 / m.sum(), rel=1e-3)


def test_interactions_in_all_forms():
    rng = np.random.default_rng(77)
    n = 23
    m, features, signs = rng.random(n), rng.standard_normal((8, n)), rng.standard_normal(8)
    kernel = rng.standard_normal(n)
    line = np.concatenate([kernel[:0:-1], kernel])
    dense = kernel[np.abs(np.arange(n)[:, None] - np.arange(n))]
    field = np.empty(n)
    explicit._field(m, features, signs, line, n - 1, -1, field)
    np.testing.assert_allclose(field, (features.T * signs) @ (features @ m) + dense @ m, rtol=1e-12, atol=1e-12)
    explicit._field(m, features[:0], signs[:0], dense.ravel(), 0, n, field)
    np.testing.assert_allclose(field, dense @ m, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- the loop of steps
def loop(m, potential, lines, *, stop=1.0, control=1.0, longest=1.0, scale=1.0, tolerance=(1e-3, 0.0, 0.0, 0.0),
         energy=None, rows=1, periodic=False, shortest=1e-12, start=0.0):
    """Take steps without interaction; return what is told, the rows, the laws and the control."""
    n = m.size
    told, laws, fields, steps = np.empty((rows, 8)), np.empty((rows, n)), np.empty((rows, n)), np.array(
        [control, 0.0, shortest])
    energy = float(m @ potential) if energy is None else energy
    found = explicit.explicit_steps(m, potential, np.empty((0, n)), np.empty(0), np.empty(0), (0, 0), lines, periodic,
                                    (start, stop, longest, scale, energy, float(m.sum())), steps, tolerance, told, laws,
                                    fields)
    return found, told, laws, steps


def outflow(m, potential, lines):
    n = m.size
    speed = np.append(0.0, [(potential[i - 1] - potential[i]) * lines[2, i] for i in range(1, n)])
    speed = np.append(speed, 0.0)
    return max((max(speed[i + 1], 0) + max(-speed[i], 0)) * lines[0, i] for i in range(n)
               if m[i] > explicit.NEGLIGIBLE * m.sum())


def smooth_problem(n=41, size=1.0):
    h = 0.1
    x = h * (np.arange(n) - (n - 1) / 2)
    lines = np.zeros((4, n))
    lines[0], lines[1], lines[2], lines[3] = 1 / h, h / 2, 1 / h, 1 / h
    lines[2, 0] = 0.0
    return np.exp(-(x - 0.3) ** 2) * h, size * x**2 / 2, lines


def test_the_outflow_is_that_of_cells_with_mass(rng):
    n = 9
    speed, lines, m = rng.standard_normal(n + 1), rng.uniform(0.5, 2.0, (4, n)), rng.random(n)
    m[4], speed[4], speed[5] = 0.0, -50.0, 50.0
    parts = [(max(speed[i + 1], 0) + max(-speed[i], 0)) * lines[0, i] for i in range(n)]
    assert explicit._outflow(m, m.sum(), speed, lines) == pytest.approx(max(parts[:4] + parts[5:]), rel=1e-14)
    m[4] = 10 * explicit.NEGLIGIBLE * m.sum()
    assert explicit._outflow(m, m.sum(), speed, lines) == pytest.approx(parts[4], rel=1e-14)


def test_the_error_of_the_grid_is_of_third_order(rng):
    r = rng.random(11)
    bends = np.abs(np.diff(r, 2)).sum()
    assert explicit._grid_error(r) == pytest.approx((bends / (12 * r.sum())) ** 1.5, rel=1e-13)


def test_steps_keep_to_the_bound_of_courant():
    m, potential, lines = smooth_problem()
    bound = explicit.COURANT / outflow(m, potential, lines)
    for scale in (1.0, 3.0):
        found, told, _, control = loop(m, potential, lines, scale=scale)
        count = np.ceil(1.0 / (bound / scale))
        assert found[:3] == (1, 0, False)
        assert told[0, 0] == pytest.approx(1 / count, rel=1e-14)
        assert told[0, 1] == pytest.approx(scale / count, rel=1e-14)
    # What is told beside the steps: how many times longer the next could be for its error, and the dissipation.
    after = scale * outflow(loop(m, potential, lines, scale=scale)[2][0], potential, lines)
    assert found[3] == pytest.approx(control[0] * after / explicit.COURANT, rel=1e-12)
    assert found[4] == told[0, 3] > 0
    assert loop(m, potential, lines, longest=0.01)[1][0, 0] == pytest.approx(0.01, rel=1e-14)
    assert loop(m, potential, lines, control=0.004)[1][0, 0] == pytest.approx(0.004, rel=1e-14)
    # The last steps are of one length, and end at the end.
    found, told, laws, _ = loop(m, potential, lines, stop=0.035, longest=0.01, rows=9)
    assert found[0] == 4
    np.testing.assert_allclose(told[:4, 0], 0.035 * np.arange(1, 5) / 4, rtol=1e-14)
    assert told[3, 0] == 0.035
    np.testing.assert_allclose(told[:4, 2], [law @ potential for law in laws[:4]], rtol=1e-13)


def test_the_next_length_follows_from_the_error():
    m, potential, lines = smooth_problem()
    _, told, _, control = loop(m, potential, lines, control=0.01, tolerance=(1e-5, 0, 0, 0))
    error = told[0, 4]
    assert 0 < error < 1e-5
    growth = explicit.SAFETY * (1e-5 / error) ** 0.25
    assert growth < explicit.GROWTH_LIMIT
    assert control[0] == pytest.approx(0.01 * growth, rel=1e-12)
    assert loop(m, potential, lines, control=0.01, tolerance=(1e30, 0, 0, 0))[3][0] == pytest.approx(0.16, rel=1e-14)
    # A negative tolerance stands for a multiple of the error of the grid at the start, between two bounds.
    grid = explicit._grid_error(m / 0.1)
    for share, tightest, loosest, allowed in ((0.2, 0, 1.0, 0.2 * grid), (0.2, 2e-3, 1.0, 2e-3), (0.2, 0, 1e-5, 1e-5)):
        told, control = loop(m, potential, lines, control=0.01, tolerance=(-1.0, share, tightest, loosest))[1::2]
        growth = min(explicit.SAFETY * (allowed / told[0, 4]) ** 0.25, explicit.GROWTH_LIMIT)
        assert growth < explicit.GROWTH_LIMIT
        assert control[0] == pytest.approx(0.01 * growth, rel=0.01)


def test_steps_with_too_large_an_error_are_done_again():
    m, potential, lines = smooth_problem()
    loose, tight = (loop(m, potential, lines, control=0.02, tolerance=(rtol, 0, 0, 0)) for rtol in (1.0, 1e-8))
    assert loose[0][:2] == (1, 0)
    assert loose[1][0, 4] > 1e-8
    found, told = tight[:2]
    assert found[0] == 1
    assert found[1] == told[0, 7] >= 1
    assert told[0, 4] <= 1e-8
    # By no more than to a tenth at once, and not below the shortest length.
    found, told = loop(m, potential, lines, control=0.02, tolerance=(1e-30, 0, 0, 0), shortest=0.005)[:2]
    assert found[:2] == (1, 1)
    assert told[0, 0] == pytest.approx(0.002, rel=1e-12)
    found, told = loop(m, potential, lines, control=0.02, tolerance=(1e-8, 0, 0, 0), shortest=0.02)[:2]
    assert found[:2] == (1, 0)
    assert told[0, 4] > 1e-8


def test_steps_whose_energy_rises_are_halved_and_given_up():
    m, potential, lines = smooth_problem()
    found, _, _, control = loop(m, potential, lines, control=0.02, energy=-1.0)
    assert found[:3] == (0, 7, True)  # six halves of a step, then none
    assert control[0] == pytest.approx(0.02 / 2**7, rel=1e-12)
    # Steps that the time does not notice are given up at once.
    found = loop(m, potential, lines, start=1.0, stop=1.0 + 2.0**-50, longest=1e-30)[0]
    assert found[:3] == (0, 0, True)


def test_a_law_at_rest_takes_one_step_to_the_end():
    m, potential, lines = smooth_problem(size=0.0)
    found, told, laws, control = loop(m, potential, lines, control=np.inf, longest=np.inf, stop=7.0)
    assert found[:3] == (1, 0, False)
    assert told[0, :5] == pytest.approx([7.0, 7.0, 0.0, 0.0, 0.0], abs=1e-15)
    np.testing.assert_allclose(laws[0], m, rtol=1e-15)
    assert control[0] == pytest.approx(7.0 * explicit.GROWTH_LIMIT)
