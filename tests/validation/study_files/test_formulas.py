"""Formulas: the values of NumPy, words for all that is no formula, and no foreign exception whatever the text."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgflow.errors import InvalidInput
from wgflow.validation.study_files.formulas import FUNCTIONS, Formula

X, Y = np.linspace(-2.0, 2.0, 9), np.linspace(0.5, 3.0, 9)


@pytest.mark.parametrize(("text", "expected"), [
    ("x**4/4 - x**2/2", X**4 / 4 - X**2 / 2),
    ("-x**2", -(X**2)),
    ("2**-1 * x", X / 2),
    ("x - y - 1", X - Y - 1),
    ("x / y / 2", X / Y / 2),
    ("exp(-x) + log(y) + sqrt(y) + abs(x)", np.exp(-X) + np.log(Y) + np.sqrt(Y) + np.abs(X)),
    ("sin(x)*cos(x) + tan(x) + arctan(x)", np.sin(X) * np.cos(X) + np.tan(X) + np.arctan(X)),
    ("sinh(x) + cosh(x) + tanh(x)", np.sinh(X) + np.cosh(X) + np.tanh(X)),
    ("minimum(x, y) + 10*maximum(x, 0)", np.minimum(X, Y) + 10 * np.maximum(X, 0)),
    ("where(x > 1, x**2, -x)", np.where(X > 1, X**2, -X)),
    ("-1 < x <= 1", 1.0 * ((X > -1) & (X <= 1))),
    ("(x < 0) + (x >= 0) + (x == 0) - (x != 0)", 1.0 + (X == 0) - (X != 0)),
    ("pi*x + e", math.pi * X + math.e),
    ("1_000 + 0x10", np.full(9, 1016.0)),
    ("x\n  + y", X + Y),
])
def test_a_formula_has_the_values_of_numpy(text, expected):
    found = Formula(text, ["x", "y"])(X, Y)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_a_formula_returns_the_common_shape_of_its_points():
    assert Formula("3", ["x"])(X).shape == (9,)
    assert Formula("x*y", ["x", "y"])(X[:, None], Y[None, :]).shape == (9, 9)
    assert np.isnan(Formula("log(x)", ["x"])(X)[0])
    assert np.isinf(Formula("1/x", ["x"])(np.zeros(1))).all()
    assert np.isinf(Formula("10**x", ["x"])(np.array([400.0]))).all()


@pytest.mark.parametrize(("text", "words"), [
    ("x.system(1)", "system' cannot be called"),
    ("__import__('os')", "name '__import__' is not known in a formula"),
    ("eval('1')", "name 'eval' is not known"),
    ("x.__class__", "'x.__class__' is not known in a formula"),
    ("(lambda: 1)()", "cannot be called"),
    ("[x for x in y]", "is not known in a formula"),
    ("x[0]", "'x[0]' is not known"),
    ("x := 2", "it cannot be read"),
    ("f'{x}'", "is not known in a formula"),
    ("x^2", "powers are written x**2"),
    ("x % 2", "'x % 2' is not known"),
    ("x if x > 0 else 1", "write where(condition, a, b)"),
    ("x > 0 and x < 1", "multiply the conditions"),
    ("sine(x)", "did you mean sin?"),
    ("xx + 1", "there are x, y, pi, e and the functions exp,"),
    ("x(2)", "a product is written x*(...)"),
    ("exp", "the function exp needs its argument"),
    ("exp(x, y)", "exp takes 1 argument and no keywords"),
    ("maximum(x)", "maximum takes 2 arguments"),
    ("exp(*x)", "exp takes 1 argument"),
    ("exp(x, out=y)", "no keywords"),
    ("1e999*x", "larger than any float"),
    ("9" * 400, "larger than any float"),
    ("True", "True is not a number"),
    ("1j", "1j is not a number"),
    ("'x'", "'x' is not a number"),
    ("x**1000", "the exponent 1000 is too large; take at most 100"),
    ("x**-(101)", "the exponent 101 is too large"),
    ("x # and\n+ y", "no comments"),
    ("", "it cannot be read"),
    ("x +", "it cannot be read"),
    ("2 x", "it cannot be read"),
    ("x\x00", "it cannot be read"),
    ("\ud800", "it cannot be read"),
    ("x" * 2001, "it has 2001 characters; take at most 2000"),
    ("-" * 1999 + "x", "nested more than 50 deep"),
    ("+".join(["x"] * 60), "nested more than 50 deep"),
    ("(" * 900 + "x" + ")" * 900, "nested"),
])
def test_what_is_no_formula_is_refused_by_name(text, words):
    with pytest.raises(InvalidInput) as error:
        Formula(text, ["x", "y"], "potential")
    assert words in str(error.value)
    assert str(error.value).startswith("potential = ")
    assert "\n" not in str(error.value)


def test_coordinates_do_not_hide_functions():
    with pytest.raises(InvalidInput, match="a coordinate cannot be called 'exp'"):
        Formula("exp", ["exp"])


PIECES = ["x", "y", "pi", "e", "1", "2.5", "1e-3", "(", ")", "+", "-", "*", "/", "**", "<", "==", ",", " ", *FUNCTIONS,
          "lambda", ":", "[", "]", "{", "}", ".", "__class__", "'", '"', "\\", "if", "else", "for", "in", "not", "and",
          "or", "=", ":=", "@", "#", "\n", "\t", "0", "_", "1j", "é", "f'", "await", "None"]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_no_text_raises_a_foreign_exception(text):
    try:
        formula = Formula(text, ["x", "y"])
    except InvalidInput:
        return
    assert formula(X, Y).shape == X.shape


#: Texts beside the values that NumPy gives them; a condition is a number.
LEAVES = st.one_of(
    st.sampled_from([("x", X), ("y", Y), ("pi", np.float64(math.pi)), ("e", np.float64(math.e))]),
    st.floats(0, 10).map(lambda v: (repr(v), np.float64(v))))
BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
          "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
          "!=": operator.ne}


def joined(parts):
    (a, u), sign, (b, v) = parts
    return f"({a}{sign}{b})", 1.0 * BINARY[sign](u, v)


def called(parts):
    name, *arguments = parts
    function, count = FUNCTIONS[name]
    texts, values = zip(*arguments[:count])
    return f"{name}({', '.join(texts)})", function(*values)


EXPRESSIONS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from(sorted(BINARY)), inner).map(joined),
    inner.map(lambda part: (f"(-{part[0]})", -part[1])),
    st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner, inner, inner).map(called)), max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_expressions_have_the_values_of_numpy(data):
    with np.errstate(all="ignore"):
        text, expected = data.draw(EXPRESSIONS)
    np.testing.assert_array_equal(Formula(text, ["x", "y"])(X, Y), np.broadcast_to(expected, X.shape))
