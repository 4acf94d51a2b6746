"""Finite volumes for nonlinear diffusion: exact solutions, observed orders, states at rest, limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.internal_energies import InternalEnergy, PowerEntropy, RelativeEntropy
from wgflow.grids import log_power_cell_average


def solve(energy, rho, t, **options):
    """By fluxes, which laws with fronts would leave to points (test_fronts.py)."""
    return wg.solve(1.0 * energy, rho, (0.0, t), t_eval=[t], method=wg.FiniteVolume(**{"order": 2, **options}))


def distance(rho, other):
    return float(np.abs(rho.masses - other.masses).sum())


def order(cells, errors):
    return -np.polyfit(np.log(cells), np.log(errors), 1)[0]


# ---------------------------------------------------------------- the porous medium equation
class Barenblatt:
    """u = t^-dk (level - c r^2 t^-2k)_+^(1/(m-1)), the solution of u_t = Lap u^m that starts from a point mass 1."""

    def __init__(self, m: float, d: int = 1):
        self.m, self.d, self.k, self.p = m, d, 1.0 / (2.0 + d * (m - 1.0)), 1.0 / (m - 1.0)
        self.c = (m - 1.0) * self.k / (2.0 * m)
        self.area = 2.0 * math.pi ** (d / 2) / math.gamma(d / 2)
        beta = math.gamma(d / 2) * math.gamma(self.p + 1) / math.gamma(d / 2 + self.p + 1)
        self.level = (2.0 * self.c ** (d / 2) / (self.area * beta)) ** (1.0 / (self.p + d / 2))

    def radius(self, t):
        return math.sqrt(self.level / self.c) * t**self.k

    def __call__(self, r, t):
        return t ** (-self.d * self.k) * np.maximum(self.level - self.c * r**2 * t ** (-2 * self.k), 0.0) ** self.p

    def averages(self, grid, t):
        """Cell averages on a line; the cells of the fronts are cut at them."""
        values, R = np.zeros(grid.shape), self.radius(t)
        x, w = np.polynomial.legendre.leggauss(24)
        for i, (a, b) in enumerate(zip(grid.edges[0][:-1], grid.edges[0][1:])):
            a, b = max(a, -R), min(b, R)
            if a < b:
                # Nodes that crowd at a front, where the density is a power of the distance.
                z = (0.5 * (x + 1.0)) ** 4
                s = b - (b - a) * z if b == R else a + (b - a) * (z if a == -R else 0.5 * (x + 1.0))
                jacobian = 2.0 * (0.5 * (x + 1.0)) ** 3 if R in (b, -a) else 0.5
                values[i] = (w * self(s, t) * jacobian).sum() * (b - a)
        return wg.Density(grid, values / grid.widths[0])


def barenblatt_error(m, cells, **options):
    grid, exact = wg.Grid([(-4, 4)], cells=cells), Barenblatt(m)
    sol = solve(PowerEntropy(m), exact.averages(grid, 1.0), 1.0, **options)
    assert sol.certificate.ok
    assert sol.certificate.n_fallback == 0
    return distance(sol.final, exact.averages(grid, 2.0)), sol.final


def test_the_exact_solution_itself():
    exact = Barenblatt(2.0)
    assert exact.level == pytest.approx(0.360562392577, abs=1e-12)
    assert exact.radius(1.0) == pytest.approx(2.08008382305, abs=1e-10)
    assert exact.radius(2.0) == pytest.approx(2.62074139421, abs=1e-10)
    assert exact.averages(wg.Grid([(-4, 4)], cells=57), 1.0).mass == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("cells", "bound"), [(200, 3e-5), (400, 1e-5)])
def test_porous_medium(cells, bound):
    error, rho = barenblatt_error(2.0, cells)
    assert error <= bound
    assert rho.values.max() == pytest.approx(0.286178560638, abs=bound)
    assert rho.expect(lambda x: x**2) == pytest.approx(1.37365709106, abs=2e-4 * 200 / cells)


@pytest.mark.parametrize(("m", "bounds"), [(1.5, (6e-5, 2e-5)), (3.0, (1.2e-3, 3e-4)), (4.0, (2.5e-3, 9e-4))])
def test_other_exponents(m, bounds):
    for cells, bound in zip((100, 200), bounds):
        assert barenblatt_error(m, cells)[0] <= bound


@pytest.mark.slow
def test_order_over_six_grids_and_the_place_of_the_front():
    cells, errors = (50, 71, 100, 141, 200, 283), []
    for n in cells:
        error, rho = barenblatt_error(2.0, n)
        errors.append(error)
        x, h = rho.grid.centers[0], rho.grid.widths[0][0]
        front = x[rho.values > 1e-3 * rho.values.max()].max() + 0.5 * h
        assert abs(front - 2.62074139421) <= 1.5 * h
        # Beyond the cell of the front and its neighbor there is nothing to see.
        assert rho.values[np.abs(x) > 2.62074139421 + 1.5 * h].max() < 1e-6
    assert order(cells, errors) >= 1.3


def test_no_oscillations_at_fronts():
    grid = wg.Grid([(-2, 2)], cells=160)
    block = wg.Density.from_function(grid, lambda x: np.where(np.abs(x) < 0.5, 1.0, 0.0))
    for m in (1.5, 2.0, 4.0):
        for options in ({}, {"dt": 0.02}):
            values = solve(PowerEntropy(m), block, 0.1, **options).final.values
            # One hump: up to the middle it never falls.
            assert np.diff(values[:80]).min() >= -1e-12
            assert np.diff(values[80:]).max() <= 1e-12


def test_waiting_time():
    # With u0 = cos^2 the edge rests until t = 1/12.
    grid = wg.Grid([(-2.5, 2.5)], cells=250)
    rho = wg.Density.from_function(grid, lambda x: np.where(np.abs(x) < np.pi / 2, np.cos(x) ** 2, 0.0),
                                   normalize=False)
    sol = wg.solve(1.0 * PowerEntropy(2.0), rho, (0, 0.2), t_eval=[0.04, 0.08, 0.2])
    beyond = np.abs(grid.centers[0]) > np.pi / 2 + 2 * grid.widths[0][0]
    ahead = [density.values[beyond].max() for density in sol.densities]
    assert ahead[0] < 1e-10
    assert ahead[1] < 1e-8
    assert ahead[2] > 1e-2


def test_plane():
    exact = Barenblatt(2.0, d=2)
    assert exact.radius(1.0) == pytest.approx(1.78648768348, abs=1e-10)
    grid = wg.Grid([(-3, 3)] * 2, cells=48)
    law = [wg.Density.from_function(grid, lambda x, y, t=t: exact(np.hypot(x, y), t)) for t in (1.0, 2.0)]
    sol = solve(PowerEntropy(2.0), law[0], 1.0)
    assert sol.certificate.ok
    assert distance(sol.final, law[1]) < 1e-3
    values = sol.final.values
    assert np.abs(values - values[::-1]).max() < 1e-14
    assert np.abs(values - values[:, ::-1]).max() < 1e-14


@pytest.mark.parametrize("d", [2, 3, 5])
def test_radius(d):
    exact, errors = Barenblatt(2.0, d), []
    for cells in (50, 100):
        weight = log_power_cell_average(np.linspace(0, 4, cells + 1), d - 1) + math.log(exact.area)
        grid = wg.Grid([(0, 4)], cells=cells, log_weight=weight)
        law = [wg.Density.from_function(grid, lambda r, t=t: exact.area * r ** (d - 1) * exact(r, t)) for t in (1, 2)]
        sol = solve(PowerEntropy(2.0), law[0], 1.0)
        assert sol.certificate.ok
        errors.append(distance(sol.final, law[1]))
        peak = sol.final.values[0] / math.exp(grid.log_weight[0])
        assert peak == pytest.approx(exact(0.5 * grid.widths[0][0], 2.0), rel=1e-3)
    assert errors[1] < min(errors[0] / 1.8, 1.2e-3)


# ---------------------------------------------------------------- with potentials and interactions
def confined(m):
    """rho = s^-1 P(x/s), s^(m+1) = 1 + (s0^(m+1) - 1) e^(-(m+1) t): the flow of H + x^2/2 from s0 = 1/2."""
    x, w = np.polynomial.legendre.leggauss(400)

    def profile(y, c):
        return np.maximum((m - 1) / m * (c - y**2 / 2), 0.0) ** (1 / (m - 1))

    low, high = (-60.0, -1e-4) if m < 1 else (1e-4, 60.0)
    for _ in range(100):
        c = 0.5 * (low + high)
        if m < 1:
            z = 0.5 * np.pi * x  # y = tan z
            mass = 0.5 * np.pi * (w * profile(np.tan(z), c) / np.cos(z) ** 2).sum()
        else:
            z = 0.5 * np.pi * x  # y = R sin z
            R = math.sqrt(2 * c)
            mass = 0.5 * np.pi * R * (w * profile(R * np.sin(z), c) * np.cos(z)).sum()
        low, high = (c, high) if mass < 1 else (low, c)

    def law(grid, t):
        s = (1 + (0.5 ** (m + 1) - 1) * math.exp(-(m + 1) * t)) ** (1 / (m + 1))
        return wg.Density.from_function(grid, lambda y: profile(y / s, c) / s)

    return law


@pytest.mark.parametrize(("m", "bounds"), [(0.75, (1.6e-3, 4e-4)), (2.0, (1e-3, 2.5e-4)), (3.0, (1e-2, 1e-3))])
def test_confined_flow(m, bounds):
    law = confined(m)
    for cells, bound in zip((100, 200), bounds):
        grid = wg.Grid([(-3, 3)], cells=cells)
        if m < 1:
            grid = wg.Grid(edges=40 * np.sinh(4 * np.linspace(-1, 1, cells + 1)) / math.sinh(4))
        sol = solve(PowerEntropy(m) + wg.Potential(lambda x: x**2 / 2), law(grid, 0.0), 1.0)
        assert sol.certificate.ok
        assert distance(sol.final, law(grid, 1.0)) < bound


def test_confined_flow_comes_to_rest():
    grid = wg.Grid([(-2, 2)], cells=200)
    energy = PowerEntropy(2.0) + wg.Potential(lambda x: x**2 / 2)
    sol = solve(energy, wg.Density.gaussian(grid, 0.3, 0.2), 20.0)
    assert sol.energy[-1] == pytest.approx(0.624025146916, abs=1e-6)
    # The mean of (R^2 - x^2) / 4 over the cell beside the middle, whose value is R^2 / 4.
    assert sol.final.values.max() == pytest.approx(0.520020955763 - grid.widths[0][0] ** 2 / 12, abs=3e-6)
    assert sol.certificate.ok


def test_aggregation_against_porous_medium():
    # H' = eps rho, U = -e^-|x| / 2, eps = 1/2: A cos(w x) + B on [-L, L], w = 1.
    half = 3 * math.pi / 4
    grid = wg.Grid([(-5, 5)], cells=100)
    energy = 0.25 * PowerEntropy(2.0) + wg.Interaction(wg.Convolution(lambda x: -0.5 * np.exp(-np.abs(x))))
    sol = solve(energy, wg.Density.gaussian(grid, 0.0, 1.0), 100.0)
    assert sol.certificate.ok
    assert sol.final.values.max() == pytest.approx(0.359665324734, rel=3e-3)
    inside = grid.centers[0][sol.final.values > 1e-4]
    assert abs(inside.max() + 0.5 * grid.widths[0][0] - half) <= grid.widths[0][0]


def smooth_problem(cells, boundary):
    grid = wg.Grid([(-1, 1)], cells=cells, boundary=boundary)
    energy = (PowerEntropy(2.0) + wg.Entropy(10.0) + wg.Potential(lambda x: 0.5 * np.cos(np.pi * x))
              + wg.Interaction(wg.Convolution(lambda x: 0.3 * np.cos(np.pi * x))))
    tilt = 0.2 if boundary == "periodic" else 0.0
    return energy, wg.Density.from_function(
        grid, lambda x: 1 + 0.5 * np.cos(np.pi * x) + tilt * np.sin(2 * np.pi * x))


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["periodic", "no-flux"])
def test_second_order_in_space(boundary):
    cells, errors = np.array([20, 30, 40, 60, 80, 120]), []
    fine = solve(*smooth_problem(960, boundary), 0.1, dt=2.5e-4).final.values
    for n in cells:
        values = solve(*smooth_problem(int(n), boundary), 0.1, dt=2.5e-4).final.values
        errors.append(np.abs(values - fine.reshape(n, -1).mean(axis=1)).mean())
    assert order(cells, errors) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("boundary", ["periodic", "no-flux"])
def test_second_order_in_time(boundary):
    energy, rho = smooth_problem(80, boundary)
    fine = solve(energy, rho, 0.2, dt=0.2 / 1024).final
    steps = np.array([8, 12, 16, 24, 32, 64])
    errors = [distance(solve(energy, rho, 0.2, dt=0.2 / n).final, fine) for n in steps]
    assert order(steps, errors) == pytest.approx(2.0, abs=0.1)


def test_radius_with_a_potential_has_the_order_of_the_plane():
    # The same flow in the plane and along the radius.
    plane = wg.Grid([(-2, 2)] * 2, cells=64)
    radius = wg.Grid([(0, 2)], cells=200, log_weight=log_power_cell_average(np.linspace(0, 2, 201), 1)
                     + math.log(2 * math.pi))
    flat = wg.Density.from_function(plane, lambda x, y: np.exp(-2 * (x**2 + y**2)))
    ring = wg.Density.from_function(radius, lambda r: r * np.exp(-2 * r**2))
    energy = PowerEntropy(2.0) + wg.Entropy(5.0)
    a = solve(energy + wg.Potential(lambda x, y: x**2 + y**2), flat, 0.2)
    b = solve(energy + wg.Potential(lambda r: r**2), ring, 0.2)
    assert a.final.expect(lambda x, y: x**2 + y**2) == pytest.approx(b.final.expect(lambda r: r**2), rel=2e-3)
    assert a.energy[-1] == pytest.approx(b.energy[-1], rel=2e-3)


# ---------------------------------------------------------------- states at rest, symmetries, limits
@pytest.mark.parametrize("dt", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("m", [0.5, 0.75, 1.5, 2.0, 3.0])
def test_states_with_a_constant_first_variation_rest(m, dt):
    grid = wg.Grid([(-2, 2)], cells=120)
    wells = np.cos(np.pi * grid.centers[0]) + 0.3 * np.sin(np.pi * grid.centers[0])
    level = -1.5 if m < 1 else 0.4  # for m > 1 there are two wells with a gap of empty cells
    values = np.maximum((m - 1) / m * (level - wells), 0.0) ** (1 / (m - 1))
    assert (values == 0).any() == (m > 1)
    rho = wg.Density.from_values(grid, values)
    sol = solve(PowerEntropy(m) + wg.Potential(wells), rho, 200 * dt, dt=dt)
    assert sol.certificate.n_accepted == 200
    assert sol.certificate.n_rejected == 0
    assert np.abs(sol.final.values - values).max() <= 1e-12 * values.max()


def test_a_state_of_a_sum_of_energies_rests_in_the_plane():
    grid = wg.Grid([(-1, 1), (-1, 1)], cells=(24, 20), boundary=("no-flux", "periodic"))
    rho = wg.Density.from_function(grid, lambda x, y: 1 + 0.5 * np.sin(np.pi * y) * x)
    terms = 0.3 * PowerEntropy(1.5) + PowerEntropy(3.0) + wg.Entropy(2.0)
    V = -terms.first_variation(rho)
    sol = solve(terms + wg.Potential(V), rho, 50.0, dt=0.5)
    assert np.abs(sol.final.values - rho.values).max() <= 1e-12
    near = wg.Density(grid, rho.values * (1 + 0.1 * np.cos(np.pi * grid.mesh()[0])))
    back = solve(terms + wg.Potential(V), near, 50.0)
    assert distance(back.final, rho) < 0.02 * distance(near, rho)


def test_reflection():
    grid = wg.Grid([(-2, 2)], cells=90)

    def V(x):
        return np.cos(2 * x) + 0.3 * x

    rho = wg.Density.from_function(grid, lambda x: np.where(np.abs(x - 0.4) < 0.6, 1.0 + x, 0.0))
    mirror = wg.Density(grid, rho.values[::-1])
    for m in (0.7, 1.4, 2.0, 5.0):
        a = solve(PowerEntropy(m) + wg.Potential(V), rho, 0.5, dt=0.05)
        b = solve(PowerEntropy(m) + wg.Potential(lambda x: V(-x)), mirror, 0.5, dt=0.05)
        assert np.abs(a.final.values - b.final.values[::-1]).max() < 1e-13


def test_shift_along_a_ring():
    grid = wg.Grid([(0, 1)], cells=40, boundary="periodic")
    rho = wg.Density.from_function(grid, lambda x: np.where(x < 0.3, 1.0, 0.0))
    V = np.cos(2 * np.pi * grid.centers[0])
    a = solve(PowerEntropy(2.0) + wg.Potential(V), rho, 0.1, dt=0.01).final.values
    b = solve(PowerEntropy(2.0) + wg.Potential(np.roll(V, 15)), wg.Density(grid, np.roll(rho.values, 15)), 0.1,
              dt=0.01).final.values
    assert np.abs(np.roll(a, 15) - b).max() < 1e-13


def test_exponents_near_one_tend_to_linear_diffusion():
    grid = wg.Grid([(-4, 4)], cells=200)
    rho = wg.Density.gaussian(grid, 0.5, 0.3)
    V = wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    linear = solve(wg.Entropy(1.0) + V, rho, 0.5, rtol=1e-7).final
    gaps = [distance(solve(PowerEntropy(1 + e) + V, rho, 0.5, rtol=1e-7).final, linear) for e in (1e-2, -1e-2, 1e-4)]
    assert gaps[0] < 2e-2
    assert gaps[1] < 2e-2
    assert gaps[2] < 3e-4
    # The entropy taken through the nonlinear scheme, as a user's H.
    log = InternalEnergy(lambda r: r * np.log(r), lambda r: np.log(r) + 1, lambda r: 1 / r)
    assert distance(solve(log + V, rho, 0.5, rtol=1e-7).final, linear) < 2e-4


def own_power(m):
    return InternalEnergy(lambda r: r**m / (m - 1), lambda r: m / (m - 1) * r ** (m - 1), lambda r: m * r ** (m - 2))


def test_a_users_H_gives_what_the_power_gives():
    grid = wg.Grid([(-3, 3)], cells=80)
    rho = wg.Density.from_function(grid, lambda x: np.where(np.abs(x) < 1, 1 - x**2, 0.0))
    V = wg.Potential(lambda x: 0.1 * x**3)
    for m in (0.6, 1.5, 3.0):
        a, b = (solve(0.7 * term + V, rho, 0.3, dt=0.03) for term in (PowerEntropy(m), own_power(m)))
        assert distance(a.final, b.final) < 1e-11
        assert np.abs(a.history.energy - b.history.energy).max() < 1e-11


def test_relative_entropy_flows_to_its_reference():
    grid = wg.Grid([(-3, 3)], cells=150)
    prior = wg.Density.from_function(grid, lambda x: np.exp(-(x**4) + x))
    for order in (2, 4):
        sol = solve(RelativeEntropy(prior, beta=2.0), wg.Density.gaussian(grid, -1.0, 0.1), 30.0, order=order)
        # With nodes the values at the centers are those of the reference.
        assert distance(sol.final if order == 2 else wg.Density(grid, sol.final.nodal.values), prior) < 1e-9
        assert sol.energy[-1] == pytest.approx(0.0, abs=1e-12)
    mixed = solve(RelativeEntropy(prior) + PowerEntropy(2.0), wg.Density.gaussian(grid, -1.0, 0.1), 30.0)
    mu = (RelativeEntropy(prior) + PowerEntropy(2.0)).first_variation(mixed.final)
    assert np.ptp(mu[mixed.final.values > 1e-6]) < 1e-5


def test_dissipation_is_the_loss_of_energy():
    energy, rho = smooth_problem(100, "no-flux")
    rate, dt = energy.dissipation(rho), 1e-5
    sol = solve(energy, rho, dt, dt=dt)
    assert (sol.history.energy[0] - sol.history.energy[-1]) / dt == pytest.approx(rate, rel=1e-3)
    sol = solve(energy, rho, 0.3)
    assert sol.certificate.dissipation_defect < 1e-4


@pytest.mark.parametrize("m", [1.2, 2.0, 6.0])
def test_huge_steps_into_a_vacuum(m):
    # A point mass spreads over all of an empty box in six steps, or one.
    grid = wg.Grid([(-1, 1)], cells=201)
    values = np.zeros(201)
    values[40] = 1.0
    rho = wg.Density.from_values(grid, values, normalize=True)
    for dt in (1e2, 1e6):
        sol = solve(1.0 * PowerEntropy(m), rho, 6 * dt, dt=dt)
        assert sol.certificate.n_fallback == 0
        assert np.abs(sol.final.values - 0.5).max() < 1e-6


def test_settings_plain_fluxes_and_resumption(tmp_path):
    energy, rho = smooth_problem(40, "no-flux")
    plain, corrected = (solve(energy, rho, 0.1, corrected=c).final for c in (False, True))
    fine = solve(*smooth_problem(320, "no-flux"), 0.1).final.values.reshape(40, -1).mean(axis=1)
    assert np.abs(corrected.values - fine).sum() < 0.5 * np.abs(plain.values - fine).sum()
    path = tmp_path / "run.npz"
    method = wg.FiniteVolume(dt=0.01)
    wg.solve(energy, rho, (0, 0.05), t_eval=[0.05], method=method, checkpoint=path)
    resumed = wg.resume(path, t_end=0.1, energy=energy)
    whole = wg.solve(energy, rho, (0, 0.1), t_eval=[0.05, 0.1], method=method)
    assert (resumed.final.values == whole.final.values).all()


def test_weights_out_of_range_are_refused():
    edges = np.linspace(0, 3, 61)
    grid = wg.Grid([(0, 3)], cells=60, log_weight=log_power_cell_average(edges, 319))
    rho = wg.Density.from_log_function(grid, lambda r: 319 * np.log(r) - 200 * (r - 1) ** 2)
    with pytest.raises(wg.InvalidInput, match=r"log_weight: .* run from -.*nonlinear diffusion"):
        solve(PowerEntropy(2.0), rho, 1.0)


def test_an_H_that_turns_out_not_convex_is_named():
    # Convex below 2 only, and the density goes beyond.
    H = InternalEnergy(lambda r: r**2 - r**3 / 6, lambda r: 2 * r - r**2 / 2, lambda r: 2 - r, up_to=1.9)
    rho = wg.Density.gaussian(wg.Grid([(-1, 1)], cells=60), 0.0, 0.01)
    with pytest.raises(wg.InvalidInput, match=r"H''\(3.*\)=-1.*convex"):
        solve(H, rho, 1.0)
