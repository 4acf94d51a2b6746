"""A hundred calls that go wrong as in a first hour, and what must be said: one line, in words of this package."""

import traceback

import numpy as np
import pytest

import wgflow as wg

GRID = wg.Grid((-3, 3), cells=64)
PLANE = wg.Grid([(-3, 3), (-2, 2)], cells=(12, 10), names=["x", "y"])
UNEVEN = wg.Grid(edges=[np.sort(np.concatenate([np.linspace(-3, 0, 20), np.linspace(0.1, 3, 40)]))])
BOWL = wg.Potential(lambda x: x**2 / 2)
ENERGY = wg.Entropy(2.0) + BOWL
RHO = wg.Density.gaussian(GRID, 0.5, 0.3)
X = np.linspace(-1, 1, 11)
FLAT = wg.Density.gaussian(PLANE, [0.5, 0.0], 0.2)
MODEL = wg.reduced_models.IsotropicGaussian(d=10, delta=0.5)
NETWORK = wg.reduced_models.FiniteData(X, X, wg.activations.Tanh())


def solved():
    return wg.solve(ENERGY, RHO, (0, 0.1), t_eval=[0, 0.1])


def branches(x):
    return x**2 if x > 0 else -x


def starts_at(path):
    wg.solve(ENERGY, RHO, (0, 0.1), checkpoint=path)
    return path


