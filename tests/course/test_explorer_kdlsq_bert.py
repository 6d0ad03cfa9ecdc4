"""Notebook 11: what its explorer computes and draws, and the edges of its exercises."""

import time

import pytest
import torch
from conftest import assert_same_grid
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n11_kdlsq_bert as n11
from tqlearn.lab.explorers import kdlsq_bert as explorer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.results import measured
from tqlearn.quantizers.calibration import calibrate
from tqlearn.quantizers.clips import LearnedClip

BELL = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100_001).double() + 0.5) / 100_001)


@pytest.fixture(scope="module")
def matrices():
    torch.manual_seed(0)
    return {"wide": 0.1 * torch.randn(40, 60), "tails": 0.05 * torch.randn(50, 40) ** 3}


@pytest.fixture(scope="module")
def table(matrices):
    return explorer.clip_table(matrices)


@pytest.fixture
def widget(table, matrices):
    return explorer.kdlsq_bert_explorer(table, matrices, {2: "Trained."})


def find(table, matrix, bits, start, factor=1.0):
    wanted = (matrix, bits, start, factor)
    keys = ("matrix", "bits", "start", "factor")
    return next(row for row in table if tuple(row[key] for key in keys) == wanted)


def test_the_quantizer_and_its_starts_are_the_librarys(matrices):
    for weight in matrices.values():
        for bits in explorer.BITS:
            found = explorer.clips(weight, bits)
            for rule in explorer.STARTS:
                q = LearnedClip(bits, rule).calibrate(weight)
                assert found[rule] == pytest.approx(q.clip.item(), rel=1e-5)
                assert_same_grid(
                    explorer.quantized(weight, found[rule], bits), q(weight), q.scale.item()
                )


def test_push_is_the_librarys_gradient(matrices):
    weight = matrices["wide"]
    for bits, clip in ((2, 0.12), (3, 0.2), (8, 0.4)):
        q = LearnedClip(bits).calibrate(weight)
        q.clip.data.fill_(clip)
        loss = (q(weight) - weight).square().mean() / 2
        (slope,) = torch.autograd.grad(loss, q.clip)
        assert explorer.push(weight, clip, bits) == pytest.approx(slope.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("bits", "place"), [(2, 1.304), (3, 1.987), (4, 2.487), (8, 3.921)], ids=str
)
def test_a_clip_rests_where_the_sheet_says(bits, place):
    """Spec sheet KDLSQ, check 8, with the sheet's own tolerance."""
    assert explorer.rest(BELL, bits) == pytest.approx(place, abs=0.02)


def test_effect_by_hand():
    weight = torch.tensor([-3.0, -1.0, -0.4, 0.0, 0.4, 0.6])
    found = explorer.effect(weight, 1.0, 2)
    assert found["zero"] == pytest.approx(3 / 6) and found["beyond"] == pytest.approx(1 / 6)
    assert found["levels"] == 3
    missed = 2**2 + 0 + 0.4**2 + 0 + 0.4**2 + 0.4**2
    assert found["error"] == pytest.approx((missed / weight.square().sum().item()) ** 0.5)


def test_the_table_is_whole_and_plausible(table, matrices):
    assert len(table) == 2 * 4 * len(explorer.PLACES) * len(explorer.FACTORS)
    for name in matrices:
        for bits in explorer.BITS:
            line = {p: find(table, name, bits, p) for p in explorer.PLACES}
            assert line["max"]["beyond"] == 0 and line["lsq"]["levels"] <= 2**bits - 1
            least = min(line[p]["error"] for p in explorer.STARTS if p != "mse")
            assert line["mse"]["error"] <= 1.03 * least
            zeros = [find(table, name, bits, "kl", f)["zero"] for f in explorer.FACTORS]
            beyond = [find(table, name, bits, "kl", f)["beyond"] for f in explorer.FACTORS]
            assert zeros == sorted(zeros) and beyond == sorted(beyond, reverse=True)


def test_two_bits_do_not_forgive_the_largest_weight(table):
    assert find(table, "tails", 2, "max")["zero"] > 0.95
    assert find(table, "tails", 8, "max")["zero"] < 0.6


def test_lines_pass_through_the_table(matrices, table):
    lines = explorer.clip_lines(matrices)
    for (name, bits), (x, y) in lines.items():
        row = find(table, name, bits, "mse")
        near = min(range(len(x)), key=lambda k: abs(x[k] / row["clip"] - 1))
        assert y[near] == pytest.approx(row["error"], rel=0.2)
        assert x[0] < row["clip"] < x[-1]


@pytest.mark.parametrize(
    ("bits", "size", "ratio"),
    [(2, 29_308_800, 14.94), (3, 42_929_472, 10.20), (4, 56_550_144, 7.74), (8, 111_032_832, 3.94)],
)
def test_bytes_of_bert_base(bits, size, ratio):
    assert explorer.bert_base_bytes(bits) == size
    assert round(explorer.bert_base_bytes(32) / size, 2) == ratio
    assert explorer.bert_base_bytes(32) == 437_928_960


def test_a_moved_control_draws_what_a_fresh_figure_would(widget, table, matrices):
    moves = {"matrix": "tails", "bits": 8, "start": "lsq", "factor": 0.5}
    for name, value in moves.items():
        widget.controls[name].value = value
    bins = {name: explorer.histogram(weight) for name, weight in matrices.items()}
    lines = explorer.clip_lines(matrices)
    fresh, words = explorer.draw_clip(
        **moves, table=table, lines=lines, bins=bins, trained={2: "Trained."}
    )
    assert widget.caption.value == unbroken(words) and "Trained." not in words
    assert widget.figure.layout.title.text == fresh.layout.title.text
    assert "0.5 times lsq" in fresh.layout.title.text
    assert len(fresh.data) == len(widget.figure.data) == 7
    for mine, other in zip(widget.figure.data, fresh.data, strict=True):
        assert list(mine.y) == list(other.y) and list(mine.x) == list(other.x)


