"""The table behind notebook 04: every row that the page prints is there, and the script runs."""

import pytest

from tqlearn.lab.results import measured


def test_the_committed_table_holds_what_notebook_04_prints():
    found = {row["model"]: row for row in measured("lsq_training").rows}
    starts = [f"{bits} bits, {rule} start" for bits in (2, 3, 4) for rule in ("max", "lsq", "mse")]
    rows = {"teacher", *(f"{start}, as calibrated" for start in starts)}
    rows |= {f"{s}, {who} learn" for s in starts[:6] for who in ("scales", "weights", "both")}
    assert rows <= found.keys()
    assert all(found[name]["note"].count(",") == 2 for name in rows if name.endswith("learn"))
    scratch = [row for name, row in found.items() if "scratch" in name]
    assert len(scratch) == 3
    assert all("loss below 2" in row["note"].split(";")[0] for row in scratch)


@pytest.mark.slow
def test_lsq_script_runs(quick):
    record = quick("lsq_training")
    assert record["quick"] and record["rows"][0]["model"] == "teacher"
    assert {row["role"] for row in record["rows"]} == {"baseline", "student", "ablation", "peer"}
