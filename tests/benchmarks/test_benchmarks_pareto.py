"""Method against method: what fits in a size, what is chosen on which split, what a kill costs."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BENCHMARKS, result

import tqlearn as tq
from tqlearn import data, teachers
from tqlearn.hf import evaluate_joint

DENSE, PAIR = "dense, 2 bits", "low rank, 4 bits"


@pytest.fixture(scope="module")
def embedded():
    return teachers.load("embedded")


@pytest.fixture
def shop(script, embedded):
    """A shop whose words all occur alike, and whose FFN dimensions matter by their number."""
    arms = script("pareto_arms")
    teacher, _ = embedded
    batch = {
        "input_ids": torch.randint(10, 1000, (4, 9)),
        "attention_mask": torch.ones(4, 9, dtype=torch.long),
        "intent_labels": torch.randint(12, (4,)),
        "slot_labels": torch.randint(40, (4, 9)),
    }
    counts = torch.arange(1000).float()
    return arms.Shop(teacher, counts, lambda: arms.importance(teacher, [batch]))


@pytest.fixture
def table(script, few_rows, monkeypatch, tmp_path):
    """The module, and a function that goes on with a quick table of flights in this process.

    Its arms: one that fills both sizes, one that fills the larger, one that fills neither. The
    teacher has its first layer alone, and a sentence one copy: that is enough to choose between.
    """
    pareto, load = script("pareto"), teachers.load

    def shallow(name):
        teacher, tokenizer = load(name)
        teacher.bert.encoder.layer = teacher.bert.encoder.layer[:1]
        teacher.config.num_hidden_layers = 1
        return teacher, tokenizer

    monkeypatch.setattr(teachers, "load", shallow)
    monkeypatch.setattr(pareto, "QUICK", [arm for arm in pareto.QUICK if arm.structure != "narrow"])
    monkeypatch.setitem(pareto.TASKS, "flights", replace(pareto.TASKS["flights"], copies=1))

    def go_on(*options: str) -> dict:
        out = tmp_path / "t.json"
        words = [str(BENCHMARKS / "pareto.py"), "flights", "--quick", "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", words)
        pareto.main()
        return json.loads(out.read_text())

    return pareto, go_on


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["low rank", "tensor train", "Kronecker", "pruned", "narrow"])
def test_an_arm_fills_a_size_to_the_byte_that_report_says(script, shop, structure, monkeypatch):
    arms = script("pareto_arms")
    monkeypatch.setattr(arms, "ORDERS", arms.ORDERS[:1])
    monkeypatch.setattr(arms, "SMALL", ((2, 2),))
    monkeypatch.setattr(arms, "RATIOS", [1.05**-k for k in range(-20, -5)])
    monkeypatch.setattr(arms, "COLUMNS", (16,))
    limit = 200_000
    arm = arms.Arm(structure, 4)
    cell = shop.fit(arm, limit)
    assert arms.FILLED * limit <= cell["file"] <= limit
    student = shop.start(arm, cell)
    assert tq.report(student).file == cell["file"]
    with pytest.raises(ValueError, match="the code has changed"):
        shop.start(arm, cell | {"file": cell["file"] + 1})


def test_what_no_form_fills_is_said(script, shop):
    arms = script("pareto_arms")
    whole = shop.largest(arms.Arm("dense", 2))
    assert shop.fit(arms.Arm("dense", 2), whole) == {"form": "dense", "dial": 0, "file": whole}
    assert shop.fit(arms.Arm("dense", 2), whole - 1) == {
        "reason": f"its smallest file has {whole:,} bytes"
    }
    found = shop.fit(arms.Arm("dense", 2), 2 * whole)
    assert found == {"reason": f"its largest file within the size has {whole:,} bytes, 50%"}


def test_all_arms_treat_the_same_layers(script, shop):
    """Positions, token types and classifiers have 8 bits in every arm, and nothing is left out."""
    arms = script("pareto_arms")
    for arm in (arms.Arm("dense", 2), arms.Arm("low rank", 32), arms.Arm("shallow", 4)):
        base, plan = next(iter(shop.forms(arm))).make(next(iter(shop.forms(arm))).dial[-1])
        bits = {
            row["name"]: row["bits"]
            for row in tq.report(tq.calibrate(tq.compress(base, plan))).rows
        }
        for name in ("bert.embeddings.position_embeddings", "intent_classifier", "slot_classifier"):
            assert 8 in bits[name]
        for name in arms.matrices(base):
            assert arm.bits in bits[name], name


def test_a_table_is_fitted_to_the_words_that_occur(script, embedded):
    """With modes (words, 1) the start is the weighted SVD; the rare rows pay for the others."""
    arms = script("pareto_arms")
    table = embedded[0].bert.embeddings.word_embeddings
    often = torch.ones(1000)
    often[500:] = 0.01
    modes = {"row_modes": (1000, 1), "col_modes": (1, 128)}
    for edit in (
        arms.WeightedTTM(8, **modes, often=tuple(often.tolist())),
        arms.WeightedKronecker(8, col_modes=(1, 128), often=tuple(often.tolist())),
    ):
        made = edit(table).product().detach()
        u, s, v = torch.linalg.svd(table.weight.detach() * often[:, None], full_matrices=False)
        best = (u[:, :8] * s[:8] @ v[:8]) / often[:, None]
        torch.testing.assert_close(made, best, rtol=1e-3, atol=1e-3)  # an SVD in other floats


def test_a_narrow_student_is_a_part_of_its_teacher(script, embedded):
    """As wide and deep as the teacher it is the teacher; narrower, its tensors are parts."""
    narrow = script("pareto_narrow")
    teacher, tokenizer = embedded
    words = {"input_ids": torch.randint(10, 1000, (2, 7))}
    same = narrow.student(teacher, 128, 512, "narrow")
    with torch.no_grad():
        torch.testing.assert_close(same(**words).slot_logits, teacher(**words).slot_logits)
    small = narrow.student(teacher, 64, 200, "shallow")
    assert small(**words).intent_logits.shape == (2, 13)
    ffn = small.bert.encoder.layer[0].intermediate.dense.weight
    assert len(small.bert.encoder.layer) == 1 and ffn.shape == (200, 64)
    whole = teacher.bert.encoder.layer[0].intermediate.dense.weight
    assert torch.isin(ffn, whole).all()


def test_pruning_keeps_the_parts_that_matter(script, shop):
    """All kept, the outputs are the teacher's; fewer kept, the least important are gone."""
    form = next(iter(shop.forms(script("pareto_arms").Arm("pruned", 32))))
    words = {"input_ids": torch.randint(10, 1000, (2, 7))}
    whole, _ = form.make(len(shop._order()) - 4)  # and the best head and dimension of each layer
    with torch.no_grad():
        torch.testing.assert_close(whole(**words).slot_logits, shop.teacher(**words).slot_logits)
    least, _ = form.make(0)
    sizes = [one.intermediate.dense.out_features for one in least.bert.encoder.layer]
    assert sizes == [1, 1]


