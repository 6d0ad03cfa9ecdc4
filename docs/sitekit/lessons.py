"""Stored notebooks made ready for the site: links, words for pictures, folded solutions."""

import json
import re
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tqlearn.lab import exercises
from tqlearn.lab.build import WIDGET
from tqlearn.lab.exercises import Exercise
from tqlearn.lab.instructors import lesson
from tqlearn.lab.plots import PLOTLY

from . import explorers
from .links import Links

SHOWN = {"image/png", "text/html", "text/markdown", "text/latex", "text/plain"}
CHECK = re.compile(r'^check\("(\d\d\.\w+)"')


def pictured(nb: NotebookNode) -> NotebookNode:
    """Return the notebook if all of its figures have their still picture.

    Raises:
        ValueError: some have lost it, as by a run in JupyterLab.
    """
    bundles = [o.data for cell in nb.cells for o in cell.get("outputs", []) if "data" in o]
    lost = sum("image/png" not in data for data in bundles if {PLOTLY, WIDGET} & set(data))
    if lost:
        raise ValueError(
            f"{lost} figures have lost their still picture, as by a run in JupyterLab; "
            "`make notebooks` draws them anew"
        )
    return nb


def facts(path: Path, nb: NotebookNode) -> dict:
    """Return what the course map says of a lesson: title, promise, minutes, CPU-seconds.

    Raises:
        ValueError: the header lacks one of them.
    """
    said = lesson(path)
    promise = re.search(r"^\*\*(.+?)\*\*\s*$", nb.cells[0].source, re.MULTILINE | re.DOTALL)
    if not promise:
        raise ValueError(
            f"the header of {path.name} needs a promise for the course map: a bold paragraph "
            "under the title; see 00_start_here.ipynb"
        )
    words = " ".join(promise[1].split())
    return {"title": said.title, "promise": words, "minutes": said.read, "seconds": said.spent}


def staged(nb: NotebookNode, path: Path, links: Links) -> str:
    """Return the JSON of a notebook as Sphinx shall read it.

    Raises:
        ValueError: a link leads nowhere, or an output is of a kind that the site cannot show.
    """
    cells = []
    for index, cell in enumerate(nb.cells):
        where = f"{path.name}, cell {index}"
        if cell.cell_type == "markdown":
            cell.source = links.rewrite(cell.source, path)
        else:
            _say_pictures(cell, where)
        cells.append(cell)
        if index == 0:
            address = links.carry(path)
            cells.append(new_markdown_cell(f"[Download this notebook]({address}) to run it."))
        if cell.cell_type == "code":
            if "_explorer(" in cell.source:
                cells.append(new_markdown_cell(explorers.block(links.root, path.stem)))
            if found := CHECK.match(cell.source):
                cells.append(new_markdown_cell(folded(exercises.find(found[1]))))
    nb.cells = cells
    return json.dumps(nb)


def folded(exercise: Exercise) -> str:
    """Return hints and solution of an exercise, closed until they are asked for."""
    hints = "\n\n".join(f"{n}. {hint}" for n, hint in enumerate(exercise.hints, 1))
    return "\n\n".join(
        [
            f"<details><summary>Hints for {exercise.id}</summary>",
            hints,
            f"</details>\n<details><summary>A solution of {exercise.id}</summary>",
            f"```python\n{exercise.solution}\n```",
            "</details>",
        ]
    )


def _say_pictures(cell: NotebookNode, where: str) -> None:
    """Give the stored picture of a cell its words.

    Raises:
        ValueError: the picture has none, there are two of them, or an output is of a kind that the
            site cannot show or holds a script.
    """
    bundles = [output.data for output in cell.outputs if "data" in output]
    for data in bundles:
        pictures = {kind for kind in data if kind.startswith("image/")}
        if pictures - {"image/png"} or not SHOWN & set(data):
            raise ValueError(
                f"{where}: the output is {sorted(data)}, and the site shows {sorted(SHOWN)}; "
                "store a figure with tqlearn.lab.plots.show"
            )
        for kind in set(data) - SHOWN:
            del data[kind]  # plotly's JSON: on the site the picture stands for it
        if "<script" in data.get("text/html", ""):
            raise ValueError(f"{where}: the output holds a script; a page has to read without")
    words = [data.get("text/plain", "") for data in bundles if "image/png" in data]
    if len(words) > 1:
        raise ValueError(f"{where}: {len(words)} pictures; show one in a cell")
    if words and not words[0].strip():
        raise ValueError(
            f"{where}: a picture without words; show it with tqlearn.lab.plots.show and run "
            "`make notebooks`"
        )
    if words:
        cell.metadata["mystnb"] = {"image": {"alt": words[0]}}