#: Each row: the call (as it reads, with `tmp` a folder), the exception, words that must be in its message.
MISTAKES = [
    # unknown names and keywords
    ("wg.solve(ENERGY, RHO, (0, 1), dt=0.1)", wg.InvalidInput, ["method=FiniteVolume(dt=0.1)"]),
    ("wg.solve(ENERGY, RHO, (0, 1), tau=0.1)", wg.InvalidInput, ["method=JKO(tau=0.1)"]),
    ("wg.solve(ENERGY, RHO, (0, 1), teval=[1])", wg.InvalidInput, ["did you mean t_eval?"]),
    ("wg.solve(ENERGY, RHO, (0, 1), t_evals=[1])", wg.InvalidInput, ["did you mean t_eval?"]),
    ("wg.solve(ENERGY, RHO, tspan=(0, 1))", wg.InvalidInput, ["t_span"]),
    ("wg.solve(ENERGY, RHO)", wg.InvalidInput, ["t_span", "(0, 1)"]),
    ("wg.FiniteVolume(tau=0.1)", wg.InvalidInput, ["FiniteVolume", "tau", "JKO(tau=0.1)"]),
    ("wg.FiniteVolume(Dt=0.1)", wg.InvalidInput, ["did you mean dt?"]),
    ("wg.JKO(dt=0.1)", wg.InvalidInput, ["JKO", "dt", "tau"]),
    ("wg.Grid((-3, 3), cell=64)", wg.InvalidInput, ["cell", "did you mean cells?"]),
    ("wg.Grid((-3, 3), cells=64, bc='periodic')", wg.InvalidInput, ["bc", "boundary"]),
    ("wg.Density.gaussian(GRID, mean=0.0, std=1.0)", wg.InvalidInput, ["std", "cov", "variance"]),
    ("wg.Densty.uniform(GRID)", AttributeError, ["did you mean Density?"]),
    ("wg.stationary(ENERGY, GRID, tol=1e-9)", wg.InvalidInput, ["tol", "did you mean tolerance?"]),
    # a class in place of an object, a name in place of a method
    ("wg.solve(ENERGY, RHO, (0, 1), method=wg.FiniteVolume)", wg.InvalidInput, ["wgflow.FiniteVolume()"]),
    ("wg.solve(ENERGY, RHO, (0, 1), method='JKO')", wg.InvalidInput, ["'JKO'", "wgflow.JKO(tau=0.05)"]),
    ("wg.solve(wg.Entropy, RHO, (0, 1))", wg.InvalidInput, ["Entropy", "class", "Entropy(beta=1.0)"]),
    ("wg.solve(ENERGY + wg.Entropy, RHO, (0, 1))", wg.InvalidInput, ["Entropy", "class", "Entropy(beta=1.0)"]),
    ("wg.Density.gaussian(wg.Grid, 0.0, 1.0)", wg.InvalidInput, ["grid", "wgflow.Grid"]),
    ("wg.solve(ENERGY, RHO, (0, 1), stop=wg.stop.stationary)", wg.InvalidInput, ["class", "stationary(1e-6)"]),
    # swapped arguments
    ("wg.solve(RHO, ENERGY, (0, 1))", wg.InvalidInput, ["swapped", "energy", "rho0"]),
    ("wg.solve(ENERGY, (0, 1), RHO)", wg.InvalidInput, ["swapped", "rho0", "t_span"]),
    ("wg.Density.gaussian(0.0, 1.0, GRID)", wg.InvalidInput, ["grid", "first argument"]),
    ("wg.Density.from_values(np.ones(64), GRID)", wg.InvalidInput, ["grid", "first argument"]),
    ("wg.Density.from_function(lambda x: np.exp(-x**2), GRID)", wg.InvalidInput, ["grid", "first argument"]),
    ("wg.stationary(GRID, ENERGY)", wg.InvalidInput, ["swapped", "energy", "grid"]),
    # terms, functions and numbers mixed up
    ("wg.Entropy(2.0) + (lambda x: x**2)", wg.InvalidInput, ["Potential(", "function"]),
    ("(lambda x: x**2) + wg.Entropy(2.0)", wg.InvalidInput, ["Potential(", "function"]),
    ("wg.Entropy(2.0) + 3", wg.InvalidInput, ["3", "term", "factor * term"]),
    ("wg.Entropy(2.0) * BOWL", wg.InvalidInput, ["number", "+"]),
    ("-1 * wg.Entropy(2.0)", wg.InvalidInput, ["-1", "backward diffusion"]),
    ("BOWL - (lambda x: x)", wg.InvalidInput, ["Potential(", "function"]),
    ("ENERGY(np.ones(64))", wg.InvalidInput, ["Density", "from_values"]),
    ("ENERGY.first_variation(np.ones(64))", wg.InvalidInput, ["Density", "from_values"]),
    ("wg.Potential(3.0)", wg.InvalidInput, ["function of the coordinates"]),
    # functions that do not take arrays
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(branches), RHO, (0, 1))", wg.InvalidInput, ["np.where"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x: math.cos(x)), RHO, (0, 1))", wg.InvalidInput, ["np.cos"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x: max(x, 0)), RHO, (0, 1))", wg.InvalidInput, ["np.maximum"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x, y: x), RHO, (0, 1))", wg.InvalidInput, ["1 coordinate"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x: x), FLAT, (0, 1))", wg.InvalidInput, ["2 coordinates"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x: 1.0), RHO, (0, 1))", wg.InvalidInput, ["0*x"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x: 1 / (x - 3 / 64)), RHO, (0, 1))", wg.InvalidInput,
     ["V is inf at (0.046875)"]),
    # kernels
    ("wg.solve(wg.Entropy(2.0) + wg.Interaction(wg.Convolution(lambda z: z)), RHO, (0, 1))", wg.InvalidInput, ["even"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Interaction(wg.Convolution(lambda z: z**2)), wg.Density.uniform(UNEVEN), (0, 1))",
     wg.InvalidInput, ["uniform", "Dense"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Interaction(lambda x, y: x * y**2), RHO, (0, 1))", wg.InvalidInput, ["symmetric"]),
    ("wg.solve(wg.Entropy(2.0) + wg.Interaction(3.0), RHO, (0, 1))", wg.InvalidInput, ["Interaction"]),
    # grids
    ("wg.Grid(names=3)", wg.InvalidInput, ["bounds", "edges"]),
    ("wg.Grid((-3, 3))", wg.InvalidInput, ["cells"]),
    ("wg.Grid((-3, 3), cells=64, boundary='neumann')", wg.InvalidInput, ["'neumann'", "no-flux"]),
    ("wg.Grid((-3, 3), cells=64, boundary='dirichlet')", wg.InvalidInput, ["'dirichlet'", "absorb", "no-flux"]),
    ("wg.Grid(-3, 3, 64)", wg.InvalidInput, ["Grid((-4, 4), cells=200)"]),
    ("wg.Grid((-np.inf, np.inf), cells=64)", wg.InvalidInput, ["finite"]),
    # times
    ("wg.solve(ENERGY, RHO, (0, np.inf))", wg.InvalidInput, ["finite", "stationary"]),
    ("wg.solve(ENERGY, RHO, 1.0)", wg.InvalidInput, ["t_span=(0, 1)"]),
    ("wg.solve(ENERGY, RHO, (0, 1), t_eval=10)", wg.InvalidInput, ["np.linspace(0, 1, 10)"]),
    ("solved().density('a')", wg.InvalidInput, ["t", "number", "'a'"]),
    ("solved().density(5.0)", wg.InvalidInput, ["t=5", "outside"]),
    # laws and samples
    ("wg.Density.from_samples(PLANE, np.zeros((2, 50)))", wg.InvalidInput, ["(50, 2)", ".T"]),
    ("wg.Atoms(np.zeros((50, 2)))", wg.InvalidInput, ["weights", "Atoms(points, weights)"]),
    ("wg.Atoms(np.zeros((50, 2)), np.ones(50))", wg.InvalidInput, ["(2, 50)", ".T"]),
    ("FLAT.marginal('z')", wg.InvalidInput, ["'z'", "x, y"]),
    ("FLAT.quantile(0.5)", wg.InvalidInput, ["marginal"]),
    ("wg.Density.gaussian(GRID, 0.0, -1.0)", wg.InvalidInput, ["positive"]),
    ("wg.Density.from_values(GRID, np.ones(63))", wg.InvalidInput, ["(63,)", "(64,)"]),
    # files
    ("wg.resume(starts_at(tmp / 'a.npz'), dt=0.1, energy=ENERGY)", wg.InvalidInput, ["method=FiniteVolume(dt=0.1)"]),
    ("wg.resume(starts_at(tmp / 'a.npz'))", wg.InvalidInput, ["energy", "functions are not stored"]),
    ("wg.load('nowhere.npz')", wg.StorageError, ["nowhere.npz"]),
    ("solved().save('run.csv')", wg.InvalidInput, [".nc", ".npz", "to_csv"]),
    ("solved().plot(tmp / 'run.xyz')", wg.InvalidInput, ["run.xyz", ".png"]),
    # networks and particles
    ("wg.reduced_models.FiniteData(X, X, np.tanh)", wg.InvalidInput, ["Tanh()", "PiecewiseLinear("]),
    ("wg.reduced_models.IsotropicGaussian(40, 1.8, 0.2, activation='relu')", wg.InvalidInput, ["'relu'", "Tanh()"]),
    ("wg.validation.run_langevin(ENERGY, RHO, 50, [0, 0.1])", wg.InvalidInput, ["rng", "rng=7"]),
    ("wg.validation.run_langevin(ENERGY, RHO, 50, [0, 0.1], seed=3)", wg.InvalidInput, ["did you mean rng?"]),
    ("wg.validation.compare(([0.0], np.zeros((1, 1, 9, 1))), solved())", wg.InvalidInput, ["swapped"]),
    ("wg.Grid((-3, 3), cells=64, boundary='absorbing')", wg.InvalidInput, ["first-passage"]),
    # a second hour
    ("wg.solve(wg.Entropy(2.0), FLAT, (0, 1), mobility=lambda x, y: [[1.5, 0.2], [0.2, 1.0]])", wg.InvalidInput,
     ["(2, 2)", "one entry", "mobility=[[a11, a12], ...]"]),
    ("wg.solve(wg.Entropy(2.0), FLAT, (0, 1), mobility=lambda x, y: [1.5, 0.2])", wg.InvalidInput,
     ["mobility=[a1, a2"]),
    ("wg.solve(ENERGY, RHO, (0, 1), mobility=[[1.0, 0.2], [0.2, 1.0]])", wg.InvalidInput, ["give a scalar"]),
    ("wg.solve(ENERGY, RHO, [0, 0.5, 1])", wg.InvalidInput, ["pair", "t_eval"]),
    ("wg.solve(ENERGY, RHO, (0, 1), callback=lambda rho: None)", wg.InvalidInput, ["takes 1 argument;", "(t, rho)"]),
    ("wg.TimeDependent(lambda t, x: t * x)", wg.InvalidInput, ["t alone", "lambda t: Potential(lambda x: t * x**2)"]),
    ("wg.Interaction(w=lambda z: z**2)", wg.InvalidInput, ["did you mean U", "displacement"]),
    ("wg.Grid(np.linspace(-3, 3, 65))", wg.InvalidInput, ["(65,)", "Grid(edges=[...])"]),
    ("wg.Grid((-3, 3), dx=0.1)", wg.InvalidInput, ["did you mean cells"]),
    ("RHO.std()", AttributeError, ["np.sqrt(rho.cov())"]),
    ("RHO.quantle(0.5)", AttributeError, ["did you mean quantile?"]),
    ("RHO.quantile(50)", wg.InvalidInput, ["q=50", "[0, 1]"]),
    ("solved().rho", AttributeError, ["sol.final"]),
    ("solved().energies", AttributeError, ["did you mean energy?"]),
    ("solved().estimate_error(functional='risk')", wg.InvalidInput, ["'risk'", "model.risk"]),
    ("wg.activations.Relu()", AttributeError, ["did you mean ReLU?"]),
    ("wg.interactions.gauss(1.0)", AttributeError, ["did you mean gaussian?"]),
    ("wg.losses.Logstic()", AttributeError, ["did you mean Logistic?"]),
    ("wg.reduced_models.Isotropic(d=3)", AttributeError, ["did you mean IsotropicGaussian?"]),
    ("wg.validation.run_langvin(1)", AttributeError, ["did you mean run_langevin?"]),
    ("MODEL.initial_density(MODEL.grid(), 0.8)", wg.InvalidInput, ["kappa must be a number, got a Grid"]),
    ("NETWORK.initial_density(2.0, NETWORK.grid())", wg.InvalidInput, ["model.grid(kappa=2.0)"]),
    ("NETWORK.initial_density(0.5, NETWORK.grid(), mean0=[4.0])", wg.InvalidInput,
     ["model.grid(kappa=0.5, mean0=[4.0])"]),
    ("MODEL.risk(RHO)", wg.InvalidInput, ["begins at -3", "r is a length", "model.grid"]),
    ("wg.validation.run_sgd(MODEL, n_neurons=9, lr=1e-3, t_eval=[0, 0.1], rng=1)", wg.InvalidInput, ["step_size?"]),
    ("wg.validation.run_sgd(MODEL, n_neurons=9, step_size=0.5, t_eval=[0, 0.1], rng=1)", wg.InvalidInput,
     ["0 and 0.1 are the same step", "step_size=0.5"]),
    ("wg.validation.compare(solved())", wg.InvalidInput, ["particles missing", "compare(sol, run_langevin("]),
    ("wg.validation.compare(solved(), solved(), alpha=0.05)", wg.InvalidInput, ["did you mean level?"]),
    ("wg.sweep(branches, beta=[1, 2])", wg.InvalidInput, ["beta=[1, 2]", "parameters"]),
]


def told(call, tmp_path):
    """Return the exception of a call, or None."""
    import math

    try:
        eval(call, {**globals(), "math": math, "tmp": tmp_path})
    except Exception as error:
        return error
    return None


def test_there_are_sixty():
    assert len({call for call, _, _ in MISTAKES}) >= 60


@pytest.mark.parametrize(("call", "kind", "words"), MISTAKES, ids=[call[:70] for call, _, _ in MISTAKES])
def test_a_mistake_is_answered(call, kind, words, tmp_path):
    error = told(call, tmp_path)
    assert error is not None, "nothing was said"
    assert isinstance(error, kind), f"{type(error).__name__}: {error}"
    message = str(error)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    assert last.f_globals["__name__"].split(".")[0] == "wgflow", "Python spoke before this package could"
