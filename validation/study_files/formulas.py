"""Formulas in a text file: arithmetic of coordinates, read by Python's own grammar and evaluated node by node.

Nothing of a text is ever run as code. A node of the syntax tree is either one of the few kinds below or refused.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from wgflow.calls.explained import nearest
from wgflow.checks import described
from wgflow.errors import InvalidInput

__all__ = ["Formula"]

LONGEST, DEEPEST, LARGEST_EXPONENT = 2000, 50, 100
CONSTANTS: Mapping[str, float] = MappingProxyType({"pi": math.pi, "e": math.e})
#: Each function and how many arguments it takes.
FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int]] = MappingProxyType({
    "exp": (np.exp, 1), "log": (np.log, 1), "sqrt": (np.sqrt, 1), "abs": (np.abs, 1),
    "sin": (np.sin, 1), "cos": (np.cos, 1), "tan": (np.tan, 1), "arctan": (np.arctan, 1),
    "sinh": (np.sinh, 1), "cosh": (np.cosh, 1), "tanh": (np.tanh, 1),
    "minimum": (np.minimum, 2), "maximum": (np.maximum, 2),
    "where": (lambda condition, a, b: np.where(condition != 0.0, a, b), 3)})
OPERATORS: Mapping[type, Callable[..., Any]] = MappingProxyType({
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne})
#: What to write in place of what Python has and formulas have not.
INSTEAD: Mapping[type, str] = MappingProxyType({
    ast.BitXor: "powers are written x**2", ast.IfExp: "write where(condition, a, b)",
    ast.BoolOp: "for `and` multiply the conditions, (x > 0) * (x < 1), for `or` take their maximum"})
ALLOWED = "+ - * / ** and the comparisons < <= > >= == !="


class Formula:
    """A function of coordinates that a text gives, such as ``"x**4/4 - x**2/2"``.

    A comparison is 1 where it holds and 0 elsewhere, so that ``"abs(x) < 1"`` is the indicator of an interval.

    Parameters
    ----------
    text : str
        Numbers, the names, ``pi``, ``e``, + - * / **, comparisons, parentheses, and the functions exp, log (natural),
        sqrt, abs, sin, cos, tan, arctan, sinh, cosh, tanh, minimum, maximum, where. At most 2,000 characters, nested
        at most 50 deep; a number as exponent lies between -100 and 100.
    names : sequence of str
        The names of the coordinates, in the order in which the function takes them.
    what : str
        What the formula is, for messages.

    Raises
    ------
    InvalidInput
        If the text is anything else; the message names what is not known.

    Examples
    --------
    >>> Formula("where(x > 1, x**2, 0)", ["x"])(np.array([0.0, 2.0]))
    array([0., 4.])
    """

    def __init__(self, text: str, names: Sequence[str], what: str = "formula"):
        self.text, self.names, self._what = " ".join(text.split()), tuple(names), what
        taken = sorted(set(names) & {*CONSTANTS, *FUNCTIONS})
        if taken:
            raise InvalidInput(f"{what}: a coordinate cannot be called {taken[0]!r}, which formulas know already; give "
                               "the axes other names")
        if len(text) > LONGEST:
            raise self._refused(f"it has {len(text)} characters; take at most {LONGEST}, or a function in a "
                                "Python file")
        if "#" in text:
            # Lines are joined, so that a comment would swallow what follows it.
            raise self._refused("a formula has no comments; write them outside of it")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the parser, about texts such as "1or 2"
                self._tree = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise self._refused(f"it cannot be read: {getattr(error, 'msg', error)}") from error
        except (RecursionError, MemoryError) as error:
            raise self._refused(f"it is nested more than {DEEPEST} deep") from error
        self._check(self._tree, 1)

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"

    def __call__(self, *coordinates: Any) -> np.ndarray:
        """Return the values at points, one array for each coordinate; an array of their common shape.

        Where the formula has no value (log of a negative number, 1/0) it is NaN or infinite.
        """
        places = dict(zip(self.names, (np.asarray(c, dtype=np.float64) for c in coordinates), strict=True))
        shape = np.broadcast_shapes(*(c.shape for c in places.values()))
        with np.errstate(all="ignore"):
            return np.array(np.broadcast_to(self._value(self._tree, places), shape), dtype=np.float64)

    def _value(self, node: Any, places: Mapping[str, np.ndarray]) -> Any:
        """The value of a node that `_check` has let pass."""
        if isinstance(node, ast.Constant):
            value: Any = node.value
            return np.float64(value)
        if isinstance(node, ast.Name):
            return places[node.id] if node.id in places else np.float64(CONSTANTS[node.id])
        if isinstance(node, ast.UnaryOp):
            return OPERATORS[type(node.op)](self._value(node.operand, places))
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](self._value(node.left, places), self._value(node.right, places))
        if isinstance(node, ast.Compare):
            sides = [self._value(side, places) for side in (node.left, *node.comparators)]
            holds = [OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, sides, sides[1:])]
            return math.prod(np.asarray(each, dtype=np.float64) for each in holds)
        return FUNCTIONS[node.func.id][0](*(self._value(each, places) for each in node.args))

    def _check(self, node: ast.AST, depth: int) -> None:
        """Refuse a node that is not one of the known kinds, and look at those below it."""
        if depth > DEEPEST:
            raise self._refused(f"it is nested more than {DEEPEST} deep; group long sums by parentheses, or take a "
                                "function in a Python file")
        if isinstance(node, ast.Constant):
            self._check_number(node.value)
        elif isinstance(node, ast.Name):
            self._check_name(node.id)
        elif isinstance(node, ast.UnaryOp):
            self._check_operator(node.op, node)
            self._check(node.operand, depth + 1)
        elif isinstance(node, ast.BinOp):
            self._check_operator(node.op, node)
            self._check(node.left, depth + 1)
            self._check(node.right, depth + 1)
            if isinstance(node.op, ast.Pow):
                self._check_exponent(node.right)
        elif isinstance(node, ast.Compare):
            for op in node.ops:
                self._check_operator(op, node)
            for side in (node.left, *node.comparators):
                self._check(side, depth + 1)
        elif isinstance(node, ast.Call):
            self._check_call(node)
            for argument in node.args:
                self._check(argument, depth + 1)
        else:
            raise self._unknown(node, node)

    def _check_number(self, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refused(f"{described(value)} is not a number that a formula can have")
        try:
            finite = math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            raise self._refused(f"the number {described(value)} is larger than any float")

    def _check_name(self, name: str) -> None:
        known = (*self.names, *CONSTANTS)
        if name in known:
            return
        if name in FUNCTIONS:
            raise self._refused(f"the function {name} needs its argument, as in {name}({self.names[0]})")
        raise self._unknown_name(name, known, f"there are {', '.join(known)} and the functions {', '.join(FUNCTIONS)}")

    def _unknown_name(self, name: str, known: Iterable[str], there_are: str) -> InvalidInput:
        near = nearest(name, known)
        guess = f"did you mean {near}? " if near else ""
        return self._refused(f"name {name!r} is not known in a formula; {guess}{there_are}")

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name):
            raise self._refused(f"{self._source(node.func)!r} cannot be called; there are {', '.join(FUNCTIONS)}")
        name = node.func.id
        if name in (*self.names, *CONSTANTS):
            raise self._refused(f"{name} is no function; a product is written {name}*(...)")
        if name not in FUNCTIONS:
            raise self._unknown_name(name, FUNCTIONS, f"the functions are {', '.join(FUNCTIONS)}")
        count = FUNCTIONS[name][1]
        starred = any(isinstance(each, ast.Starred) for each in node.args)
        if node.keywords or starred or len(node.args) != count:
            raise self._refused(f"{name} takes {count} argument{'s' if count > 1 else ''} and no keywords, got "
                                f"{self._source(node)!r}")

    def _check_exponent(self, node: ast.expr) -> None:
        while isinstance(node, ast.UnaryOp):
            node = node.operand
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and node.value > LARGEST_EXPONENT:
            raise self._refused(f"the exponent {described(node.value)} is too large; take at most {LARGEST_EXPONENT}")

    def _check_operator(self, op: ast.AST, node: ast.AST) -> None:
        if type(op) not in OPERATORS:
            raise self._unknown(op, node)

    def _unknown(self, part: ast.AST, node: ast.AST) -> InvalidInput:
        """The error for a kind of node or operator that formulas do not have."""
        instead = INSTEAD.get(type(part)) or f"a formula has numbers, names, functions, {ALLOWED}"
        return self._refused(f"{self._source(node)!r} is not known in a formula; {instead}")

    def _source(self, node: ast.AST) -> str:
        source = " ".join((ast.get_source_segment(self.text, node) or type(node).__name__).split())
        return source if len(source) <= 40 else source[:37] + "..."

    def _refused(self, why: str) -> InvalidInput:
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return InvalidInput(f"{self._what} = {shown!r}: {why}")
