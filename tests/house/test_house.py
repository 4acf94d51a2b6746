"""The house itself: the package map, what an import costs, which way imports run, and what no file may contain."""

from __future__ import annotations

import ast
import configparser
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("wgflow", "solvers", "reduced_models", "validation")
SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
SCRIPTS = sorted(p for folder in ("examples", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
TOO_DEAR = ("scipy.stats", "matplotlib.pyplot", "fipy", "xarray", "rich", "pydantic", "typer")
RANK = {"core": 0, "solvers": 1, "reduced_models": 2, "validation": 3}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_setup_cfg_maps_exactly_the_folders():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = config["options"]["packages"].split()
    pairs = [line.split("=") for line in config["options"]["package_dir"].strip().splitlines()]
    folder_of = {package.strip(): folder.strip() for package, folder in pairs}
    found = {p.parent.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT / folder).rglob("__init__.py")}
    assert sorted(packages) == sorted(folder_of)
    assert sorted(folder_of.values()) == sorted(found)
    for package, folder in folder_of.items():
        expected = folder.replace("/", ".")
        assert package == (expected if expected.split(".")[0] == "wgflow" else f"wgflow.{expected}")
    # No module of the core hides a folder that is mapped into the same place.
    core = {p.stem for p in (ROOT / "wgflow").iterdir()}
    assert not core & set(FOLDERS[1:])


def test_every_folder_of_modules_is_a_package():
    for path in SOURCES:
        assert (path.parent / "__init__.py").is_file(), f"{name(path.parent)} has modules but no __init__.py"


PARTS = ["", "solvers", "reduced_models", "validation", "validation.distances", "plotting"]


@pytest.fixture(scope="module")
def after_imports():
    """What one new process says after each import: the dear libraries it has by then. The last line is that of
    `test_the_function_compare_is_not_hidden_by_its_module`."""
    modules = [f"wgflow.{part}".rstrip(".") for part in PARTS]
    code = ["import importlib, sys"]
    for module in modules:
        code += [f"importlib.import_module({module!r})", f"print([m for m in {TOO_DEAR!r} if m in sys.modules])"]
    code += ["import wgflow.validation.comparison.comparing, wgflow", "print(callable(wgflow.validation.compare))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lists, compare = done.stdout.splitlines()
    return {**dict(zip(PARTS, lists, strict=True)), "compare": compare}


@pytest.mark.parametrize("part", PARTS)
def test_importing_is_cheap(part, after_imports):
    assert after_imports[part] == "[]"


def test_importing_leaves_the_process_alone():
    # What NumPy, SciPy and Numba do to the process is theirs.
    state = "(dict(os.environ), list(sys.argv), warnings.filters[:], logging.root.handlers[:])"
    code = (f"import sys, os, warnings, logging, numpy, scipy.fft, numba; before = {state}; import wgflow; "
            f"print([a == b for a, b in zip(before, {state})])")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[True, True, True, True]"


def test_the_source_tree_without_installation_says_what_to_do():
    # -S leaves out site-packages and with it the installation; what wgflow needs from there is put back by hand.
    import numpy

    site = Path(numpy.__file__).parent.parent
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.path.append({str(site)!r}); import wgflow"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: wgflow is being imported from its source tree")
    assert "pip install -e ." in last


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def for_types_only(path: Path) -> set[int]:
    """The nodes of a file that only type checkers see."""
    blocks = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    return {id(node) for block in blocks for node in ast.walk(block)}


def imports_of(path: Path):
    """(module, line) of every import in a file, inside functions too, relative ones resolved; none for types alone."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = [*(() if parts[0] == "wgflow" else ("wgflow",)), *parts][:-1]
    typing = for_types_only(path)
    for node in ast.walk(tree_of(path)):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node
            yield from ((f"{module}.{alias.name}", node) for alias in node.names)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "core"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_run_one_way(path):
    if name(path) in ("wgflow/__init__.py", "wgflow/cli.py", "wgflow/verbs.py"):
        pytest.skip("the facade")
    folder = path.relative_to(ROOT).parts[0]
    own = "core" if folder == "wgflow" else folder
    for module, node in imports_of(path):
        if module.split(".")[0] in FOLDERS[1:]:
            pytest.fail(f"{name(path)}:{node.lineno} imports {module}: write wgflow.{module}")
        if module.split(".")[0] == "wgflow":
            assert RANK[room(module)] <= RANK[own], f"{name(path)}:{node.lineno} imports {module}"
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                depth = len(path.relative_to(ROOT).parts) - 1
                assert node.level <= depth, f"{name(path)}:{node.lineno} leaves its folder by dots"


def test_only_the_adapter_imports_fipy():
    users = {name(p) for p in SOURCES for module, _ in imports_of(p) if module.split(".")[0] == "fipy"}
    assert users <= {"solvers/fipy_adapter/method.py"}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_dear_libraries_are_imported_inside_functions(path):
    if name(path) in ("wgflow/cli.py", "wgflow/files/schema.py", "validation/study_files/kinds.py",
                      "validation/study_files/model_tables.py", "validation/study_files/tables.py"):
        pytest.skip("imported by the script alone, and when a file is read")
    tree = tree_of(path)
    typing_only = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)) and node not in typing_only:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [
                f"{node.module}.{a.name}" for a in node.names if not node.level] + [node.module or ""]
            for module in names:
                dear = (*TOO_DEAR, "matplotlib", "ot", "h5netcdf", "dask")
                assert not any(module == d or module.startswith(d + ".") for d in dear), f"{name(path)}: {module}"


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name)
def test_nothing_runs_data_as_code(path):
    tree = tree_of(path)
    for node in ast.walk(tree):
        where = f"{name(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in FORBIDDEN_CALLS, f"{where} calls {called}"
            assert keywords.get("shell") in (None, "False"), f"{where} runs a shell"
            if called in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle") == "False", f"{where}: np.load without allow_pickle=False"
            assert called not in ("yaml.load", "os.system"), f"{where} calls {called}"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {m.split(".")[0] for m in modules} & FORBIDDEN_MODULES, f"{where} imports {modules}"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name)
def test_files_start_as_agreed(path):
    tree = tree_of(path)
    if path.name == "__init__.py" and not tree.body:
        return
    assert ast.get_docstring(tree), f"{name(path)} has no docstring"
    if any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body):
        assert ast.unparse(tree.body[1]) == "from __future__ import annotations", name(path)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_check_is_an_assert(path):
    # python -O removes assert statements, and with them whatever they were to protect.
    asserts = [n.lineno for n in ast.walk(tree_of(path)) if isinstance(n, ast.Assert)]
    assert asserts == []


def test_what_is_exported_exists():
    import wgflow
    from wgflow import validation

    for module in (wgflow, validation):
        assert len(set(module.__all__)) == len(module.__all__)
        for exported in module.__all__:
            try:
                getattr(module, exported)
            except ModuleNotFoundError as error:
                pytest.fail(f"{module.__name__}.{exported}: {error}")


def test_the_function_compare_is_not_hidden_by_its_module(after_imports):
    assert after_imports["compare"] == "True"


def test_make_offers_what_the_readme_promises():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"demo", "test", "test-quick", "check", "typing", "bench", "clean", "help"} <= targets
    assert {"docs", "docs-test", "notebook", "dist-check"} <= targets
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "\nmake test " in script.read_text(encoding="utf-8")


def test_citation_and_changelog_keep_up_with_the_version():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "### Numerics changed" in changes
    assert f"## {version}" in changes or "## Unreleased" in changes
