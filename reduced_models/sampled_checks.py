"""Checks of a network model against what it draws: data, neurons, and the steps of SGD that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grid_checks import MAX_AXES
from wgflow.grids import Grid

from .base import FloatArray, NetworkModel
from .model_report import ModelCheck, kernel_error, place

__all__ = ["NetworkSamples", "SampledCheck"]

#: Batches whose means show the error of a mean.
BATCHES = 64
#: Scales of neurons in units of kappa.
SCALES = (0.5, 1.0, 2.0)
#: Neurons of each scale at which V and the diagonal are compared with samples.
NEURONS = 8
#: Pairs of neurons in each batch on which U and the steps of SGD are compared with samples.
PAIRS = 32
#: Neurons of the networks whose risk is compared with samples.
WIDTH = 8
#: Neurons of a network that stands for its mean field under a loss whose slope is not linear, ...
WIDE = 256
#: ... and of the networks, one for each batch, whose mean risk is known to first order in 1/N.
LESS_WIDE = 64
#: Standard errors that the risk of a network may be off where it holds a mean over drawn inputs.
DRAWN = 4.0
#: Networks whose mean risk is compared with the risk of the initial law, for each batch.
NETWORKS = 4
#: Spread of the read-out weight and of the offset around their initial values, where they learn.
READOUT_SPREAD = 0.5
#: Numbers of a temporary array.
BLOCK = 1 << 22
#: Steps of differences in the space of the parameters, relative to the length of a neuron: of first derivatives ...
STEP = 1e-6
#: ... and of second ones, between the errors of rounding, eps / step^2, and of the quotient, step^2.
SECOND_STEP = 1e-4
#: Neurons at which these second derivatives are taken, those farthest from where coordinates have kinks.
LAPLACIANS = 4
#: Neurons that are drawn to find them.
CANDIDATES = 200
#: Cells of the small grids on which log_weight is differentiated, as a part of the coordinate.
WEIGHT_STEP = 1e-3
#: Powers of a coordinate from which on these cells are smaller in proportion.
STEEP = 30.0
#: Disagreement of these derivatives that passes, relative to their size (1/length at least).
WEIGHT_TOLERANCE = 1e-4
#: The same for the products of the coordinates' gradients, which are 0 and 1.
ISOMETRY_TOLERANCE = 1e-6
#: Nodes of two quadratures of the initial law, whose difference shows their error, by number of coordinates.
NODES = {1: (100, 200), 2: (24, 48), 3: (10, 20), 4: (6, 12)}
#: Cells of each axis of the grid on which the initial law is compared, by number of axes.
CELLS = {1: 400, 2: 100, 3: 40, 4: 16}
#: Rounding of what is compared with samples, relative to its size.
ROUNDING = 1e-9

_Compare = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class SampledCheck:
    """Means over samples less what a model states, to be judged when all of them are counted.

    Attributes
    ----------
    name : str
    differences, errors : ndarray, shape (m,)
        Of each statistic the mean less the value stated, and its standard error.
    texts : sequence of str
        What each of them compares.
    slack : ndarray, shape (m,)
        Errors that the model is allowed: of features, of quadratures, of cells.
    """

    name: str
    differences: FloatArray
    errors: FloatArray
    texts: Sequence[str]
    slack: FloatArray

    def judged(self, level: float) -> ModelCheck:
        """Return the verdict where each statistic may raise a false alarm with probability ``level``."""
        quantile = float(stdtrit(BATCHES - 1, 1.0 - 0.5 * level))
        distance = np.abs(self.differences) - self.slack
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(distance <= 0.0, 0.0, distance / self.errors)
        ratio = np.where(np.isnan(ratio), math.inf, ratio)
        worst = int(np.argmax(ratio))
        text = f"{self.texts[worst]}: {ratio[worst]:.1f} standard errors, {quantile:.1f} are allowed"
        more = f" (the worst of {ratio.size} comparisons)" if ratio.size > 1 else ""
        return ModelCheck(self.name, bool(ratio[worst] <= quantile), text + more, float(ratio[worst]), quantile)


class NetworkSamples:
    """The checks of one network model by samples.

    Parameters
    ----------
    model : NetworkModel
        With a finite input dimension.
    kappa : float
        Scale of the initial law.
    samples : int
        Samples of each comparison; rounded up to a multiple of 64.
    rng : Generator
    """

    def __init__(self, model: NetworkModel, kappa: float, samples: int, rng: np.random.Generator):
        self.model, self.kappa, self.rng = model, kappa, rng
        self.batch = -(-samples // BATCHES)

    def all_checks(self) -> Iterator[tuple[str, Callable[[], ModelCheck | SampledCheck]]]:
        """Yield the name of each check and what makes it."""
        yield "squared_norm", self.squared_norm
        yield "isometric coordinates", self.isometry
        yield "log_weight", self.reference_measure
        yield "label_second_moment", self.labels
        if self.model.quadratic:
            yield "V against samples", self.potential
        yield "diagonal against samples", self.diagonal
        if self.model.quadratic:
            yield "U against samples", self.kernel
        yield "step of SGD", self.step
        yield "population_risk against samples", self.population_risk
        yield "initial law against neurons", self.initial_law
        yield "risk against networks", self.risk

    # ---------------------------------------------------------------- neurons and data
    def neurons(self, count: int, scale: float = 1.0) -> FloatArray:
        """Draw neurons (count, n_parameters); read-out weights and offsets that learn differ from one to another."""
        theta = np.array(self.model.initial_theta(count, scale * self.kappa, self.rng))
        if self.model.trains_readout:
            theta[:, :2] += READOUT_SPREAD * self.rng.standard_normal((count, 2))
        return theta

    def coordinates(self, theta: FloatArray) -> FloatArray:
        """Return the reduced coordinates of neurons (n, n_parameters), shape (n_coordinates, n)."""
        return np.moveaxis(self.model.project(theta), -1, 0)

    def slack(self, points: FloatArray) -> float:
        """Return the error that the features of the model may have at points (n_coordinates, n)."""
        return (ROUNDING + kernel_error(self.model)) * max(1.0, float(np.max(np.abs(self.model.diagonal(*points)))))

    # ---------------------------------------------------------------- without data
    def squared_norm(self) -> ModelCheck:
        """Compare |theta|^2 with its form in reduced coordinates."""
        theta = self.neurons(CANDIDATES)
        own, exact = self.model.squared_norm(*self.coordinates(theta)), np.sum(theta**2, axis=1)
        i = int(np.argmax(np.abs(own - exact)))
        allowed = ROUNDING * max(1.0, float(exact.max()))
        where, gap = self.place(self.coordinates(theta)[:, i]), float(abs(own[i] - exact[i]))
        text = f"{own[i]:.8g} at {where}, |theta|^2 of the neuron is {exact[i]:.8g}"
        return ModelCheck("squared_norm", gap <= allowed, text, gap, allowed)

    def place(self, point: FloatArray) -> str:
        """Return coordinates with their names."""
        return place(self.model, point)

    def _regular(self) -> FloatArray:
        """Return neurons whose coordinates are not close to 0, where the length of a vector has a kink."""
        theta = self.neurons(CANDIDATES)
        size = np.abs(self.coordinates(theta))
        typical = np.maximum(np.median(size, axis=1), np.finfo(float).tiny)
        return theta[np.argsort(np.min(size / typical[:, None], axis=0))[-LAPLACIANS:]]

    def _derivatives(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return J J' (n, k, k) and the Laplacians (n, k) of the coordinates in the parameters, by differences."""
        n, dim = theta.shape
        center = self.model.project(theta)
        step = SECOND_STEP * np.sqrt(np.sum(theta**2, axis=1))[:, None, None]
        product, laplacian = 0.0, np.zeros(center.shape)
        block = max(1, BLOCK // (n * dim))
        for first in range(0, dim, block):
            unit = np.eye(dim)[first : first + block]
            up, down = (self.model.project(theta[:, None] + sign * step * unit) for sign in (1.0, -1.0))
            slopes = (up - down) / (2.0 * step)
            product = product + np.einsum("njk,njl->nkl", slopes, slopes)
            laplacian += np.sum((up - center[:, None]) + (down - center[:, None]), axis=1) / step[:, 0] ** 2
        return np.asarray(product), laplacian

    def isometry(self) -> ModelCheck:
        """Check that the coordinates' gradients are orthonormal, so that the coordinates follow a gradient flow."""
        theta = self._regular()
        gap = np.abs(self._derivatives(theta)[0] - np.eye(self.model.n_coordinates))
        i, k, l = np.unravel_index(int(np.argmax(gap)), gap.shape)
        names = self.model.coordinate_names
        text = (f"the gradients of {names[k]} and {names[l]} in the parameters at "
                f"{self.place(self.coordinates(theta)[:, i])} have a product off by {gap[i, k, l]:.3g} from "
                f"{int(k == l)}; take lengths or orthogonal components for coordinates, which follow a gradient flow")
        if gap.max() <= ISOMETRY_TOLERANCE:
            text = "their gradients in the parameters are orthonormal"
        return ModelCheck("isometric coordinates", bool(gap.max() <= ISOMETRY_TOLERANCE), text, float(gap.max()),
                          ISOMETRY_TOLERANCE)

    def reference_measure(self) -> ModelCheck:
        """Compare the derivative of log w with the drift that noise in the parameters gives the coordinates."""
        model = self.model
        if model.n_coordinates > MAX_AXES:
            return ModelCheck("log_weight", None, f"{model.n_coordinates} coordinates are more than a grid has")
        theta = self._regular()
        laplacian, points = self._derivatives(theta)[1], self.coordinates(theta)
        stated = np.zeros(laplacian.shape)
        for i, point in enumerate(points.T):
            # log w may have a slope of some thousands over the coordinate; over the cells it rises little.
            steep = 1.0 + np.abs(laplacian[i] * point) / STEEP
            half = 1.5 * WEIGHT_STEP / steep * np.maximum(np.abs(point), np.finfo(float).tiny)
            log = model.log_weight(Grid(np.stack([point - half, point + half], axis=1).tolist(), cells=3))
            for k in range(model.n_coordinates if log is not None else 0):
                line = np.moveaxis(np.asarray(log), k, 0).reshape(3, -1)
                line = line[:, line.shape[1] // 2]
                stated[i, k] = (line[2] - line[0]) / (4.0 / 3.0 * half[k])
        size = np.maximum(np.abs(laplacian), 1.0 / np.sqrt(np.sum(theta**2, axis=1))[:, None])
        gap = np.abs(stated - laplacian) / size
        i, k = divmod(int(np.argmax(gap)), gap.shape[1])
        text = (f"d(log w)/d{model.coordinate_names[k]} at {self.place(points[:, i])} is {stated[i, k]:.6g}, for "
                f"Lebesgue measure of the parameters it is {laplacian[i, k]:.6g}")
        return ModelCheck("log_weight", bool(gap.max() <= WEIGHT_TOLERANCE), text, float(gap.max()), WEIGHT_TOLERANCE)

    # ---------------------------------------------------------------- data and single neurons
    def _outputs(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return means over batches of y sigma and of sigma^2 for each neuron, shapes (batches, n)."""
        first, second = np.empty((BATCHES, len(theta))), np.empty((BATCHES, len(theta)))
        for b in range(BATCHES):
            x, y = self.model.sample_data(self.batch, self.rng)
            sigma = self.model.neuron_outputs(theta[:, None], x)
            first[b], second[b] = np.mean(y * sigma, axis=1), np.mean(sigma**2, axis=1)
        return first, second

    def _fixed(self) -> FloatArray:
        return np.concatenate([self.neurons(NEURONS, scale) for scale in SCALES])

    def _against(self, name: str, means: FloatArray, stated: FloatArray, labels: Sequence[str],
                 slack: float | FloatArray) -> SampledCheck:
        """Return the check of stated values (m,) by means over batches (batches, m)."""
        mean, error = np.mean(means, axis=0), np.std(means, axis=0, ddof=1) / math.sqrt(len(means))
        texts = [f"{label} = {s:.6g}, samples say {m:.6g} +- {e:.2g}"
                 for label, s, m, e in zip(labels, stated, mean, error)]
        return SampledCheck(name, mean - stated, error, texts, np.broadcast_to(slack, mean.shape))

    def labels(self) -> SampledCheck:
        """Compare E y^2 with samples."""
        means = np.array([np.mean(self.model.sample_data(self.batch, self.rng)[1] ** 2) for _ in range(BATCHES)])
        stated = np.array([self.model.label_second_moment])
        return self._against("label_second_moment", means[:, None], stated, ["E y^2"], ROUNDING * max(1.0, stated[0]))

    def potential(self) -> SampledCheck:
        """Compare V with -E[y sigma] at neurons of all scales."""
        theta = self._fixed()
        points = self.coordinates(theta)
        labels = [f"V{self.place(point)}" for point in points.T]
        return self._against("V against samples", -self._outputs(theta)[0], self.model.potential(*points), labels,
                             self.slack(points))

    def diagonal(self) -> SampledCheck:
        """Compare U(theta, theta) with E[sigma^2] at neurons of all scales."""
        theta = self._fixed()
        points = self.coordinates(theta)
        stated = self.model.diagonal(*points)
        labels = [f"diagonal{self.place(point)}" for point in points.T]
        return self._against("diagonal against samples", self._outputs(theta)[1], stated, labels,
                             ROUNDING * max(1.0, float(np.max(stated))))

    # ---------------------------------------------------------------- pairs of neurons
    def kernel(self) -> SampledCheck:
        """Compare U with E[sigma sigma'] over independent pairs of neurons.

        U averages over what the coordinates leave open, such as directions, and so do the pairs. Two means are taken,
        plain and weighted by a bounded function of the stated U: a law that is symmetric hides signs from the first.
        """
        scales = ((0.5, 2.0), (1.0, 1.0), (1.0, 2.0))
        parts = [self._over_pairs(pair, self._products) for pair in scales]
        labels = [f"{what} of U over neurons of kappa = {one * self.kappa:g} and {two * self.kappa:g}"
                  for one, two in scales for what in ("the mean", "the weighted mean")]
        return self._gathered("U against samples", parts, labels)

    def step(self) -> ModelCheck | SampledCheck:
        r"""Compare the mean step of SGD, :math:`2 (y - \sigma_*(x;\theta')) \nabla \sigma_*(x;\theta)`, with the flow.

        One other neuron stands for the network, whose output is the mean of many. That will do where l' is linear in
        the output, or where the coordinates leave nothing open; else a wide network does, see `_errors`.
        """
        try:
            _ = self.model.activation
        except InvalidInput as error:
            return ModelCheck("step of SGD", None, f"SGD does not know this network: {error}")
        parts = [self._over_pairs((scale, 1.0), self._rates) for scale in SCALES]
        labels = [f"{what} of d{name}/dt, which is -time_scale dPsi/d{name}, at kappa = {scale * self.kappa:g}"
                  for scale in SCALES for what in ("the mean", "the weighted mean")
                  for name in self.model.coordinate_names]
        return self._gathered("step of SGD", parts, labels)

    def _over_pairs(self, scales: tuple[float, float], compare: _Compare) -> tuple[FloatArray, FloatArray, float]:
        """Return means over batches of what is drawn and what is stated, plain and weighted, and the slack.

        ``compare`` returns both, of shape (m, pairs), for pairs of neurons and data. Weights are bounded functions of
        what is stated.
        """
        drawn, stated, sizes, slack = [], [], None, 0.0
        for _ in range(BATCHES):
            x, y = self.model.sample_data(self.batch, self.rng)
            first, second = (self.neurons(PAIRS, scale) for scale in scales)
            sample, claim = compare(first, second, x, y)
            if sizes is None:
                sizes = np.mean(np.abs(claim), axis=1, keepdims=True)
                slack = max(self.slack(self.coordinates(first)), self.slack(self.coordinates(second)))
            weight = claim / (np.abs(claim) + np.maximum(sizes, np.finfo(float).tiny))
            drawn.append(np.concatenate([np.mean(sample, axis=1), np.mean(weight * sample, axis=1)]))
            stated.append(np.concatenate([np.mean(claim, axis=1), np.mean(weight * claim, axis=1)]))
        return np.array(drawn), np.array(stated), slack

    def _gathered(
        self, name: str, parts: list[tuple[FloatArray, FloatArray, float]], labels: Sequence[str]
    ) -> SampledCheck:
        """Return the check of what `_over_pairs` returned for several scales."""
        drawn, claims = (np.concatenate([part[k] for part in parts], axis=1) for k in (0, 1))
        stated = np.mean(claims, axis=0)
        # The difference is taken in each batch, where both have the same neurons.
        return self._against(name, drawn - claims + stated, stated, labels, max(part[2] for part in parts))

    def _products(
        self, first: FloatArray, second: FloatArray, x: FloatArray, y: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the means over x of sigma sigma' and U for pairs of neurons, both of shape (1, pairs)."""
        outputs = [self.model.neuron_outputs(theta[:, None], x) for theta in (first, second)]
        claim = self.model.kernel(tuple(self.coordinates(first)), tuple(self.coordinates(second)))
        return np.mean(outputs[0] * outputs[1], axis=1)[None], claim[None]

    def _rates(
        self, theta: FloatArray, other: FloatArray, x: FloatArray, y: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the rates of the coordinates under SGD and those stated, both of shape (n_coordinates, pairs)."""
        model = self.model
        error, points_of_others = self._errors(other, x, y)
        error, activation, scale = model.output_scale * error, model.activation, 1.0 / len(x)
        if model.trains_readout:
            z = theta[:, 2:] @ x.T + theta[:, 1:2]
            slope = error * theta[:, :1] * activation.derivative(z)
            plain = [np.mean(error * activation.value(z), axis=1, keepdims=True), np.mean(slope, axis=1, keepdims=True)]
            velocity = np.concatenate([*plain, scale * (slope @ x)], axis=1)
        else:
            velocity = scale * ((error * activation.derivative(theta @ x.T)) @ x)
        speed, length = (np.sqrt(np.sum(v**2, axis=1, keepdims=True)) for v in (velocity, theta))
        step = STEP * length / np.where(speed > 0.0, speed, 1.0)
        up, down = model.project(theta + step * velocity), model.project(theta - step * velocity)
        points = self.coordinates(theta)
        gap = np.stack([model.moment_slopes(z) for z in points_of_others], axis=1)
        claim = -model.time_scale * np.sum(gap[:, None] * model.feature_gradients(*points), axis=0)
        return ((up - down) / (2.0 * step)).T, claim

    def _errors(self, other: FloatArray, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what drives SGD on samples, minus the slope of the risk, and the moments of the networks behind it.

        The slope of a loss at the output of a wide network is that at its mean field up to c/N + O(1/N^2): twice that
        of the whole network less the mean over its halves is free of the first term.
        """
        model = self.model

        def of(outputs: FloatArray) -> FloatArray:
            return -model.risk_per_energy * model.loss.derivative(y, outputs)

        if model.quadratic or model.n_coordinates == model.n_parameters:
            return of(model.neuron_outputs(other[:, None], x)), model.features(*self.coordinates(other)).T
        wide = self.neurons(WIDE)
        a, b, w = (wide[:, 0], wide[:, 1], wide[:, 2:]) if model.trains_readout else (1.0, 0.0, wide)
        outputs = model.output_scale * a * model.activation.value(x @ w.T + b)
        one, two = (np.mean(half, axis=1) for half in np.split(outputs, 2, axis=1))
        error = 2.0 * of(0.5 * (one + two)) - 0.5 * (of(one) + of(two))
        moments = np.mean(model.features(*self.coordinates(wide)), axis=1)
        return np.tile(error, (len(other), 1)), np.tile(moments, (len(other), 1))

    # ---------------------------------------------------------------- networks
    def population_risk(self) -> SampledCheck:
        """Compare R_N of networks with the mean loss on samples, of the square the mean square of their errors."""
        networks = [self.neurons(WIDTH, scale) for scale in SCALES]
        stated = np.array([float(self.model.population_risk(theta)) for theta in networks])
        means = np.empty((BATCHES, len(networks)))
        for b in range(BATCHES):
            x, y = self.model.sample_data(self.batch, self.rng)
            for k, theta in enumerate(networks):
                outputs = np.mean(self.model.neuron_outputs(theta[:, None], x), axis=0)
                means[b, k] = self.model.risk_per_energy * np.mean(self.model.loss.value(y, outputs))
        labels = [f"R_N of a network of {WIDTH} neurons of kappa = {scale * self.kappa:g}" for scale in SCALES]
        drawn = np.array([float(self.model.population_risk_error(theta)) for theta in networks])
        return self._against("population_risk against samples", means, stated, labels,
                             ROUNDING * max(1.0, float(np.max(np.abs(stated)))) + DRAWN * drawn)

    def risk(self) -> SampledCheck:
        """Compare E R_N over networks of independent neurons with R + K/N of the initial law."""
        model = self.model
        networks, width = (NETWORKS, WIDTH) if model.quadratic else (1, LESS_WIDE)
        theta = model.initial_theta(BATCHES * networks * width, self.kappa, self.rng)
        theta = theta.reshape(BATCHES, networks, width, -1)
        risks = model.population_risk(theta)
        coarse, fine = self._initial_atoms()
        values = [model.risk(law) + model.finite_width_excess(law) / width for law in (coarse, fine)]
        slack = 2.0 * abs(values[1] - values[0]) + self.slack(np.asarray(fine.points))
        slack += DRAWN * float(model.population_risk_error(theta[0, 0]))
        return self._against("risk against networks", np.mean(risks, axis=1)[:, None], np.array(values[1:]),
                             [f"risk(initial_atoms) + finite_width_excess / {width}"], slack)

    def _initial_atoms(self) -> tuple[Atoms, Atoms]:
        """Return two quadratures of the initial law; their difference shows the error of the second."""
        nodes = NODES.get(self.model.n_coordinates)
        if nodes is None:
            law = self.model.initial_atoms(self.kappa)
            return law, law
        return self.model.initial_atoms(self.kappa, nodes[0]), self.model.initial_atoms(self.kappa, nodes[1])

    def initial_law(self) -> SampledCheck:
        """Compare mean and variance of each coordinate under initial_density and initial_atoms with neurons drawn."""
        model = self.model
        points = np.concatenate([self.coordinates(model.initial_theta(self.batch, self.kappa, self.rng))[None]
                                 for _ in range(BATCHES)])
        coarse, fine = (_moments(law) for law in self._initial_atoms())
        laws = [("initial_atoms", fine, 2.0 * np.abs(fine - coarse))]
        if model.n_coordinates <= MAX_AXES:
            rho = model.initial_density(self.kappa, model.grid(CELLS[model.n_coordinates]))
            cells = np.array([float(np.max(widths)) for widths in rho.grid.widths])
            # A law narrower than a cell is spread over it, or over its neighbor too.
            laws.append(("initial_density", _moments(rho), np.concatenate([0.5 * cells, 1.5 * cells**2])))
        means, stated, labels, slack = [], [], [], []
        for law, moments, room in laws:
            average = moments[: model.n_coordinates, None]
            drawn = np.concatenate([np.mean(points, axis=2), np.mean((points - average) ** 2, axis=2)], axis=1)
            means.append(drawn)
            stated.append(moments)
            labels += [f"{what} of {name} under {law}" for what in ("mean", "variance")
                       for name in model.coordinate_names]
            slack.append(room + ROUNDING * np.maximum(1.0, np.abs(moments)))
        return self._against("initial law against neurons", np.concatenate(means, axis=1), np.concatenate(stated),
                             labels, np.concatenate(slack))


def _moments(law: Density | Atoms) -> FloatArray:
    """Return means and variances of the coordinates, shape (2 n_coordinates,)."""
    points, weights = (law.points, law.weights) if isinstance(law, Atoms) else (
        np.stack([axis.ravel() for axis in law.grid.mesh()]), law.masses.ravel())
    mean = np.sum(points * weights, axis=1)
    return np.concatenate([mean, np.sum((points - mean[:, None]) ** 2 * weights, axis=1)])
