"""Notebook 12: what its explorer computes and draws, and the edges of its exercises."""

import importlib
import math
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tqlearn.lab.check import check
from tqlearn.lab.exercises import n12_deep_compression as n12
from tqlearn.lab.explorers import deep_compression as explorer
from tqlearn.quantizers.sawb import SAWB
from tqlearn.sparsity.nm import NMMask, magnitude, nm_mask
from tqlearn.storage.packed_nm import PackedNM

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured_row(name, seeds, deployed=None):
    metrics = {"score": sum(seeds) / len(seeds)}
    if deployed is not None:
        metrics |= {"intent_accuracy_deployed": deployed + 10, "slot_f1_deployed": deployed - 10}
    return {"model": name, "metrics": metrics, "note": f"x; seeds: {', '.join(map(str, seeds))}"}


ROWS = [
    measured_row("order: dense", [75.0, 77.0]),
    measured_row("order: prune > quantize", [70.0, 72.0]),
    measured_row("order: quantize", [71.0, 73.0]),
    measured_row("dropout, FP32: 0", [74.0, 74.5]),
    measured_row("dropout: 0 to 0.1", [60.0, 61.0]),
    measured_row("grid, dense: without a zero", [50.0, 52.0], deployed=51.0),
    measured_row("grid: with a zero", [70.0, 72.0], deployed=71.0),
    measured_row("grid: without a zero", [65.0, 67.0], deployed=55.0),
]


@pytest.fixture(scope="module")
def table():
    return explorer.plan_table(ROWS)


def find(table, *setting):
    return next(r for r in table if (r["order"], r["dropout"], r["grid"]) == setting)


def test_settings_are_those_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("deep_compression_ablation")
    assert [*explorer.ORDERS] == [*script.STARTS]
    assert [*explorer.GRIDS] == [*script.GRIDS] and [*explorer.DROPOUTS] == [*script.DROPOUTS]
    for name, options in script.DROPOUTS.items():
        schedule = explorer.DROPOUTS[name]
        assert [schedule.start, schedule.end] == options["dropout"]
        assert schedule.shape == options["dropout_shape"]
    assert script.TRAINING["num_train_epochs"] == explorer.EPOCHS
    assert script.TRAINING["warmup_steps"] == explorer.WARMUP
    arms = explorer.results([measured_row(name, [1.0]) for name in script.ARMS])
    assert len(arms) == 19, "as many as there are different trainings"


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_the_rate_is_that_of_transformers_in_every_phase(phases):
    from transformers import get_linear_schedule_with_warmup

    steps = 100
    adam = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_linear_schedule_with_warmup(adam, 10, steps)
    for k in range(steps):
        for phase in range(phases):
            mine = explorer.learning_rate((phase + k / steps) / phases, phases)
            assert mine == pytest.approx(adam.param_groups[0]["lr"], abs=1e-6)
        adam.step()
        schedule.step()


@pytest.mark.parametrize("order", explorer.ORDERS)
def test_what_is_on_and_since_when(order, table):
    on, phases = explorer.begins(order), order.split(" > ")
    row = find(table, order, "0.1 to 0", "with a zero")
    pruned = [p in ("prune", "both") for p in phases]
    for key, name, there in (
        ("mask", "epochs masked", pruned),
        ("grid", "epochs on the grid", [p in ("quantize", "both") for p in phases]),
    ):
        assert (on[key] is None) == (not any(there))
        wanted = 9 * (len(phases) - there.index(True)) / len(phases) if any(there) else 0
        assert row[name] == pytest.approx(wanted)
    expected = (4 if on["grid"] is not None else 32) * (0.5 if any(pruned) else 1)
    assert row["bits"] == (expected, expected + any(pruned))
    if on["grid"] is not None:
        assert row["dropout at the grid"] == pytest.approx(0.1 * (1 - on["grid"]))


def test_scores_stand_at_their_settings(table):
    usual = explorer.USUAL
    assert find(table, "dense", *usual[1:])["score"] == 76
    assert find(table, "dense", "0", usual[2])["seeds"] == [74.0, 74.5]
    assert find(table, usual[0], "0 to 0.1", usual[2])["score"] == 60.5
    assert find(table, "quantize", usual[1], "without a zero")["deployed"] == 51
    assert find(table, *usual)["deployed"] == 71, "the row that knows more is taken"
    assert find(table, usual[0], usual[1], "without a zero")["deployed"] == 55
    assert sum(row["score"] is not None for row in table) == 7
    assert len(table) == 11 * 4 * 2


def test_without_a_result_it_still_draws():
    table = explorer.plan_table()
    assert all(row["score"] is None and row["seeds"] == [] for row in table)
    widget = explorer.deep_compression_explorer(table)
    assert (
        "not measured" in widget.caption.value and "not measured" in widget.still.layout.title.text
    )
    assert len(widget.figure.data[0].x) == 181 and not widget.figure.data[4].x


def test_names_of_orders_have_room_beside_the_left_panel(table):
    """In JupyterLab at 1100 pixels, 568 lie within the axes; a letter is up to 7.7 wide."""
    layout = explorer.draw_plan(*explorer.USUAL, table)[0].layout
    room = 568 * (layout.xaxis2.domain[0] - layout.xaxis.domain[1])
    assert room > 7.7 * max(map(len, explorer.ORDERS)) + 12


