"""Notebook 07: what its explorer counts and draws, and the edges of its exercises."""

import time

import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n07_block_pruning as n07
from tqlearn.lab.explorers import block_pruning as explorer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.sparsity.blocks import BlockMask, block_density, block_masks

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 50, "num_labels": 2,
}  # fmt: skip
STEPS = (0, 10, 20)


def scored(mean, seed=0):
    """A small model under a hybrid plan (heads of 8, blocks of 4) with scores around a mean."""
    torch.manual_seed(seed)
    dense = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    model = tq.compress(dense, tq.block_plan(dense, "hybrid", (4, 4))).eval()
    for mask in block_masks(model).values():
        if mask.source is mask:
            mask.scores.data.normal_(mean, 1.5)
    return model


@pytest.fixture(scope="module")
def runs():
    found = {}
    for penalty, drop in ((1.0, 1.0), (5.0, 2.0), (10.0, 3.5)):
        shots = {step: explorer.snapshot(scored(-drop * step / 20, 1), 0.1) for step in STEPS}
        shots[0]["threshold"] = 0.0
        found[penalty] = {"shots": shots, "slot_f1": 90.0 - penalty, "speed": 1 + penalty / 10}
    return found


@pytest.fixture
def widget(runs):
    return explorer.block_pruning_explorer(runs)


@pytest.mark.parametrize("mean", [0.0, -1.5, -2.5, -4.0, -9.0])
def test_counts_are_those_of_the_library(mean):
    """Heads, dimensions and both densities from the scores, against zeros in the model."""
    model = scored(mean)
    with torch.no_grad():  # one head without a value, one that nobody hears
        masks = block_masks(model)
        masks["bert.encoder.layer.0.attention.self.value"].scores[2:4] = -9.0
        masks["bert.encoder.layer.1.attention.output.dense"].scores[:, :2] = -9.0
    found, library = explorer.left(explorer.snapshot(model, 0.1)), tq.survey(model)
    assert found["heads"] == [row["heads"] for row in library.rows]
    assert found["dimensions"] == [row["dimensions"] for row in library.rows]
    assert found["compacted"] == pytest.approx(library.density)
    assert found["density"] == pytest.approx(block_density(model)["all"])


def test_a_dead_query_keeps_its_head_and_a_single_tile_does():
    model = scored(0.0)
    masks = block_masks(model)
    front = "bert.encoder.layer.0.attention.self."
    masks[front + "query"].scores.data.fill_(-9.0)
    masks[front + "value"].scores.data.fill_(-9.0)
    masks[front + "value"].scores.data[5, 3] = 0.0  # in head 2
    masks["bert.encoder.layer.0.attention.output.dense"].scores.data.fill_(0.0)
    assert explorer.left(explorer.snapshot(model, 0.1))["heads"][0] == 1
    masks[front + "value"].scores.data.fill_(0.0)
    assert explorer.left(explorer.snapshot(model, 0.1))["heads"][0] == 4


def test_left_by_hand():
    layer = {name: torch.zeros(4, 2) for name in ("query", "key", "value")}
    layer |= {"output": torch.zeros(2, 4), "dimensions": torch.zeros(6)}
    layer |= {"head_size": 4, "block": (2, 4)}  # two heads of two rows of blocks, width 8
    layer["query"] = torch.full((4, 2), -9.0)
    layer["value"][:2] = -9.0
    layer["dimensions"][:4] = -9.0
    found = explorer.left({"threshold": 0.1, "layers": [layer]})
    whole = 4 * 8 * 8 + 2 * 6 * 8
    assert found["heads"] == [1] and found["dimensions"] == [2]
    assert found["density"] == pytest.approx((64 + 32 + 64 + 2 * 2 * 8) / whole)
    assert found["compacted"] == pytest.approx((4 * 4 * 8 + 2 * 2 * 8) / whole)


def test_a_snapshot_stays_when_scores_move_on():
    model = scored(0.0)
    shot = explorer.snapshot(model, 0.05)
    before = shot["layers"][0]["query"].clone()
    for mask in block_masks(model).values():
        if mask.source is mask:
            mask.scores.data.zero_()
    assert torch.equal(shot["layers"][0]["query"], before) and before.any()
    assert shot["threshold"] == 0.05 and not before.requires_grad


