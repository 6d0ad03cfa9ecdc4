"""Explorers for pages without a kernel: what every setting shows, computed beforehand.

    python -m tqlearn.lab.grids                        # all of notebooks/, into docs/explorers/
    python -m tqlearn.lab.grids notebooks/02_*.ipynb

Each notebook is run down to its explorer, and the explorer draws every combination of its controls;
of that goes into a JSON file what differs, rounded. The documentation site plays it back
(``docs/sitekit/explorer.js``). Where a file would exceed ``MOST`` bytes, ``STOPS`` thins a slider
out, and the site says so. Run this after ``tqlearn.lab.build``: a test compares the two.
"""

import argparse
import json
import os
import sys
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from ..writing import write
from .build import NOTEBOOKS, execute
from .explorers import Explorer
from .explorers.grid import Thinned, record

GRIDS = NOTEBOOKS.parent / "docs" / "explorers"
MOST = 300_000  # bytes of one file
STOPS: dict[str, Thinned] = {  # by notebook
    "01": {"rank": "1 2 4 8 12 16 24 32 40 48 64 80 96 128".split()},
    "03": {"rows": 2, "cols": 2},
    "04": {"scale": 2},
    "05": {"bits": "2 3 4".split(), "clip": 2},
    "07": {"step": 3},
    "08": {"other": ["labels", "hidden", "everything"], "eighth": 4},
    "11": {"factor": "0.5 1 2".split()},
}


def publish(explorer: Explorer, thinned: Thinned | None = None) -> None:
    """Print an explorer's grid: what its notebook's kernel is asked for at the end."""
    print(json.dumps(record(explorer, thinned)))


def cell(nb: NotebookNode) -> int | None:
    """Return the place of the cell that shows the explorer, if the notebook has one."""
    places = (k for k, c in enumerate(nb.cells) if c.cell_type == "code")
    return next((k for k in places if "_explorer(" in nb.cells[k].source), None)


def computed(path: Path) -> dict | None:
    """Run a notebook down to its explorer and return the grid of that; None if it has none."""
    nb = nbformat.read(path, as_version=4)
    if (last := cell(nb)) is None:
        return None
    asked = f"publish(Out[max(Out)], {STOPS.get(path.name[:2])})"
    nb.cells = nb.cells[: last + 1]
    nb.cells.append(new_code_cell(f"from tqlearn.lab.grids import publish\n\n{asked}"))
    with TemporaryDirectory() as fresh:
        with patch.dict(os.environ, TQLEARN_LEDGER=str(Path(fresh) / "ledger.json")):
            execute(nb, path.parent)
    printed = [o.text for o in nb.cells[-1].outputs if o.output_type == "stream"]
    return json.loads("".join(printed))


def main(argv: list[str] | None = None) -> int:
    """Write the grids of the named notebooks, or of all; return 1 if one is too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all of notebooks/")
    paths = parser.parse_args(argv).notebook or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    large = 0
    for path in paths:
        if (grid := computed(path)) is None:
            continue
        file = GRIDS / f"{path.stem}.json"
        write(file, json.dumps(grid, ensure_ascii=False, separators=(",", ":")) + "\n")
        size, points = file.stat().st_size, prod(len(c["stops"]) for c in grid["controls"])
        large += size > MOST
        print(f"{file.name:40} {points:5} points, {size / 1e3:.0f} kB", flush=True)
    return bool(large)


if __name__ == "__main__":
    sys.exit(main())