def test_a_moved_menu_is_a_fresh_figure(table):
    widget = explorer.deep_compression_explorer(table)
    for order, dropout, grid in product(explorer.ORDERS[::3], ("0", "0 to 0.1"), explorer.GRIDS):
        for name, value in (("order", order), ("dropout", dropout), ("grid", grid)):
            widget.controls[name].value = value
        fresh, words = explorer.draw_plan(order, dropout, grid, table)
        assert len(widget.figure.data) == len(fresh.data) == 7
        for mine, trace in zip(widget.figure.data, fresh.data, strict=True):
            assert list(mine.x or ()) == list(trace.x or ()) and list(mine.y or ()) == list(
                trace.y or ()
            )
        assert widget.caption.value == words
        assert widget.figure.layout.title.text == fresh.layout.title.text


def test_bands_begin_where_the_phase_does(table):
    fig, words = explorer.draw_plan("dense > prune > quantize", "0", "with a zero", table)
    rate, drop, mask, grid = fig.data[:4]
    assert list(mask.x) == [3, 9] and list(grid.x) == [6, 9]
    assert max(drop.y) == 0 and max(rate.y) > 0.9
    assert "6 of 9 epochs" in words and "2, with places 3" in words


def test_callbacks_are_quick(table):
    widget = explorer.deep_compression_explorer(table)
    start = time.process_time()
    widget.controls["order"].value = "both"
    assert time.process_time() - start < 0.3


def test_pattern_ids_tell_the_mask_again():
    torch.manual_seed(5)
    mask = nm_mask(torch.rand(6, 24))
    pairs = torch.tensor([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    ids = n12.pattern_ids(mask)
    again = torch.zeros(36, 4).scatter(1, pairs[ids.flatten()], 1.0).bool().reshape(6, 24)
    assert torch.equal(again, mask) and ids.shape == (6, 6)
    assert sorted(ids.unique().tolist()) == list(range(6))
    table = {pair: k for k, pair in enumerate(map(tuple, pairs.tolist()))}

    def loop(mask):
        rows = [
            [table[tuple(k for k in range(4) if row[4 * g + k])] for g in range(len(row) // 4)]
            for row in mask.tolist()
        ]
        return torch.tensor(rows)

    assert check("12.1", loop).passed


@pytest.mark.parametrize("plus", [True, False])
def test_mask_then_grid_is_the_librarys(plus):
    torch.manual_seed(2)
    mine, theirs = (torch.randn(8, 12, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    mine.requires_grad_(), theirs.requires_grad_()
    g = torch.randn(8, 12)
    mask = NMMask([8, 12]).remask(magnitude(theirs))
    sawb = SAWB(4, plus=plus).calibrate(mask(theirs)).eval()
    sawb.scale = sawb.scale / 2  # so that some lie beyond
    out = n12.mask_then_grid(mine, mask.mask, sawb.clip, plus)
    assert_close(out, sawb(mask(theirs)))
    out.backward(g)
    sawb(mask(theirs)).backward(g)
    assert_close(mine.grad, theirs.grad)
    assert not mine.grad[~mask.mask].any()
    beyond = mask.mask & (mine.abs() > sawb.clip)
    assert beyond.any() and bool(mine.grad[beyond].any()) == plus


def test_integer_product_is_the_dense_one():
    torch.manual_seed(3)
    w, x = torch.randn(10, 32), torch.randn(7, 32)
    mask = NMMask([10, 32]).remask(magnitude(w))
    sawb = SAWB(4).calibrate(mask(w)).eval()
    packed, _ = PackedNM.of(mask(w), sawb, mask, mask.mask)
    places = packed._columns().reshape(10, 8, 2)
    values = sawb.codes(mask(w)).reshape(10, 8, 4).gather(2, places)
    s_x, z = 0.4, 6
    codes = (x / s_x).round().add(z).clamp(0, 15).long()
    out = n12.integer_product(codes, values.long(), places, sawb.scale, s_x, z)
    assert_close(out, ((codes - z) * s_x) @ sawb(mask(w)).T, rtol=1e-4, atol=1e-4)


def test_the_largest_sum_fits_18_bits():
    """Spec sheet, check 11: 1,536 kept products of 7 by 7."""
    codes = torch.full((1, 3072), 14)
    values = torch.full((1, 768, 2), 7)
    places = torch.tensor([0, 3]).expand(1, 768, 2)
    assert n12.integer_product(codes, values, places, 1.0, 1.0, 7).item() == 75_264
    assert math.log2(75_264) < 17


def test_an_integer_product_by_loops_passes():
    def loops(codes, values, places, w_scale, x_scale, zero):
        tokens, (out, groups, _) = len(codes), values.shape
        found = torch.zeros(tokens, out)
        for o, g, k in product(range(out), range(groups), range(2)):
            found[:, o] += values[o, g, k] * (codes[:, 4 * g + places[o, g, k]] - zero)
        return found * w_scale * x_scale

    assert check("12.3", loops).passed
