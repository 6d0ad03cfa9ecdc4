"""A model larger than memory was compressed in little of it, killed in the middle, and is equal."""

import sys

import pytest
import torch
from conftest import result
from warm import python


@pytest.fixture
def found():
    kept = result("stream")
    assert not kept["quick"]
    return {row["model"].split(",")[0]: row["metrics"] for row in kept["rows"]}


def test_eight_gigabytes_in_three(found):
    dense, packed = found["Llama of 19 layers"], found["packed"]
    killed, resumed = found["until it is killed"], found["the call that goes on"]
    assert dense["model_bytes"] > 8e9 and dense["files"] > 1
    assert max(killed["peak_resident_bytes"], resumed["peak_resident_bytes"]) < 3e9
    assert 0.4 < killed["parts"] / killed["parts_of"] < 0.6
    assert packed["tensors_equal"] == packed["tensors_compared"] == 6
    assert packed["largest_file_bytes"] < 1.01e9 and packed["files"] > 1
    assert packed["file_bytes"] * 8 / (dense["model_bytes"] / 2) == pytest.approx(4.5, abs=0.01)


def test_a_larger_one_on_paper(found, script):
    """The bytes of its file are those of 4 bits, and of a scale for every 64 numbers."""
    paper, stream = found["on paper: shapes of Llama 3.1 70B"], script("stream")
    wide, deep = (stream.LARGE[k] for k in ("hidden_size", "num_hidden_layers"))
    inner, words = (stream.LARGE[k] for k in ("intermediate_size", "vocab_size"))
    attention = 2 * wide * wide + 2 * wide * wide // 8  # 64 heads of queries, 8 of keys and values
    matrices, norms = (
        2 * words * wide + deep * (attention + 3 * inner * wide),
        (2 * deep + 1) * wide,
    )
    assert paper["parameters"] == matrices + norms
    assert paper["model_bytes"] == 2 * paper["parameters"]
    assert paper["file_bytes"] == pytest.approx(matrices * (4 + 32 / 64) / 8 + 2 * norms, rel=1e-4)
    assert paper["largest_layer_numbers"] == words * wide
    killed = found["until it is killed"]
    beyond = killed["peak_resident_bytes"] - killed["resident_bytes_of_imports"]
    times = words * wide / (stream.WIDE["vocab_size"] * stream.WIDE["hidden_size"])
    expected = killed["resident_bytes_of_imports"] + beyond * times
    assert paper["resident_bytes_expected"] == pytest.approx(expected, rel=1e-3)


def test_a_model_is_written_shard_by_shard(script, tmp_path):
    stream = script("stream")
    size = stream.write_model(tmp_path / "a", stream.TINY, seed=0)
    assert size == sum(t.nbytes for t in stream.skeleton(stream.TINY).parameters())
    slices = stream.Slices(tmp_path / "a")
    assert len(set(slices.home.values())) == stream.TINY["num_hidden_layers"] + 3
    assert slices.read("lm_head.weight").dtype == torch.float16
    assert slices.read("lm_head.weight").float().std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.slow
def test_the_script_runs(quick, monkeypatch):
    monkeypatch.setattr(sys, "executable", python())
    rows = {row["model"].split(",")[0]: row["metrics"] for row in quick("stream")["rows"]}
    assert rows["packed"]["tensors_equal"] == 6 and "parts" in rows["until it is killed"]
