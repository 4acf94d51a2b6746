"""Every Python block of the README and the docs runs, prints what the page says, and every link leads somewhere."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_print_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    namespace: dict = {"__name__": "page"}
    for k, (language, text) in enumerate(blocks):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, f"{page.name}, block {k}", "exec"), namespace)
        follows = blocks[k + 1] if k + 1 < len(blocks) else ("", "")
        stated = follows[1] if follows[0] == "text" else ""
        assert printed.getvalue() == stated


def test_the_readme_opens_as_agreed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    order = ["# wgflow", "![", "make demo", "make test", "```python", "```text", "## How it compares", "## Links"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    code = BLOCK.search(text).group(2)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("page", ALL_PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "wgflow" else ("wgflow", *parts))


DOCTESTED = [path for folder in ("wgflow", "solvers", "reduced_models", "validation")
             for path in sorted((ROOT / folder).rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", DOCTESTED, ids=name)
def test_examples_in_docstrings(path):
    done = doctest.testmod(importlib.import_module(module_of(path)))
    assert done.attempted
    assert not done.failed


def run_example(path: Path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def expect_double_well(means):
    # Desai-Zwanzig with theta = 1: beta_c = (Gamma(1/4) / (2 Gamma(3/4)))^2 = 2.18844; at beta = 4 the self-consistency
    # equation m = <x> under exp(-beta (x^4/4 - x^2/2 + (x - m)^2/2)) has the solution that this quadrature finds.
    x = np.linspace(-6, 6, 20001)
    m = 1.0
    for _ in range(200):
        weight = np.exp(-4.0 * (x**4 / 4 - x**2 / 2 + (x - m) ** 2 / 2))
        m = float((weight * x).sum() / weight.sum())
    assert abs(means[1.0]) < 1e-3
    assert abs(means[1.5]) < 1e-3
    assert means[3.0] > 0.5
    assert means[4.0] == pytest.approx(m, abs=3e-4)


def expect_compare_langevin(result):
    assert result.passed


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_example(path):
    checks = {"double_well": expect_double_well, "compare_langevin": expect_compare_langevin}
    assert path.stem in checks, f"{path.name}: add a check of what its main() returns"
    with contextlib.redirect_stdout(io.StringIO()):
        result = run_example(path)
    checks[path.stem](result)