def test_the_sheet_shows_scores_and_holes(runs):
    shot = runs[5.0]["shots"][20]
    sheet, (first, second) = explorer.sheet(shot), shot["layers"]
    assert len(sheet) == 8 + 1 + 8 and {len(row) for row in sheet} == {4 * (8 + 1) + 8}
    assert all(x is None for x in sheet[8]) and all(row[8] is None for row in sheet)
    for value, row, column in (
        (first["query"][3, 5], 3, 5), (first["output"][1, 2], 1, 29),
        (second["key"][7, 0], 16, 9), (second["dimensions"][2 * 8 + 3], 11, 36 + 3),
    ):  # fmt: skip
        stays = bool(explorer.kept(value, 0.1))
        assert sheet[row][column] == (pytest.approx(value.item(), abs=0.006) if stays else None)
    holes = sum(x is None for row in sheet for x in row) - (44 + 16 * 4)
    scores = torch.cat([layer[n].flatten() for layer in shot["layers"]
                        for n in (*explorer.MATRICES, "dimensions")])  # fmt: skip
    assert holes == int((scores.sigmoid() <= 0.1).sum()) > 0


def test_frames_enclose_what_they_name(runs):
    places = explorer.frames(runs[1.0]["shots"][0])
    assert len(places) == 10 and [name for name, *_ in places[:5]] == [
        *explorer.MATRICES, "FFN dimensions",
    ]  # fmt: skip
    assert places[1][1:] == (8.5, 16.5, -0.5, 7.5) and places[9][1:] == (35.5, 43.5, 8.5, 16.5)


def test_the_table_falls_with_steps_and_lambda(runs):
    table = explorer.pruning_table(runs)
    assert [(row["penalty"], row["step"]) for row in table[:4]] == [
        (1.0, 0), (1.0, 10), (1.0, 20), (5.0, 0),
    ]  # fmt: skip
    at = {(row["penalty"], row["step"]): row for row in table}
    for penalty in runs:
        found = [at[penalty, step]["density"] for step in STEPS]
        assert found[0] == 1 and found == sorted(found, reverse=True)
        assert all(at[penalty, s]["compacted"] >= at[penalty, s]["density"] - 1e-9 for s in STEPS)
    assert at[1.0, 20]["density"] > at[5.0, 20]["density"] > at[10.0, 20]["density"]
    assert at[5.0, 10]["slot_f1"] == 85.0 and at[5.0, 10]["speed"] == 1.5


def test_a_moved_slider_draws_what_a_fresh_figure_would(widget, runs):
    assert widget.settings() == {"penalty": 5.0, "step": 20}, "the middle one, at its end"
    widget.controls["penalty"].value = 10.0
    axis = widget.figure.layout.xaxis2.range
    widget.controls["step"].value = 10
    assert widget.figure.layout.xaxis2.range == axis and axis[0] < 0 and axis[1] > STEPS[-1]
    fresh, words = explorer.draw_pruning(10.0, 10, runs, explorer.pruning_table(runs))
    assert widget.caption.value == unbroken(words) and "2.00 times as fast" in words
    assert widget.figure.layout.title.text == fresh.layout.title.text
    assert "lambda 10, step 10" in fresh.layout.title.text
    assert len(fresh.data) == len(widget.figure.data) == 6
    assert [list(row) for row in widget.figure.data[0].z] == explorer.sheet(runs[10.0]["shots"][10])
    for mine, other in zip(widget.figure.data[1:], fresh.data[1:], strict=True):
        assert list(mine.x) == list(other.x) and list(mine.y) == list(other.y)


def test_the_drawing_shows_the_table(widget, runs):
    table = explorer.pruning_table(runs)
    mine = [row for row in table if row["penalty"] == 5.0]
    _, others, way, step, ends, ring = widget.figure.data
    assert list(way.x) == [*STEPS] and list(way.y) == [100 * row["density"] for row in mine]
    assert len(others.x) == 2 * (len(STEPS) + 1) and others.x[3] is None is others.y[3]
    assert (step.x[0], step.y[0]) == (20, 100 * mine[-1]["density"])
    assert list(ends.text) == ["1", "5", "10"] and list(ends.y) == [89.0, 85.0, 80.0]
    assert (ring.x[0], ring.y[0]) == (100 * mine[-1]["compacted"], 85.0)
    heads = "+".join(map(str, mine[-1]["heads"]))
    assert f"{sum(mine[-1]['heads'])} heads ({heads})" in widget.caption.value


