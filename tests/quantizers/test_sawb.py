"""Spec sheet Deep Compression, acceptance checks 1 to 6; TWN; min-max and running ranges."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.quantizers.clips import PACT, LearnedClip
from tqlearn.quantizers.lsq import LSQ, LSQPlus
from tqlearn.quantizers.ranges import Uniform
from tqlearn.quantizers.sawb import COEFFICIENTS, SAWB, Ternary

GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
DENSITY = torch.exp(-GRID * GRID / 2) / sqrt(2 * torch.pi) * 1e-4
CLIPS = [
    (2, True, 1.2356),
    (4, True, 2.4364),
    (8, True, 3.8021),
    (4, False, 2.4671),
    (2, False, 1.4732),
]


def frozen(bits, clip, **settings):
    q = SAWB(bits, **settings).double().eval()
    q.scale.fill_(clip / (q.qmax if q.zero else (2**bits - 1) / 2))
    return q


def mse(bits, clip, **settings):
    """E (w_hat - w)^2 on N(0, 1), by quadrature."""
    return float(((frozen(bits, clip, **settings)(GRID) - GRID).square() * DENSITY).sum())


@pytest.mark.parametrize(("bits", "zero", "clip"), CLIPS)
def test_check_1_clips_of_a_gaussian(bits, zero, clip):
    assert SAWB(bits, zero).calibrate(torch.randn(1_000_000)).clip.item() == pytest.approx(
        clip, abs=0.01
    )
    rms, absolute = COEFFICIENTS[bits, zero]
    assert rms + absolute * sqrt(2 / torch.pi) == pytest.approx(clip, abs=1e-4)


BEST = [
    (2, True, 1.2240, 0.19017, 0.19022),
    (4, True, 2.4739, 0.012889, 0.012911),
    (8, True, 3.9205, 8.83e-5, 9.0e-5),
    (4, False, 2.514, 0.011543, 0.011573),
]


@pytest.mark.parametrize(("bits", "zero", "clip", "best", "ours"), BEST)
def test_check_2_against_brute_force(bits, zero, clip, best, ours):
    assert mse(bits, clip, zero=zero) == pytest.approx(best, rel=1e-3)
    for off in (0.98, 1.02):
        assert mse(bits, off * clip, zero=zero) > mse(bits, clip, zero=zero)
    rms, absolute = COEFFICIENTS[bits, zero]
    found = mse(bits, rms + absolute * sqrt(2 / torch.pi), zero=zero)
    assert found == pytest.approx(ours, rel=0.02 if bits == 8 else 1e-3)
    assert bits == 8 or found / best <= 1.005


def test_check_3_vector():
    w = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8], dtype=torch.float64)
    q = SAWB(4).double().calibrate(w)
    assert q.clip.item() == pytest.approx(0.663877, abs=1e-6)
    codes = torch.tensor([1, -2, 3, -4, 5, -6, 7, -7])
    assert torch.equal(q.codes(w).long(), codes)
    assert_close(q(w), codes * 0.0948396, atol=1e-6, rtol=0, check_dtype=False)


def test_check_4_level_set():
    q, ramp = frozen(4, 0.7), torch.linspace(-2, 2, 20001, dtype=torch.float64)
    y = q(ramp)
    assert q.codes(ramp).unique().tolist() == [*range(-7, 8)] and y.unique().numel() == 15
    assert torch.equal(q(-ramp), -y) and torch.equal(q(y), y)
    assert (q(torch.zeros(3).double()) == 0).all()
    wide = frozen(4, 0.7, extended=True)
    assert wide.codes(ramp).unique().tolist() == [*range(-8, 8)]
    assert wide(ramp).min().item() == pytest.approx(-0.8)  # -8/7 of the clip


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_check_5_the_grid_without_a_zero_fails_by_design(bits):
    w = torch.randn(40, 40)
    w[torch.rand(40, 40) < 0.5] = 0
    q = SAWB(bits, zero=False).calibrate(w)
    assert (q(w) != 0).all()
    q.eval()
    assert_close(q(torch.zeros(1)).abs(), q.clip[None] / (2**bits - 1))
    top = torch.tensor([-9.0, 9.0])
    assert_close(q(top), torch.stack([-q.clip, q.clip]))
    ramp = torch.linspace(-9, 9, 20001)
    assert q(ramp).unique().numel() == 2**bits and torch.equal(q.decode(q.codes(ramp)), q(ramp))


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("plus", [True, False])
def test_check_6_gradients(zero, plus):
    w, g = torch.randn(500), torch.randn(500)
    q, leaf = SAWB(4, zero, plus).calibrate(w), w.clone().requires_grad_()
    q(leaf).backward(g)
    assert torch.equal(leaf.grad, g if plus else g * (w.abs() <= q.clip))
    assert not [*q.parameters()]


def test_where_the_line_is_of_no_use():
    """3.5: nearly constant |w| would get almost no clip at all."""
    w = torch.tensor([1.0, -1.0, 1.0, -1.0])
    for bits in (4, 8):
        assert SAWB(bits).calibrate(w).clip.item() == pytest.approx(1.0)
    assert (SAWB(4).calibrate(torch.zeros(4))(torch.zeros(4)) == 0).all()


def test_lines_for_masked_weights():
    """10.1: masked statistics give 4.06 on the dense line, about 2.53 on the refitted ones."""
    groups = torch.randn(250_000, 4)
    small = groups.abs().argsort(1)[:, :2]
    w = groups.scatter(1, small, 0.0)
    found = {s: SAWB(4, statistics=s).calibrate(w).clip.item() for s in ("dense", "masked", "kept")}
    assert found["dense"] == pytest.approx(4.0636, abs=0.02)
    assert found["masked"] == pytest.approx(2.528, abs=0.02)
    assert found["kept"] == pytest.approx(2.528, abs=0.03)
    q = SAWB(4, statistics="masked").calibrate(w)
    assert (q(w)[w == 0] == 0).all()
    own = SAWB(3, coefficients=(2.0, -1.0)).calibrate(torch.ones(4))
    assert own.clip.item() == pytest.approx(1.0)


def test_the_search_has_the_least_error_under_a_mask():
    """10.1: quantization's share of the error on N(0, 1), each way to take the clip."""
    torch.manual_seed(0)
    dense = torch.randn(1000, 1000)
    parts = {"dense": 0.0141, "original": 0.0079, "masked": 0.0075, "kept": 0.0075, None: 0.0073}
    found = {}
    for statistics in parts:
        layer = nn.Linear(1000, 1000)
        layer.weight.data = dense.clone()
        edits = [tq.TwoFour(), tq.SAWB(4, statistics=statistics)]
        model = tq.calibrate(tq.compress(nn.Sequential(layer), {"0": edits}))
        mask, sawb = model[0].parametrizations.weight
        gone = (model[0].weight - mask(dense)).detach().square().mean()
        found[statistics] = float(gone)
        assert statistics == "dense" or abs(sawb.clip - 2.55) < 0.15, statistics
    assert found == pytest.approx(parts, abs=2e-4)
    assert min(found, key=found.get) is None, "the default"


