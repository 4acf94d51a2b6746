"""Losses: derivatives against differences, conjugates against their definition, labels, and extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wgflow as wg
from wgflow.errors import InvalidInput
from wgflow.losses import Exponential, Huber, Logistic, SmoothHinge, Square, from_functions
from wgflow.losses.base import as_loss

LOSSES = [Square(), Logistic(), Exponential(), Huber(0.7), SmoothHinge(0.4), SmoothHinge()]
CLASSES = [loss for loss in LOSSES if loss.classifies]
F = np.linspace(-4.03, 3.98, 91)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("y", [-1.0, 1.0])
def test_derivatives_are_those_of_the_value(loss, y):
    h = 1e-5
    slope = (loss.value(y, F + h) - loss.value(y, F - h)) / (2 * h)
    np.testing.assert_allclose(loss.derivative(y, F), slope, rtol=1e-7, atol=1e-7)
    bend = (loss.derivative(y, F + h) - loss.derivative(y, F - h)) / (2 * h)
    np.testing.assert_allclose(loss.second_derivative(y, F), bend, rtol=1e-6, atol=1e-6)
    assert (loss.second_derivative(y, F) >= 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("y", [-1.0, 1.0])
def test_fenchel(loss, y):
    """l + l* >= f g for all pairs, an equality at g = l'."""
    g = loss.derivative(y, F)
    np.testing.assert_allclose(loss.value(y, F) + loss.conjugate(y, g), F * g, atol=1e-12 * np.exp(4.1))
    excess = loss.value(y, F)[:, None] + loss.conjugate(y, g) - F[:, None] * g
    assert excess.min() >= -1e-12 * np.exp(4.1)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_conjugate_is_infinite_outside_its_domain(loss):
    outside = {"Logistic": (-1.01, 0.01), "Exponential": (0.01,), "Huber": (-0.71, 0.71), "SmoothHinge": (-1.01, 0.01)}
    for g in outside.get(loss.name, ()):
        assert loss.conjugate(1.0, g) == np.inf


@given(st.floats(-1e300, 1e300), st.sampled_from([-1.0, 1.0]), st.sampled_from(LOSSES))
def test_no_output_overflows_where_the_loss_does_not(f, y, loss):
    with np.errstate(all="raise", under="ignore"):
        if loss.name in ("Square", "Huber") and abs(f) > 1e150:
            return
        value, slope = float(loss.value(y, f)), float(loss.derivative(y, f))
    m = y * f
    if loss.name == "Logistic":
        assert value == pytest.approx(max(-m, 0.0), abs=0.7)
        assert -1 <= y * slope <= 0
    assert value >= 0
    if loss.name != "Exponential" or m > -700:
        assert np.isfinite(value)
        assert np.isfinite(slope)


@pytest.mark.parametrize("loss", CLASSES, ids=repr)
def test_labels_that_are_no_classes_are_refused_by_name(loss):
    with pytest.raises(InvalidInput, match=r"y\[1\] is 0: .*two classes.* 2 y - 1"):
        loss.check_labels([1.0, 0.0])
    with pytest.raises(InvalidInput, match=r"y\[2\] is 0.5"):
        loss.check_labels([1.0, -1.0, 0.5])
    with pytest.raises(InvalidInput, match=r"y\[0\] is nan"):
        loss.check_labels([np.nan, 1.0])
    assert loss.check_labels([1, -1]).tolist() == [1.0, -1.0]


def test_losses_of_values_take_any_finite_label():
    assert Square().check_labels([0.3, -7.0]).tolist() == [0.3, -7.0]
    with pytest.raises(InvalidInput, match=r"y\[1\] is inf"):
        Huber(1.0).check_labels([0.0, np.inf])


def test_parameters_are_checked():
    for made in (lambda: Huber(0.0), lambda: SmoothHinge(-1.0), lambda: Huber(np.inf)):
        with pytest.raises(InvalidInput, match="must be finite and > 0"):
            made()
    assert Huber(0.5) == Huber(0.5) != Huber(0.6)
    assert wg.losses.Huber is Huber


def test_limits():
    """Huber's loss is the square for large delta; the smoothed hinge the hinge for a small width."""
    np.testing.assert_array_equal(Huber(1e3).value(0.5, F), Square().value(0.5, F))
    np.testing.assert_allclose(SmoothHinge(1e-9).value(1.0, F), np.maximum(1 - F, 0), atol=1e-9)


# ---------------------------------------------------------------- a user's own
def _cosh():
    return (lambda y, f: np.cosh(f - y), lambda y, f: np.sinh(f - y), lambda y, f: np.cosh(f - y))


def test_a_loss_of_functions():
    loss = from_functions(*_cosh(), name="cosh")
    assert loss.value([1.0, 2.0], 1.0).tolist() == [1.0, np.cosh(-1.0)]
    with pytest.raises(InvalidInput, match="no convex conjugate"):
        loss.conjugate(1.0, 0.1)
    assert loss.kernel_arguments() is None


def test_functions_that_do_not_belong_together_are_refused():
    value, slope, bend = _cosh()
    for functions, words in (((value, bend, bend), "derivative of the loss loss.. is .* differences"),
                             ((value, slope, slope), "second_derivative"),
                             ((lambda y, f: -value(y, f), lambda y, f: -slope(y, f), lambda y, f: -bend(y, f)),
                              "not convex"),
                             ((lambda y, f: value(y, f)[:3], slope, bend), "vectorized"),
                             ((lambda y, f: np.log(f), slope, bend), "must be finite"),
                             ((value, lambda y, f: 1 // 0, bend), "derivative of the loss raised ZeroDivisionError")):
        with pytest.raises(InvalidInput, match=words):
            from_functions(*functions)
    with pytest.raises(TypeError, match="derivative must be a function"):
        from_functions(value, 3.0, bend)


def test_a_loss_with_kinks_in_its_second_derivative_is_taken():
    huber = Huber(1.0)
    loss = from_functions(huber.value, huber.derivative, huber.second_derivative, huber.conjugate)
    assert loss.conjugate(0.0, 0.5) == 0.125


def test_a_loss_is_one_of_ours_or_three_functions():
    square = Square()
    assert as_loss(square) is square
    own = as_loss((lambda y, f: 0.5 * (f - y) ** 2, lambda y, f: f - y, lambda y, f: 1 + 0 * f))
    np.testing.assert_allclose(own.derivative(1.0, F), square.derivative(1.0, F) / square.derivative(1.0, 2.0))
    with pytest.raises(InvalidInput, match=r"loss=Square is a class; make one, as in Square\(\)"):
        as_loss(Square)
    for wrong in (None, "square", (1, 2), [lambda y, f: f] * 2):
        with pytest.raises(InvalidInput, match=r"loss must be one of wgflow\.losses or three functions"):
            as_loss(wrong)


def test_kernels_know_the_losses_by_number_and_parameter():
    from wgflow.compiled import sgd

    for loss in LOSSES:
        number, parameter = loss.kernel_arguments()
        for y in (-1.0, 1.0):
            slopes = [sgd._pull(number, parameter, y, f) for f in F]
            factor = -2 if number == 0 else -1
            np.testing.assert_allclose(slopes, factor * loss.derivative(y, F), rtol=1e-12, atol=1e-14)
