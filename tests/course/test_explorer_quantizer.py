"""Notebook 04: the quantizer explorer's numbers, its drawing, and the edges of the exercises."""

import time

import pytest
import torch

import tqlearn as tq
from tqlearn.lab import exercises
from tqlearn.lab.check import check, rejoin
from tqlearn.lab.explorers import quantizer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.explorers.quantizer import error_parts, quantizer_explorer, quantizer_table

W = torch.randn(200, 50, generator=torch.Generator().manual_seed(0)) / 10


def test_parts_by_hand():
    """Codes -2 to 1 at scale 1: -4 and 5 are clipped by 2 and 4, 0.2 is rounded by 0.2."""
    row = error_parts(torch.tensor([-4.0, 0.2, 1.0, 5.0]), bits=2, scale=1.0)
    whole = 16 + 0.04 + 1 + 25
    assert row["clipping"] == pytest.approx((4 + 16) / whole)
    assert row["rounding"] == pytest.approx(0.04 / whole)
    assert row["error"] == pytest.approx((20.04 / whole) ** 0.5)
    assert (row["clipped"], row["levels"]) == (0.5, 3)


@pytest.mark.parametrize("bits", (2, 3, 4, 8))
def test_parts_add_up_to_the_error_of_the_library(bits):
    lsq = tq.quantizers.LSQ(bits, init="mse").calibrate(W)
    row = error_parts(W, bits, lsq.scale.item())
    relative = ((lsq(W) - W).norm() / W.norm()).item()
    assert row["error"] == pytest.approx(relative, rel=1e-4)
    assert row["levels"] == lsq.codes(W).unique().numel() <= 2**bits


def test_a_larger_scale_clips_less_and_rounds_more():
    rows = quantizer_table({"w": W}, bits=(4,))
    clipping, rounding = ([row[key] for row in rows] for key in ("clipping", "rounding"))
    assert clipping == sorted(clipping, reverse=True) and clipping[0] > 0.5 > clipping[-1] == 0
    assert rounding[0] < 1e-3 and rounding[-1] > 0.5
    small = [x for x, row in zip(rounding, rows, strict=True) if row["scale"] < 0.1]
    assert small == sorted(small)


def test_a_bit_more_is_never_worse_at_its_best():
    rows = quantizer_table({"w": W})
    best = [min(r["error"] for r in rows if r["bits"] == bits) for bits in (2, 3, 4, 8)]
    assert best == sorted(best, reverse=True) and best[0] > 3 * best[2] > 9 * best[3]
    assert len(rows) == 4 * len(quantizer.SCALES)


