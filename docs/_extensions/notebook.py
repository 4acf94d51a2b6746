"""Write docs/tutorial.ipynb: the tutorial's text and code as a notebook, executed (`make notebook`).

Pictures that a cell saves are shown below it, and kept for the page as docs/images/tutorial-NAME.png. A test compares
the notebook with the page.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n?", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r'\.plot\("(\w+\.png)"\)')
# Where the notebook says that it is one, the page points to the notebook.
SHOWN = re.compile(r"^!\[[^\]]*\]\(images/tutorial-[^)]*\)\n", re.MULTILINE)
SAME_PAGE = re.compile(r"The same page is an executed notebook,\s*\[[^\]]*\]\([^)]*\)\.\s*")


def cells(page: str) -> list[tuple[str, str]]:
    """The cells of a page: ("markdown" or "code", text). What a block prints is left to the execution."""
    found: list[tuple[str, str]] = []
    end = 0
    page = SHOWN.sub("", SAME_PAGE.sub("", page))
    for block in FENCE.finditer(page):
        text = page[end:block.start()].strip()
        end = block.end()
        if text:
            found.append(("markdown", text))
        if block[1] == "python":
            found.append(("code", block[2].rstrip()))
            if picture := PICTURE.search(block[2]):
                found.append(("code", f'from IPython.display import Image\n\nImage("{picture[1]}")'))
    return [*found, ("markdown", page[end:].strip())]


def main() -> None:
    import nbformat
    from nbclient import NotebookClient

    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(cells=[make[kind](text) for kind, text in cells(PAGE.read_text("utf-8"))])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    with tempfile.TemporaryDirectory() as scratch:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": scratch}}).execute()
        for picture in Path(scratch).glob("*.png"):
            shutil.copyfile(picture, PAGE.parent / "images" / f"tutorial-{picture.name}")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same for every execution
        cell["metadata"] = {}
        whole: list = []
        for output in cell.get("outputs", []):  # printed in several pieces, by chance
            if whole and output.output_type == "stream" and whole[-1].get("name") == output.name:
                whole[-1].text += output.text
            else:
                whole.append(output)
        if cell.cell_type == "code":
            cell.outputs = whole
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    nbformat.validate(notebook)
    text = nbformat.writes(notebook)
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")
    print(f"{os.path.relpath(NOTEBOOK)}: {len(notebook.cells)} cells, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