def test_the_drawing_shows_the_table(widget, table):
    row = find(table, "wide", 2, "truncation")
    zero, between, beyond, levels, _, marks, ring = widget.figure.data
    assert sum(map(sum, (zero.y, between.y, beyond.y))) == 2400
    assert list(levels.x) == pytest.approx([-row["clip"], 0, row["clip"]])
    assert (ring.x[0], ring.y[0]) == (row["clip"], 100 * row["error"])
    assert list(marks.text) == [*explorer.PLACES]
    assert "14.94 times smaller. Trained." in widget.caption.value
    assert unbroken(f"{100 * row['zero']:.1f} % become 0") in widget.caption.value


def test_a_callback_takes_less_than_300_ms(widget):
    start = time.thread_time()
    widget.controls["bits"].value = 8
    assert time.thread_time() - start < 0.3


def test_retained_reads_the_benchmark():
    words = explorer.retained(measured("kdlsq_sst2").rows)
    assert [*words] == [2, 3, 4, 8]
    rows = {row["model"]: row["metrics"] for row in measured("kdlsq_sst2").rows}
    assert f"keeps {rows['KDLSQ 2-2-8']['retention']:.1f} %" in words[2]
    assert explorer.retained([]) == {}


def test_five_in_a_byte_by_hand():
    codes = torch.tensor([1, -1, 0, 0, 1, -1, 1])
    first = 2 + 3 * 0 + 9 * 1 + 27 * 1 + 81 * 2
    second = 0 + 3 * 2 + 9 * 1 + 27 * 1 + 81 * 1
    assert n11.pack_five(codes).tolist() == [first, second]
    assert n11.pack_five(torch.ones(5, dtype=torch.long)).tolist() == [242], "243 values in all"


def test_five_in_a_byte_in_a_loop_passes():
    def loop(codes):
        found = []
        for start in range(0, len(codes), 5):
            five = [*codes[start : start + 5].tolist(), 0, 0, 0, 0][:5]
            found.append(sum((code + 1) * 3**k for k, code in enumerate(five)))
        return torch.tensor(found, dtype=torch.uint8)

    assert check("11.1", loop).passed
    assert not check("11.1", lambda codes: n11.pack_five(codes).long()).passed


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_clip_that_learns_is_the_librarys(bits, through):
    torch.manual_seed(1)
    g, clip = torch.randn(9, 11), torch.tensor(1.1, requires_grad=True)
    mine, theirs = (torch.randn(9, 11, generator=torch.Generator().manual_seed(2)).requires_grad_()
                    for _ in range(2))  # fmt: skip
    q = LearnedClip(bits, straight=through).calibrate(theirs)
    q.clip.data.fill_(1.1)
    out = n11.learned_clip(mine, clip, bits, through)
    assert_close(out, q(theirs))
    out.backward(g)
    q(theirs).backward(g)
    assert_close(mine.grad, theirs.grad)
    assert_close(clip.grad, q.clip.grad[0], rtol=1e-4, atol=1e-5)


def test_check_4_of_the_sheet():
    v = torch.tensor([-2, -1, -0.51, -0.5, -0.2, 0, 0.3, 0.5, 0.8, 1.7], requires_grad=True)
    clip = torch.tensor(1.0, requires_grad=True)
    out = n11.learned_clip(v, clip, 2, False)
    assert out.tolist() == [-1, -1, -1, 0, 0, 0, 0, 0, 1, 1]
    out.sum().backward()
    assert clip.grad.item() == pytest.approx(-0.39, abs=1e-5)
    assert v.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_a_function_of_ones_own_passes():
    class Clip(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v, clip, bits, through):
            ctx.save_for_backward(v, clip)
            ctx.rest = bits, through
            return n11.learned_clip(v, clip, bits, through)

        @staticmethod
        def backward(ctx, g):
            (v, clip), (bits, through) = ctx.saved_tensors, ctx.rest
            x, top = v / clip, 2 ** (bits - 1) - 1
            inside = x.abs() <= 1
            by_clip = torch.where(inside, (x * top).round() / top - x, x.sign())
            return g * (inside | through), (g * by_clip).sum(), None, None

    assert check("11.2", Clip.apply).passed


def test_start_from_batches_is_what_calibrate_does():
    layer = torch.nn.Module()
    layer.dense = tq.Inputs(tq.LearnedClip(8, "truncation=0.02"))(torch.nn.Linear(8, 3))
    layer.forward = lambda x, attention_mask: layer.dense(x)
    *_, (batches, gamma) = n11._token_batches(torch.Generator().manual_seed(0))
    calibrate(layer, [{"x": x, "attention_mask": m} for x, m in batches])
    (clip,) = layer.dense.quant_input.clip.detach()
    assert_close(clip, n11.start_from_batches(batches, 0.02))
    tallest = torch.stack([x[m.bool()].abs().max() for x, m in batches]).mean()
    assert gamma == 0 and n11.start_from_batches(batches, gamma) == tallest


def test_the_index_that_is_one_too_far_is_told():
    def too_far(batches, gamma):
        clips = []
        for x, mask in batches:
            v = x[mask.bool()].flatten().sort().values
            k = round(gamma * len(v) / 2)
            clips.append(torch.maximum(v[k].abs(), v[len(v) - k].abs()))
        return torch.stack(clips).mean()

    assert "11.3" in check("11.3", too_far).line and not check("11.3", too_far).passed
