"""Docstrings as they are meant: |w| is a length and *shape an argument, no markup of reStructuredText.

Outside of code, roles, directives, tables and examples the characters that would be markup are escaped; so a docstring
can be written for someone who reads it in Python, with the markup of NumPy's style alone.
"""

from __future__ import annotations

import re

#: What stays: ``code``, :role:`text`, `name`, **bold**; and a star that opens an item of a list.
MARKUP = re.compile(r"``.+?``|:[\w:]+:`[^`]*`|`[^`]*`(?!_)|\*\*[^*\s][^*]*\*\*|^\s*\* ", re.DOTALL | re.MULTILINE)
PLAIN = re.compile(r"[*|]|(?<=\w)_(?=\W|$)")
RULE = re.compile(r"^\s*=+( +=+)+\s*$")


def escaped(text: str) -> str:
    """The text with its stray markup escaped."""
    parts, end = [], 0
    for kept in MARKUP.finditer(text):
        parts += [PLAIN.sub(r"\\\g<0>", text[end:kept.start()]), kept.group()]
        end = kept.end()
    return "".join([*parts, PLAIN.sub(r"\\\g<0>", text[end:])])


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def plain(lines: list[str]) -> list[str]:
    """The lines of a docstring, prose escaped, blocks left alone."""
    done: list[str] = []
    prose: list[str] = []
    block: int | None = None  # the indent of what opened the block that we are in
    in_table = in_example = False
    for line in lines:
        blank = not line.strip()
        in_example = not blank and (in_example or line.lstrip().startswith(">>>"))
        if block is not None and not blank and indent_of(line) <= block:
            block = None
        rule = bool(RULE.match(line))
        if blank or block is not None or in_example or in_table or rule:
            done += [*escaped("\n".join(prose)).split("\n"), line] if prose else [line]
            prose = []
            in_table = rule or (in_table and not blank)
            continue
        if line.lstrip().startswith(".. ") or line.rstrip().endswith("::"):
            block = indent_of(line)
            done += [*escaped("\n".join(prose)).split("\n"), line] if prose else [line]
            prose = []
            continue
        prose.append(line)
    return [*done, *escaped("\n".join(prose)).split("\n")] if prose else done


def process(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = plain(lines)


def setup(app) -> dict[str, bool]:
    # Before napoleon (priority 500), which turns sections into fields.
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
