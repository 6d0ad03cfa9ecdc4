"""The parts that benchmark scripts share, and the script behind the embedded teacher."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tqlearn.data
from tqlearn import teachers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import common

    return common


@pytest.fixture
def script(common):
    import embedded_teacher

    return embedded_teacher


def test_options(common, tmp_path):
    args = common.parser("table").parse_args([])
    assert args.out == BENCHMARKS / "results" / "table.json"
    assert (args.quick, args.seed) == (False, 0)


def test_json(common, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "table.py"), "--seed", "3"])
    args = common.parser("table").parse_args(
        ["--seed", "3", "--out", str(tmp_path / "a" / "t.json")]
    )
    row = {"model": "m", "role": "student", "metrics": {"accuracy": 50.0}, "bytes": {"file": 8}}
    record = common.write("table", "QTC", [row], args, threads=1)
    assert json.loads((tmp_path / "a" / "t.json").read_text()) == record
    assert record["command"] == "python benchmarks/table.py --seed 3"
    assert (record["name"], record["paper"], record["seed"]) == ("table", "QTC", 3)
    assert record["rows"] == [row] and record["threads"] == 1 and not record["quick"]
    assert {"python", "torch", "transformers"} <= set(record["versions"])
    assert " cores" in record["machine"] and record["date"].count("-") == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row"),
        ([{"role": "student"}], "a row has keys model, role"),
        ([{"model": "m", "role": "student", "f1": 1}], "a row has keys model, role"),
        ([{"model": "m", "role": "hero"}], "role must be one of .* got 'hero'"),
        ([{"model": "m", "role": "peer", "bytes": {"disk": 1}}], "bytes has keys out of"),
        (
            [{"model": "m", "role": "peer", "speed": {"ms": 1}}],
            "speed has keys seconds and speedup",
        ),
    ],
)
def test_json_refuses(common, tmp_path, rows, message):
    args = common.parser("table").parse_args(["--out", str(tmp_path / "t.json")])
    with pytest.raises(ValueError, match=message):
        common.write("table", None, rows, args)
    assert not (tmp_path / "t.json").exists()


def test_embedded_vocabulary_is_the_one_in_the_package(script):
    """The same sentences give the same vocabulary, on every machine and in every run."""
    corpus = tqlearn.data.load("flights")
    stored = json.loads((teachers.embedded_folder() / "tokenizer.json").read_text())
    assert script.vocabulary(corpus["train"]["tokens"]) == stored["model"]["vocab"]


def test_embedded_training_never_sees_test_values(script):
    corpus = tqlearn.data.load("flights")
    small = corpus["train"].select(range(200))
    more = script.augment(small, copies=2, seed=0)
    assert len(more) == 600 and more[:200] == small[:]
    assert more["intent"] == list(small["intent"]) * 3
    for tokens, slots in zip(more["tokens"], more["slots"], strict=True):
        assert len(tokens) == len(slots)
    changed = [row["tokens"] != small[i % 200]["tokens"] for i, row in enumerate(more)]
    assert not any(changed[:200]) and sum(changed[200:]) > 350
    kept = {slot for row in small for _, _, slot in script.spans(row["slots"])}
    assert {slot for row in more for _, _, slot in script.spans(row["slots"])} == kept


@pytest.mark.slow
def test_embedded_script_runs(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "embedded_teacher.py"), "--quick"]
    command += ["--out", str(tmp_path / "t.json"), "--folder", str(tmp_path / "teacher")]
    subprocess.run(command, check=True, capture_output=True)
    metrics = json.loads((tmp_path / "t.json").read_text())["rows"][0]["metrics"]
    again, _ = teachers.load(str(tmp_path / "teacher"))
    assert again.config.hidden_size == 128 and 0 < metrics["intent_accuracy"] <= 100
