"""Notebook 10: what its explorer computes and draws, and the edges of its exercises."""

import time

import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertModel

import tqlearn as tq
from tqlearn.factors.kronecker_layers import KroneckerEmbedding
from tqlearn.lab import exercises
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n10_kroneckerbert as n10
from tqlearn.lab.explorers import kronecker_bert as explorer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.results import measured
from tqlearn.recipes import kronecker_bert as recipe


@pytest.fixture(scope="module")
def teacher():
    return tq.teachers.load("embedded")[0]


@pytest.fixture(scope="module")
def table(teacher):
    return explorer.setting_table(teacher)


@pytest.fixture
def widget(table):
    return explorer.kronecker_bert_explorer(table)


def find(table, model, attention, ffn, row, sums=1):
    keys = ("model", "attention", "ffn", "row", "sums")
    wanted = (model, attention, ffn, row, sums)
    return next(one for one in table if tuple(one[key] for key in keys) == wanted)


def models(teacher):
    with torch.device("meta"):
        small = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
        return {
            "BERT-base": BertModel(BertConfig()),
            "MiniLM": BertModel(small),
            "our teacher": teacher,
        }


@pytest.mark.parametrize("setting", ["KB8", "KB21"])
def test_published_settings_count_as_the_recipes_plan_does(table, teacher, setting):
    for name, model in models(teacher).items():
        whole = sum(p.numel() for p in model.parameters())
        assert sum(explorer.dense_parts(name).values()) == whole
        shown = tq.preview(model, recipe.plan(model.config, setting))
        row = find(table, name, *explorer.PUBLISHED[setting])
        assert row["numbers"] == whole - shown.before + shown.after == sum(row["parts"].values())
        assert row["times"] == pytest.approx(whole / row["numbers"])


def test_the_papers_sizes_and_flops(table):
    kb8 = find(table, "BERT-base", (2, 2), 8, 8)
    kb21 = find(table, "BERT-base", (2, 16), 16, 16)
    assert (kb8["numbers"], kb21["numbers"]) == (14_654_216, 5_228_272)
    assert kb8["flops"] == 12 * 128 * (4 * 591_360 + 598_272 + 600_576)
    assert kb21["flops"] == 12 * 128 * (4 * 75_936 + 303_744 + 306_048)
    four = find(table, "BERT-base", (2, 2), 8, 8, 4)
    assert four["parts"]["attention"] == 48 * 589_840 > 48 * 768 * 768
    assert four["flops"] == 4 * kb8["flops"]
    assert four["parts"]["word table"] == kb8["parts"]["word table"], "the table is one product"


def test_start_errors_are_those_of_the_compressed_teacher(table, teacher):
    for setting, dials in explorer.PUBLISHED.items():
        student = tq.compress(teacher, recipe.plan(teacher.config, setting))
        layers = dict(student.bert.named_modules())
        lost = total = 0.0
        for name, module in teacher.bert.named_modules():
            if name.startswith("encoder") or name.endswith("word_embeddings"):
                weight = getattr(module, "weight", None)
                if weight is None or weight.dim() != 2:
                    continue
                gap = weight.detach() - layers[name].dense().weight.detach()
                lost += gap.double().square().sum().item()
                total += weight.detach().double().square().sum().item()
        error = find(table, "our teacher", *dials)["error"]
        assert error == pytest.approx((lost / total) ** 0.5, rel=1e-5)