def test_histogram_holds_every_number():
    middles, counts = quantizer.histogram(W)
    assert sum(counts) == W.numel() and len(middles) == len(counts) == quantizer.BINS
    assert middles[quantizer.BINS // 2] == 0 and middles[0] == -middles[-1]


@pytest.fixture
def explorer():
    matrices = {"one": W, "other": 2 * W[:20]}
    return quantizer_explorer(quantizer_table(matrices), matrices)


def test_the_figure_draws_the_table(explorer):
    explorer.controls["bits"].value, explorer.controls["scale"].value = 3, quantizer.SCALES[20]
    scale, row = quantizer.SCALES[20], error_parts(W, 3, quantizer.SCALES[20])
    kept, clipped, grid, _, _, total, mark = explorer.figure.data
    assert list(grid.x) == pytest.approx([scale * q for q in range(-4, 4)])
    assert sum(kept.y) + sum(clipped.y) == W.numel()
    assert all(y == 0 for x, y in zip(kept.x, kept.y, strict=True) if x > 3 * scale)
    assert all(y == 0 for x, y in zip(clipped.x, clipped.y, strict=True) if abs(x) < 3 * scale)
    assert mark.x[0] == scale and mark.y[0] == pytest.approx(row["error"] ** 2)
    assert total.y[20] == mark.y[0]
    clipped = f"{100 * row['clipped']:.1f} % of the numbers clipped"
    assert unbroken(clipped) in explorer.caption.value
    assert f"{row['levels']} of 8 levels" in explorer.caption.value


def test_a_moved_control_draws_what_a_fresh_figure_would(explorer):
    for scale, bits, matrix in ((0, 2, "one"), (30, 8, "other"), (14, 4, "one")):
        settings = {"scale": quantizer.SCALES[scale], "bits": bits, "matrix": matrix}
        before = explorer.caption.value, explorer.figure.layout.title.text
        for name, value in settings.items():
            explorer.controls[name].value = value
        fresh, words = explorer.draw(**settings)
        assert explorer.caption.value == words
        assert before != (words, fresh.layout.title.text)
        for mine, other in zip(explorer.figure.data, fresh.data, strict=True):
            mine, other = mine.to_plotly_json(), other.to_plotly_json()
            assert list(mine["x"]) == list(other["x"]) and list(mine["y"]) == list(other["y"])


def test_the_caption_says_on_which_side_of_the_valley(explorer):
    rows = [r for r in quantizer_table({"w": W}, bits=(4,))]
    best = min(rows, key=lambda row: row["error"])["scale"]
    for scale, words in ((quantizer.SCALES[0], "too small"), (best, "bottom of the valley"),
                         (quantizer.SCALES[-1], "too large")):  # fmt: skip
        explorer.controls["scale"].value = scale
        assert words in explorer.caption.value


def test_a_callback_takes_less_than_300_ms(explorer):
    start = time.thread_time()
    explorer.controls["bits"].value = 8
    assert time.thread_time() - start < 0.3


def test_unsigned_answers_may_be_written_in_other_ways():
    def quantize_unsigned(x, scale, bits):
        codes = torch.round(x / scale)
        return torch.minimum(torch.maximum(codes, 0 * codes), 0 * codes + 2**bits - 1) * scale

    assert check("04.1", quantize_unsigned).passed
    words = check("04.1", lambda x, scale, bits: (x / scale).round().clamp(0) * scale).line
    assert words == "FAIL 04.1 numbers above the largest code are not clipped"


def test_the_fitted_scale_rests_where_the_library_searches():
    refine = exercises.find("04.2").answer
    for bits in (2, 3):
        qmin, qmax = tq.quantizers.integer_range(bits)
        fitted = refine(W, tq.quantizers.LSQ(bits).calibrate(W).scale.detach(), qmin, qmax, 60)
        searched = tq.quantizers.LSQ(bits, init="mse").calibrate(W).scale.detach()
        errors = [error_parts(W, bits, s.item())["error"] for s in (fitted, searched)]
        assert errors[0] < 1.01 * errors[1]


def test_a_scale_that_makes_the_error_grow_is_told():
    def refine_scale(w, scale, qmin, qmax, rounds):
        return 100 * scale

    assert "the error has grown" in check("04.2", refine_scale).line


def test_the_offset_reference_is_the_frozen_residual_quotient():
    for x, scale, offset, g, qmin, qmax in exercises.find("04.3").arguments(3):
        v = (x - offset) / scale
        r, inside = v.round() - v, (v >= qmin) & (v <= qmax)
        rim = v.clamp(qmin, qmax)

        def frozen(s, b, x=x, r=r, inside=inside, bound=rim):
            return torch.where(inside, s * ((x - b) / s + r) + b, s * bound + b)

        _, ds, db = exercises.find("04.3").answer(x, scale, offset, g, qmin, qmax)
        h = 1e-5
        by_s = ((frozen(scale + h, offset) - frozen(scale - h, offset)) * g).sum() / (2 * h)
        by_b = ((frozen(scale, offset + h) - frozen(scale, offset - h)) * g).sum() / (2 * h)
        torch.testing.assert_close(torch.stack([ds, db]), torch.stack([by_s, by_b]))


def test_a_scale_per_row_is_the_library_row_by_row():
    for w, scales, qmin, qmax in exercises.find("04.4").arguments(3):
        scales = scales.requires_grad_()
        out = exercises.find("04.4").answer(w, scales, qmin, qmax)
        g = torch.randn(w.shape)
        out.backward(g)
        lsq = tq.quantizers.LSQ(bits={1: 2, 3: 3, 7: 4}[qmax])
        for row, scale, mine, up, grad in zip(w, scales, out, g, scales.grad, strict=True):
            lsq.scale.data, lsq.scale.grad = scale.detach().clone(), None
            theirs = lsq(row)
            theirs.backward(up)
            torch.testing.assert_close(mine, theirs)
            torch.testing.assert_close(grad, lsq.scale.grad, rtol=1e-3, atol=1e-4)


def test_rounding_without_a_bridge_and_a_bridge_over_everything_are_told_apart(capsys):
    def lsq_rows(w, scales, qmin, qmax):
        s = scales[:, None]
        return w + (s * (w / s).round().clamp(qmin, qmax) - w).detach()

    assert "the scales get no gradient" in check("04.4", lsq_rows).line

    def plain(w, scales, qmin, qmax):
        return scales[:, None] * (w / scales[:, None]).round().clamp(qmin, qmax)

    assert "slope zero" in check("04.4", plain).line
    assert rejoin("04.4", plain) is exercises.find("04.4").answer
    assert "with the reference" in capsys.readouterr().out
