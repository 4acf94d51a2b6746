"""Energies that change with time, and masses other than 1."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import wgflow as wg

GRID = wg.Grid([(-6, 6)], cells=200)
WELL = wg.Potential(lambda x: x**2 / 2)


def moving_trap(t):
    return wg.Potential(lambda x: (1 + 0.5 * np.cos(t)) * (x - np.sin(2 * t)) ** 2 / 2)


def trap_reference(diffusion, mean, variance, t1):
    """Mean, variance and work of a Gaussian law in the moving trap."""
    def rates(t, y):
        m, s, _ = y
        k, dk, a, da = 1 + 0.5 * np.cos(t), -0.5 * np.sin(t), np.sin(2 * t), 2 * np.cos(2 * t)
        return [-k * (m - a), -2 * k * s + 2 * diffusion, 0.5 * dk * (s + (m - a) ** 2) - k * da * (m - a)]

    return solve_ivp(rates, (0, t1), [mean, variance, 0.0], rtol=1e-11, atol=1e-12).y[:, -1]


def solve_trap(dt=None, cells=400, order=None, **options):
    grid = wg.Grid([(-6, 6)], cells=cells)
    energy = wg.Entropy(2.0) + wg.TimeDependent(moving_trap)
    return wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.3), (0, 2), method=wg.FiniteVolume(dt=dt, order=order),
                    **options)


def test_moving_trap_moments_and_work():
    reference, sol = trap_reference(0.5, 1.0, 0.3, 2.0), solve_trap()
    found = [sol.final.mean(), sol.final.cov(), sol.history.work[-1]]
    np.testing.assert_allclose(found, reference, atol=3e-4)
    assert sol.certificate.ok, sol.certificate.explain()
    # F rises at times: the work is what keeps the certificate honest.
    assert np.diff(sol.history.energy).max() > 1e-3
    assert np.diff(sol.history.energy - sol.history.work).max() <= 1e-13


def test_second_order_in_time():
    steps = 0.2 / 2.0 ** np.arange(5)
    limit = solve_trap(steps[-1] / 4, order=2)
    errors = [abs(solve_trap(dt, order=2).final.masses - limit.final.masses).sum() for dt in steps]
    assert 1.9 <= np.polyfit(np.log(steps), np.log(errors), 1)[0] <= 2.1


def test_switched_interaction_of_a_mass_of_two():
    """var' = -2 (a + k(t) M) var + 2 D with attraction k(t) |x - y|^2 / 2 and mass M."""
    mass, a, diffusion = 2.0, 0.5, 0.25
    attraction = wg.Interaction(lambda x, y: (x - y) ** 2 / 2)
    energy = (wg.Entropy(1 / diffusion) + wg.Potential(lambda x: a * x**2 / 2)
              + wg.TimeDependent(lambda t: np.tanh(t) * attraction))
    rho0 = wg.Density.from_values(GRID, mass * wg.Density.gaussian(GRID, 0.7, 0.4).values)
    sol = wg.solve(energy, rho0, (0, 1.5))
    variance = solve_ivp(lambda t, s: -2 * (a + np.tanh(t) * mass) * s + 2 * diffusion, (0, 1.5), [0.4], rtol=1e-10,
                         atol=1e-12).y[0, -1]
    np.testing.assert_allclose([sol.final.mean(), sol.final.cov(), sol.final.mass],
                               [0.7 * np.exp(-a * 1.5), variance, mass], atol=1e-3)
    assert sol.certificate.ok, sol.certificate.explain()


def test_a_frozen_time_dependent_term_changes_nothing():
    rho0 = wg.Density.gaussian(GRID, 1.0, 0.3)
    energy = wg.Entropy(1.0) + WELL + wg.Interaction(lambda x, y: (x - y) ** 2 / 2)
    still = wg.solve(energy, rho0, (0, 1), method=wg.FiniteVolume(dt=0.05, order=2))
    told = wg.solve(wg.TimeDependent(lambda t: WELL) + wg.Entropy(1.0) + wg.Interaction(lambda x, y: (x - y) ** 2 / 2),
                    rho0, (0, 1), method=wg.FiniteVolume(dt=0.05, order=2))
    np.testing.assert_allclose(told.final.values, still.final.values, rtol=0, atol=1e-14)
    assert np.abs(told.history.work).max() < 1e-13


