"""The notebooks notice a wrong line: one constant changed in a hand-built cell turns a cell red.

``mutations/NN.json`` lists for notebook NN which text becomes which. The cells up to the end of
"The library agrees" run as they stand (nothing may turn red), then once per change: an
assertion, or a compared cell that prints something else, must catch it.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import nbformat
import pytest
import torch

from tqlearn.lab.build import tagged

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHANGES = {
    file.stem: json.loads(file.read_text("utf-8"))
    for file in sorted((ROOT / "tests" / "course" / "mutations").glob("*.json"))
}
CASES = [(number, k) for number, changes in CHANGES.items() for k in range(len(changes))]


def cells_until_agreement(number: str) -> list:
    """The code cells from the top to the last one under "The library agrees"."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    found, agreed = [], False
    for cell in nbformat.read(path, as_version=4).cells:
        headings = [line for line in cell.source.splitlines() if line.startswith("## ")]
        if cell.cell_type == "markdown":
            if agreed and headings:
                break
            agreed |= "## The library agrees" in headings
        else:
            found.append((cell, agreed))
    assert agreed
    return found


def red(number: str, old: str | None = None, new: str = "") -> str | None:
    """Run the cells with one text replaced; return what turned red, or None."""
    torch.manual_seed(0)
    namespace: dict = {"__name__": "__main__"}
    hits = 0
    for cell, _ in cells_until_agreement(number):
        source = cell.source
        if old is not None and old in source:
            hits += 1
            source = source.replace(old, new)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(source, f"<notebook {number}>", "exec"), namespace)
        except AssertionError:
            return f"asserted: {cell.source.splitlines()[0]}"
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            return f"raised {type(error).__name__} in: {cell.source.splitlines()[0]}"
        if tagged(cell, "nbval-check-output"):
            stored = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
            if stored != printed.getvalue():
                return f"printed something else: {cell.source.splitlines()[0]}"
    assert old is None or hits == 1, f"{old!r} stands in {hits} cells, expected 1"
    return None


@pytest.fixture(autouse=True)
def _as_a_reader(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("TQLEARN_LEDGER", str(tmp_path / "ledger.json"))


@pytest.mark.parametrize("number", sorted(CHANGES))
def test_unchanged_is_green(number):
    assert red(number) is None


@pytest.mark.parametrize("number, k", CASES, ids=[f"{n}-{k}" for n, k in CASES])
def test_changed_is_red(number, k):
    change = CHANGES[number][k]
    assert red(number, change["old"], change["new"]), f"nobody noticed: {change['why']}"


@pytest.mark.parametrize("number", sorted(CHANGES))
def test_every_cell_built_by_hand_is_changed(number):
    """A hand-built cell defines a function before the library comes in."""
    built = [c.source for c, agreed in cells_until_agreement(number) if not agreed]
    built = [source for source in built if "\ndef " in f"\n{source}" and "show(" not in source]
    olds = [change["old"] for change in CHANGES[number]]
    missed = [source for source in built if not any(old in source for old in olds)]
    assert built and not missed, f"no change is tried in:{os.linesep}{missed}"
