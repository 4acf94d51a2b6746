"""Who else knows a mobility: the audit, storage, checkpoints, error estimates; and what is said of wrong ones."""

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.mobility import Mobility, UnknownMobility, as_mobility
from wgflow.flows import Flow
from wgflow.validation import exact

MATRIX = ((1.0, 0.45), (0.45, 0.4))
LINE = wg.Grid((-4, 4), cells=160)
WELL = wg.Entropy(1.0) + wg.Potential(lambda x: 8 * np.log1p(x**2))
START = wg.Density.gaussian(LINE, 0.5, 0.1)
PLANE = wg.Grid([(-4.5, 4.5), (-4.2, 4.2)], cells=(64, 64))
OBLIQUE = wg.Entropy(2.0) + wg.Potential(lambda x, y: 0.6 * x**2 - 0.3 * x * y + 0.4 * y**2)
CLOUD = wg.Density.gaussian(PLANE, (0.8, -0.5), (0.3, 0.2))


def grows(x):
    return 1 + x**2


def scaled(mobility, factor):
    """The same mobility with all values multiplied, as a solver that is wrong would have it."""
    def entry(e):
        return (lambda *x: factor * e(*x)) if callable(e) else factor * e

    rows = [[entry(e) for e in row] for row in mobility.rows]
    return Mobility(rows if len(rows) > 1 else rows[0] if len(rows[0]) > 1 else rows[0][0])


