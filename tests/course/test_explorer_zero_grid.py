"""Notebook 05: the zero grid explorer's numbers, its drawing, and the edges of the exercises."""

import time

import pytest
import torch
from conftest import assert_same_grid

import tqlearn as tq
from tqlearn.lab import exercises
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n05_zero_preserving_4bit as n05
from tqlearn.lab.explorers import zero_grid as explorer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.explorers.zero_grid import grid_parts, on_grid, pruned_mask, zero_grid_table
from tqlearn.sparsity.nm import nm_mask

W = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) / 10


@pytest.fixture(scope="module")
def matrices():
    wide = torch.randn(16, 32, generator=torch.Generator().manual_seed(1)) ** 3
    return {"gauss": W, "heavy": wide}


@pytest.fixture(scope="module")
def rows(matrices):
    return zero_grid_table(matrices)


@pytest.fixture
def widget(rows, matrices):
    return explorer.zero_grid_explorer(rows, matrices)


def line(rows, matrix="gauss", pruned=2, bits=4, grid="with a zero"):
    wanted = (matrix, pruned, bits, grid)
    return [r for r in rows if (r["matrix"], r["pruned"], r["bits"], r["grid"]) == wanted]


def test_parts_by_hand():
    """Places -3, -1, 1, 3: 3.5 is clipped, 1.4 is rounded, two pruned weights become 1."""
    w = torch.tensor([3.5, 0.1, 1.4, 0.0])
    mask = torch.tensor([True, False, True, False])
    row = grid_parts(w, mask, clip=3.0, bits=2, zero=False)
    whole = 3.5**2 + 1.4**2
    assert row["kept"] == pytest.approx((0.25 + 0.16) / whole)
    assert row["lifted"] == pytest.approx(2 / whole)
    assert row["error"] == pytest.approx((2.41 / whole) ** 0.5)
    assert (row["zeros"], row["rounded"]) == (0.0, 0.0)
    row = grid_parts(w, mask, clip=3.0, bits=2, zero=True)  # places -3, 0, 3
    assert row["kept"] == pytest.approx((0.25 + 1.96) / whole)
    assert (row["lifted"], row["zeros"], row["rounded"]) == (0.0, 1.0, 0.5)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("bits", explorer.GRID_BITS)
def test_the_grid_is_the_librarys(bits, zero):
    sawb = tq.quantizers.SAWB(bits, zero, coefficients=(2.3, 0.0)).calibrate(W).eval()
    w = torch.cat([W.flatten(), torch.zeros(5), torch.tensor([-9.0, 9.0])])
    hat, index = on_grid(w, sawb.clip.item(), bits, zero)
    assert_same_grid(hat, sawb(w), 2 * sawb.clip.item() / (2**bits - 1 - zero))
    assert int(index.min()) == 0 and int(index.max()) == 2**bits - 1 - zero
    assert bool((hat[w == 0] == 0).all()) == zero


def test_the_mask_is_the_librarys():
    assert pruned_mask(W, 0).all()
    assert torch.equal(pruned_mask(W, 2), nm_mask(W.abs()))
    for pruned in explorer.PRUNED:
        kept = pruned_mask(W, pruned).reshape(-1, 4).sum(1)
        assert (kept == 4 - pruned).all()


def test_what_becomes_of_zeros(rows):
    for row in rows:
        if row["pruned"] == 0:
            assert row["zeros"] is None and row["lifted"] == 0
        else:
            assert row["zeros"] == (row["grid"] == "with a zero")
            assert (row["lifted"] > 0) == (row["grid"] == "without a zero")
        assert row["grid"] == "with a zero" or row["rounded"] == 0
        assert row["error"] ** 2 == pytest.approx(row["kept"] + row["lifted"])


def test_lifted_zeros_follow_the_formula(rows):
    """Half of the weights at clip / 15: 0.5 (clip / 15)² of the mean square of what is left."""
    left = (W * pruned_mask(W, 2)).square().mean() / W.square().mean()
    for row in line(rows, grid="without a zero"):
        assert row["lifted"] == pytest.approx(float(0.5 * (row["clip"] / 15) ** 2 / left), rel=1e-4)


def test_more_bits_lose_less_and_the_winner_changes(rows):
    best = {
        (pruned, bits, grid): min(row["error"] for row in line(rows, "gauss", pruned, bits, grid))
        for pruned in explorer.PRUNED
        for bits in explorer.GRID_BITS
        for grid in explorer.GRIDS
    }
    for pruned in explorer.PRUNED:
        for grid in explorer.GRIDS:
            errors = [best[pruned, bits, grid] for bits in explorer.GRID_BITS]
            assert errors == sorted(errors, reverse=True)
    for bits in (2, 3, 4):
        assert best[0, bits, "without a zero"] < best[0, bits, "with a zero"]
        assert best[3, bits, "without a zero"] > best[3, bits, "with a zero"]


