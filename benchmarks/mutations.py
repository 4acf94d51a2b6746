"""Mutation testing of fluxes, energies and checks: one small fault at a time, and whether the tests see it.

``python benchmarks/mutations.py --mutants 120 --seed 1`` draws places from the files of `TARGETS`, shared out by the
number of places in each, and prints what became of each, and the score by file. The status is 1 if
less than `LEAST` of them were killed. ``--only checks`` takes the files whose path has the word.

Cosmic Ray finds the places and writes the mutants (``pip install cosmic-ray``). It does not run the tests: it would
start an interpreter for each mutant, and it mutates the files of the checkout. Here they are copied into a folder, as
one package; kernels stay functions of Python (``NUMBA_DISABLE_JIT=1``); each mutant is tested by a copy of a process
that has imported everything but wgflow. Operators are arithmetic and comparisons exchanged, numbers moved by one,
conditions negated, `and` and `or` exchanged, signs dropped, loops without a turn.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ |= {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
sys.dont_write_bytecode = True

import hypothesis  # noqa: E402, F401
import numba  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.optimize  # noqa: E402
import scipy.special  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[1]
#: The least part of the mutants that tests must kill.
LEAST = 0.85
_KERNELS, _ENERGIES, _CHECKS = "tests/wgflow/compiled/", "tests/wgflow/energies/", "tests/wgflow/"
_SOLVERS = "tests/solvers/finite_volume/"
#: The files that are mutated, and the tests that each mutant meets, the quickest first.
TARGETS = {
    "wgflow/compiled/sweep.py": [_KERNELS + "test_kernels.py", _CHECKS + "test_symmetries.py"],
    "wgflow/compiled/compact.py": [_KERNELS + "test_compact_kernels.py", _SOLVERS + "test_field_loop.py",
                                   _SOLVERS + "test_compact.py"],
    "wgflow/compiled/explicit.py": [_KERNELS + "test_explicit_kernels.py", _SOLVERS + "test_explicit.py"],
    "wgflow/energies/on_grid.py": [_ENERGIES + "test_energies.py", _ENERGIES + "test_functionals.py"],
    "wgflow/energies/dissipation.py": [_ENERGIES + "test_energies.py"],
    "wgflow/energies/internal_energies.py": [_ENERGIES + "test_internal_energies.py"],
    "wgflow/checks.py": [_CHECKS + "test_bad_inputs.py", _CHECKS + "test_sizes.py"],
    "wgflow/grid_checks.py": [_CHECKS + "test_bad_inputs.py", _CHECKS + "test_grids.py"],
    "wgflow/energies/term_checks.py": [_ENERGIES + "test_functionals.py"],
    "wgflow/interactions/kernel_checks.py": [_CHECKS + "test_bad_inputs.py"],
}
_SIGNS = "(Add|Sub|Mul|Div)"
#: The operators of Cosmic Ray that are taken. Others mostly write what no test run would survive, such as a << b.
OPERATORS = re.compile(
    rf"core/(ReplaceBinaryOperator_{_SIGNS}_{_SIGNS}|ReplaceComparisonOperator_(Lt|LtE|Gt|GtE|Eq|NotEq)_"
    r"(Lt|LtE|Gt|GtE|Eq|NotEq)|NumberReplacer|AddNot|ReplaceAndWithOr|ReplaceOrWithAnd|"
    r"ReplaceUnaryOperator_Delete_(USub|Not)|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ZeroIterationForLoop)$")
SECONDS = 60


class Mutant(NamedTuple):
    """A place of a file and what is done there."""

    file: str
    operator: str
    occurrence: int
    line: int


def copied(folder: Path) -> None:
    """Copy the package into a folder as it is installed, and the tests beside it."""
    bare = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "wgflow", folder / "wgflow", ignore=bare)
    for part in ("solvers", "reduced_models", "validation"):
        shutil.copytree(ROOT / part, folder / "wgflow" / part, ignore=bare)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=bare)
    shutil.copy(ROOT / "pyproject.toml", folder)


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
    """Whether a node is of an f-string, of what is raised, whose words are nobody's result, or an asterisk."""
    if node.type == "operator" and node.parent.type in ("parameters", "argument", "star_expr"):
        return True
    while node is not None:
        if node.type in ("fstring", "raise_stmt", "decorator", "tfpdef"):
            return True
        node = node.parent
    return False


def tested(folder: Path, tests: list[str], seconds: float) -> tuple[str, float]:
    """Return how the tests end, in a copy of this process: "survived", "killed" or "hung"; and processor seconds."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if not child:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=1", *tests]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ("survived" if code == 0 else "hung" if code < 0 else "killed",
            end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)


@contextlib.contextmanager
def mutated(folder: Path, mutant: Mutant) -> Iterator[str]:
    """Write a mutant into the copy for the time of the block; the value is its diff."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    path = folder / mutant.file
    whole = path.read_text(encoding="utf-8")
    changed = mutate_code(whole, get_operator(mutant.operator)(), mutant.occurrence)
    path.write_text(changed, encoding="utf-8")
    try:
        lines = difflib.unified_diff(whole.splitlines(), changed.splitlines(), n=0, lineterm="")
        yield "\n".join(line for line in lines if line[:3] not in ("---", "+++"))
    finally:
        path.write_text(whole, encoding="utf-8")


def drawn(files: list[str], count: int, seed: int) -> list[Mutant]:
    """Draw mutants: first a line, then one of its mutants, so that no line counts for its many operators."""
    import numpy as np

    rng, chosen = np.random.default_rng(seed), []
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for file in files:
        for mutant in places(file):
            lines.setdefault((file, mutant.line), []).append(mutant)
    keys = sorted(lines)
    for k in sorted(rng.permutation(len(keys))[:count]):
        here = lines[keys[k]]
        chosen.append(here[rng.integers(len(here))])
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="a word in the paths of the files")
    given = parser.parse_args()
    files = [file for file in TARGETS if given.only in file]
    counts: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="wgflow-mutants-") as place:
        folder = Path(place)
        copied(folder)
        limits: dict[str, float] = {}
        for mutant in drawn(files, given.mutants, given.seed):
            file = mutant.file
            if file not in limits:
                outcome, seconds = tested(folder, TARGETS[file], 5 * SECONDS)
                if outcome != "survived":
                    print(f"{file}: without any mutant its tests fail")
                    return 2
                limits[file] = 3 * seconds + 10
                print(f"{file}: its tests take {seconds:.1f} s", flush=True)
            with mutated(folder, mutant) as diff:
                outcome, seconds = tested(folder, TARGETS[file], limits[file])
            counts.setdefault(file, []).append(outcome != "survived")
            print(f"{outcome}: {file}:{mutant.line} {mutant.operator[5:]}"
                  + f"\n{diff}" * (outcome == "survived"), flush=True)
    for file, killed in counts.items():
        print(f"{file:42s} {sum(killed):4d} of {len(killed):4d} killed")
    killed = [one for some in counts.values() for one in some]
    score = sum(killed) / max(1, len(killed))
    print(f"mutation score {score:.3f} of {len(killed)} mutants; at least {LEAST}")
    return 0 if score >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
