"""The table behind notebook 06: the rows that the page prints, its words on them; the script."""

import pytest

from tqlearn.lab.results import measured


def slots(name: str) -> list[float]:
    """Slot F1 of every seed of a row."""
    notes = {row["model"]: row["note"] for row in measured("two_four_training").rows}
    return [float(word) for word in notes[name].removeprefix("slots ").split(", ")]


def test_the_committed_table_holds_what_notebook_06_prints():
    found = {row["model"]: row["metrics"] for row in measured("two_four_training").rows}
    for pattern in ("1:2", "2:4", "4:8", "8:16", "4:8 pairs", "1:4"):
        both = [found[f"{pattern}, {s}"]["slot_f1"] for s in ("magnitude", "activation-aware")]
        assert abs(both[0] - both[1]) < 1.5, "a point or so, up or down"
    taught = [name for name in found if name.endswith("300 steps")]
    assert len(taught) == 9 and all(len(slots(name)) == 3 for name in taught)


def test_what_notebook_06_says_of_second_chances():
    found = {row["model"]: row["metrics"] for row in measured("two_four_training").rows}
    half = {name: found[f"2:4, {name}, 300 steps"] for name in ("fixed", "STE", "SR-STE 0.0002")}
    f1 = {name: row["slot_f1"] for name, row in half.items()}
    assert 0.5 < f1["fixed"] - f1["STE"] < 1.5 and f1["STE"] < f1["SR-STE 0.0002"] < f1["fixed"]
    assert half["STE"]["flips"] > 3 * half["STE"]["moved"] > 0 == half["fixed"]["flips"]
    fixed, free = slots("1:4, fixed, 300 steps"), slots("1:4, STE, 300 steps")
    assert all(1.5 < b - a < 2.5 for a, b in zip(fixed, free, strict=True))
    start, teacher = found["2:4, magnitude"]["slot_f1"], found["teacher"]["slot_f1"]
    assert 0.5 < (f1["fixed"] - start) / (teacher - start) < 0.65
    assert all(abs(f1 - teacher) < 0.5 for f1 in slots("dense, 300 steps"))


@pytest.mark.slow
def test_two_four_script_runs(quick):
    record = quick("two_four_training")
    assert record["quick"] and record["rows"][0]["model"] == "teacher"
    assert {row["role"] for row in record["rows"]} == {"baseline", "student", "ablation", "peer"}