def test_every_weight_stands_somewhere():
    for bits in explorer.GRID_BITS:
        for zero in (True, False):
            kept, gone = explorer.occupied(W, pruned_mask(W, 1), 0.2, bits, zero)
            assert len(kept) == len(gone) == len(explorer.levels(bits, zero))
            assert sum(kept) == pytest.approx(75, abs=0.1) and sum(gone) == pytest.approx(25)
            assert max(gone) == 25.0, "all pruned ones at one place"


def test_a_moved_slider_draws_what_a_fresh_figure_would(widget, rows, matrices):
    before = widget.figure.to_plotly_json()
    for settings in (
        {"bits": 2, "clip": 1.0, "grid": "with a zero", "pruned": 0, "matrix": "heavy"},
        {"bits": 8, "clip": 4.5, "grid": "without a zero", "pruned": 3, "matrix": "gauss"},
    ):
        for name, value in settings.items():
            widget.controls[name].value = value
        fresh, words = explorer.draw_zero_grid(**settings, rows=rows, matrices=matrices)
        assert widget.caption.value == unbroken(words)
        assert widget.figure.layout.title.text == fresh.layout.title.text
        for mine, other in zip(widget.figure.data, fresh.data, strict=True):
            assert (*mine.x,) == (*other.x,) and (*mine.y,) == (*other.y,)
    now = widget.figure.to_plotly_json()
    assert now["layout"]["title"] != before["layout"]["title"]
    assert now["data"][0]["x"] != before["data"][0]["x"]


def test_the_caption_tells_the_zeros(rows, matrices):
    def words(grid, pruned):
        return explorer.draw_zero_grid(4, 2.5, grid, pruned, "gauss", rows, matrices)[1]

    assert "<b>100 % of the pruned weights are still exactly zero" in words("with a zero", 2)
    assert "<b>0 % of the pruned weights are still exactly zero" in words("without a zero", 2)
    assert "<b>Nothing is pruned" in words("with a zero", 0)


def test_a_callback_takes_less_than_300_ms():
    big = {"big": torch.randn(128, 512)}
    rows = zero_grid_table(big, bits=(4, 8))
    widget = explorer.zero_grid_explorer(rows, big)
    start = time.thread_time()
    widget.controls["bits"].value = 8
    assert time.thread_time() - start < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_the_exercises_are_the_librarys(seed):
    for w, clip, bits in exercises.find("05.1").arguments(seed):
        sawb = tq.quantizers.SAWB(bits, extended=True, coefficients=(1.0, 0.0)).eval()
        sawb.scale.fill_(float(clip) / sawb.qmax)
        torch.testing.assert_close(n05.quantize_extended(w, clip, bits), sawb(w))
        assert int(sawb.codes(w).min()) == -(2 ** (bits - 1)), "the spare code occurs"
    for w, c_rms, c_abs, bits in exercises.find("05.2").arguments(seed):
        sawb = tq.quantizers.SAWB(bits, coefficients=(c_rms, c_abs), groups=len(w)).calibrate(w)
        torch.testing.assert_close(n05.quantize_rows(w, c_rms, c_abs, bits), sawb(w))
        torch.testing.assert_close(sawb.clip[0, 0], w[0].abs().max())  # the guard
    for x, low, high, g, bits in exercises.find("05.4").arguments(seed):
        pact = tq.quantizers.PACT(bits).double()
        pact.low.data.copy_(low)
        pact.high.data.copy_(high)
        torch.testing.assert_close(n05.quantize_two_sided(x, low, high, bits), pact(x))
        leaf = x.clone().requires_grad_()
        pact(leaf).backward(g)
        mine = n05.clip_gradients(x, low, high, g, bits)
        torch.testing.assert_close(mine, (leaf.grad, pact.low.grad[0], pact.high.grad[0]))


def test_clip_gradients_of_the_spec_sheet():
    """Acceptance check 6; x_hat of the same numbers belongs to 05.3."""
    x = torch.tensor([-0.7, -0.5, -0.33, 0, 0.04, 0.37, 0.99, 1.0, 1.4], dtype=torch.float64)
    low, high = torch.tensor([-0.5, 1.0], dtype=torch.float64)
    expected = torch.tensor([-0.5, -0.5, -0.3, 0, 0, 0.4, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(n05.quantize_two_sided(x, low, high, 4), expected)
    _, by_low, by_high = n05.clip_gradients(x, low, high, torch.ones_like(x), 4)
    assert by_low.item() == pytest.approx(1.98) and by_high.item() == pytest.approx(2.02)


def test_the_same_answers_in_another_way():
    def by_signed_codes(w, clip, bits):
        top = 2 ** (bits - 1) - 1
        return torch.fake_quantize_per_tensor_affine(w, float(clip) / top, 0, -top - 1, top)

    assert check("05.1", by_signed_codes).passed

    def through_autograd(x, low, high, g, bits):
        a, b, c = (t.clone().requires_grad_() for t in (x, low, high))
        n = 2**bits - 1
        z = ((a - b) * n / (c - b)).clamp(0, n)
        out = b + (c - b) / n * (z + (z.round() - z).detach())
        return torch.autograd.grad(out, (a, b, c), g)

    assert check("05.4", through_autograd).passed
