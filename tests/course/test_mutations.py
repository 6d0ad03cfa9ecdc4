"""The notebooks notice a wrong line: one constant changed in a hand-built cell turns a cell red.

``mutations/NN.json`` lists for notebook NN which text becomes which. The cells up to the end
of "The library agrees" run once, as they stand, in a forked child (nothing may turn red). In front
of each cell that child forks, once for each change in it: the grandchild runs the changed cell and
those after it, and an assertion, or a compared cell that prints something else, must catch it.
Whatever the change did to models, seeds and names ends with it. Unchanged, the cells run as far as
any changed ones did; nbval runs the page to its end, and at full length: here BRIEF shortens it.
"""

import contextlib
import io
import json
import os
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import nbformat
import pytest
import tensorly
import torch
from conftest import require

import tqlearn as tq
from tqlearn.lab import exercises
from tqlearn.lab.build import tagged

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHANGES = {
    file.stem: json.loads(file.read_text("utf-8"))
    for file in sorted((ROOT / "tests" / "course" / "mutations").glob("*.json"))
}
ABOUT = re.compile(r"≈ *-?\d[\d.,]*")  # as in nbval_sanitize.cfg: asserted, not compared
# Less of what takes long and changes nothing that is printed or asserted: lesson -> texts
BRIEF = {
    "05": [("range(120)", "range(80)"), ("- 0.05 * slope.sign()", "- 0.075 * slope.sign()")],
    "15": [("(2, 3, 4, 8)", "(3, 4)")]
    + [(f"\n{' ' * 26}range(40, 65, 8)", "range(56, 65, 8)")]
    + [(f"\n{' ' * 27}range(40, 65, 8)", "range(48, 57, 8)")],
    "16": [("torch.ones(4096, 4096)", "torch.ones(64, 64)"), ("(words, 4096)", "(words, 64)")],
}
CASES = [(number, k) for number, changes in CHANGES.items() for k in range(len(changes))]


@cache
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
    for long, short in BRIEF.get(number, []):
        (cell,) = [cell for cell, _ in found if long in cell.source]
        cell.source = cell.source.replace(long, short)
    return found


def red(cell, source: str, namespace: dict) -> str | None:
    """Run a cell with this source; return what turned red, or None."""
    first, printed = cell.source.splitlines()[0], io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "<cell>", "exec"), namespace)
    except AssertionError:
        return f"asserted: {first}"
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"raised {type(error).__name__} in: {first}"
    if tagged(cell, "nbval-check-output"):
        stored = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
        if ABOUT.sub("≈", stored) != ABOUT.sub("≈", printed.getvalue()):
            return f"printed something else: {first}"
    return None


def red_if_changed(cells: list, change: dict, namespace: dict) -> tuple[str | None, int]:
    """Change the first cell, run until one turns red; return what did or None, and how many ran."""
    sources = [cells[0].source.replace(change["old"], change["new"])]
    sources += [cell.source for cell in cells[1:]]
    for count, (cell, source) in enumerate(zip(cells, sources, strict=True), 1):
        if wrong := red(cell, source, namespace):
            return wrong, count
    return None, len(cells)


def run(number: str) -> dict[str, str | None]:
    """What turned red: with change k under k; under "" as it stands."""
    cells = [cell for cell, _ in cells_until_agreement(number)]
    found: dict = {}
    namespace: dict = {"__name__": "__main__"}
    there = [[change["old"] in cell.source for change in CHANGES[number]] for cell in cells]
    end = 1 + max((place for place, some in enumerate(there) if any(some)), default=-1)
    for place, cell in enumerate(cells):
        for k, change in enumerate(CHANGES[number]):
            if there[place][k]:
                found[str(k)], ran = apart(red_if_changed, cells[place:], change, namespace)
                end = max(end, place + ran)
        if place < end and (wrong := red(cell, cell.source, namespace)):
            return found | {"": wrong}
    return found | {"": None}


def apart(function, *arguments):
    """Call the function in a forked child; return its answer, or how the child died.

    No ``multiprocessing``: transformers behaves differently where it sees one of its processes.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; those of pytest's workers hold nothing that a child needs
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            answer = function(*arguments)
        except BaseException as error:
            answer = [f"died of {error!r}", 0]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer or '["died without a word", 0]')


@cache
def _imported():
    """What nearly every lesson begins with is imported and read once, before any child."""
    with contextlib.redirect_stdout(io.StringIO()):
        tq.teachers.load("embedded"), tq.data.load("flights")


@cache
def verdicts(number: str) -> dict[str, str | None] | list:
    """What ``run`` finds; it is in a child itself: what is red in every child proves nothing."""
    _imported()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a forked child cannot use the threads of its parent
    return apart(run, number)


@pytest.fixture(autouse=True)
def _as_a_reader(monkeypatch, tmp_path):
    require(sys.platform == "linux", "a process that has used torch forks safely on Linux alone")
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("TQLEARN_LEDGER", str(tmp_path / "ledger.json"))
    with tensorly.backend_context("numpy"):  # a reader's; other tests, and tltorch, have set theirs
        yield


@pytest.mark.parametrize("number", sorted(CHANGES))
def test_unchanged_is_green(number):
    found = verdicts(number)
    assert isinstance(found, dict) and found[""] is None, found


@pytest.mark.parametrize("number, k", CASES, ids=[f"{n}-{k}" for n, k in CASES])
def test_changed_is_red(number, k):
    old, why = CHANGES[number][k]["old"], CHANGES[number][k]["why"]
    hits = sum(old in cell.source for cell, _ in cells_until_agreement(number))
    assert hits == 1, f"{old!r} stands in {hits} cells, expected 1"
    found = verdicts(number)
    verdict = found.get(str(k), f"never tried, {found['']}") or "nobody noticed"
    assert verdict.startswith(("asserted", "raised", "printed")), f"{verdict}: {why}"


@pytest.mark.parametrize("number", sorted(CHANGES))
def test_every_cell_built_by_hand_is_changed(number):
    """A hand-built cell defines a function before the library comes in.

    What a reader fills in runs as the reference; its mutants are those of ``test_one_token``.
    """
    built = [c.source for c, agreed in cells_until_agreement(number) if not agreed]
    built = [source for source in built if "\ndef " in f"\n{source}" and "show(" not in source]
    stubs = {exercise.stub for exercise in exercises.of(number)}
    built = [source for source in built if source not in stubs]
    olds = [change["old"] for change in CHANGES[number]]
    missed = [source for source in built if not any(old in source for old in olds)]
    assert built and not missed, f"no change is tried in:{os.linesep}{missed}"