@pytest.mark.parametrize(("bits", "pattern"), [(2, "2:4"), (8, "2:4"), (4, "1:2"), (4, "1:4")])
def test_the_search_against_a_fine_grid(bits, pattern):
    """Any pattern and width, near the least error of 400 clips, in every row of its own."""
    torch.manual_seed(0)
    w = torch.randn(3, 1200) * torch.tensor([[1.0], [10.0], [0.1]])
    w = w * tq.sparsity.nm_mask(w.abs(), pattern)
    q = SAWB(bits, statistics="search", groups=3).calibrate(w)
    errors = (q(w) - w).square().sum(1)
    top = 2 ** (bits - 1) - 1
    for row, error in zip(w, errors, strict=True):
        steps = torch.linspace(0.05, 1.2, 400)[:, None] * row.abs().max() / top
        grid = ((row / steps).round().clamp(-top, top) * steps - row).square().sum(1).min()
        assert error <= (1.3 if bits == 8 else 1.1) * grid  # at 8 bits its clips lie far apart
    assert q.config()["statistics"] == "search" and (q(w)[w == 0] == 0).all()
    assert (SAWB(4, statistics="search").calibrate(torch.zeros(8))(torch.zeros(8)) == 0).all()


def test_the_search_on_the_grid_without_a_zero():
    """Dropped weights become half a step there, which the best clip takes into account."""
    torch.manual_seed(0)
    w = torch.randn(1, 12_000)
    w = w * tq.sparsity.nm_mask(w.abs())
    steps = torch.linspace(0.05, 1.2, 400)[:, None] * w.abs().max() / 7.5
    least = (((w / steps).floor().clamp(-8, 7) + 0.5) * steps - w).square().sum(1).min()
    found = SAWB(4, zero=False, statistics="search").calibrate(w)
    line = SAWB(4, zero=False).calibrate(w)
    error, published = ((q(w) - w).square().sum() for q in (found, line))
    assert error <= 1.02 * least and published > 1.5 * least