def test_nonlinear_diffusion_in_a_rising_trap():
    energy = wg.PowerEntropy(2.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: (1 + t) * x**2 / 2))
    rho0 = wg.Density.from_function(GRID, lambda x: np.maximum(0, 1 - x**2))
    errors, steps = [], np.array([0.2, 0.1, 0.05, 0.025])
    finals = [wg.solve(energy, rho0, (0, 1), method=wg.FiniteVolume(dt=dt)) for dt in (*steps, steps[-1] / 4)]
    for sol in finals[:-1]:
        assert sol.certificate.ok, sol.certificate.explain()
        errors.append(abs(sol.final.cov() - finals[-1].final.cov()))
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] > 1.7


@pytest.mark.parametrize("dt", [0.3, 30.0])
def test_any_step(dt):
    """Long steps keep mass, sign and the decay of F less the work; that they cannot follow the drive is told."""
    repulsion = wg.Interaction(lambda x, y: -5.0 * np.exp(-((x - y) ** 2)))
    energy = wg.Entropy(20.0) + wg.TimeDependent(lambda t: moving_trap(t) + np.cos(3 * t) * repulsion)
    sol = wg.solve(energy, wg.Density.uniform(GRID), (0, 60), method=wg.FiniteVolume(dt=dt))
    answers = {name: answer for name, (answer, _) in sol.certificate.checks().items()}
    assert all(answers[name] is True for name in ("mass", "sign", "energy"))
    # Steps of half a period of the drive or more do not solve the equation, whatever they keep.
    assert (answers["equation"] is True) == (dt < 1)
    assert answers["drive"] is (dt < 1)


def test_checkpoint_gives_the_same_bits(tmp_path):
    path, grid = tmp_path / "run.npz", wg.Grid([(-6, 6)], cells=60)
    repulsion = wg.Interaction(lambda x, y: np.exp(-((x - y) ** 2)))
    energy = wg.Entropy(2.0) + wg.TimeDependent(lambda t: moving_trap(t) + np.sin(t) * repulsion)
    rho0 = wg.Density.gaussian(grid, 1.0, 0.3)
    whole = wg.solve(energy, rho0, (0, 2), method=wg.FiniteVolume())
    with pytest.raises(wg.ConvergenceError, match="max_steps"):
        wg.solve(energy, rho0, (0, 2), method=wg.FiniteVolume(max_steps=7), checkpoint=path)
    resumed = wg.resume(path, energy=energy, method=wg.FiniteVolume())
    assert np.array_equal(resumed.final.values, whole.final.values)
    assert np.array_equal(resumed.history.work, whole.history.work)


def test_work_is_stored(tmp_path):
    sol = solve_trap(0.1, cells=60)
    for name in ("a.npz", "a.nc"):
        sol.save(tmp_path / name)
        assert np.array_equal(wg.load(tmp_path / name).history.work, sol.history.work)


def test_dissipation_is_that_of_the_time():
    sol = solve_trap(0.05, t_eval=[0.0, 1.0, 2.0])
    for k, t in enumerate(sol.t):
        assert sol.dissipation[k] == sol.free_energy.at(t).dissipation(sol.densities[k])


def test_scaling_and_sums():
    rho = wg.Density.gaussian(GRID, 0.5, 0.3)
    energy = 2 * (wg.Entropy(1.0) + 3 * wg.TimeDependent(lambda t: t * WELL))
    assert energy.at(0.5)(rho) == pytest.approx(2 * wg.Entropy(1.0)(rho) + 3 * WELL(rho), rel=1e-14)
    assert energy.time_dependent
    assert not energy.at(1.0).time_dependent


# -------------------------------------------------------------------- bad input
def test_what_is_no_function():
    with pytest.raises(wg.InvalidInput, match="term_at must be a function of t"):
        wg.TimeDependent(WELL)


