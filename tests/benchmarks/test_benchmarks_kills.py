"""Twenty kills: every run goes on to the same bits, and says from where."""

import pytest
from conftest import result


def test_every_killed_run_ends_as_the_unbroken_one_and_says_from_where():
    first, *rows = result("kills")["rows"]
    assert first["metrics"] == {"kills": 20, "equal": 20, "named": 20} and len(rows) == 20
    assert len({row["model"] for row in rows}) == 20
    assert {row["metrics"]["from_step"] for row in rows} >= {0, 2, 4, 6, 8}
    passed = [row for row in rows if "passed by" in row.get("note", "")]
    assert len(passed) >= 5, "moments in the middle of a save"


@pytest.mark.slow
def test_the_script_runs(quick):
    first, *rows = quick("kills")["rows"]
    assert first["metrics"] == {"kills": 2, "equal": 2, "named": 2} and len(rows) == 2
