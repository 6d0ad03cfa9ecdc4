"""Rounded to nearest against compensated: the table and its script."""

import pytest

from tqlearn.lab.results import measured


def test_the_committed_table_has_its_controls_and_three_seeds():
    found = {row["model"]: row for row in measured("compensation").rows}
    assert found["teacher"]["role"] == "baseline"
    grids = [name.removesuffix(", to nearest") for name in found if name.endswith("to nearest")]
    assert len(grids) == 7
    for grid in grids:
        assert found[f"{grid}, compensated"]["note"].count(",") == 2
        other = "norms of inputs" if grid.startswith("2:4") else "by size"
        assert found[f"{grid}, {other}"]["note"].count(",") == 2
    for grid in ("2 bits per channel", "2 bits per 32"):
        nearest, moved = (found[f"{grid}, {how}"] for how in ("to nearest", "compensated"))
        lows = [float(x) for x in moved["note"].removeprefix("slots ").split(", ")]
        assert min(lows) > nearest["metrics"]["slot_f1"], "at 2 bits every seed gains"


@pytest.mark.slow
def test_compensation_script_runs(quick):
    rows = quick("compensation")["rows"]
    assert [row["role"] for row in rows] == ["baseline", "ablation", "student", "ablation"]
    assert all(row["metrics"]["slot_f1"] > 50 for row in rows)
