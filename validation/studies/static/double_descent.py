"""Double descent: random features over width and ridge beside their theory, and networks on handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from ..base import Check, Study, StudyReport, Table
from ..pictures import save_picture
from .digits import Errors, load_digits
from .double_descent_picture import draw
from .double_descent_runs import (
    BESIDE,
    IMAGE_NOISE,
    IMAGES,
    NOISE,
    PSI2,
    SIGNAL,
    DigitsResult,
    LimitResult,
    best_ridges,
    on_digits,
    parameters,
    simulated,
    theory,
)
from .judging import LEVEL, Estimate, extrapolated, of_runs, within_bands

__all__ = ["STUDY"]

#: The slope of the difference at finite size may be so far from -1.
_SLOPE_BAND = 0.15
#: Training error that counts as none.
_NO_ERROR = 1e-8
#: Training error at which a trained network counts as fitted, and the parameters an image that suffice for it.
_FITTED, _ENOUGH = 1e-3, 4.0
#: Widths within this part of the threshold are left out where errors of few draws are compared with predictions.
_BESIDE_THRESHOLD = 0.25
#: Largest relative difference of generalized cross-validation from the error on new images, with a ridge and without.
_PREDICTED = {1e-1: 0.1, 1e-3: 0.25, 0.0: 0.3}
#: Largest relative difference of the prediction from the features' covariance: it knows 1797 images, 300 of them those
#: of the sample, and digits are not Gaussian.
_BY_COVARIANCE = 0.25
#: The peak is at least this many times the error at both ends of the widths.
_PEAK = 1.5


class DoubleDescent(Study):
    name = "double-descent"
    title = "double descent of random features, and of networks on digits"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        digits = load_digits()
        limit = simulated((30, 60), 40, (20, 40, 80)) if quick else simulated((50, 100), 48, (20, 40, 80, 160))
        shown = on_digits(digits, quick)
        best = best_ridges()
        conventions = (
            f"Above: ridge regression on N features ReLU(<w, x>), |w| = 1, |x|^2 = d, target <beta, x> with |beta| = "
            f"{SIGNAL:g}, noise of variance {NOISE:g}, n/d = {PSI2:g}, penalty (N lambda/d)|a|^2; risk E(f - fhat)^2; "
            f"dots are means at d = {limit.sizes[1]}. Digits: even or odd as 1 and -1, {IMAGES} of {len(digits.y)} "
            f"images with noise of variance {IMAGE_NOISE:g} on their labels, images centered and scaled to |x|^2 = d = "
            f"{digits.x.shape[1]}; the error is that on all other images, without noise; medians "
            "over samples, those below 0.001 drawn there.")
        checks = [*_judge_limit(limit), *_judge_optimum(best), *_judge_digits(shown)]
        picture = save_picture(draw(limit, shown, best), folder / "double-descent.png", conventions)
        return StudyReport(self.name, self.title, conventions, tuple(checks), _tables(limit, shown, best), {},
                           (picture,))


def _limits(limit: LimitResult) -> tuple[list[Estimate], list[float]]:
    """Return the extrapolated simulations of both curves, and their theory."""
    points = [(psi1, ridge, found) for (ridge, psi1), found in limit.points.items()]
    points += [(BESIDE, ridge, found) for ridge, found in limit.over_ridges.items()]
    return [extrapolated(limit.sizes, found) for _, _, found in points], [theory(p, r) for p, r, _ in points]


def _judge_limit(limit: LimitResult) -> list[Check]:
    found, expected = _limits(limit)
    first, last = limit.sizes
    check = within_bands(f"simulations of random features at d = {first} and {last}, extrapolated in 1/d", found,
                         expected, len(found))
    slope, half = _scaling_slope(limit)
    words = (f"the difference from the limit at psi1 = {BESIDE:g}, lambda = 0.01 falls as d^({slope:.3f} +- "
             f"{half:.3f}) from d = {min(limit.scaling)} to {max(limit.scaling)}; predicted -1, band {_SLOPE_BAND:g}")
    return [check, Check(words, bool(abs(slope + 1.0) <= _SLOPE_BAND and half <= _SLOPE_BAND))]


def _scaling_slope(limit: LimitResult) -> tuple[float, float]:
    """Return the slope of log |difference| over log d by weighted least squares, and its half-width."""
    d = np.array(list(limit.scaling), dtype=float)
    found = [of_runs(each) for each in limit.scaling.values()]
    apart = np.abs([each.value - theory(BESIDE, 1e-2) for each in found])
    weights = (apart / [each.standard_error for each in found]) ** 2
    x = np.log(d) - np.average(np.log(d), weights=weights)
    spread = float(np.sum(weights * x * x))
    quantile = stdtrit(min(each.freedom for each in found), 1.0 - 0.5 * LEVEL)
    return float(np.sum(weights * x * np.log(apart))) / spread, float(quantile / np.sqrt(spread))


def _judge_optimum(best: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[Check]:
    _, ridge, risk = best
    rise = float(np.max(np.diff(risk)))
    return [Check.at_most(f"at the best ridge (between {ridge.min():.2g} and {ridge.max():.2g}) the risk falls with "
                          f"every step of the width, from {risk[0]:.3f} to {risk[-1]:.3f}: no peak; largest rise "
                          f"{rise:.2g}", rise, 0.0)]


def _judge_digits(shown: DigitsResult) -> list[Check]:
    checks = []
    bare = shown.random_features[0.0]
    above, below = bare.widths >= IMAGES, bare.widths < IMAGES
    checks.append(Check(
        f"digits, random features: without ridge all fits with N >= n have training error below {_NO_ERROR:g} (largest "
        f"{bare.train[:, above].max():.1e}), and none with N < n (least {bare.train[:, below].min():.1e})",
        bool(bare.train[:, above].max() < _NO_ERROR < bare.train[:, below].min())))
    checks.append(_peak("random features, no ridge", bare, bare.widths / IMAGES, (0.99, 1.01)))
    net = shown.trained
    checks.append(_peak("trained networks", net, parameters(shown) / IMAGES, (1.0, 3.0)))
    free = np.flatnonzero(np.median(net.train, axis=0) < _FITTED)
    first = float(parameters(shown)[free[0]]) / IMAGES if free.size else np.inf
    checks.append(Check.at_most(f"digits, trained networks: the median training error is below {_FITTED:g} from "
                                f"{first:.3g} parameters for each image on", first, _ENOUGH))
    for ridge, errors in shown.random_features.items():
        away = np.abs(np.log(errors.widths / IMAGES)) >= (_BESIDE_THRESHOLD if ridge < 0.1 else 0.0)
        checks.append(_covariance_check(shown, ridge, errors.widths[away]))
        ratio = np.median((errors.predicted + IMAGE_NOISE) / (errors.test + IMAGE_NOISE), axis=0)[away]
        apart = float(np.max(np.abs(ratio - 1.0)))
        checks.append(Check.at_most(
            f"digits, lambda = {ridge:g}: generalized cross-validation predicts the error at new noisy labels at "
            f"{ratio.size} widths to {apart:.1%} in the median, band {_PREDICTED[ridge]:.0%}", apart,
            _PREDICTED[ridge]))
    return checks


def _covariance_check(shown: DigitsResult, ridge: float, away: np.ndarray) -> Check:
    errors = shown.random_features[ridge]
    median = dict(zip(errors.widths.tolist(), np.median(errors.test, axis=0).tolist()))
    widths = [n for n in shown.predicted if n in away]
    apart = max(abs(shown.predicted[n][ridge] / median[n] - 1.0) for n in widths)
    return Check.at_most(f"digits, lambda = {ridge:g}: Gaussian features of the same covariance predict the error on "
                         f"new images at {len(widths)} widths to {apart:.1%} in the median, band {_BY_COVARIANCE:.0%}",
                         apart, _BY_COVARIANCE)


def _peak(label: str, errors: Errors, size: np.ndarray, where: tuple[float, float]) -> Check:
    median = np.median(errors.test, axis=0)
    k = int(np.argmax(median))
    rest = np.minimum.reduce([median[k] / median[:k].min(initial=np.inf), median[k] / median[k:].min()])
    return Check(f"digits, {label}: the error on new images peaks at size/n = {size[k]:.3g} (between {where[0]:g} and "
                 f"{where[1]:g} expected) with {median[k]:.3g}, {rest:.2g} times the least error on either side",
                 bool(where[0] <= size[k] <= where[1] and rest >= _PEAK))


def _tables(limit: LimitResult, shown: DigitsResult, best) -> dict[str, Table]:
    rows = []
    for (ridge, psi1), found in limit.points.items():
        end = extrapolated(limit.sizes, found)
        rows.append((psi1, ridge, theory(psi1, ridge), *(v for each in found for v in (each.mean, each.standard_error)),
                     end.value, end.standard_error))
    names = [f"{what} d = {d}" for d in limit.sizes for what in ("mean", "error")]
    nothing = {ridge: np.nan for ridge in shown.random_features}
    digits = [(f"random features, lambda = {ridge:g}", int(n), *np.median(block, axis=1).tolist(),
               shown.predicted.get(int(n), nothing)[ridge])
              for ridge, errors in shown.random_features.items()
              for n, block in zip(errors.widths, np.array(errors[1:]).transpose(2, 0, 1))]
    digits += [("trained", int(n), *np.median(block, axis=1).tolist(), np.nan)
               for n, block in zip(shown.trained.widths, np.array(shown.trained[1:]).transpose(2, 0, 1))]
    return {"random features": Table(("psi1", "lambda", "theory", *names, "limit", "error"), rows),
            "size": Table(("d", "mean", "error", "theory"), [(d, each.mean, each.standard_error, theory(BESIDE, 1e-2))
                                                             for d, each in limit.scaling.items()]),
            "best ridge": Table(("psi1", "ridge", "risk"), np.transpose(best).tolist()),
            "digits": Table(("method", "N", "test", "train", "wrong", "cross-validation",
                             "by covariance"), digits)}


STUDY = DoubleDescent()
