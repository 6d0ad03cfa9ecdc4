"""The checks notice one wrong token: what passes is listed, and a comment says why."""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import result
from one_token import Worker, digest, mutants

from tqlearn.lab import exercises
from tqlearn.lab.check import check

SURVIVORS = json.loads(Path(__file__).with_name("survivors.json").read_text("utf-8"))
ALL = [exercise for number in exercises.lessons() for exercise in exercises.of(number)]
EVERY = 8  # of the mutants that must fail; all of them: python benchmarks/mutants.py
EXAMPLE = '''
def f(x, scale):
    """x."""
    low = min(x.abs().mean(0), -scale)
    if x.sum(dim=0) < 3 and not scale:
        low = low - scale
    return low
'''


def test_a_mutant_is_one_token_away():
    found = dict(mutants(EXAMPLE))
    for what in (
        "4: low = min(x.abs().mean(0), -scale) -> pass",
        "4: min(x.abs().mean(0), -scale) -> min(-scale, x.abs().mean(0))",
        "4: min(x.abs().mean(0), -scale) -> max(x.abs().mean(0), -scale)",
        "4: x.abs() -> x",
        "4: x.abs().mean -> x.abs().sum",
        "4: x.abs().mean(0) -> x.abs().mean(1)",
        "4: -scale -> scale",
        "5: 0 -> 1",
        "5: x.sum(dim=0) < 3 -> x.sum(dim=0) <= 3",
        "5: x.sum(dim=0) < 3 -> x.sum(dim=0) < 4",
        "5: x.sum(dim=0) < 3 and (not scale) -> x.sum(dim=0) < 3",
        "5: not scale -> scale",
        "6: low - scale -> low + scale",
        "6: low - scale -> scale - low",
        "6: low - scale -> x - scale",
    ):
        assert what in found, [*found]
    assert len(found) == len(set(found.values())), "no two are alike"
    assert all(compile(source, "mutant", "exec") for source in found.values())


def test_what_passes_is_what_was_measured():
    record = result("mutants")
    assert [row["model"] for row in record["rows"]] == [*SURVIVORS, "all exercises"]
    assert [*SURVIVORS] == [exercise.id for exercise in ALL]
    for exercise, row in zip(ALL, record["rows"], strict=False):
        again = f"{exercise.id} has changed: python benchmarks/mutants.py"
        assert record["digests"][exercise.id] == digest(exercise), again
        assert [*filter(None, row.get("note", "").split("; "))] == SURVIVORS[exercise.id]
        counts = row["metrics"]
        assert counts["survived"] == len(SURVIVORS[exercise.id])
        least = 30 if exercise.id[3:].isdigit() and exercise.goal is None else 6
        assert counts["tried"] == sum(counts.values()) - counts["tried"] >= least
    assert record["rows"][-1]["metrics"]["tried"] > 7000 and not record["quick"]


def test_each_that_passes_has_its_reason():
    places = {}
    for exercise in ALL:
        file = inspect.getsourcefile(inspect.unwrap(exercise.answer))
        places.setdefault(file, []).append(exercise.id)
    for file, ids in places.items():
        text = Path(file).read_text("utf-8")
        assert re.findall(r" Exercise\(\n +id=\"([\w.]+)\"", text) == ids
        explained = re.findall(
            r"# Passes, too: (?:.*\n(?: +#.*\n)*) +Exercise\(\n +id=\"([\w.]+)\"", text
        )
        assert explained == [id for id in ids if SURVIVORS[id]]


@pytest.mark.parametrize("id", ["01.2", "05.2", "11.3"])
def test_the_others_fail(id):
    exercise, passing = exercises.find(id), set()
    made = [*mutants(exercise.solution)]
    for k, (what, source) in enumerate(made):
        if what in SURVIVORS[id] or k % EVERY == 0:
            namespace = {"torch": torch}
            exec(source, namespace)
            if all(check(id, namespace[exercise.name], seed).passed for seed in (0, 1, 2)):
                passing.add(what)
    assert passing == set(SURVIVORS[id]) and len(made) > 50


@pytest.mark.slow
def test_a_worker_that_an_answer_ends_is_told():
    right = exercises.find("00.2").solution
    worker = Worker()
    try:
        assert worker.judge("00.2", right, (0, 1)) == "PASS 00.2 read packed codes back"
        exits = "def unpack(packed, count):\n    import os\n    os._exit(0)"
        assert worker.judge("00.2", exits, (0,)) == "FAIL 00.2 ended the worker"
        process = worker.process
    finally:
        worker.close()
    assert process.poll() is not None and worker.process is None


@pytest.mark.slow
def test_the_script_runs(quick):
    (row, total) = quick("mutants")["rows"]
    assert row["note"].split("; ") == SURVIVORS["00.2"]
    assert row["metrics"] == total["metrics"] and total["metrics"]["tried"] == 59