CASES = {
    "compact": (WELL, START, grows, (0, 0.05), wg.FiniteVolume()),
    "second order": (WELL, START, grows, (0, 0.05), wg.FiniteVolume(order=2, rtol=1e-7)),
    "diagonal": (OBLIQUE, CLOUD, (1.0, lambda x, y: 0.4 + 0.1 * np.cos(x + y)), (0, 0.5), wg.FiniteVolume()),
    "matrix": (OBLIQUE, CLOUD, MATRIX, (0, 0.5), wg.FiniteVolume()),
    "interaction": (WELL + wg.Convolution(lambda z: z**2 / 2), START, grows, (0, 0.05), wg.FiniteVolume()),
    "porous": (wg.PowerEntropy(2.0) + wg.Potential(lambda x: x**2), START, grows, (0, 0.1), wg.FiniteVolume()),
    "transport": (1.0 * wg.Potential(lambda x: x**2 / 2), START, grows, (0, 0.3), wg.FiniteVolume()),
    "moving": (WELL + wg.TimeDependent(lambda t: wg.Potential(lambda x: 5 * np.sin(30 * t) * x)), START, grows,
               (0, 0.05), wg.FiniteVolume()),
    "characteristics": (wg.Potential(lambda x: x**2 / 2) + wg.Convolution(lambda z: z**2 / 4),
                        wg.Atoms(np.linspace(-0.5, 2, 30)[None], np.full(30, 1 / 30)), grows, (0, 1),
                        wg.Lagrangian()),
    "particles": (WELL, START, grows, (0, 0.1), wg.Lagrangian(n_particles=40_000, rng=3)),
    "particles, matrix": (OBLIQUE, CLOUD, MATRIX, (0, 1.0), wg.Lagrangian(n_particles=40_000, rng=5)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_right_run_is_certified(name):
    energy, rho, mobility, span, method = CASES[name]
    certificate = wg.solve(energy, rho, span, method, mobility=mobility).certificate
    assert certificate.verdict == "holds", certificate.explain()


@pytest.mark.parametrize("name", CASES)
def test_a_solver_whose_mobility_is_off_by_a_tenth_is_not_certified(name, monkeypatch):
    energy, rho, mobility, span, method = CASES[name]
    right, wrong = as_mobility(mobility), scaled(as_mobility(mobility), 1.1)
    begin = type(method).begin

    def faulty(self, flow):
        flow.mobility = wrong
        run = begin(self, flow)
        if flow.has_grid:
            flow.mobility = right
        return run

    monkeypatch.setattr(type(method), "begin", faulty)
    if isinstance(method, wg.Lagrangian):
        # Particles ask for it at every step; the audit, at the end.
        from wgflow.audit.atom_listener import AtomAudit

        found = AtomAudit.finding

        def audited(self):
            self.flow.mobility = right
            return found(self)

        monkeypatch.setattr(AtomAudit, "finding", audited)
    certificate = wg.solve(energy, rho, span, method, mobility=mobility).certificate
    assert certificate.verdict != "holds"
    assert certificate.equation_defect > 0.02
    assert certificate.equation_defect > certificate.equation_bound


@pytest.mark.parametrize("order", [2, 4])
def test_a_matrix_with_mass_at_walls_is_audited(order):
    """Test functions have a slope along A n there, which the audit knows."""
    grid = wg.Grid([(0, 2), (0, 2)], cells=(48, 48), boundary="no-flux")
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: np.cos(2 * x) * np.sin(y))
    rho = wg.Density.gaussian(grid, (0.7, 1.1), 0.3)
    for span in ((0, 0.1), (0, 5)):
        certificate = wg.solve(energy, rho, span, wg.FiniteVolume(order=order), mobility=MATRIX).certificate
        assert certificate.verdict == "holds", certificate.explain()


def test_particles_at_walls_with_a_matrix_are_not_judged():
    grid = wg.Grid([(0, 2), (0, 2)], cells=(16, 16), boundary="no-flux")
    sol = wg.solve(1.0 * wg.Entropy(1.0), wg.Density.uniform(grid), (0, 0.1), wg.Lagrangian(rng=3), mobility=MATRIX)
    assert "at walls" in sol.certificate.not_judged


def test_a_missing_mobility_is_seen():
    sol = wg.solve(WELL, START, (0, 0.05), mobility=grows)
    assert sol.certificate.verdict == "holds"
    plain = wg.solve(WELL, START, (0, 0.05))
    assert np.abs(plain.final.masses - sol.final.masses).sum() > 0.02


def test_the_dissipation_is_that_of_the_metric():
    problem = exact.ConstantMobility(mobility_matrix=MATRIX, stiffness=((1.2, -0.3), (-0.3, 0.8)), mean=(0.8, -0.5),
                                     variance=((0.3, 0.05), (0.05, 0.2)), beta=2.0)
    rho = problem.initial_density(problem.grid(96))
    assert problem.energy().dissipation(rho, problem.mobility) == pytest.approx(
        problem.quantities(0.0)["dissipation"], rel=1e-2)
    sol = wg.solve(problem.energy(), rho, (0, 0.5), mobility=problem.mobility)
    assert sol.dissipation[-1] == pytest.approx(problem.quantities(0.5)["dissipation"], rel=1e-2)
    atoms = wg.Atoms(np.array([[1.0, 2.0]]), np.array([0.5, 0.5]))
    bowl = 1.0 * wg.Potential(lambda x: x**2 / 2)
    assert bowl.dissipation(atoms, Mobility(grows)) == pytest.approx(0.5 * (2 * 1 + 5 * 4))


# ---------------------------------------------------------------- storage
@pytest.mark.parametrize("ending", ["npz", "nc"])
def test_a_solution_keeps_its_mobility(tmp_path, ending):
    sol = wg.solve(OBLIQUE, CLOUD, (0, 0.02), mobility=MATRIX)
    sol.save(tmp_path / f"a.{ending}")
    assert wg.load(tmp_path / f"a.{ending}").mobility.numbers == [list(row) for row in MATRIX]
    line = wg.solve(WELL, START, (0, 0.01), mobility=grows)
    line.save(tmp_path / f"b.{ending}")
    again = wg.load(tmp_path / f"b.{ending}")
    assert isinstance(again.mobility, UnknownMobility)
    assert "grows" in repr(again.mobility)
    np.testing.assert_array_equal(again.dissipation, line.dissipation)
    del vars(again)["dissipation"]
    again.free_energy = line.free_energy
    with pytest.raises(wg.InvalidInput, match="functions of its mobility"):
        _ = again.dissipation
    plain = wg.solve(WELL, START, (0, 0.01))
    plain.save(tmp_path / f"c.{ending}")
    assert wg.load(tmp_path / f"c.{ending}").mobility is None


@pytest.mark.parametrize(("energy", "rho", "mobility", "other"), [
    (WELL, START, grows, lambda x: 1 + 1.1 * x**2), (OBLIQUE, CLOUD, (1.0, 0.3), (1.0, 0.4)),
    (OBLIQUE, CLOUD, MATRIX, (1.0, 0.4))], ids=["function", "diagonal", "matrix"])
def test_a_run_is_resumed_with_the_same_bits(tmp_path, energy, rho, mobility, other):
    path = tmp_path / "run.npz"
    method = wg.FiniteVolume(dt=0.002)
    whole = wg.solve(energy, rho, (0, 0.02), method, mobility=mobility)
    wg.solve(energy, rho, (0, 0.02), wg.FiniteVolume(dt=0.002, max_steps=4), mobility=mobility, checkpoint=path,
             throw=False)
    if callable(mobility):
        with pytest.raises(wg.InvalidInput, match="give it again"):
            wg.resume(path, energy=energy, method=method)
    with pytest.raises(wg.StorageError, match="mobility"):
        wg.resume(path, energy=energy, method=method, mobility=other)
    again = wg.resume(path, energy=energy, method=method, mobility=mobility if callable(mobility) else None)
    np.testing.assert_array_equal(again.final.values, whole.final.values)
    assert repr(again.mobility) == repr(whole.mobility)
    assert again.certificate.equation_defect == whole.certificate.equation_defect


def test_a_run_without_a_mobility_is_not_resumed_with_one(tmp_path):
    path = tmp_path / "run.npz"
    wg.solve(WELL, START, (0, 0.01), wg.FiniteVolume(dt=0.002, max_steps=2), checkpoint=path, throw=False)
    with pytest.raises(wg.StorageError, match="mobility"):
        wg.resume(path, energy=WELL, method=wg.FiniteVolume(dt=0.002), mobility=2.0)


# ---------------------------------------------------------------- other consumers
def test_error_estimates_solve_the_same_flow():
    problem = exact.PowerMobility()
    grid = problem.grid(100)
    sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end), mobility=problem.mobility)
    error = sol.estimate_error()
    true = problem.errors(sol.final)["density"]
    assert error.trusted
    assert true / 3 < error.density < 5 * true


