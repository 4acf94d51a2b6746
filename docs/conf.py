"""Sphinx's settings: `make docs` builds the site from the Markdown pages of this folder, without a network."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from importlib.resources import files
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "_extensions"))

project = "wgflow"
author = "The wgflow developers"
copyright = author
version = release = version_of("wgflow")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "sphinx.ext.mathjax", "sphinx.ext.viewcode", "sphinx_copybutton", "api_pages", "contents", "docstrings"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
# Indented blocks of the pages are formulas and shell commands, which are not to be colored as Python.
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# V'(x) keeps its prime.
smartquotes = False
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
# Pages link to files of the repository as GitHub shows them; here these are downloads.
myst_url_schemes = ["http", "https", "mailto"]

# `x` in a docstring is a name where there is one, else code.
default_role = "py:obj"
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# A copy of MathJax that draws its letters itself: no network, no fonts.
MATHJAX = "tex-svg.js"
mathjax_path = MATHJAX
html_static_path = ["_static", str(files("mathjax") / "static" / "mathjax" / "es5" / MATHJAX)]

toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"wgflow {version}"
html_css_files = ["pages.css"]
html_search_scorer = str(Path(__file__).parent / "_extensions" / "search_scores.js")
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b5e74", "color-brand-content": "#1b5e74"},
    "dark_css_variables": {"color-brand-primary": "#6cc0d8", "color-brand-content": "#6cc0d8"},
}
copybutton_selector = "div.highlight-python pre, div.highlight-toml pre, div.highlight-doctest pre"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
