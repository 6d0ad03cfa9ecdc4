"""The table behind notebook 11's answer: nine runs of each student, and what the page says."""

import json
import sys

import pytest
from warm import python

from tqlearn.lab.portable import INSTRUCTION_SETS
from tqlearn.lab.results import measured


def test_the_committed_table_holds_nine_runs_and_what_notebook_11_says():
    found = {row["model"]: row for row in measured("kdlsq_flights").rows}
    slots = {name: row["metrics"]["slot_f1"] for name, row in found.items()}
    students = [name for name in found if name not in ("teacher", "untaught")]
    for name in students:
        choice, *sets = found[name]["note"].replace("slots native", "native").split("; ")
        assert "chosen by slots on validation" in choice
        assert [words.split()[0] for words in sets] == [*INSTRUCTION_SETS]
        assert all(words.count(",") == 2 for words in sets)  # three seeds
        metrics = found[name]["metrics"]
        assert metrics["slot_f1_low"] <= metrics["slot_f1"] <= metrics["slot_f1_high"]
        assert choice.startswith("rate 0.0003,"), "the page takes the rate that was chosen"
    labels = slots["labels alone"]
    assert labels - slots["untaught"] > slots["teacher"] - labels, "more than half is back"
    assert 0.7 < slots["teacher and labels"] - labels < 1.3, "about one point"
    assert abs(slots["teacher and labels"] - slots["teacher alone"]) < 1


@pytest.mark.slow
def test_kdlsq_flights_script_runs_and_goes_on_where_it_was(quick, script, tmp_path, monkeypatch):
    """One arm was done before, and one of the other's rates; its last trains in a process."""
    monkeypatch.setattr(sys, "executable", python())
    work = tmp_path / "work"
    work.mkdir()
    score = {"intent_accuracy": 98.0, "slot_f1": 76.0}
    left = [{"validation": score, "test": score}]
    (work / "native, untaught, rate 0.0.json").write_text(json.dumps(left))
    done = work / f"native, teacher alone, rate {script('kdlsq_flights').RATES[2]}.json"
    done.write_text(json.dumps([{"validation": score | {"slot_f1": 0.0}, "test": score}]))
    untaught, taught = quick("kdlsq_flights", "--work", str(work))["rows"]
    assert untaught["metrics"]["slot_f1"] == 76.0 and untaught["note"] == "slots native 76.0"
    assert taught["model"] == "teacher alone" and 0 < taught["metrics"]["slot_f1"] < 100
    assert len(list(work.glob("native, teacher alone, rate *.json"))) == 2
    assert "chosen by slots on validation (0.0003: " in taught["note"]
