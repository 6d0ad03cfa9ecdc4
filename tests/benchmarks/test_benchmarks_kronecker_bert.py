"""The tables of KroneckerBERT and KDLSQ-BERT: their scripts run, and what they count is right."""

import json

import pytest
import torch

from tqlearn import compress, data, teachers
from tqlearn.hf.attention import SCORES
from tqlearn.recipes import kronecker_bert as recipe


def test_steps_to_loss_waits_for_a_mean_of_two(script):
    history = [[10, "5.0"], [20, "1.0"], [30, "2.0"], [40, "1.0"]]
    count = script("kdlsq").steps_to_loss
    assert count(history, 3.0) == 20  # (5 + 1) / 2
    assert count(history, 1.5) == 30
    assert count(history, 1.4) is None


def test_start_rows_measure_against_the_default_start(script):
    records = {
        "2-2-8": {"history": [[10, "9"]]},
        "2-2-8, start truncation": {"history": [[10, "4"], [20, "3"], [30, "1"]]},
        "2-2-8, start max": {"history": [[10, "8"], [20, "6"], [30, "5"]]},
        "2-2-8, start mse": {"history": [[10, "2"], [20, "1"], [30, "1"]]},
    }
    rows = {row["model"]: row["metrics"] for row in script("kdlsq").start_rows(records)}
    assert rows == {
        "KDLSQ 2-2-8, start truncation": {"loss": 1.0, "steps_to_loss": 30},
        "KDLSQ 2-2-8, start max": {"loss": 5.0},
        "KDLSQ 2-2-8, start mse": {"loss": 1.0, "steps_to_loss": 20},
    }


def test_a_finished_run_is_kept_whatever_the_order_of_its_options(script):
    settings = script("runs")._settings
    one = "python -m tqlearn.recipes.x --bits 4 --output_dir a/b --seed 0 --teacher c/d"
    two = "python -m tqlearn.recipes.x --seed 0 --teacher e/f --bits 4 --output_dir g/h"
    assert settings(one) == settings(two)
    assert settings(one) != settings(two.replace("--bits 4", "--bits 8"))
    assert settings(one) != settings(two.replace("e/f", "minilm"))


def distances(teacher, student) -> dict[str, float]:
    """Sum of the recipe's losses against the teacher on rows that the student was taught with."""
    (teacher, tokenizer), (taught, _) = (
        teachers.load(str(folder)) for folder in (teacher, student)
    )
    untaught = compress(teacher, recipe.plan(teacher.config, "KB21"))
    batch = tokenizer(data.load("sst2", "local")["train"][:64]["sentence"], padding=True,
                      return_tensors="pt")  # fmt: skip
    found = {}
    with torch.no_grad():
        for name, model in (("teacher", teacher), ("taught", taught), ("untaught", untaught)):
            model.eval().set_attn_implementation(SCORES)
            found[name] = model(**batch, output_hidden_states=True, output_attentions=True)
    losses = recipe.losses(ground_truth=False)
    taught, untaught = (
        sum(losses(found[name], found["teacher"], batch).values()).item()
        for name in ("taught", "untaught")
    )
    return {"taught": taught, "untaught": untaught}


@pytest.mark.slow
def test_one_arm_of_kronecker_bert(quick, data_folder, tiny_minilm, tmp_path, capsys):
    """A teacher and a student of a few steps each, trained and then only evaluated."""
    work = tmp_path / "work"
    words = ("kronecker_bert_sst2", "--arms", "KB21, no stage 1", "--work", str(work))
    assert quick(*words, "--train_only") is None
    capsys.readouterr()
    baseline, row = quick(*words)["rows"]
    assert capsys.readouterr().out.count("done before, kept") == 2
    assert (baseline["role"], row["role"]) == ("baseline", "ablation")
    share = 100 * row["metrics"]["accuracy"] / baseline["metrics"]["accuracy"]
    assert row["metrics"]["retention"] == pytest.approx(share)
    assert {"imdb_accuracy", "imdb_counterfactual_accuracy", "uci_accuracy"} < row["metrics"].keys()
    near = distances(work / "teacher", work / "KB21_no_stage_1")
    assert near["taught"] < 0.995 * near["untaught"]
    record = json.loads((work / "KB21_no_stage_1" / "metrics.json").read_text())
    assert record["steps"] == 4 and record["metrics"]["accuracy"] == row["metrics"]["accuracy"]


def nominal_ratio(folder) -> float:
    """How much smaller 4 bits make the table and all matrices but the classifier's two rows."""
    config = json.loads((folder / "config.json").read_text())
    words, width, inner = (config[k] for k in ("vocab_size", "hidden_size", "intermediate_size"))
    layers, places = config["num_hidden_layers"], config["max_position_embeddings"]
    codes = words * width + layers * (4 * width + 2 * inner) * width + width * width
    floats = (places + 2) * width + 2 * width  # places, two kinds of text, the first norm
    floats += layers * (9 * width + inner) + width + 2 * width + 2  # biases, norms, classifier
    return 4 * (codes + floats) / (codes / 2 + 4 * floats)


@pytest.mark.slow
def test_one_arm_of_kdlsq(quick, data_folder, tiny_minilm, tiny_encoder, tmp_path, capsys):
    """A teacher, a student and two starts, a few steps each; the table from what they left."""
    words = ("kdlsq", "sst2", "--work", str(tmp_path / "work"))
    words += ("--arms", "4-4-8", "2-2-8, start truncation")
    assert quick(*words, "--train_only") is None
    capsys.readouterr()
    baseline, row, start = quick(*words)["rows"]
    assert capsys.readouterr().out.count("done before, kept") == 3
    assert (baseline["role"], row["role"], start["role"]) == ("baseline", "student", "ablation")
    assert row["model"] == "KDLSQ 4-4-8" and {"accuracy", "retention"} == row["metrics"].keys()
    assert row["ratio"]["nominal"] == pytest.approx(nominal_ratio(tiny_encoder), rel=0.002)
    whole, file = (row["bytes"][kind] for kind in ("nominal", "file"))
    assert 1 < file / whole < 1.07 and row["note"] == "4 steps"  # names and layout of so few codes
    assert start["note"].startswith("4 steps; goal: loss ")