def test_a_callback_takes_less_than_300_ms(widget):
    start = time.process_time()
    widget.controls["step"].value = 0
    assert time.process_time() - start < 0.3


def test_filled_as_the_library_fills():
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 16).requires_grad_(False)
    layer.weight[4:9, ::2] = 0
    layer.weight += 0.5 * (layer.weight != 0)
    noise = torch.randn(16, 12, generator=torch.Generator().manual_seed(3))
    assert_close(n07.fill_holes(layer.weight, noise), tq.fill(layer, seed=3).weight)
    assert torch.equal(n07.fill_holes(noise, layer.weight), noise), "no holes, nothing to do"


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5])
def test_the_gate_is_the_librarys_mask(tau):
    torch.manual_seed(1)
    mask, pull = BlockMask([8, 12], [4, 3], threshold=max(tau, 1e-9)), torch.randn(8, 12)
    mask.scores.data.normal_(-1, 2)
    mine, scores = torch.randn(8, 12).requires_grad_(), mask.scores.detach().clone()
    theirs = mine.detach().clone().requires_grad_()
    out = n07.gated(mine, scores.requires_grad_(), tau, (4, 3))
    assert_close(out, mask(theirs))
    out.backward(pull)
    mask(theirs).backward(pull)
    assert_close(mine.grad, theirs.grad)
    assert_close(scores.grad, mask.scores.grad)


def test_a_function_of_ones_own_passes():
    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w, scores, tau, block):
            kept = (scores.sigmoid() > tau).to(w.dtype)
            mask = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
            ctx.save_for_backward(w, mask)
            ctx.block = block
            return w * mask

        @staticmethod
        def backward(ctx, g):
            (w, mask), (p, q) = ctx.saved_tensors, ctx.block
            parts = (g * w).reshape(len(w) // p, p, w.shape[1] // q, q)
            return g * mask, parts.sum((1, 3)), None, None

    assert check("07.2", Gate.apply).passed
    assert check("07.2", lambda w, s, tau, block: Gate.apply(w, s + 0, tau, block)).passed


def test_the_gate_that_hears_the_wrong_weights_is_told():
    def used(w, scores, tau, block):
        kept = n07.gated(w.detach(), scores.detach(), tau, block)
        spread = scores.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        mask = (kept != 0).to(w.dtype)
        return w * mask + kept * (spread - spread.detach())  # dead blocks have no gradient

    found = check("07.2", used)
    assert not found.passed and "07.2" in found.line


@pytest.mark.parametrize("padding", [0, 4])
def test_a_head_that_asks_nothing_is_a_mean(padding):
    """Against torch's own attention with a query of zeros, and with a key that is anything."""
    torch.manual_seed(2)
    x, real = torch.randn(2, 9, 12), torch.ones(2, 9, dtype=torch.bool)
    real[1, 9 - padding :] = False
    value, key, output = torch.randn(4, 12), torch.randn(4, 12), torch.randn(12, 4)
    bias = torch.randn(4)
    attended = torch.nn.functional.scaled_dot_product_attention(
        torch.zeros(2, 9, 4), x @ key.T, x @ value.T + bias, attn_mask=real[:, None].expand(2, 9, 9)
    )
    assert_close(n07.dead_query_head(x, real, value, bias, output), attended @ output.T)


def test_a_head_by_softmax_costs_too_much():
    def by_softmax(x, real, value, bias, output):
        scores = torch.zeros(*real.shape, real.shape[1]).masked_fill(~real[:, None], -torch.inf)
        return scores.softmax(-1) @ (x @ value.T + bias) @ output.T

    found = check("07.3", by_softmax)
    assert not found.passed and "average first" in found.line


def test_a_mistake_has_its_name_whatever_it_costs():
    def everybody(x, real, value, bias, output):  # the mean of the values, padding among them
        values = (x @ value.T + bias).mean(1, keepdim=True)
        return (values @ output.T).expand_as(x)

    assert "padding is in the mean" in check("07.3", everybody).line
