"""The table of SmolLM2 and its script."""

import json
import re

import pytest
from conftest import BENCHMARKS, result


@pytest.mark.slow
def test_the_script_runs_and_goes_on_where_it_was(quick, tmp_path, capsys):
    found = quick("smollm2", "--rows", "float", "2 bits per tensor")
    assert [row["model"] for row in found["rows"]] == ["float", "2 bits per tensor"]
    assert found["settings"]["tokens"] == 999
    marked = found | {"rows": [row | {"note": "of before"} for row in found["rows"]]}
    (tmp_path / "t.json").write_text(json.dumps(marked))
    capsys.readouterr()
    rows = {row["model"]: row for row in quick("smollm2")["rows"]}
    assert capsys.readouterr().out.count("measured before, kept") == 2
    names = ["float", "4 bits per tensor", "2 bits per tensor", "2 bits per 32"]
    names += [f"{how}, 2 bits per 64" for how in ("rescaled", "GPTQ", "AWQ", "rotated GPTQ")]
    assert {*rows} == {*names} and rows["float"]["note"] == "of before"
    sizes = [rows[name]["bytes"]["file"] for name in names]
    assert sizes[0] > sizes[1] > sizes[3] > sizes[2]
    assert all(row["metrics"]["tokens"] == 998 for row in rows.values())
    nats = [abs(rows[name]["metrics"]["nll"] - rows["float"]["metrics"]["nll"]) for name in names]
    assert nats[0] == 0 and all(nats[1:]) and len(set(nats)) == len(names)
    assert "--rows float" in quick("smollm2", "--rows", "float")["command"], "of the last call"
    other = json.loads((tmp_path / "t.json").read_text())
    for row in other["rows"]:
        assert row["metrics"].pop("kl", 0) > 0 or row["model"] == "float"
        row["note"] = "of before"
    (tmp_path / "t.json").write_text(json.dumps(other))
    again = quick("smollm2", "--rows", "float", "2 bits per tensor")["rows"]
    assert [row["model"] for row in again if "note" not in row] == ["2 bits per tensor"], "no KL"
    other["settings"]["window"] = 5
    (tmp_path / "t.json").write_text(json.dumps(other))
    quick("smollm2", "--minutes", "0")
    assert "float and what follows: not begun" in capsys.readouterr().out
    again = quick("smollm2", "--rows", "float")["rows"]
    assert [row["model"] for row in again] == ["float"] and "note" not in again[0]


def test_unknown_rows_are_refused(quick, capsys):
    with pytest.raises(SystemExit):
        quick("smollm2", "--rows", "5 bits per star")
    assert "no such rows: ['5 bits per star']; there are ['float'" in capsys.readouterr().err


def test_the_committed_table():
    """On 100,000 tokens or more; fewer bits are worse, and so are fewer scales."""
    found = result("smollm2")
    assert found["settings"]["tokens"] >= 100_000 and not found["quick"]
    rows = {row["model"]: row["metrics"]["perplexity"] for row in found["rows"]}
    assert rows["float"] == min(rows.values())
    for bits in (4, 3, 2):
        scales = [f"{bits} bits per {per}" for per in ("tensor", "channel", 64, 32)]
        measured = [rows[name] for name in scales if name in rows]
        assert measured == sorted(measured, reverse=True), bits


def test_the_page_tells_what_was_measured():
    rows = {row["model"]: row["metrics"]["perplexity"] for row in result("smollm2")["rows"]}
    page = (BENCHMARKS.parent / "docs" / "language_models.md").read_text()
    (told,) = [part for part in page.split("\n\n") if part.startswith("What this costs SmolLM2")]
    names = ["float"] + [f"{how}{b} bits per 64" for b in (4, 3) for how in ("", "GPTQ, ")]
    names += [f"rescaled GPTQ by size, {bits} bits per 64" for bits in (4, 3)]
    numbers = [f"{rows[name]:.1f}" for name in names]
    assert re.findall(r"\d+\.\d", told) == numbers
