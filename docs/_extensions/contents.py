"""The table of contents: each list of links in index.md is a toctree, whose caption is the heading above it.

GitHub shows the lists as they are, and nothing is written twice. Pages that no list has yet are put under "More".
Links to Markdown files outside of this folder, which are no pages of the site, lead to the repository.
"""

from __future__ import annotations

import re

HEADING = re.compile(r"^## (.+)$")
LINK = re.compile(r"^\* \[[^\]]+\]\(([\w/-]+)\.(?:md|rst)\)")
FIRST_PAGE = "index"
OUTSIDE = re.compile(r"\]\(\.\./([\w/.-]+\.md)")
REPOSITORY = "https://github.com/wgflow/wgflow/blob/main"


def sections(text: str) -> dict[str, list[str]]:
    """The pages by the heading under which index.md lists them: {caption: [page, ...]}."""
    found: dict[str, list[str]] = {}
    caption = ""
    for line in text.splitlines():
        if heading := HEADING.match(line):
            caption = heading[1]
        elif caption and (link := LINK.match(line)):
            found.setdefault(caption, []).append(link[1])
    return found


def with_the_rest(listed: dict[str, list[str]], pages: set[str]) -> dict[str, list[str]]:
    """The same, with "More" for pages of this folder (not of folders in it) that are not listed."""
    rest = sorted(page for page in pages if "/" not in page and page != FIRST_PAGE
                  and not any(page in group for group in listed.values()))
    return {**listed, "More": rest} if rest else listed


def toctree(caption: str, pages: list[str]) -> str:
    return "\n".join(["~~~{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "~~~", ""])


def read(app, docname: str, source: list[str]) -> None:
    source[0] = OUTSIDE.sub(rf"]({REPOSITORY}/\1", source[0])
    if docname == FIRST_PAGE:
        groups = with_the_rest(sections(source[0]), app.env.found_docs)
        source[0] += "\n" + "\n".join(toctree(caption, pages) for caption, pages in groups.items())


def setup(app) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
