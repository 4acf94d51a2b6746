"""The rooms: no circle of imports, storeys in place of flat piles, short functions, and the calls up the hill, by name.

``python tests/house/test_rooms.py`` prints the facts.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"wgflow": "wgflow", "solvers": "wgflow.solvers", "reduced_models": "wgflow.reduced_models",
         "validation": "wgflow.validation"}
#: Python files that a folder of the package may hold side by side.
MOST_FILES = 26
#: Lines that a function may have without its docstring, and a file with everything.
MOST_LINES, MOST_FILE_LINES = 60, 450
#: Files of Numba kernels whose call tree must stand in one file; the cache does not see changes elsewhere.
LONG_FILES = {"wgflow/compiled/sweep.py", "wgflow/compiled/compact.py", "wgflow/compiled/c_transform.py"}
#: Methods of simple objects that are served by a room above, and the function that serves each.
UPHILL = {
    ("solvers/jko/settings.py", "wgflow.solvers.jko.back_and_forth", "BackAndForthSolver"),
    ("solvers/jko/settings.py", "wgflow.solvers.jko.entropic", "EntropicSolver"),
    ("solvers/jko/settings.py", "wgflow.solvers.jko.linearized", "LinearizedSolver"),
    ("solvers/jko/settings.py", "wgflow.solvers.jko.quantile", "QuantileSolver"),
    ("wgflow/atoms.py", "wgflow.pictures.html", "law_html"),
    ("wgflow/atoms.py", "wgflow.pictures.laws", "plot_law"),
    ("wgflow/certificate.py", "wgflow.pictures.html", "certificate_html"),
    ("wgflow/densities.py", "wgflow.pictures.html", "law_html"),
    ("wgflow/densities.py", "wgflow.pictures.laws", "plot_law"),
    ("wgflow/energies/free_energy.py", "wgflow.energies.dissipation", "dissipation"),
    ("wgflow/grids.py", "wgflow.pictures.html", "grid_html"),
    ("wgflow/grids.py", "wgflow.automatic_grids", "problem_grid"),
    ("wgflow/solution.py", "wgflow.error_estimates.estimates", "estimate_error"),
    ("wgflow/solution.py", "wgflow.error_estimates.whole_run", "largest_grid_error"),
    ("wgflow/solution.py", "wgflow.files.exports", "to_csv"),
    ("wgflow/solution.py", "wgflow.files.exports", "to_numpy"),
    ("wgflow/solution.py", "wgflow.files.exports", "to_pandas"),
    ("wgflow/solution.py", "wgflow.files.solutions", "save"),
    ("wgflow/solution.py", "wgflow.files.solutions", "to_dataset"),
    ("wgflow/solution.py", "wgflow.flows", "law_after"),
    ("wgflow/solution.py", "wgflow.pictures.movies", "animate_solution"),
    ("wgflow/solution.py", "wgflow.pictures.html", "solution_html"),
    ("wgflow/solution.py", "wgflow.pictures.solutions", "plot_solution"),
    ("wgflow/solution.py", "wgflow.pictures.drifts", "plot_drift"),
}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its import name."""
    found = {}
    for folder, home in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((home, *parts))] = path
    return found


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def arrows() -> dict[str, set[str]]:
    """What each module imports, inside functions too; imports for type checkers alone are no arrows."""
    known, graph = modules(), {}
    for module, path in known.items():
        if module == "wgflow":
            continue  # the facade
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = tree_of(path)
        blocks = [node for node in ast.walk(tree)
                  if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
        typing = {id(n) for block in blocks for n in ast.walk(block)}
        targets: set[str] = set()
        for node in ast.walk(tree):
            if id(node) in typing:
                continue
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*base, *([node.module] if node.module else [])])
                targets |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        graph[module] = set()
        for target in targets:
            while target and target not in known:
                target = target.rpartition(".")[0]
            own_face = target and known[target].name == "__init__.py" and module.startswith(target + ".")
            if target and target not in (module, "wgflow") and not own_face:
                graph[module].add(target)
    return graph


def circles() -> list[list[str]]:
    """Sets of modules that reach each other."""
    graph = arrows()

    @functools.cache
    def reach(start: str) -> frozenset[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in graph.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return frozenset(seen)

    rings, done = [], set()
    for module in graph:
        ring = sorted(other for other in reach(module) if module in reach(other))
        if module not in done and len(ring) > 1:
            done |= set(ring)
            rings.append(ring)
    return rings


def length(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
    return node.end_lineno - node.lineno + 1 - told


def functions() -> list[tuple[int, str]]:
    """Length and place of every function."""
    return sorted(((length(node), f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
                   for path in modules().values() for node in ast.walk(tree_of(path))
                   if isinstance(node, ast.FunctionDef)), reverse=True)


def folders() -> dict[str, int]:
    """Python files in each folder."""
    counts: dict[str, int] = {}
    for path in modules().values():
        folder = str(path.parent.relative_to(ROOT))
        counts[folder] = counts.get(folder, 0) + 1
    return counts


def uphill_calls() -> set[tuple[str, str, str]]:
    pattern = re.compile(r'uphill\("([\w.]+)",\s*"(\w+)"\)')
    return {(str(path.relative_to(ROOT)), *match) for path in modules().values()
            for match in pattern.findall(path.read_text(encoding="utf-8"))}


def test_no_module_imports_itself_in_a_circle():
    assert circles() == []


def test_the_core_does_not_look_up():
    facade = {"wgflow.cli", "wgflow.verbs"}
    upper = tuple(HOMES[folder] for folder in ("solvers", "reduced_models", "validation"))
    looking = {module: sorted(t for t in targets if t.startswith(upper)) for module, targets in arrows().items()
               if not module.startswith(upper) and module not in facade}
    assert {module: targets for module, targets in looking.items() if targets} == {}


def test_the_calls_up_the_hill_are_these():
    assert uphill_calls() == UPHILL


def test_no_folder_is_a_flat_pile():
    assert {folder: n for folder, n in folders().items() if n > MOST_FILES} == {}


def test_functions_and_files_are_short():
    assert [place for lines, place in functions() if lines > MOST_LINES] == []
    lengths = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in modules().values()}
    assert {path for path, lines in lengths.items() if lines > MOST_FILE_LINES} <= LONG_FILES


def test_kernels_take_arrays():
    named = re.compile(r"\bgrid\b|\bGrid\b")
    taking = [f"{path.relative_to(ROOT)}:{node.lineno}" for path in modules().values()
              if path.parent.name == "compiled" for node in ast.walk(tree_of(path))
              if isinstance(node, ast.FunctionDef) and any(named.search(a.arg) for a in node.args.args)]
    assert taking == []


if __name__ == "__main__":
    print("circles of imports:", circles() or "none")
    print("longest functions:", *(f"\n  {lines:4d} {place}" for lines, place in functions()[:5]))
    print("files a folder:", *(f"\n  {n:4d} {folder}" for folder, n in sorted(folders().items(), key=lambda x: -x[1])))
    print("arrows:", sum(len(targets) for targets in arrows().values()), "between", len(modules()), "modules")
    print("calls up the hill:", *(f"\n  {path}: {module}.{name}" for path, module, name in sorted(uphill_calls())))
