"""Ten thousand damaged models: none wrong in silence; and what the digests cost."""

import pytest
from conftest import result

CANNOT_KNOW = ("layout with digests of its own", "no digests")


def test_no_damaged_model_was_wrong_in_silence():
    rows = [row for row in result("fuzz")["rows"] if "loads" in row["metrics"]]
    known = [row["metrics"] for row in rows if row["model"] not in CANNOT_KNOW]
    assert sum(counts["loads"] for counts in known) >= 10_000
    assert not any(counts["silent"] for counts in known)
    for row in rows:
        counts = row["metrics"]
        assert sum(counts.values()) == 2 * counts["loads"]
        assert not counts["raw"] + counts["memory"] + counts["hang"], row["model"]


def test_digests_take_three_percent_of_loading():
    rows = [row for row in result("fuzz")["rows"] if row["model"].startswith("digests")]
    assert [row["bytes"]["file"] > 4e8 for row in rows] == [False, True]
    assert all(row["metrics"]["percent_of_loading"] <= 3 for row in rows)


@pytest.mark.slow
def test_the_script_runs(quick):
    rows = quick("fuzz")["rows"]
    assert len(rows) == 9 and rows[0]["metrics"]["percent_of_loading"] < 50
    for row in rows[1:]:
        counts = row["metrics"]
        assert counts["loads"] == 8 and not counts["raw"] + counts["memory"] + counts["hang"]
