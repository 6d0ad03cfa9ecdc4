"""SmolLM2 when it writes: the script measures and goes on; what the committed run says."""

import importlib.util
import json

import pytest
import torch
from conftest import require, result
from transformers import LlamaForCausalLM
from warm import FRESH

import tqlearn as tq


@pytest.mark.slow
def test_the_script(script, quick, monkeypatch, tmp_path):
    """Packed students write what they do in floats, the tied table included; cells are kept."""
    monkeypatch.setattr(script("runtime_turns"), "PYTHON", FRESH)
    folder = tmp_path / "runs"
    found = quick("smollm2_speed", "--folder", str(folder))
    rows = {row["model"].removesuffix(", 1 threads"): row for row in found["rows"]}
    assert [*rows] == [*script("smollm2_speed").QUICK]
    for row in rows.values():
        metrics = row["metrics"]
        assert metrics["same_tokens"] == 8 and metrics["tokens_per_second"] > 0
        assert metrics["load_seconds"] > 0 and metrics["peak"] >= metrics["resident"] > 0
    floats, layers, table = (row["bytes"]["file"] for row in rows.values())
    assert floats > 4 * layers and table < layers
    assert rows["W4 with the table, packed in torch"]["metrics"]["tied"] is True
    assert rows["torch FP32"]["speed"]["speedup"] == 1
    monkeypatch.setattr(script("runtime_turns"), "PYTHON", ["no such program"])
    assert quick("smollm2_speed", "--folder", str(folder))["rows"] == found["rows"]
    with pytest.raises(FileNotFoundError):
        quick("smollm2_speed", "--folder", str(folder), "--only", "writes", "--again")


def test_words_are_the_same_up_to_the_first_that_is_not(script):
    same = script("smollm2_speed").same
    assert same([1, 2, 3], [1, 2, 3]) == 3 and same([1, 9, 3], [1, 2, 3]) == 1
    assert same([0, 2], [1, 2]) == 0


class Session:
    """A graph of one layer: the next word is the sum of all that were read, modulo 10."""

    def run(self, _, given):
        import numpy as np

        past = given["past_key_values.0.key"]
        new = given["input_ids"].astype(np.float32).reshape(1, 1, -1, 1)
        present = np.concatenate([past, new], 2)
        assert given["attention_mask"].shape == (1, present.shape[2])
        logits = np.zeros((1, new.shape[2], 10), np.float32)
        logits[0, -1, int(present.sum()) % 10] = 1
        return [logits, present]


def test_onnxruntime_writes_with_its_cache(script):
    import numpy as np

    engine = script("smollm2_engines").Onnx.__new__(script("smollm2_engines").Onnx)
    engine.engine, engine.outputs = Session(), ["logits", "present.0.key"]
    engine.empty = {"past_key_values.0.key": np.zeros((1, 1, 0, 1), np.float32)}
    for _ in range(2):  # a second text begins anew
        words, times = engine.write([1, 2, 4], 4)
        assert words == [7, 4, 8, 6] and times == sorted(times)


@pytest.mark.slow
def test_a_student_writes_the_same_in_onnxruntime(script, tmp_path):
    """Its file is loaded by the engine; a table in 4 bits is the output layer there, too."""
    for name in ("onnx", "onnxruntime"):
        require(importlib.util.find_spec(name), f"{name} is missing: pip install 'tqlearn[ship]'")
    speed, engines = script("smollm2_speed"), script("smollm2_engines")
    config = script("smollm2").tiny().model.config
    config.tie_word_embeddings, config.num_hidden_layers = True, 1
    model = LlamaForCausalLM(config).eval()
    student = tq.calibrate(tq.compress(model, speed.PLANS["W4 with the table"]))
    prompt = [5, 7, 11, 13, 2, 9]
    ids = torch.tensor([prompt])
    wanted = student.generate(ids, **engines.greedy(ids, 8))[0, 6:].tolist()
    speed.exported(student, tmp_path / "model.onnx", prompt)
    engine = engines.Onnx({"file": str(tmp_path / "model.onnx"), "threads": 1})
    engine.load()
    assert engine.write(prompt, 8)[0] == wanted


