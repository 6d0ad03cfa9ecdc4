"""Notebook 15: its explorer, the intervals and cells behind it, and the ledgers of all lessons."""

import json
import time

import numpy as np
import pytest
import torch

from tqlearn.lab import exercises, ledger, pareto, whole_course
from tqlearn.lab.check import check
from tqlearn.lab.explorers import draw_front, in_words, pareto_lab_explorer

PLAN = {"*.attention.*": [{"edit": "LowRank", "rank": 8}, {"edit": "LSQ", "bits": 3}],
        "*": [{"edit": "LSQ", "bits": 4, "per": "channel"}]}  # fmt: skip


def row(size, numbers, slots, intents=100.0, held=None):
    def metrics(score):
        return {"slot_f1": score, "intent_accuracy": intents, "score": (score + intents) / 2}

    return {"plan": PLAN, "bytes": size, "numbers": numbers, "chose": metrics(slots),
            "held": metrics(slots - 1 if held is None else held)}  # fmt: skip


ROWS = [row(150_000, 500_000, 80.0), row(190_000, 300_000, 90.0, held=88.0),
        row(200_000, 400_000, 85.0), row(260_000, 580_000, 95.0)]  # fmt: skip


def test_the_front_is_drawn_and_the_best_within_the_budget_is_ringed():
    fig, words = draw_front(200, "bytes", "slot_f1", rows=ROWS)
    everyone, front, ring, diamond = fig.data
    assert list(everyone.x) == [150, 190, 200, 260]
    assert list(front.x) == [150, 190, 260] and list(front.y) == [80, 90, 95]
    assert (list(ring.x), list(ring.y), list(diamond.y)) == ([190], [90], [88])
    assert "90.0 % on the sentences that chose, 88.0 % on others; 190,000 bytes" in words
    assert "3 of 4 trials are on the front" in words and in_words(PLAN) in words


def test_other_objectives_give_other_fronts():
    by_numbers = draw_front(300, "numbers", "slot_f1", rows=ROWS)[0].data[1]
    assert list(by_numbers.x) == [300, 580], "the smallest file has more numbers than the best two"
    fig, words = draw_front(300, "bytes", "intent_accuracy", rows=ROWS)
    assert list(fig.data[1].x) == [150], "where all are right, the smallest is all there is"
    assert list(fig.data[2].x) == [150] and "1 of 4" in words
    _, words = draw_front(200, "numbers", "intent_accuracy", rows=ROWS)
    assert "something smaller is as good" in words


def test_a_budget_that_nothing_fits_says_so():
    fig, words = draw_front(140, "bytes", "slot_f1", rows=ROWS)
    assert fig.layout.title.text == "Within 140 kB: no trial" and not fig.data[2].x
    assert words.startswith("<b>No trial is this small.</b>")


def test_callbacks_answer_in_time():
    explorer = pareto_lab_explorer(ROWS * 10)
    start = time.perf_counter()
    explorer.controls["limit"].value = 260
    explorer.controls["small"].value = "numbers"
    assert time.perf_counter() - start < 0.6
    assert "260 kB, slots 95.0 %" in explorer.figure.layout.title.text


def test_unbeaten_is_what_the_learner_writes():
    chance = torch.Generator().manual_seed(0)
    sizes, scores = torch.randint(0, 6, (2, 40), generator=chance).double()
    mine = exercises.find("15.b").answer(sizes, scores)
    models = [*zip(sizes.tolist(), scores.tolist(), strict=True)]
    kept = pareto.unbeaten(models, lambda m: m[0], lambda m: m[1])
    assert sorted(kept) == sorted(
        m for m, out in zip(models, mine.tolist(), strict=True) if not out
    )
    assert 0 < len(kept) < 40


def test_a_difference_of_one_metric_and_of_all():
    n = 200
    one = {"intents": np.ones((1, n)), "right": np.full((1, n), 2.0),
           "found": np.full((1, n), 2.0), "gold": np.full((1, n), 2.0)}  # fmt: skip
    other = one | {"right": np.tile([2.0, 1.0], n // 2)[None]}
    slots = pareto.difference(one, other, metric="slot_f1")
    both = pareto.difference(one, other)
    assert slots["difference"] == 25 and both["difference"] == 12.5
    assert pareto.verdict(slots) == "wins"
    assert pareto.verdict(pareto.difference(other, one)) == "loses"
    assert pareto.verdict(pareto.difference(one, one)) == "ties"


def test_no_record_is_none_and_a_record_is_whole(tmp_path):
    assert pareto.runs_of("pareto_flights", tmp_path) is None
    record = pareto.runs_of("pareto_flights")
    lines = pareto.summary(record)
    for line in lines:
        assert line["size"] in record["sizes"] and line["bytes"] <= line["size"]
        assert line["seeds"] >= pareto.SEEDS and line["control"] != line["arm"]
    assert {line["size"] for line in lines} == set(pareto.whole_sizes(record)) != set()


@pytest.fixture
def _empty(monkeypatch, tmp_path):
    monkeypatch.setenv("TQLEARN_LEDGER", str(tmp_path / "ledger.json"))


def entry(notebook, model, size, slots):
    return {"notebook": notebook, "model": model, "bytes": size, "macs": 7, "slot_f1": slots,
            "intent_accuracy": 97.5, "cpu_ms": 0.5}  # fmt: skip


def test_a_printed_table_is_read_back():
    rows = [entry("--", "teacher", 2_302_596, 86.0), entry("12", "a 2:4, W4A4", 432_944, 84.5)]
    assert whole_course.printed(ledger.table(rows)) == rows


def test_the_whole_course_is_on_one_picture(_empty):
    stored = whole_course.stored()
    notebooks = {row["notebook"] for row in stored}
    assert notebooks == {"--", *(f"{n:02}" for n in range(17))}
    assert [row["bytes"] for row in stored if row["notebook"] == "--"] == [2_302_596]
    ledger.put([entry("09", "mine", 100_000, 84.0)])
    joined = whole_course.joined(ledger.rows(), stored)
    assert [row["model"] for row in joined if row["notebook"] == "09"] == ["mine"]
    assert {row["notebook"] for row in joined} == notebooks
    fig = whole_course.draw(joined)
    everyone, front = fig.data
    assert front.x[0] == 100 and "09 mine" in front.hovertext
    assert list(front.y) == sorted(front.y) and list(front.x) == sorted(front.x)
    below = sum(row["slot_f1"] < whole_course.FLOOR for row in joined)
    assert len(everyone.x) == len(joined) - below
    assert fig.layout.title.text.startswith(f"The whole course: {len(joined)} models")


def test_the_capstone_is_judged_by_bytes_and_by_slots():
    from tqlearn import LSQ

    def same(bits, per="tensor"):
        return lambda budget: {"*": [LSQ(bits=bits, init="mse", per=per)]}

    large = check("15.3", same(4)).line
    assert "its file has 309,632 bytes, and" in large and large.startswith("FAIL 15.3")
    assert "two bits everywhere fit" in check("15.3", same(2)).line
    assert "the plan is refused" in check("15.3", lambda budget: {"*.nothing": [LSQ(bits=2)]}).line
    assert "return a plan" in check("15.3", lambda budget: [LSQ(bits=2)]).line
    assert "the library's edits" in check("15.3", lambda budget: {"*": [lambda m: m]}).line


def test_words_of_a_plan():
    assert in_words(PLAN) == "attention LowRank 8, 3 bits; rest 4 bits per row"
    assert in_words(json.loads('{"*.output.dense": []}')) == "output as it is"
