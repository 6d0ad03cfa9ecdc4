"""Notebook 08: its explorer's pure functions and drawing, and the edges of its exercises."""

import time

import pytest
import torch
from torch.testing import assert_close

from tqlearn import distill
from tqlearn.lab.exercises import complaint, find
from tqlearn.lab.exercises import n08_distillation as n08
from tqlearn.lab.explorers import distillation as d
from tqlearn.lab.results import measured


def metrics(value):
    return {name: float(value) for name in d.METRICS.values()}


def row(name, value, role="student"):
    return {"model": name, "role": role, "metrics": metrics(value)}


@pytest.fixture
def rows():
    """Two students, two seeds, steps 2 and 4; one of them also for eight steps."""
    found = [row("teacher", 90, "baseline"), row("every student / 0 steps / seed 0 / step 0", 10)]
    for seed in (0, 1):
        for step in (2, 4):
            found.append(row(f"labels / 4 steps / seed {seed} / step {step}", 10 * step + seed))
            found.append(row(f"both, T = 4 / 4 steps / seed {seed} / step {step}", 5 * step))
        for step in (4, 8):
            found.append(row(f"labels / 8 steps / seed {seed} / step {step}", 10 * step))
    return found


def test_rows_are_sorted_by_student_seed_and_step(rows):
    found = d.runs(rows)
    assert list(found) == ["labels", "both, T = 4", "labels, 8 steps"]
    assert list(found["labels"]) == [0, 1] and list(found["labels"][1]) == [0, 2, 4]
    assert found["labels"][1][4] == metrics(41) and found["labels"][1][0] == metrics(10)


def test_mean_and_span_over_the_seeds(rows):
    points = d.over_seeds(d.runs(rows)["labels"], "slot_f1")
    assert points[0] == {"step": 0, "mean": 10.0, "low": 10.0, "high": 10.0}
    assert points[2] == {"step": 4, "mean": 40.5, "low": 40.0, "high": 41.0}


def test_endings_are_the_last_steps(rows):
    found = d.endings(d.runs(rows), ["slot_f1"])
    assert [(row["student"], row["step"], row["mean"]) for row in found] == [
        ("labels", 4, 40.5),
        ("both, T = 4", 4, 20.0),
        ("labels, 8 steps", 8, 80.0),
    ]


def test_a_row_without_a_name_that_can_be_read_is_refused(rows):
    with pytest.raises(ValueError, match="student / N steps / seed S / step K.*got 'labels'"):
        d.runs([*rows, row("labels", 1)])


