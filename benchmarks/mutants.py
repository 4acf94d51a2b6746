"""Mutants of one module: where they can be, which are drawn, and how one is put in place of the code that runs.

Cosmic Ray finds the places and writes the changed text (``pip install cosmic-ray``). It does not run the tests: it
would start an interpreter for each mutant, and it mutates the files of the checkout. Here the changed text is executed
beside the module that is loaded, and the code of its functions, their defaults and its constants go to those of the
loaded module, wherever they have been imported to. What the module computed when it was imported, such as a table of
values of one of its functions, stays as it was.
"""

from __future__ import annotations

import ast
import difflib
import importlib.abc
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
_SIGNS = "(Add|Sub|Mul|Div)"
#: The operators of Cosmic Ray that are taken: arithmetic and comparisons exchanged, numbers moved by one, conditions
#: negated, `and` and `or` exchanged, signs dropped, loops without a turn. Others mostly write what no test run would
#: survive, such as a << b.
OPERATORS = re.compile(
    rf"core/(ReplaceBinaryOperator_{_SIGNS}_{_SIGNS}|ReplaceComparisonOperator_(Lt|LtE|Gt|GtE|Eq|NotEq)_"
    r"(Lt|LtE|Gt|GtE|Eq|NotEq)|NumberReplacer|AddNot|ReplaceAndWithOr|ReplaceOrWithAnd|"
    r"ReplaceUnaryOperator_Delete_(USub|Not)|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ZeroIterationForLoop)$")


class Mutant(NamedTuple):
    """A place of a file and what is done there."""

    file: str
    operator: str
    occurrence: int
    line: int

    def text(self) -> str:
        """Return the whole text of the file with the fault in it."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        whole = (ROOT / self.file).read_text(encoding="utf-8")
        return mutate_code(whole, get_operator(self.operator)(), self.occurrence)

    def difference(self, text: str) -> str:
        """Return the lines that the fault changes, before and after."""
        whole = (ROOT / self.file).read_text(encoding="utf-8")
        lines = difflib.unified_diff(whole.splitlines(), text.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in lines if line[:2] not in ("--", "++", "@@"))


def places(file: str) -> Iterator[Mutant]:
    """Yield every mutant of a file, but for those of decorators, annotations and texts of messages."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast_from_path(ROOT / file)))
    for name in sorted(filter(OPERATORS.match, operator_names())):
        operator, count = get_operator(name)(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                if not _in_message(node):
                    yield Mutant(file, name, count, start[0])
                count += 1


def _in_message(node) -> bool:
    """Whether a node is of words that are nobody's result, an asterisk, or what type checkers alone read."""
    if node.type == "operator" and node.parent.type in ("parameters", "argument", "star_expr"):
        return True
    while node is not None:
        if node.type in ("fstring", "raise_stmt", "decorator", "tfpdef", "annassign"):
            return True
        if node.type == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING":
            return True
        node = node.parent
    return False


def drawn(file: str, count: int, seed: int) -> list[Mutant]:
    """Draw mutants: first a line, then one of its mutants, so that no line counts for its many operators."""
    rng = np.random.default_rng(seed)
    lines: dict[int, list[Mutant]] = {}
    for mutant in places(file):
        lines.setdefault(mutant.line, []).append(mutant)
    chosen = sorted(rng.permutation(sorted(lines))[:count].tolist())
    return [lines[line][rng.integers(len(lines[line]))] for line in chosen]


class Statements:
    """The statements of a file: which lines run when a given line does."""

    def __init__(self, file: str):
        self.tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))

    def lines(self, line: int) -> range | None:
        """Return the lines of the statement around a line (of its head, if it has a body); None outside functions.

        The defaults of a function are of use where its body runs.
        """
        around = [node for node in self._all if node.lineno <= line <= (node.end_lineno or 0)]
        if not any(isinstance(node, ast.FunctionDef) for node in around):
            return None
        inner = max(around, key=lambda node: (node.lineno, -(node.end_lineno or 0)))
        body = getattr(inner, "body", None)
        if isinstance(inner, ast.FunctionDef):
            return range(body[0].lineno, (inner.end_lineno or 0) + 1)
        return range(inner.lineno, body[0].lineno if body else (inner.end_lineno or 0) + 1)

    @cached_property
    def _all(self) -> list[ast.stmt]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.stmt)]


class _Text(importlib.abc.SourceLoader):
    """A loader of a module whose text is given."""

    def __init__(self, path: str, text: str):
        self.path, self.text = path, text

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str | bytes) -> bytes:
        return self.text.encode()


def put_in_place(module: ModuleType, text: str) -> None:
    """Give a loaded module the code and the constants of a changed text of its file."""
    spec = importlib.util.spec_from_loader(module.__name__, _Text(str(module.__file__), text))
    if spec is None or spec.loader is None:
        raise ImportError(module.__name__)
    changed = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = changed
    try:
        spec.loader.exec_module(changed)
    finally:
        sys.modules[module.__name__] = module
    for name, value in vars(changed).items():
        old = vars(module).get(name)
        if inspect.isclass(value) and value.__module__ == module.__name__:
            _put_class(old, value)
        elif _is_plain(value):
            if name.startswith("__") or _same(old, value):
                continue
            for other in [one for key, one in sys.modules.items() if key.startswith("wgflow")]:
                if vars(other).get(name) is old:
                    setattr(other, name, value)
        else:
            _put_function(old, value)


def _put_class(old: type, new: type) -> None:
    for name, value in vars(new).items():
        own = vars(old).get(name)
        if _is_plain(value) and not name.startswith("__"):
            if not _same(own, value):
                setattr(old, name, value)
        else:
            _put_function(own, value)


def _put_function(old: object, new: object) -> None:
    old, new = _bare(old), _bare(new)
    if inspect.isfunction(old) and inspect.isfunction(new) and old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def _bare(function: object) -> object:
    """Return the function within decorators, properties, methods of classes."""
    for name in ("fget", "func", "__func__"):
        function = getattr(function, name, None) or function
    return inspect.unwrap(function) if callable(function) else function


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (bool, int, float, complex, str, bytes, np.ndarray, np.generic, type(None), re.Pattern))


def _same(old: object, new: object) -> bool:
    return bool(np.array_equal(old, new)) if isinstance(new, np.ndarray) else bool(old == new)
