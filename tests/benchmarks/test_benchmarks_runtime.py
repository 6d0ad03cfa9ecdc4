"""What compression is worth when it runs: the script measures and resumes; the bars as stored."""

import importlib.util

import pytest
from conftest import require, result
from warm import FRESH


@pytest.fixture
def turns(script, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(importlib.util.find_spec(name), f"{name} is missing: pip install 'tqlearn[ship]'")
    turns = script("runtime_turns")
    monkeypatch.setattr(turns, "PYTHON", FRESH)
    return turns


def test_the_script(turns, quick, monkeypatch, tmp_path, capsys):
    """Processes of their own measure a tiny model; what is there is not measured again."""
    folder = str(tmp_path / "runs")
    record = quick("runtime", "--folder", folder)
    rows = {row["model"].partition(", tiny")[0]: row for row in record["rows"]}
    assert [*rows] == [
        "torch FP32", "W4 packed in torch", "W8A8 in ORT",
        *(f"step, {name}" for name in ("dense", "TT", "Kronecker", "fake-quantized")),
    ]  # fmt: skip
    assert all(row["speed"]["seconds"] > 0 for row in rows.values())
    assert rows["torch FP32"]["speed"]["speedup"] == rows["torch FP32"]["ratio"]["file"] == 1
    ours = rows["W8A8 in ORT"]
    assert {"load_seconds", "resident", "peak", "onnx_over_packed"} <= {*ours["metrics"]}
    assert ours["ratio"]["file"] > 1 and rows["W4 packed in torch"]["ratio"]["file"] > 2
    operators = record["tiny"]["profile"]
    assert operators["W8A8 in ORT"]["MatMulIntegerToFloat"] > 0
    assert operators["torch FP32"]["aten::addmm"] > 0
    assert {*record["verbs"]} == {"layers", "table"}

    monkeypatch.setattr(turns, "PYTHON", ["no such program"])
    assert quick("runtime", "--folder", folder)["rows"] == record["rows"]
    with pytest.raises(FileNotFoundError):
        quick("runtime", "--folder", folder, "--only", "step", "--again")
    assert "0 minutes" not in capsys.readouterr().out
    quick("runtime", "--folder", folder, "--only", "step", "--again", "--minutes", "0")
    assert "0.0 minutes are over" in capsys.readouterr().out


def test_a_process_that_ends_is_told(turns):
    with turns.Process({"engine": "onnx", "file": "nowhere.onnx"}) as process:
        with pytest.raises(RuntimeError, match="nowhere.onnx.* ended with 1"):
            process.ask("load")


def by_name(rows, **wanted):
    """The rows with these metrics, by the name of their contestant."""
    chosen = [r for r in rows if all(r["metrics"].get(k) == v for k, v in wanted.items())]
    return {row["model"].split(",")[0]: row for row in chosen if "step" not in row["model"]}


def test_results_reach_the_bars():
    record = result("runtime")
    assert not record["quick"] and record["repeats"] >= 5