def test_the_measured_rows_are_complete():
    """Every student has the same seeds, and every seed the same checkpoints."""
    found = d.runs(measured("embedded_distillation").rows)
    assert len(found) == 12
    for name, seeds in found.items():
        last = 600 if name.endswith("600 steps") else 200
        steps = [last * n // d.CHECKPOINTS for n in range(d.CHECKPOINTS + 1)]
        assert len(seeds) == 3 and all(sorted(run) == steps for run in seeds.values()), name
        assert all(set(run[last]) == set(d.METRICS.values()) for run in seeds.values())


def test_training_moves_what_it_teaches():
    """A signal alone brings its own metric closer, by the last step, for every seed."""
    found = d.runs(measured("embedded_distillation").rows)
    for name, metric in (("hidden", "hidden_1"), ("attention", "attention_2")):
        for run in found[name].values():
            assert run[200][metric] < 0.7 * run[0][metric]
    for run in found["labels"].values():
        assert run[200]["slot_f1"] > 3 * run[0]["slot_f1"]


@pytest.fixture
def explorer():
    return d.distillation_explorer(measured("embedded_distillation").rows)


def test_a_moved_control_draws_what_a_fresh_figure_would(explorer):
    rows = measured("embedded_distillation").rows
    found = d.runs(rows)
    teacher = next(row["metrics"] for row in rows if row["role"] == "baseline")
    for student, other, metric, eighth in (
        ("attention", "everything, 600 steps", "hidden_2", 3),
        ("labels", "labels", "intent_accuracy", 0),
    ):
        explorer.controls["student"].value, explorer.controls["other"].value = student, other
        explorer.controls["metric"].value, explorer.controls["eighth"].value = metric, eighth
        fresh, words = d.draw_distillation(student, other, metric, eighth, found, teacher)
        assert explorer.caption.value == words
        assert explorer.figure.layout.title.text == fresh.layout.title.text
        for mine, other_trace in zip(explorer.figure.data, fresh.data, strict=True):
            assert list(mine.y) == list(other_trace.y) and list(mine.x) == list(other_trace.x)


def test_the_drawing_shows_the_numbers_of_the_table(rows):
    found = d.runs(rows)
    fig, words = d.draw_distillation("labels", "both, T = 4", "slot_f1", 2, found, metrics(90))
    blue, red = (trace for trace in fig.data if trace.showlegend is None and trace.line.width == 3)
    assert list(blue.y) == [10.0, 25 - 4.5, 40.5] and list(red.y) == [10.0, 10.0, 20.0]
    assert "labels, step 4" in words and words.count("<tr>") == 4
    ends = [d.draw_distillation("labels", "labels", "slot_f1", at, found, metrics(90))[0].layout
            for at in (0, 2)]  # fmt: skip
    assert ends[0].xaxis.range == ends[1].xaxis.range, "the axis does not follow the circles"


def test_a_callback_takes_less_than_300_ms(explorer):
    start = time.thread_time()
    explorer.controls["metric"].value = "attention_1"
    assert time.thread_time() - start < 0.3


def test_the_references_are_the_librarys():
    torch.manual_seed(0)
    s, t = torch.randn(2, 6, 5)
    labels = torch.tensor([0, 1, -100, 2, 3, -100])
    soft = distill.soft_labels(s, t, 3.0, mask=labels != -100)
    assert_close(n08.hinton_loss(s, t, labels, 3.0, 1.0), soft)
    hard = torch.nn.functional.cross_entropy(s, labels)
    assert_close(n08.hinton_loss(s, t, labels, 3.0, 0.25), 0.75 * hard + 0.25 * soft)
    hot = distill.soft_labels(s.double(), t.double(), 1e4)
    assert_close(n08.high_temperature_limit(s.double(), t.double()), hot, rtol=1e-3, atol=0)


def test_the_references_do_not_see_padding():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    s, t = torch.randn(2, 2, 3, 4)
    a, b = torch.randn(2, 2, 2, 3, 3)
    before = n08.relative_distance(s, t, mask), n08.score_distance(a, b, mask)
    s[mask == 0], t[mask == 0] = 7.0, -7.0
    a[:, :, mask[0] == 0], b[1, :, :, 1:] = 50.0, -50.0
    assert_close((n08.relative_distance(s, t, mask), n08.score_distance(a, b, mask)), before)
    assert n08.relative_distance(torch.zeros(2, 3, 4), t, mask) == 1.0


def test_other_right_answers_pass():
    def with_torch(student, teacher, labels, temperature, share):
        kept = labels >= 0
        soft = torch.nn.functional.kl_div(
            (student[kept] / temperature).log_softmax(-1),
            (teacher[kept].detach() / temperature).softmax(-1),
            reduction="batchmean",
        )
        hard = torch.nn.functional.cross_entropy(student, labels, ignore_index=-100)
        return (1 - share) * hard + share * soft * temperature**2

    def by_variance(student, teacher):
        return (student - teacher).var(-1, unbiased=False).mean() / 2

    def boolean(student, teacher, mask):
        real = mask.bool()
        return (student[real] - teacher[real]).norm() / teacher[real].norm()

    for id, answer in (("08.1", boolean), ("08.2", with_torch), ("08.4", by_variance)):
        assert complaint(find(id), answer) is None


def test_a_detached_student_is_told_about_its_gradient():
    def detached(student, *rest):
        return n08.hinton_loss(student.detach(), *rest)

    words = complaint(find("08.2"), detached)
    assert words.endswith("the values are right, but no gradient passes through")
