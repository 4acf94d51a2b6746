"""The site: its contents cover every page, links and anchors exist, the notebook is the tutorial, names have pages."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def tool(path: str):
    """A file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contents():
    return tool("_extensions/contents.py")


def test_the_contents_cover_every_page_once(contents):
    listed = contents.sections((DOCS / "index.md").read_text(encoding="utf-8"))
    assert list(listed) == ["The first hour", "How-to guides", "Explanation", "Gallery", "Reference"]
    names = [page for group in listed.values() for page in group]
    assert len(set(names)) == len(names)
    for page in names:
        assert (DOCS / f"{page}.md").is_file(), f"index.md lists {page}"
    pages = {path.stem for path in PAGES}
    covered = [page for group in contents.with_the_rest(listed, pages | {"api/wgflow"}).values() for page in group]
    assert sorted([*covered, "index"]) == sorted(pages)


def test_pages_that_no_list_has_come_last(contents):
    groups = contents.with_the_rest({"First": ["tutorial"]}, {"index", "tutorial", "news", "api/wgflow"})
    assert groups == {"First": ["tutorial"], "More": ["news"]}
    assert contents.toctree("More", ["news"]).splitlines() == ["~~~{toctree}", ":hidden:", ":caption: More", "", "news",
                                                               "~~~"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().strip()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_anchors_exist_and_pages_have_one_title(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert text.startswith("# ")
    for target, anchor in re.findall(r"\]\(([\w.-]*\.md)?#([^)\s]+)\)", text):
        assert anchor in anchors(DOCS / target if target else page), f"{page.name} links to {target}#{anchor}"


#: What Markdown takes as a tag of HTML and does not show, such as an average <J>; and formulas that it sets in italics.
TAG = re.compile(r"(?<!\\)</?[A-Za-z][\w-]*\s*/?>")
ITALICS = re.compile(r"(?<![\w\\*])\*(?=[^\s*])[^*]*(?<=[^\s*])\*(?!\*)|_\*[^*]*_\*")


def swallowed(text: str) -> list[str]:
    """What is lost of a page's text between Markdown and the reader."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", BLOCK.sub("", text), flags=re.DOTALL)
    text = re.sub(r"^    .*$|`[^`]*`", "", text, flags=re.MULTILINE)
    italics = [found for found in ITALICS.findall(text) if not re.fullmatch(r"\*[\w ,'-]+\*", found)]
    return [*TAG.findall(text), *italics]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_no_formula_is_taken_for_markup(page):
    assert not swallowed(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "lost"), [
    ("F = <J> in this weight", ["<J>"]), ("F = \\<J\\>, <phi, rho> and `<J>`", []), ("a *good* word", []),
    ("with sigma_*(x; t) and sigma_* scaled", ["_*(x; t) and sigma_*"]), ("w * rho and 2 * 3", []),
])
def test_markup_is_found(text, lost):
    assert swallowed(text) == lost


def test_the_pages_that_a_search_shows_first_exist_and_have_the_word():
    text = (DOCS / "_extensions" / "search_scores.js").read_text(encoding="utf-8")
    best = re.findall(r'(\w+): "([\w-]+)"', text)
    assert len(best) > 40
    assert "\nvar Scorer = {" in text  # const would stop the search, since Sphinx declares the name again
    for word, page in best:
        assert word in (DOCS / f"{page}.md").read_text(encoding="utf-8").lower(), f"{page}.md has no {word!r}"


def test_the_notebook_is_the_tutorial_executed():
    expected = tool("_extensions/notebook.py").cells((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    path = DOCS / "tutorial.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == expected, "run `make notebook`"
    assert path.stat().st_size < 400_000
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = ["".join(output["text"]) for output in outputs if output.get("name") == "stdout"]
    blocks = BLOCK.findall((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    assert printed == [text for language, text in blocks if language == "text"]


def test_every_public_name_has_a_page():
    import wgflow
    from wgflow import reduced_models, solvers, validation

    homes = tool("_extensions/api_pages.py").homes()
    shown = {id(getattr(sys.modules[module], name)) for module, names in homes.items() for name in names}
    for home in (wgflow, solvers, reduced_models, validation):
        for name in home.__all__:
            thing = getattr(home, name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                assert id(thing) in shown, f"{home.__name__}.{name}"
    pages = [name for names in homes.values() for name in names]
    assert len(shown) == len(pages)  # one page for each thing


def test_the_gallery_shows_every_experiment():
    from wgflow.validation import studies

    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(images/([\w-]+)\.(?:png|gif)\)", page))
    for name in studies.names():
        assert name in shown, f"gallery.md has no picture of {name}"
        assert f"`wgflow {'' if name == 'demo' else 'reproduce '}{name}`" in page


@pytest.mark.parametrize(("written", "shown"), [
    ("r = |w| and |w|^2", r"r = \|w\| and \|w\|^2"),
    ("as `name`, ``a * b``, :math:`|w|` and **bold** are", "as `name`, ``a * b``, :math:`|w|` and **bold** are"),
    ("shape (k, *shape), x_", r"shape (k, \*shape), x\_"),
    ("* an item with a * star", r"* an item with a \* star"),
    (".. math:: |w|\n    + |v|\nthen |u|", ".. math:: |w|\n    + |v|\n" + r"then \|u\|"),
    (">>> print(2 * 3)\n6\n\n2 * 3", ">>> print(2 * 3)\n6\n\n" + r"2 \* 3"),
    ("=== ===\na*  b\n=== ===", "=== ===\na*  b\n=== ==="),
])
def test_docstrings_are_read_as_they_are_meant(written, shown):
    assert "\n".join(tool("_extensions/docstrings.py").plain(written.split("\n"))) == shown


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for needed in ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "mathjax"):
        pytest.importorskip(needed)
    site = tmp_path / "html"
    command = [sys.executable, "-P", "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, DOCS, site], capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Barenblatt" in (site / "searchindex.js").read_text(encoding="utf-8")
    page = (site / "theory.html").read_text(encoding="utf-8")
    sources = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', page)
    assert any("tex-svg.js" in source for source in sources)
    assert not [source for source in sources if source.startswith(("http:", "https:", "//"))]
    assert (site / "_static" / "tex-svg.js").is_file()