def test_the_page_has_a_line_per_row(script, tmp_path):
    page = script("readme_peers")
    assert page.sections(tmp_path).count("Not measured yet") == 2
    head = {"command": "python benchmarks/x.py --y", "date": "2026-01-02", "machine": "M"}
    table = {"float": (32.0, 20.0), "2 bits": (2.5, 1234.5, 3.0), "4 bits": (4.25, 23.456, 0.12345)}
    keys = "bits_per_weight", "perplexity", "kl"
    rows = [{"model": n, "metrics": dict(zip(keys, one, strict=False))} for n, one in table.items()]
    judged = head | {"settings": {"tokens": 100_000}, "rows": rows}
    (tmp_path / "smollm2_peers.json").write_text(json.dumps(judged))
    rows = [{"model": f"A, packed, {n} threads", "bytes": {"file": 71_500_000},
             "speed": {"speedup": 0.5 * n, "seconds": 1}, "metrics": {
                 "threads": n, "tokens_per_second": 10.0 * n, "same_tokens": 63,
                 "load_seconds": 0.5, "resident": 9e7, "peak": 1e8}} for n in (1, 2)]  # fmt: skip
    timed = head | {"settings": {"new": 64, "repeats": 5}, "rows": rows}
    (tmp_path / "smollm2_speed.json").write_text(json.dumps(timed))
    text = page.sections(tmp_path)
    assert "| 4.25 | 4 bits | 23.46 | 0.1235 |\n| 2.50 | 2 bits | 1,234.50 | 3.0000 |" in text
    assert "| 32.00 | floats | 20.00 |  |" in text and "100,000 tokens" in text
    cells = ["A, packed", "71.5 MB", "0.50", "90 MB", "100 MB", "10.0", "0.50x", "63 of 64", "20.0"]
    (line,) = [line for line in text.splitlines() if line.startswith("| A, packed")]
    assert sorted(line.strip("| ").split(" | ")) == sorted(cells)


def test_the_committed_run():
    """Ours write what the student does; the whole file with its table is at most 100 MB."""
    found = result("smollm2_speed")
    assert not found["quick"] and found["settings"]["new"] == 64
    rows = {row["model"]: row for row in found["rows"]}
    for threads in {row["metrics"]["threads"] for row in found["rows"]}:
        at = f", {threads} threads"
        for name in ("W4 packed in torch", "W4 packed in torch, floats kept"):
            assert rows[name + at]["metrics"]["same_tokens"] == 64, name
        table = rows[f"W4 with the table, packed in torch{at}"]
        assert table["bytes"]["file"] <= 100e6 and table["metrics"]["same_tokens"] == 64
        assert table["metrics"]["tied"] is True
        held = table["metrics"]["resident"] / rows["torch FP32" + at]["metrics"]["resident"]
        assert held < 0.5


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name", ["torchao int4", "torchao int8", "quanto qint4"])
def test_where_a_peer_is_installed_its_file_writes_what_it_did(script, name, tmp_path):
    speed, engines = script("smollm2_speed"), script("smollm2_engines")
    coder, room = speed.CODERS[name]
    pytest.importorskip(room)
    model = script("smollm2").tiny().model
    held = speed.coded(model, coder, torch.bfloat16)
    torch.save(held, tmp_path / "model.pt")
    halves = 2 * sum(p.numel() for p in model.parameters())
    assert (tmp_path / "model.pt").stat().st_size < 0.8 * halves
    spec = {"engine": "whole", "file": str(tmp_path / "model.pt"), "threads": 1, "imports": [room]}
    engine = engines.Torch(spec)
    engine.load()
    ids = torch.tensor([[3, 5, 7, 9]])
    wanted = held.generate(ids, **engines.greedy(ids, 6))[0, 4:].tolist()
    assert engine.write(ids[0].tolist(), 6)[0] == wanted
