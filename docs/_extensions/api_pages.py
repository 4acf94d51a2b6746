"""The pages of the API reference, api/MODULE.rst, written from the `__all__` of each public module when a build begins.

A name that is added to `__all__` has its page with the next build. `GROUPS` only orders the names of the first page.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from pathlib import Path

FOLDER = "api"

#: The public modules, in the order of the table of contents.
MODULES = {
    "wgflow": "Flows",
    "wgflow.solvers": "Methods",
    "wgflow.interactions": "Interactions and kernels",
    "wgflow.reduced_models": "Network models",
    "wgflow.activations": "Activations",
    "wgflow.validation": "Particles, distances, comparison",
    "wgflow.validation.exact": "Exact solutions",
    "wgflow.validation.studies": "Experiments",
    "wgflow.validation.studies.slopes": "How errors fall",
    "wgflow.testing": "Property tests",
    "wgflow.error_estimates": "Error estimates",
    "wgflow.audit": "The test of the equation",
    "wgflow.plotting": "Pictures",
    "wgflow.about": "Versions and citations",
    "wgflow.errors": "Errors",
}
#: How the names of `wgflow` itself are ordered; what is in none of the groups comes last.
GROUPS = {
    "Verbs": ["solve", "resume", "load", "stationary", "stationary_branches", "sweep"],
    "Grids, laws, results": ["Grid", "Density", "Atoms", "Solution", "Certificate", "Stationary"],
    "Terms of the free energy": ["Entropy", "PowerEntropy", "InternalEnergy", "RelativeEntropy", "Potential",
                                 "Interaction", "Convolution", "LowRank", "Dense", "TimeDependent", "FreeEnergy",
                                 "Term"],
    "For reports": ["cite", "show_versions"],
}
REST = "More"


def names_of(module: str) -> list[str]:
    """The classes and functions in a module's `__all__`."""
    home = importlib.import_module(module)
    things = {name: getattr(home, name) for name in home.__all__}
    return [name for name, thing in things.items() if inspect.isclass(thing) or inspect.isroutine(thing)]


@functools.cache
def homes() -> dict[str, list[str]]:
    """The names that have a page below each module: every object has one, where `MODULES` has it first, but what
    `GROUPS` does not list is better found in the module that it is exported from, too."""
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    grouped = {name for group in GROUPS.values() for name in group}
    order = [("wgflow", [name for name in names_of("wgflow") if name in grouped]),
             *((module, names_of(module)) for module in MODULES if module != "wgflow"), ("wgflow", names_of("wgflow"))]
    for module, names in order:
        home = importlib.import_module(module)
        new = [name for name in names if id(getattr(home, name)) not in seen]
        seen |= {id(getattr(home, name)) for name in new}
        found.setdefault(module, []).extend(new)
    return found


def page_of(module: str) -> str:
    """The text of a module's page."""
    names = homes()[module]
    grouped = {"": names}
    if module == "wgflow":
        grouped = {title: [name for name in group if name in names] for title, group in GROUPS.items()}
        grouped[REST] = [name for name in names if not any(name in group for group in grouped.values())]
    title = f"{MODULES[module]}: ``{module}``"
    lines = [title, "=" * len(title), "", f".. automodule:: {module}", "   :no-members:", "",
             f".. currentmodule:: {module}", ""]
    for heading, group in grouped.items():
        if not group:
            continue
        lines += [heading, "-" * len(heading), ""] if heading else []
        lines += [".. autosummary::", f"   :toctree: {module}", "   :nosignatures:", ""]
        lines += [*(f"   {name}" for name in group), ""]
    return "\n".join(lines)


def write_pages(app, config) -> None:
    """Write the page of each module; remove pages of names that are gone or have moved, made by an earlier build."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    wanted = {f"{module}/{module}.{name}" for module, names in homes().items() for name in names} | set(MODULES)
    for path in folder.rglob("*.rst"):
        if path.relative_to(folder).with_suffix("").as_posix() not in wanted:
            path.unlink()
    for module in MODULES:
        path, text = folder / f"{module}.rst", page_of(module)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def point_exactly(app, doctree) -> None:
    """Let a name in a docstring mean the public object of that name, and nothing that merely ends like it.

    That a class derives from `object` is left out.
    """
    from docutils.nodes import paragraph
    from sphinx.addnodes import pending_xref

    for text in list(doctree.findall(paragraph)):
        if text.astext() == "Bases: object":
            text.parent.remove(text)

    full = {name: f"{module}.{name}" for module, names in homes().items() for name in names}
    for node in doctree.findall(pending_xref):
        if node.get("refdomain") == "py":
            first, dot, rest = node["reftarget"].partition(".")
            if first in full:
                node["reftarget"] = full[first] + dot + rest
            node.attributes.pop("refspecific", None)


def add_toctree(app, docname: str, source: list[str]) -> None:
    if docname == FOLDER:
        pages = [f"{title} <{FOLDER}/{module}>" for module, title in MODULES.items()]
        source[0] += "\n".join(["", "~~~{toctree}", ":hidden:", "", *pages, "~~~", ""])


def setup(app) -> dict[str, bool]:
    # Before Sphinx looks which pages there are.
    app.connect("config-inited", write_pages)
    app.connect("source-read", add_toctree)
    app.connect("doctree-read", point_exactly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