def test_more_products_start_nearer_and_cost_more(table):
    for row in table:
        if row["sums"] > 1:
            dials = [row[key] for key in ("model", "attention", "ffn", "row")]
            fewer = find(table, *dials, row["sums"] // 2)
            assert row["error"] < fewer["error"] and row["numbers"] > fewer["numbers"]
    assert len(table) == 3 * 6 * 4 * 4 * 3


def test_a_moved_control_draws_what_a_fresh_figure_would(widget, table):
    for model, attention, ffn, row, sums in (
        ("MiniLM", (2, 16), 16, 16, 1),
        ("our teacher", (16, 16), 4, 2, 4),
    ):
        for name, value in zip(
            ("model", "attention", "ffn", "row", "sums"),
            (model, attention, ffn, row, sums),
            strict=True,
        ):
            widget.controls[name].value = value
        fresh, words = explorer.draw_settings(model, attention, ffn, row, sums, table)
        assert widget.caption.value == unbroken(words)
        assert widget.figure.layout.title.text == fresh.layout.title.text
        for mine, other in zip(widget.figure.data, fresh.data, strict=True):
            assert list(mine.y) == list(other.y) and list(mine.x) == list(other.x)


def test_the_drawing_shows_the_table(table):
    fig, words = explorer.draw_settings("BERT-base", (2, 2), 8, 8, 4, table)
    cloud, published, mine, *bars = fig.data
    row = find(table, "BERT-base", (2, 2), 8, 8, 4)
    assert len(cloud.x) == 6 * 4 * 4 and list(published.text) == ["KB8", "KB21"]
    assert (mine.x[0], mine.y[0]) == (row["times"], 100 * row["error"])
    for column in (0, 1):
        assert sum(bar.y[column] for bar in bars) == pytest.approx(100)
    assert "46,506,440 numbers" in words and "Larger than before: attention!" in words
    low, high = fig.layout.yaxis.range
    assert all(low < 100 * one["error"] < high for one in table)
    low, high = fig.layout.xaxis.range  # logarithms
    assert all(10**low < one["times"] < 10**high for one in table)


def test_a_callback_takes_less_than_300_ms(widget):
    start = time.thread_time()
    widget.controls["model"].value = "our teacher"
    assert time.thread_time() - start < 0.3


def test_the_table_of_results_has_words_of_its_own():
    """It ends a cell, so what is stored is its text and its page, not a dataclass's fields."""
    record = measured("kronecker_bert_sst2")
    assert repr(record) == str(record) and "rows=[" not in repr(record)


def test_four_products_of_kb5_do_not_pay():
    assert n10.most_products(768, 768, 384, 384, 1.0) == 3
    assert n10.most_products(768, 768, 384, 384, 4.0) == 0
    assert n10.most_products(3072, 768, 2, 16, 16.0) == 1  # 73,760 of 147,456
    assert check(
        "10.1", lambda r, c, n1, m1, t: r * c // (t * (m1 * n1 + r * c / (m1 * n1)))
    ).passed


def test_hidden_words_follow_both_draws():
    ids, others = torch.tensor([[7, 8, 9, 5, 6]]), torch.tensor([[70, 80, 90, 50, 60]])
    real = torch.tensor([[True, True, True, True, False]])
    draw = torch.tensor([[0.1, 0.1, 0.1, 0.15, 0.1]])
    fate = torch.tensor([[0.79, 0.8, 0.9, 0.1, 0.1]])
    inputs, labels = n10.hide(ids, real, draw, fate, others, 3)
    assert inputs.tolist() == [[3, 80, 9, 5, 6]]
    assert labels.tolist() == [[7, 8, 9, -100, -100]]


def test_other_ways_to_hide_pass():
    def in_place(ids, real, draw, fate, others, mask_id):
        inputs, labels = ids.clone(), torch.full_like(ids, -100)
        asked = real & (draw < 0.15)
        labels[asked] = ids[asked]
        inputs[asked & (fate < 0.9)] = others[asked & (fate < 0.9)]
        inputs[asked & (fate < 0.8)] = mask_id
        return inputs, labels

    assert check("10.2", in_place).passed
    answer = check("10.2", lambda ids, *rest: n10.hide(ids.fill_(5), *rest))
    assert "changes its arguments" in answer.line


def test_word_loss_is_the_librarys():
    layer = KroneckerEmbedding(50, (6, 4))
    (a, b), h, bias = layer.factors[0], torch.randn(7, 24), torch.randn(50)
    labels = torch.tensor([3, -100, -100, 49, 0, -100, -100])
    asked = labels != -100
    wanted = torch.nn.functional.cross_entropy(layer.logits(h)[asked] + bias, labels[asked])
    assert_close(n10.word_loss(h, labels, a, b, bias), wanted)
    observed = exercises.find("10.3").observe(
        n10.word_loss, (h, labels, a.detach(), b.detach(), bias)
    )
    assert observed.flops == 2 * 3 * (24 + 50 * 6), "three tokens, d + v d / n each"


def test_gain_and_doubt_by_hand():
    before = torch.tensor([True, True, False, False, True])
    after = torch.tensor([True, True, True, True, False])
    gain, doubt = n10.gain_and_doubt(before, after)
    assert gain == pytest.approx(20.0)
    assert doubt == pytest.approx(100 * (0.56 / 5) ** 0.5)  # changes 0 0 1 1 -1, mean 0.2
    assert n10.gain_and_doubt(before, before) == (0.0, 0.0)


def test_gain_and_doubt_by_counting_passes():
    def counted(before, after):
        won, lost = (after & ~before).sum().item(), (before & ~after).sum().item()
        n = len(before)
        return 100 * (won - lost) / n, 100 * (
            (won + lost) / n - ((won - lost) / n) ** 2
        ) ** 0.5 / n**0.5

    assert check("10.4", counted).passed