def test_between_snapshots_the_same_flow_is_solved():
    sol = wg.solve(WELL, START, (0, 0.04), wg.FiniteVolume(rtol=1e-9), t_eval=[0, 0.04], mobility=grows)
    there = wg.solve(WELL, START, (0, 0.02), wg.FiniteVolume(rtol=1e-9), mobility=grows).final
    assert np.abs(sol.density(0.02).masses - there.masses).sum() < 1e-6


def test_ends_that_stand_for_infinity_are_judged():
    grid = wg.Grid((-3, 3), cells=60)
    spread = 1.0 * wg.Entropy(1.0)
    rho = wg.Density.gaussian(grid, 0.0, 0.1)
    slow, fast = (wg.solve(spread, rho, (0, 0.4), mobility=A).certificate.mass_outside for A in (1.0, 3.0))
    unit = wg.solve(spread, rho, (0, 1.2)).certificate.mass_outside
    assert fast == pytest.approx(unit, rel=0.2)
    assert fast > 5 * slow


@pytest.mark.parametrize(("given", "text"), [
    (2.0, "Mobility(2)"), ([1.0, 2.0], "Mobility((1, 2))"), (np.eye(2) * 3, "Mobility(((3, 0), (0, 3)))"),
    (grows, "Mobility(grows)")])
def test_forms(given, text):
    assert repr(as_mobility(given)) == text


def test_one_is_no_mobility():
    assert as_mobility(1.0) is None
    assert as_mobility(None) is None


@pytest.mark.parametrize("given", [True, "fast", [], [[1.0, 0.0]], [1.0, "a"], np.inf, [[1.0, 0.0], [0.0, -1.0]]])
def test_what_is_no_mobility_is_refused(given):
    with pytest.raises((wg.InvalidInput, TypeError), match="mobility"):
        Mobility(given)


def test_the_certificate_tells_of_it():
    schemes = [wg.solve(WELL, START, (0, 0.001), wg.FiniteVolume(order=order), mobility=grows).certificate.scheme
               for order in (4, 2)]
    assert all("with a scalar mobility" in scheme for scheme in schemes)


def test_a_flow_knows_its_mobility():
    assert Flow.__dataclass_fields__["mobility"].default is None
    sol = wg.solve(WELL, START, (0, 0.01), mobility=grows)
    assert sol.mobility.kind == "scalar"
    assert not sol.mobility.constant
