"""What compression is worth when it runs: the script measures and resumes; the bars as stored."""

import importlib.util
import json

import pytest
import torch
from conftest import require, result
from warm import FRESH


@pytest.fixture
def turns(script, monkeypatch):
    turns = script("runtime_turns")
    monkeypatch.setattr(turns, "PYTHON", FRESH)
    return turns


@pytest.fixture
def ship():
    for name in ("onnx", "onnxruntime"):
        require(importlib.util.find_spec(name), f"{name} is missing: pip install 'tqlearn[ship]'")


@pytest.mark.slow
def test_the_script(turns, quick, script, monkeypatch, tmp_path, capsys):
    """Processes of their own measure a tiny model; what is there is not measured again."""
    folder, cells = str(tmp_path / "runs"), script("runtime_cells")
    monkeypatch.setattr(cells, "STEPS", ["dense", "TT"])
    monkeypatch.setattr(cells, "MODELS", ["table"])
    record = quick("runtime", "--folder", folder, "--only", "latency", "load", "step", "verbs")
    rows = {row["model"].partition(", tiny")[0]: row for row in record["rows"]}
    assert [*rows] == ["torch FP32", "W4 packed in torch", "step, dense", "step, TT"]
    assert all(row["speed"]["seconds"] > 0 for row in rows.values())
    assert rows["torch FP32"]["speed"]["speedup"] == rows["torch FP32"]["ratio"]["file"] == 1
    packed = rows["W4 packed in torch"]
    assert {"load_seconds", "resident", "peak", "threads", "batch"} <= {*packed["metrics"]}
    assert packed["ratio"]["file"] > 2 and packed["role"] == "student"
    assert {*record["verbs"]["table"]} == {"compress", "calibrate", "pack", "bytes"}

    monkeypatch.setattr(turns, "PYTHON", ["no such program"])
    assert quick("runtime", "--folder", folder, "--only", "step", "load")["rows"] == record["rows"]
    with pytest.raises(FileNotFoundError):
        quick("runtime", "--folder", folder, "--only", "step", "--again")
    capsys.readouterr()
    quick("runtime", "--folder", folder, "--only", "step", "--again", "--minutes", "0")
    assert "0.0 minutes are over; the next cell is" in capsys.readouterr().out


@pytest.fixture
def table(ship, tmp_path):
    """A file that looks up ids in ten rows and multiplies what it finds."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = [numpy_helper.from_array(torch.randn(*s).numpy(), n)
              for n, s in {"rows": (1000, 4), "w": (4, 3)}.items()]  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "t", 3])
    graph = helper.make_graph(nodes, "net", [ids], [y], values)
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "net.onnx")
    return {"engine": "onnx", "file": str(tmp_path / "net.onnx")}


def test_onnxruntime_answers_and_has_no_torch(turns, table, tmp_path):
    with turns.Process(table) as process:
        assert {*process.ask("load")} == {"seconds", "resident", "peak"}
        assert process.ask("call", batch=2, tokens=5, calls=2) > 0
        spent = process.ask("profile", batch=2, tokens=5)
    assert {*spent} == {"Gather", "MatMul"} and all(ms >= 0 for ms in spent.values())
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_process_that_ends_is_told(turns, ship):
    with turns.Process({"engine": "onnx", "file": "nowhere.onnx"}) as process:
        with pytest.raises(RuntimeError, match="nowhere.onnx.* ended with 1"):
            process.ask("load")


def test_speed_is_a_ratio_inside_a_turn(script):
    """A second turn on a machine twice as slow changes neither."""
    assert script("runtime_table").speed([4.0, 8.0, 4.4], [1.0, 2.0, 1.0]) == {
        "seconds": 1.0, "speedup": 4.0,
    }  # fmt: skip


def test_the_page_has_a_line_per_contestant_and_threads(script, tmp_path):
    page = script("readme_runtime")
    assert page.sections(tmp_path) == page.NOTHING
    metrics = {"shape": "tiny", "threads": 1, "batch": 1, "tokens": 128}
    rows = [
        {"model": "A in ORT, tiny, 1x128, 1 threads", "metrics": metrics | {
            "load_seconds": 0.51, "resident": 2e7, "same_intents": 99.9, "same_slots": 100.0,
        }, "bytes": {"file": 3e6}, "speed": {"seconds": 0.1, "speedup": 8.1}},
        {"model": "A in ORT, tiny, 8x128, 1 threads", "metrics": metrics | {"batch": 8},
         "bytes": {"file": 3e6}, "speed": {"seconds": 0.1, "speedup": 7.0}},
        {"model": "step, TT, tiny", "metrics": {"shape": "tiny", "threads": 1},
         "speed": {"seconds": 0.5, "speedup": 5.2}},
    ]  # fmt: skip
    head = {"command": "python benchmarks/runtime.py --x", "date": "2026-01-02", "machine": "M"}
    (tmp_path / "runtime.json").write_text(json.dumps(head | {"rows": rows}))
    text = page.sections(tmp_path)
    assert "| A in ORT | 1 | 3.0 MB | 0.51 s | 20 MB | 99.90 % / 100.00 % | 8.10x | 7.00x |" in text
    assert "| TT, tiny | 0.50 | 5.20x |" in text and "`python benchmarks/runtime.py`" in text


def by_name(rows, **wanted):
    """The rows with these metrics, by the name of their contestant."""
    chosen = [r for r in rows if all(r["metrics"].get(k) == v for k, v in wanted.items())]
    return {row["model"].split(",")[0]: row for row in chosen}


def test_results_reach_the_bars():
    """Those that a processor without VNNI can reach; docs/export.md says of the others why not."""
    record = result("runtime")
    assert not record["quick"] and record["repeats"] >= 5
    size = {"shape": "BERT-base", "threads": 1, "batch": 1, "tokens": 128}
    rows = by_name(record["rows"], **size)
    assert len(rows) == 12
    speed = {name: row["speed"]["speedup"] for name, row in rows.items()}
    held = {name: row["metrics"] for name, row in rows.items()}
    assert speed["W4 in ORT"] >= 0.95
    dense = held["torch FP32"]
    for packed, floats in (("W4 packed in torch", "torch FP32"), ("W4 in ORT", "ORT FP32")):
        assert held[packed]["resident"] <= 0.3 * held[floats]["resident"]
        assert held[packed]["load_seconds"] <= 1.2 * dense["load_seconds"]
    ratios = [found["onnx_over_packed"] for found in held.values() if "onnx_over_packed" in found]
    assert len(ratios) == 7 and max(ratios) <= 1.15
    for peaks in record["verbs"].values():
        assert peaks["compress"] <= 1.3 and peaks["pack"] <= 1.3
    for found in record["MiniLM"]["agreement"].values():
        for name in ("intent_accuracy", "slot_f1"):
            assert abs(found["torch"][name] - found["ort"][name]) <= 0.1