def test_scores_are_those_of_the_library(script, embedded, few_rows):
    """Counts per sentence add up to ``evaluate_joint``, and their strings come back."""
    scores = script("pareto_scores")
    model, tokenizer = embedded
    rows = data.load("flights")["test"]
    counts = scores.counted(model, tokenizer, rows, 64)
    theirs = evaluate_joint(model, tokenizer, rows)
    mine = scores.percent(counts)
    for name in ("intent_accuracy", "slot_f1"):
        assert mine[name] == pytest.approx(theirs[name], abs=1e-3)
    back = scores.decoded(scores.coded(counts), len(rows))
    assert {name: values.tolist() for name, values in back.items()} == counts


def test_a_bootstrap_is_paired(script):
    """An arm that is right wherever another is, and once more, wins in every draw that has it."""
    difference = script("pareto_scores").difference
    one = {"correct": np.array([[1, 1, 1, 0] * 50] * 2)}
    other = {"correct": np.array([[1, 1, 0, 0] * 50] * 2)}
    found = difference(one, other)
    assert found["difference"] == 25 and 15 < found["low"] < 20 < 30 < found["high"] < 35
    same = difference(one, one)
    assert (same["low"], same["high"]) == (0, 0), "the same sentences for both arms"


@pytest.mark.slow
def test_a_killed_table_goes_on_by_its_rules_and_repeats_nothing(table, monkeypatch):
    pareto, go_on = table
    done, whole = [], pareto.Table.run

    def dying(self, unit, cell):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(tuple(unit.values()))
        return whole(self, unit, cell)

    monkeypatch.setattr(pareto.Table, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        go_on()
    monkeypatch.setattr(pareto.Table, "run", lambda self, unit, cell: done.append(
        tuple(unit.values())) or whole(self, unit, cell))  # fmt: skip
    record = go_on()
    assert len(done) == len(set(done)) == len(record["runs"])
    sizes = record["sizes"]
    assert [one[0] for one in done[:2]] == [DENSE, DENSE] and done[0][1] == sizes[1]
    cells = {(run["arm"], run["size"]) for run in record["runs"]}
    there = {(arm, int(s)) for arm, c in record["cells"].items() for s in c if "form" in c[s]}
    assert cells == there and (PAIR, sizes[0]) in there and (DENSE, sizes[0]) not in there
    assert "bytes" in record["cells"]["2:4, floats"][str(sizes[1])]["reason"]
    for run in record["runs"]:  # two rates with seed 0, then the better one with seed 1
        assert run["bytes"] == record["cells"][run["arm"]][str(run["size"])]["file"]
        own = [r for r in record["runs"] if (r["arm"], r["size"]) == (run["arm"], run["size"])]
        assert sorted(r["seed"] for r in own) == [0, 0, 1]
    there = f"{PAIR}, at {sizes[1] // 1000} kB"
    row = next(row for row in record["rows"] if row["model"] == there)
    assert row["metrics"]["low"] <= row["metrics"]["difference"] <= row["metrics"]["high"]
    assert any(text.startswith(f"{PAIR}: ") for text in record["said"])
    again = len(done)
    assert go_on()["runs"] == record["runs"] and len(done) == again, "nothing is left to do"
    with pytest.raises(ValueError, match="has seed 0, this run 1"):
        go_on("--seed", "1")


@pytest.mark.slow
def test_nothing_is_chosen_on_the_reported_split(table, script, monkeypatch, tmp_path):
    """It is read once at the end of a run; with other labels every choice stays the same."""
    pareto, go_on = table
    lessons, asked = script("pareto_lessons").Lessons, []
    counts, load = lessons.counts, data.load

    def asking(self, model, rows):
        asked.append("test" if rows is self.test else "held" if rows is self.held else "else")
        return counts(self, model, rows)

    def wrong(row):
        return {"intent": "fare", "slots": ["O"] * len(row["slots"])}

    def other(name, *args):
        dd = load(name, *args)
        dd["test"] = dd["test"].map(wrong)
        return dd

    monkeypatch.setattr(lessons, "counts", asking)
    monkeypatch.setattr(pareto, "QUICK", pareto.QUICK[1:2])
    plain = go_on()
    (tmp_path / "t.json").unlink()
    assert asked[0] == "test", "the teacher's"
    assert " ".join(asked[1:]) == " ".join(["held held test"] * len(plain["runs"]))
    monkeypatch.setattr(data, "load", other)
    poisoned = go_on()
    assert poisoned["cells"] == plain["cells"]
    pairs = [*zip(plain["runs"], poisoned["runs"], strict=True)]
    assert all(a["held"] == b["held"] and a["rate"] == b["rate"] for a, b in pairs)
    assert any(a["test"] != b["test"] for a, b in pairs), "and it is another split"
    summary = script("pareto_summary")
    blind = [{k: v for k, v in run.items() if k not in ("test", "counts")} for run in plain["runs"]]
    assert summary.finished(plain | {"runs": blind}).keys() == summary.finished(plain).keys()


def test_what_is_learned_held_out_and_reported_is_apart(script, few_rows):
    task = script("pareto").TASKS["flights"]
    made = script("pareto_lessons").Lessons(task, *teachers.load("embedded"))
    text = [" ".join(tokens) for tokens in made.held["tokens"]]
    half = len(text) // 2  # then come the same with other values
    assert half == 18 and len(made.lengths) == (1 + task.copies) * (128 - half)
    assert not set(text) & {" ".join(tokens) for tokens in made.test["tokens"]}
    words = [made.tokenizer(one.split(), is_split_into_words=True)["input_ids"] for one in text]
    learned = {
        tuple(ids[:n]) for ids, n in zip(made.rows["input_ids"].tolist(), made.lengths, strict=True)
    }
    assert not {tuple(ids) for ids in words[:half]} & learned


@pytest.mark.slow
@pytest.mark.parametrize("task", ["atis", "sst2"])
def test_other_tasks_run_by_the_same_code(quick, task, tiny_minilm, data_folder, tmp_path):
    record = quick("pareto", task, "--work", str(tmp_path / "work"))
    assert record["name"] == f"pareto_{task}" and record["sentences"] == 32
    score = {"atis": "slot_f1", "sst2": "accuracy"}[task]
    there = [
        cell for cells in record["cells"].values() for cell in cells.values() if "form" in cell
    ]
    assert len(record["runs"]) == 3 * len(there) > 0
    assert all(score in run["test"] and run["counts"] for run in record["runs"])


def test_the_committed_table_of_flights_is_whole():
    """Whatever has been run so far: equal bytes, five sizes, a reason for every hole."""
    record = result("pareto_flights")
    assert len(record["sizes"]) == 5 and not record["quick"]
    for arm, cells in record["cells"].items():
        assert [*cells] == [str(size) for size in record["sizes"]], arm
        for size, cell in cells.items():
            assert "reason" in cell or 0.9 * int(size) <= cell["file"] <= int(size)
    for run in record["runs"]:
        assert run["bytes"] == record["cells"][run["arm"]][str(run["size"])]["file"]


def test_a_size_is_spoken_of_once_every_arm_has_three_seeds(script):
    """A control that is missing could have won."""
    summary, record = script("pareto_summary"), result("pareto_flights")
    whole = summary.whole_sizes(record)
    told = [row["model"] for row in record["rows"][1:]]
    assert {name.rpartition(" at ")[2] for name in told} == {f"{n // 1000} kB" for n in whole}
    own = [(r["size"], r["arm"], r["seed"]) for r in record["runs"]]
    size, arm, _ = next(cell for cell in own if cell[0] in whole)
    assert len({seed for *cell, seed in own if cell == [size, arm]}) >= 3
    for late in (2, 1, 0):  # two seeds, one, none: the whole size is silent
        fewer = [r for r, cell in zip(record["runs"], own, strict=True)
                 if cell[:2] != (size, arm) or cell[2] < late]  # fmt: skip
        assert size not in summary.whole_sizes(record | {"runs": fewer})
        assert not [one for one in summary.summary(record | {"runs": fewer}) if one["size"] == size]
