"""A network model of one's own: quadratic neurons that learn one direction of their inputs (phase retrieval).

Data x ~ N(0, I_d) with y = x_1^2, neurons sigma_*(x; w) = <w, x>^2. By symmetry the risk depends on the law of m = w_1
and r = |w_2:d| alone. With E <w, x>^2 <w', x>^2 = |w|^2 |w'|^2 + 2 <w, w'>^2, averaged over the directions of w_2:d,

    U = (m^2 + r^2)(m'^2 + r'^2) + 2 m^2 m'^2 + 2 r^2 r'^2 / (d - 1),    V = -(m^2 + r^2) - 2 m^2,

which are three features with the target (1, sqrt 2, 0). `check_model` compares all of it with samples of the network.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

import wgflow as wg
from wgflow.reduced_models.radial_laws import chi_masses, log_sphere_weight


class PhaseRetrieval(wg.reduced_models.NetworkModel):
    """Quadratic neurons that learn y = x_1^2."""

    name = "phase retrieval"
    coordinate_names = ("m", "r")
    label_second_moment = 3.0
    activation = wg.activations.Polynomial([0.0, 0.0, 1.0])
    target = np.array([1.0, math.sqrt(2.0), 0.0])

    def __init__(self, d: int):
        self.d, self.input_dimension = d, float(d)

    def features(self, m, r):
        m, r = np.broadcast_arrays(m, r)
        return np.stack([m**2 + r**2, math.sqrt(2.0) * m**2, math.sqrt(2.0 / (self.d - 1)) * r**2])

    def feature_gradients(self, m, r):
        m, r = np.broadcast_arrays(m, r)
        zero = np.zeros(m.shape)
        by_m = np.stack([2.0 * m, 2.0 * math.sqrt(2.0) * m, zero])
        by_r = np.stack([2.0 * r, zero, 2.0 * math.sqrt(2.0 / (self.d - 1)) * r])
        return np.stack([by_m, by_r], axis=1)

    def diagonal(self, m, r):
        return 3.0 * self.squared_norm(m, r) ** 2

    def log_weight(self, grid):
        return np.broadcast_to(log_sphere_weight(grid.edges[1], self.d - 1), grid.shape)

    def grid(self, cells=(200, 50)):
        return self.weighted(wg.Grid([(-5.0, 5.0), (0.0, 2.5)], cells=cells, names=self.coordinate_names))

    def initial_density(self, kappa, grid):
        m = np.diff(ndtr(grid.edges[0] * math.sqrt(self.d) / kappa))
        r = chi_masses(grid.edges[1], self.d - 1, kappa, self.d)
        return wg.Density.from_values(grid, np.outer(m, r) / grid.volumes, normalize=True)

    def sample_data(self, n, rng):
        x = rng.standard_normal((n, self.d))
        return x, x[:, 0] ** 2

    def initial_theta(self, n_neurons, kappa, rng):
        return kappa / math.sqrt(self.d) * rng.standard_normal((n_neurons, self.d))

    def project(self, theta):
        w = self.check_theta(theta)
        return np.stack([w[..., 0], np.sqrt(np.sum(w[..., 1:] ** 2, axis=-1))], axis=-1)

    def population_risk(self, theta):
        w = self.check_theta(theta)
        gap = np.swapaxes(w, -1, -2) @ w / w.shape[-2]  # yhat - y = x' gap x
        gap[..., 0, 0] -= 1.0
        return 2.0 * np.sum(gap**2, axis=(-2, -1)) + np.trace(gap, axis1=-2, axis2=-1) ** 2


def main(d=10, t=0.2):
    """Check the model, solve it, train networks, and return the report and the comparison of the two."""
    model = PhaseRetrieval(d)
    report = wg.reduced_models.check_model(model)
    sgd = wg.validation.run_sgd(model, 400, step_size=1e-4, t_eval=[0.0, t], rng=20117, n_runs=5, kappa=0.8)
    rho0 = model.initial_density(0.8, model.grid())
    sol = wg.solve(model.energy(), rho0, (0, t), t_eval=sgd.t, time_scale=model.time_scale)
    comparison = wg.validation.compare(sol, sgd)
    print(report)
    print(f"risk {model.risk(rho0):.4f} -> {model.risk(sol.final):.4f}, of networks {sgd.risk[:, -1].mean():.4f}")
    print(comparison.table())
    return report, comparison


if __name__ == "__main__":
    main()
