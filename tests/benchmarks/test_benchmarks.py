"""The parts that benchmark scripts share, and the script behind the embedded teacher."""

import hashlib
import json
import sys

import pytest
import warm
from conftest import BENCHMARKS

import tqlearn.data
from tqlearn import teachers
from tqlearn.hf import evaluate_joint


@pytest.fixture
def common(script):
    return script("common")


@pytest.fixture
def embedded(script):
    return script("embedded_teacher")


def test_options(common, tmp_path):
    args = common.parser("table").parse_args([])
    assert args.out == BENCHMARKS / "results" / "table.json"
    assert (args.quick, args.seed) == (False, 0)


def test_json(common, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", [str(BENCHMARKS / "table.py"), "--minutes", "5", "--seed", "3"]
    )
    args = common.parser("table").parse_args(
        ["--seed", "3", "--out", str(tmp_path / "a" / "t.json")]
    )
    row = {"model": "m", "role": "student", "metrics": {"accuracy": 50.0}, "bytes": {"file": 8}}
    record = common.write("table", "QTC", [row], args, threads=1)
    assert json.loads((tmp_path / "a" / "t.json").read_text()) == record
    assert record["command"] == "python benchmarks/table.py --seed 3", "minutes make no number"
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


def test_embedded_vocabulary_is_the_one_in_the_package(embedded):
    """The same sentences give the same vocabulary, on every machine and in every run."""
    corpus = tqlearn.data.load("flights")
    stored = json.loads((teachers.embedded_folder() / "tokenizer.json").read_text())
    assert embedded.vocabulary(corpus["train"]["tokens"]) == stored["model"]["vocab"]


def test_embedded_training_never_sees_test_values(embedded):
    corpus = tqlearn.data.load("flights")
    small = corpus["train"].select(range(200))
    more = embedded.augment(small, copies=2, seed=0)
    assert len(more) == 600 and more[:200] == small[:]
    assert more["intent"] == list(small["intent"]) * 3
    for tokens, slots in zip(more["tokens"], more["slots"], strict=True):
        assert len(tokens) == len(slots)
    changed = [row["tokens"] != small[i % 200]["tokens"] for i, row in enumerate(more)]
    assert not any(changed[:200]) and sum(changed[200:]) > 350
    kept = {slot for row in small for _, _, slot in embedded.spans(row["slots"])}
    assert {slot for row in more for _, _, slot in embedded.spans(row["slots"])} == kept


@pytest.mark.slow
def test_embedded_script_runs(quick, tmp_path):
    """What it wrote scores what it says, in the same process to the last digit."""
    folder = tmp_path / "teacher"
    (row,) = quick("embedded_teacher", "--folder", str(folder))["rows"]
    again, tokenizer = teachers.load(str(folder))
    assert again.config.hidden_size == 128 and row["bytes"]["nominal"] > row["bytes"]["file"]
    found = evaluate_joint(again, tokenizer, tqlearn.data.load("flights")["test"])
    assert row["metrics"] == found
    stored = json.loads((folder / "metrics.json").read_text())["sha256"]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert stored["model.safetensors"] == digest


@pytest.mark.slow
def test_a_recipe_runs_as_a_command_of_its_own(script, tmp_path, capfd, monkeypatch):
    """The command's record; the second time it is kept; a command that fails is no result."""
    monkeypatch.setattr(sys, "executable", warm.python())
    run = script("runs").run_recipe
    options = {"data": "digits", "teacher": "scratch", "hidden_size": 16, "num_layers": 1,
               "max_steps": 1, "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    record = run("finetune", tmp_path / "a", **options)
    assert record["command"].startswith("python -m tqlearn.recipes.finetune --data digits")
    assert record["steps"] == 1
    assert run("finetune", tmp_path / "a", **options) == record
    assert "done before, kept" in capfd.readouterr().out
    with pytest.raises(RuntimeError, match="nosuch --depth 2 .* ended with exit code"):
        run("nosuch", tmp_path / "b", depth=2)  # ends before it has imported transformers