def test_which_statistics_a_weight_gets():
    def statistics(*edits):
        model = tq.compress(nn.Sequential(nn.Linear(8, 4)), {"0": [*edits]})
        return model[0].parametrizations.weight[-1]

    assert statistics(tq.SAWB(4)).statistics == "dense"
    assert statistics(tq.TwoFour(), tq.SAWB(4)).statistics == "search"
    assert statistics(tq.TwoFour(), tq.SAWB(4, statistics="kept")).statistics == "kept"
    assert statistics(tq.TwoFour(), tq.SAWB(4, zero=False)).statistics == "search"
    own = statistics(tq.TwoFour(), tq.SAWB(4, coefficients=(2.0, 0.5)))
    assert own.statistics == "dense" and own.line == (2.0, 0.5)
    assert statistics(tq.SAWB(4, statistics="original")).line == COEFFICIENTS[4, True]


def test_the_clip_of_the_dense_weight_follows_the_masked_one():
    layer = nn.Linear(64, 32)
    clip = SAWB(4).calibrate(layer.weight).clip
    student = tq.TwoFour()(layer)
    student = tq.calibrate(tq.SAWB(4, statistics="original")(student)).train()
    sawb = student.parametrizations.weight[1]
    assert_close(sawb.clip, clip)
    with torch.no_grad():
        student.parametrizations.weight.original.mul_(2)
    assert student.weight.shape == (32, 64)
    assert_close(sawb.clip, 2 * clip)


def test_the_clip_follows_in_training_and_stands_still_in_evaluation():
    q, w = SAWB(4).calibrate(torch.randn(1000)), 3 * torch.randn(1000)
    before = q.clip.clone()
    q.eval()(w)
    assert torch.equal(q.clip, before)
    q.train()(w)
    assert q.clip > 2 * before


def test_twn():
    w = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(400_000) + 0.5).double() / 400_000)
    q = Ternary().double().calibrate(w)
    out = q(w)
    assert q.scale.item() == pytest.approx(1.1842, abs=1e-3)
    assert (out - w).square().mean().item() == pytest.approx(0.19162, abs=1e-4)
    assert (out == 0).double().mean().item() == pytest.approx(0.4235, abs=1e-4)
    leaf = w.clone().requires_grad_()
    q(leaf).sum().backward()
    assert torch.equal(leaf.grad, (w.abs() <= 2.5).double())
    assert torch.equal(q.decode(q.codes(w)), out)
    rows = torch.randn(3, 50) * torch.tensor([[1.0], [10.0], [0.1]])
    apart = torch.stack([Ternary().calibrate(row)(row) for row in rows])
    assert_close(Ternary(groups=3).calibrate(rows)(rows), apart)


