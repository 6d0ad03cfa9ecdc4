"""Notebook 16: what its explorer counts and draws, and the edges of its exercises."""

import math
import time
from itertools import product

import pytest
import torch

import tqlearn as tq
from tqlearn.lab.check import check
from tqlearn.lab.explorers import language_model as explorer
from tqlearn.lab.results import measured
from tqlearn.posttraining import folds_of, hadamard, sweep

FLOATS = (5.6, 1.6e6)


@pytest.fixture(scope="module")
def model():
    return tq.teachers.load("decoder")[0]


@pytest.fixture(scope="module")
def table(model):
    names = product(explorer.METHODS, explorer.BITS, explorer.GROUPS.values(), (False, True))
    rows = [
        {"model": explorer.setting(*one), "metrics": {"perplexity": 5 + k / 2}}
        for k, one in enumerate(names)
    ]
    return explorer.language_table(model, rows)


def find(table, **settings):
    (row,) = [r for r in table if all(r[key] == value for key, value in settings.items())]
    return row


def test_a_planted_channel_changes_weights_and_no_output(model):
    ids = torch.arange(2, 90)[None]
    planted = explorer.plant(model, factor=16.0, channel=3)
    with torch.no_grad():
        torch.testing.assert_close(planted(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    for fold in folds_of(model):
        for name in fold.readers:
            before, after = (m.get_submodule(name).weight for m in (model, planted))
            if name.endswith("v_proj"):  # a row of it was divided, too
                before, after = (torch.cat([w[:3], w[4:]]) for w in (before, after))
            many = (before != after).any(0)
            if name.endswith("down_proj"):
                assert not many.any()
            else:  # query heads that share a value share its channel
                assert torch.equal(fold.channel[many], torch.full((int(many.sum()),), 3))
                torch.testing.assert_close(after[:, many], 16 * before[:, many])
    assert sum(p.numel() for p in planted.parameters()) == sum(
        p.numel() for p in model.parameters()
    )


def test_bytes_are_codes_and_scales(model):
    linear = [m.weight for n, m in model.named_modules()
              if isinstance(m, torch.nn.Linear) and ".layers." in n]  # fmt: skip
    numbers, rows = sum(w.numel() for w in linear), sum(len(w) for w in linear)
    assert explorer.layer_bytes(model, 32, "tensor") == 4 * numbers
    assert explorer.layer_bytes(model, 4, "tensor") == numbers / 2 + 4 * 14
    assert explorer.layer_bytes(model, 3, "channel") == numbers * 3 / 8 + 4 * rows
    assert explorer.layer_bytes(model, 2, 32) == numbers / 4 + numbers / 8
    student = explorer.rounded(model, [], 4, 32, "to nearest")
    sizes = [
        r["bytes"]
        for r in tq.report(student).rows
        if ".layers." in r["name"] and "_proj" in r["name"]
    ]
    assert sum(sizes) == explorer.layer_bytes(model, 4, 32)


def test_methods_round_the_layers_and_nothing_else(model):
    ids = [{"input_ids": torch.randint(2, 900, (4, 64))}]
    students = {method: explorer.rounded(model, ids, 3, 64, method) for method in explorer.METHODS}
    for method, student in students.items():
        layers = [m for n, m in student.named_modules() if n.endswith("_proj")]
        assert len(layers) == 14 and all(len(m.parametrizations.weight) == 1 for m in layers)
        same = torch.equal(student.model.embed_tokens.weight, model.model.embed_tokens.weight)
        assert same != method.startswith("rotated")
    one, two = (students[m].model.layers[0].mlp.up_proj for m in ("to nearest", "GPTQ"))
    scales = [m.parametrizations.weight[0].scale for m in (one, two)]
    assert torch.equal(*scales) and not torch.equal(one.weight, two.weight)


def test_a_table_holds_what_was_measured(model, table):
    assert len(table) == 3 * 7 * 4 * 2
    row = find(table, method="GPTQ", bits=3, group="64", planted=True)
    assert row["bytes"] == explorer.layer_bytes(model, 3, 64)
    few = [{"model": "GPTQ, 3 bits per 64", "metrics": {"perplexity": 7.0}}]
    (only,) = explorer.language_table(model, few)
    assert (only["perplexity"], only["planted"]) == (7.0, False)


def test_what_is_drawn_is_what_was_measured(table):
    fig, words = explorer.draw_language(3, "64", "GPTQ", True, table, FLOATS)
    assert [t.name for t in fig.data] == [*explorer.METHODS, "yours"]
    for trace, method in zip(fig.data, explorer.METHODS, strict=False):
        line = [find(table, method=method, bits=b, group="64", planted=True) for b in explorer.BITS]
        assert list(trace.y) == [r["perplexity"] for r in line]
        assert list(trace.x) == [r["bytes"] / 1e3 for r in line]
    row = find(table, method="GPTQ", bits=3, group="64", planted=True)
    assert (fig.data[-1].x[0], fig.data[-1].y[0]) == (row["bytes"] / 1e3, row["perplexity"])
    assert f"Perplexity {row['perplexity']:.2f}, in floats 5.60" in words
    assert "to nearest" in words and f"{1.6e6 / row['bytes']:.1f} times smaller" in words
    over, words = explorer.draw_language(8, "32", "rotated GPTQ", True, table, FLOATS)
    assert over.data[-1].y[0] == explorer.MOST < 88 and "perplexity 88.50" in over.layout.title.text
    low, high = fig.layout.xaxis.range
    assert all(low < r["bytes"] / 1e3 < high for r in table)


def test_a_moved_slider_is_a_fresh_figure(table):
    widget = explorer.language_model_explorer(table, FLOATS)
    first = {"bits": 3, "group": "a row", "method": "to nearest", "planted": False}
    assert widget.settings() == first
    for group, method, planted in product(("a matrix", "32"), explorer.METHODS, (False, True)):
        start = time.perf_counter()
        for name, value in (("group", group), ("method", method), ("planted", planted)):
            widget.controls[name].value = value
        assert (time.perf_counter() - start) / 3 < 0.3, "an answer takes at most 300 ms"
        fresh, words = explorer.draw_language(3, group, method, planted, table, FLOATS)
        assert widget.caption.value == words
        assert [t.y for t in widget.figure.data] == [t.y for t in fresh.data]


def test_the_measured_table_is_the_explorers(model):
    rows = measured("decoder_bits").rows
    short = [row for row in rows if "scales in" in row["model"]]
    assert len(explorer.language_table(model, rows)) == len(rows) - len(short) - 1


def test_other_right_answers_pass():
    def by_power(p):
        return p.prod() ** (-1 / len(p))

    def by_place(rest, error, row):
        return rest - error[:, None] * row[None, :]

    def by_counting(weight_bytes, layers, heads, kv_heads, hidden, bits):
        numbers = 2 * layers * kv_heads * hidden / heads
        return math.ceil(weight_bytes / (numbers * bits / 8))

    def from_the_other_end(x):
        rows, width = x.shape
        half = width // 2
        while half:
            pairs = x.reshape(rows, -1, 2, half)
            both = [pairs.sum(2), pairs[:, :, 0] - pairs[:, :, 1]]
            x, half = torch.stack(both, 2).reshape(rows, width), half // 2
        return x / math.sqrt(width)

    def by_gram(w, X, powers):
        gram, found = X.T @ X, []
        for power in powers:
            s = X.abs().mean(0) ** power
            s = s / (s.max() * s.min()).sqrt()  # AWQ's: it cancels where each row has its scale
            step = (w * s).abs().amax(1, keepdim=True) / 7
            d = step * (w * s / step).round() / s - w
            found.append((((d @ gram) * d).sum().item(), power, d + w))
        return min(found, key=lambda one: one[0])[1:]

    def by_the_library(W, H, scale):
        grid = lambda column, k: scale[:, None] * (column / scale[:, None]).round().clamp(-4, 3)  # noqa: E731
        return sweep(W, H, grid, damping=0.0, by_size=True)

    answers = {"16.a": by_power, "16.b": by_place, "16.1": by_counting, "16.2": from_the_other_end,
               "16.3": by_gram, "16.4": by_the_library}  # fmt: skip
    for id, answer in answers.items():
        assert check(id, answer).passed, check(id, answer)


def test_a_matrix_is_no_fast_rotation():
    def with_a_matrix(x):
        return x @ hadamard(x.shape[1]) / x.shape[1] ** 0.5

    assert "multiplies with a matrix" in str(check("16.2", with_a_matrix))
