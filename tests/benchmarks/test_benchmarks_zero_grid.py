"""The table behind notebook 05: every row that the page prints is there, and the script runs."""

import pytest

from tqlearn.lab.results import measured


def test_the_committed_table_holds_what_notebook_05_prints():
    found = {row["model"]: row for row in measured("zero_grid").rows}
    names = ["2:4"] + [
        f"2:4, {bits} bits {grid} a zero, {kind}"
        for bits in (4, 2)
        for grid in ("with", "without")
        for kind in ("line for 2:4", "dense line")
    ]
    for name in names:
        before, after = (found[f"{name}, {when}"] for when in ("as calibrated", "trained"))
        assert after["note"].count(",") == 2, "three seeds"
        for row in (before, after):
            changed = row["metrics"]["answers_changed"]
            assert (changed > 0) == ("without" in name)
    assert found["teacher"]["role"] == "baseline"


@pytest.mark.slow
def test_zero_grid_script_runs(quick):
    record = quick("zero_grid")
    assert record["quick"] and record["rows"][0]["model"] == "teacher"
    assert {row["role"] for row in record["rows"]} == {"baseline", "student", "ablation"}