def test_min_max_range():
    x, g = torch.randn(300) + 2, torch.randn(300)
    q, leaf = Uniform(4), x.clone().requires_grad_()
    y = q(leaf)
    s = (x.max() - x.min()) / 15
    assert_close(y.detach(), x.min() + s * ((x - x.min()) / s).round(), atol=1e-6, rtol=1e-5)
    y.backward(g)
    assert torch.equal(leaf.grad, g)  # nothing is clamped
    assert torch.equal(q.decode(q.codes(x)), y) and q.codes(x).max() == 15


def test_running_range():
    """v <- 0.9 v + 0.1 v_batch in training, frozen in evaluation; clamped: no gradient."""
    q = Uniform(8, momentum=0.9)
    q(torch.tensor([-1.0, 2.0]))
    assert (q.low.item(), q.high.item()) == (-1.0, 2.0)
    q(torch.tensor([-3.0, 12.0]))
    assert (q.low.item(), q.high.item()) == pytest.approx((-1.2, 3.0))
    x = torch.tensor([-5.0, 0.0, 9.0], requires_grad=True)
    q.eval()(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
    assert (q.low.item(), q.high.item()) == pytest.approx((-1.2, 3.0))


SIGNED = [
    LSQ,
    LearnedClip,
    PACT,
    lambda bits: PACT(bits, form="symmetric"),
    lambda bits: PACT(bits, form="symmetric", extended=True),
    lambda bits: Uniform(bits, integer_zero=True),
    lambda bits: SAWB(bits, coefficients=(2.0, 0.5)),
]
ONE_SIDED = [
    lambda bits: LSQ(bits, signed=False),
    lambda bits: PACT(bits, form="one-sided"),
    lambda bits: Uniform(bits, signed=False),
]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("make", SIGNED + ONE_SIDED)
def test_exact_zeros_stay(make, bits):
    """Random tensors of every size and shift, one scale or several; the mask comes first."""
    for seed in range(8):
        torch.manual_seed(seed)
        x = (torch.randn(6, 32) + torch.randn(()) * 2) * 10 ** torch.randn(())
        x = x.abs() if make in ONE_SIDED else x
        x[torch.rand(6, 32) < 0.5] = 0
        q = make(bits).calibrate(x)
        assert (q(x)[x == 0] == 0).all() and (q.decode(q.codes(x))[x == 0] == 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_exact_zeros_of_twn(seed):
    torch.manual_seed(seed)
    x = torch.randn(6, 32)
    x[torch.rand(6, 32) < 0.5] = 0
    assert (Ternary().calibrate(x)(x)[x == 0] == 0).all()


def test_what_does_not_keep_zeros():
    x = torch.rand(1000) + 0.3
    x[:500] = 0
    shifted = x - 0.1  # so that the range does not begin at 0
    for q in (LSQPlus(4), Uniform(4), SAWB(4, zero=False)):
        y = q.calibrate(shifted)(torch.cat([shifted, torch.zeros(1)]))
        assert y[-1] != 0, type(q).__name__


def test_refusals():
    with pytest.raises(ValueError, match=r"no line for 3 bits with a zero.*\[2, 4, 7, 8\]"):
        SAWB(3)
    with pytest.raises(ValueError, match=r"no line for 8 bits without.*\[2, 3, 4, 5\]"):
        SAWB(8, zero=False)
    with pytest.raises(ValueError, match="every code is in use"):
        SAWB(4, zero=False, extended=True)
    with pytest.raises(ValueError, match="statistics is one of"):
        SAWB(4, statistics="sparse")
    with pytest.raises(ValueError, match="'masked' line is for 4 bits with a zero"):
        SAWB(2, statistics="masked")
    with pytest.raises(ValueError, match="in 2 bits, got bits=3"):
        Ternary(3)
    with pytest.raises(ValueError, match="momentum is the share of the old range"):
        Uniform(8, momentum=1.0)
    for edit in (lambda: tq.SAWB(bits=3), lambda: tq.Uniform(bits=8, momentum=2.0)):
        with pytest.raises(ValueError):
            edit()
    with pytest.raises(ValueError, match="finite values"):
        SAWB(4).calibrate(torch.full((3,), float("nan")))
    assert issubclass(SAWB, nn.Module)