@pytest.mark.parametrize(("term_at", "match"), [
    (lambda t: t, "returned float at t=0"),
    (lambda t: wg.Entropy(1 + t), "time_scale=D"),
])
def test_what_it_may_return(term_at, match):
    with pytest.raises(wg.InvalidInput, match=match):
        wg.solve(wg.Entropy(1.0) + wg.TimeDependent(term_at), wg.Density.uniform(GRID), (0, 1))


@pytest.mark.parametrize("method", [wg.JKO(tau=0.1, order=2), wg.JKO(tau=0.1, adaptive=True), wg.FiPy(dt=0.1)])
def test_methods_that_do_not_know_it(method):
    with pytest.raises(wg.InvalidInput, match=r"use FiniteVolume\(\)"):
        wg.solve(wg.Entropy(1.0) + wg.TimeDependent(moving_trap), wg.Density.gaussian(GRID, 0, 1), (0, 1),
                 method=method)


@pytest.mark.parametrize("inner", ["quantile", "linearized"])
def test_jko_in_the_moving_trap(inner):
    """Richardson's extrapolation of two runs of first order."""
    runs = [wg.solve(wg.Entropy(2.0) + wg.TimeDependent(moving_trap), wg.Density.gaussian(GRID, 1.0, 0.3), (0, 2),
                     wg.JKO(tau, inner=inner)) for tau in (0.04, 0.02)]
    rough, fine = (np.array([sol.final.mean(), sol.final.cov(), sol.history.work[-1]]) for sol in runs)
    np.testing.assert_allclose(2 * fine - rough, trap_reference(0.5, 1.0, 0.3, 2.0), atol=2e-3)
    assert all(sol.certificate.ok for sol in runs), runs[0].certificate.explain()


def test_atoms_in_the_moving_trap():
    """Without noise the variance obeys the same equation with D = 0."""
    rho0 = wg.Atoms(1.0 + np.sqrt(0.3) * np.array([-1.0, 1.0]), [0.5, 0.5])
    sol = wg.solve(1.0 * wg.TimeDependent(moving_trap), rho0, (0, 2), wg.Lagrangian())
    np.testing.assert_allclose([sol.final.mean(), sol.final.cov(), sol.history.work[-1]],
                               trap_reference(0.0, 1.0, 0.3, 2.0), atol=1e-8)
    assert sol.certificate.ok


@pytest.mark.slow
def test_langevin_particles_in_the_moving_trap():
    mean, variance, _ = trap_reference(0.5, 1.0, 0.3, 2.0)
    attraction = wg.Interaction(lambda x, y: (x - y) ** 2 / 2)  # leaves the mean alone
    for energy, law, n in ((wg.TimeDependent(moving_trap), (mean, variance), 4000),
                           (wg.TimeDependent(lambda t: moving_trap(t) + t * attraction), (mean, None), 400)):
        sol = wg.solve(wg.Entropy(2.0) + energy, wg.Density.gaussian(GRID, 1.0, 0.3), (0, 2),
                       method=wg.Lagrangian(n_particles=n, dt=0.02, rng=271))
        assert abs(sol.final.mean() - law[0]) < 4 * np.sqrt(variance / n)
        if law[1] is not None:
            assert abs(sol.final.cov() / law[1] - 1) < 4 * np.sqrt(2 / n)


def test_energies_without_a_time():
    rho, energy = wg.Density.gaussian(GRID, 0, 1), wg.Entropy(1.0) + wg.TimeDependent(moving_trap)
    for call in (energy, energy.first_variation, energy.dissipation, lambda rho: wg.stationary(energy, rho.grid)):
        with pytest.raises(wg.InvalidInput, match=r"energy\.at\(t\)"):
            call(rho)


def test_a_function_that_fails_later_loses_nothing():
    def failing(t):
        if t > 0.5:
            raise RuntimeError("sensor off")
        return WELL

    with pytest.raises(wg.ConvergenceError, match="sensor off") as caught:
        wg.solve(wg.Entropy(1.0) + wg.TimeDependent(failing), wg.Density.gaussian(GRID, 1, 1), (0, 1))
    assert 0 < caught.value.partial.t[-1] <= 0.5
