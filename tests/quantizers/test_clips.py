"""Spec sheet KDLSQ, acceptance checks 1 to 8; Deep Compression, checks 6 and 7 (PACT)."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.quantizers.clips import PACT, LearnedClip
from tqlearn.quantizers.initial_scales import (
    GAMMA,
    parse_rule,
    start_bounds,
    start_scale,
    truncation,
)
from tqlearn.quantizers.lsq import LSQ, LSQPlus
from tqlearn.quantizers.rounding import fake_quantize

V = torch.tensor([-4, -1.3, -0.4, 0, 0.26, 0.75, 1.5, 3.49, 3.6, 5], dtype=torch.float64)
DS = torch.tensor([-7, -0.4, -0.2, 0, 0.48, 0.5, 0, 0.02, 7, 7], dtype=torch.float64)
W = torch.tensor([-2, -1, -0.51, -0.5, -0.2, 0, 0.3, 0.5, 0.8, 1.7], dtype=torch.float64)
X = torch.tensor([-0.7, -0.5, -0.33, 0, 0.04, 0.37, 0.99, 1.0, 1.4], dtype=torch.float64)


def equal(found, expected):
    """Compare a tensor with a list of numbers."""
    assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)


def each(quantizer, parameter, x):
    """d out / d parameter, entry by entry."""
    found = []
    for value in x:
        parameter.grad = None
        quantizer(value[None]).sum().backward()
        found.append(parameter.grad.clone().reshape(()))
    return torch.stack(found)


def learned(bits, clip, **settings):
    q = LearnedClip(bits, **settings).double()
    q.clip.data.fill_(clip)
    return q


def pact(low, high, bits=4, **settings):
    q = PACT(bits, **settings).double()
    q.high.data.fill_(high)
    if low is not None:
        q.low.data.fill_(low)
    return q


def test_check_1_lsq_vector():
    v, s = V.clone().requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    out = fake_quantize(v, s, -7, 7, 1 / sqrt(70))
    out.sum().backward()
    assert (out / 0.5).tolist() == [-7, -3, -1, 0, 1, 2, 3, 7, 7, 7]
    assert s.grad.item() == pytest.approx(0.884469, abs=1e-6)
    assert DS.sum().item() == pytest.approx(7.40) and 1 / sqrt(70) == pytest.approx(0.119523, 1e-5)
    assert start_scale(V[None], "lsq", 4, -7, 7).item() == pytest.approx(1.534536, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 50), (7, 9)])
def test_a_large_tensor_starts_where_a_small_one_does(monkeypatch, shape):
    x = torch.randn(shape)
    wanted = start_scale(x, "lsq", 4, -7, 7)
    monkeypatch.setattr("tqlearn.quantizers.initial_scales.LARGE", 16)
    assert_close(start_scale(x, "lsq", 4, -7, 7), wanted)
    assert_close(start_scale(x, "max", 4, -7, 7), x.abs().amax(1) / 7, rtol=0, atol=0)


def test_check_2_numerical_derivative_of_the_surrogate():
    h, v = 1e-4, V / 0.5
    held = v.round() - v

    def surrogate(s):
        return torch.where(v < -7, -7 * s, torch.where(v > 7, 7 * s, V + s * held))

    difference = (surrogate(0.5 + h) - surrogate(0.5 - h)) / (2 * h)
    s = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    mine = each(lambda x: fake_quantize(x, s, -7, 7), s, V)
    assert_close(mine, difference, atol=1e-6, rtol=0)
    assert_close(mine, DS, atol=1e-12, rtol=0)


def test_check_3_clip_and_scale_are_one_quantizer():
    q, s = learned(4, 3.5), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(q(V), fake_quantize(V, s, -7, 7))
    dalpha = each(q, q.clip, V)
    assert_close(7 * dalpha, DS, atol=1e-12, rtol=0)
    assert dalpha.sum().item() == pytest.approx(1.057143, abs=1e-6)


def test_check_4_ternary_vector():
    q = learned(2, 1.0)
    assert q.codes(W).tolist() == [-1, -1, -1, 0, 0, 0, 0, 0, 1, 1]
    dalpha = each(q, q.clip, W)
    equal(dalpha.detach(), [-1, 0, -0.49, 0.5, 0.2, 0, -0.3, -0.5, 0.2, 1])
    assert dalpha.sum().item() == pytest.approx(-0.39)
    for straight, expected in ((True, [1.0] * 10), (False, [0.0, *[1.0] * 8, 0.0])):
        w = W.clone().requires_grad_()
        learned(2, 1.0, straight=straight)(w).sum().backward()
        assert w.grad.tolist() == expected


@pytest.mark.parametrize(("bits", "levels"), [(2, 3), (3, 7), (4, 15), (8, 255)])
def test_check_5_level_sets(bits, levels):
    q, ramp = learned(bits, 1.3), torch.linspace(-2, 2, 20001, dtype=torch.float64)
    y = q(ramp).detach()
    assert q.codes(ramp).unique().numel() == levels == y.unique().numel()
    assert torch.equal(q(-ramp), -y) and torch.equal(q(y), y)
    assert (q(torch.zeros(2).double()) == 0).all()


@pytest.mark.parametrize("n", [1, 63, 64, 1000, 4097])
def test_truncation_is_that_of_a_sorted_row_for_few_and_for_many(n):
    x = torch.randn(3, n)
    for gamma in (0.0, 0.001, 0.02, 0.3):
        low, high = truncation(x, gamma)
        k = min(round(gamma * n / 2), (n - 1) // 2)
        assert torch.equal(low, x.sort().values[:, k])
        assert torch.equal(high, x.sort().values[:, n - 1 - k])


def test_check_6_truncation():
    x = torch.randn(1, 1_000_000)
    for gamma, clip, within in ((0.05, 1.960, 0.01), (0.01, 2.576, 0.015)):
        q = LearnedClip(8, init=f"truncation={gamma}").calibrate(x)
        assert q.clip.item() == pytest.approx(clip, abs=within)
        spoilt = x.clone()
        spoilt[0, 7] = 1e3
        moved = LearnedClip(8, init=f"truncation={gamma}").calibrate(spoilt)
        assert moved.clip.item() == pytest.approx(q.clip.item(), abs=1e-3)
        assert LearnedClip(8, init="max").calibrate(spoilt).clip.item() == pytest.approx(1e3)
    low, high = truncation(x, 0.0)
    assert torch.maximum(-low, high).item() == x.abs().max().item()
    assert truncation(torch.tensor([[3.0]]), 0.4)[1].item() == 3.0  # one entry: no index error


def gaussian_mse(bits, clip):
    """E (v_hat - v)^2 on N(0, 1), by quadrature on a fine grid."""
    v = torch.linspace(-12, 12, 2_400_001, dtype=torch.float64)
    density = torch.exp(-v * v / 2) / sqrt(2 * torch.pi)
    return float(((learned(bits, clip)(v).detach() - v).square() * density).sum() * 1e-5)


TABLE = [  # section 3.1: gamma, clip, MSE at 2, 3, 4, 8 bits
    (0.05, 1.9600, (0.32154, 0.04686, 0.01918, 0.01299)),
    (0.02, 2.3263, (0.43727, 0.05345, 0.01326, 0.00426)),
    (0.01, 2.5758, (0.51873, 0.06277, 0.01303, 0.00189)),
    (0.001, 3.2905, (0.72527, 0.10032, 0.01853, 0.00019)),
]


@pytest.mark.parametrize(("gamma", "clip", "expected"), TABLE)
def test_check_7_table_of_starts(gamma, clip, expected):
    normal = torch.distributions.Normal(0.0, 1.0)
    assert normal.icdf(torch.tensor(1 - gamma / 2)).item() == pytest.approx(clip, abs=1e-3)
    for bits, mse in zip((2, 3, 4, 8), expected, strict=True):
        assert gaussian_mse(bits, clip) == pytest.approx(mse, rel=2e-3, abs=6e-6)


def test_check_7_optimum_and_lsq_start():
    optimum = {2: (1.2240, 0.19017), 3: (1.9523, 0.04686), 4: (2.4739, 0.01289), 8: (3.9205, 9e-5)}
    lsq = {2: (1.596, 0.2298), 3: (2.764, 0.0714), 4: (4.222, 0.0303), 8: (17.98, 0.00167)}
    x = torch.randn(1, 400_000)
    for bits, (clip, mse) in optimum.items():
        assert gaussian_mse(bits, clip) == pytest.approx(mse, rel=1e-3, abs=2e-6)
        assert gaussian_mse(bits, 0.97 * clip) > gaussian_mse(bits, clip)
        assert gaussian_mse(bits, 1.03 * clip) > gaussian_mse(bits, clip)
        found = LearnedClip(bits, init="mse").calibrate(x).clip.item()
        assert gaussian_mse(bits, found) < 1.02 * mse
        assert gaussian_mse(bits, lsq[bits][0]) == pytest.approx(lsq[bits][1], rel=5e-3)
        start = LearnedClip(bits, init="lsq").calibrate(x).clip.item()
        assert start == pytest.approx(lsq[bits][0], rel=0.01)


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(2, 1.46, 1.50), (3, 2.09, 2.14), (4, 2.57, 2.65), (8, 3.5, 4.9)]
)
def test_histogram_kl_adapts_to_the_bits(bits, low, high):
    """3.2 gives 1.47-1.48, 2.10-2.12, 2.58-2.62 and 3.73-4.03; the last one scatters more here."""
    clip = LearnedClip(bits, init="kl").calibrate(torch.randn(589_824)).clip.item()
    assert low < clip < high
    assert LearnedClip(8, init="kl").calibrate(torch.randn(50)).clip.item() > 1  # few bins: max


FIXED = [(2, 1.304, 0.19226), (3, 1.987, 0.04693), (4, 2.487, 0.01289), (8, 3.921, 8.8e-5)]


@pytest.mark.parametrize(("bits", "clip", "mse"), FIXED)
def test_check_8_fixed_point_of_clip_learning(bits, clip, mse):
    """Descent on 0.5 mean (v_hat - v)^2 balances inside against outside, not the error itself."""
    v = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(200_000) + 0.5).double() / 200_000)

    def slope(at):
        q = learned(bits, at)
        (0.5 * (q(v) - v).square()).mean().backward()
        return q.clip.grad.item()

    low, high = clip - 0.02, clip + 0.02
    assert slope(low) < 0 < slope(high)  # so descent from either side ends between them
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert gaussian_mse(bits, low) == pytest.approx(mse, rel=0.01)


def test_check_8_an_optimizer_gets_there():
    x, q = torch.randn(100_000).double(), learned(2, 2.0)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 150)
        optimizer.zero_grad()
        (0.5 * (q(x) - x).square()).mean().backward()
        optimizer.step()
    assert q.clip.item() == pytest.approx(1.304, abs=0.02)


@pytest.mark.parametrize(("plus", "sums"), [(True, (2.02, 1.98)), (False, (2.0, 2.0))])
def test_deep_compression_check_6_pact(plus, sums):
    q = pact(-0.5, 1.0, plus=plus)
    assert q.scale.item() == pytest.approx(0.1) and q.zero_point.item() == 5
    equal(q(X).detach(), [-0.5, -0.5, -0.3, 0, 0, 0.4, 1, 1, 1])
    high, low = each(q, q.high, X), each(q, q.low, X)
    assert (high.sum().item(), low.sum().item()) == pytest.approx(sums, abs=1e-9)
    if plus:
        equal(high, [0, 0, 0.02, 0, -0.08 / 3, 0.02, 0.02 / 3, 1, 1])
        equal(low, [1, 1, -0.02, 0, 0.08 / 3, -0.02, -0.02 / 3, 0, 0])
    x = X.clone().requires_grad_()
    q(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]


def test_deep_compression_check_7_numerical_derivative():
    q, h, inside = pact(-0.5, 1.0), 1e-5, (X > -0.5) & (X < 1.0)
    z = (X + 0.5) / 0.1
    held = z.round() - z

    def surrogate(low, high):
        s = (high - low) / 15
        at = low + s * ((X - low) / s + held)
        return torch.where(inside, at, torch.where(X < 0, low, high)).to(torch.float64)

    one = torch.tensor(1.0, dtype=torch.float64)
    up = (surrogate(-0.5 * one, 1 + h) - surrogate(-0.5 * one, 1 - h)) / (2 * h)
    down = (surrogate(-0.5 + h, one) - surrogate(-0.5 - h, one)) / (2 * h)
    assert_close(each(q, q.high, X), up, atol=1e-6, rtol=0)
    assert_close(each(q, q.low, X), down, atol=1e-6, rtol=0)
    plain = (pact(-0.5, 1 + h)(X[2:7]) - pact(-0.5, 1 - h)(X[2:7])) / (2 * h)
    assert (plain.detach() - up[2:7]).abs().max() > 0.01  # of the real, piecewise constant one


def test_pact_zero_point():
    """4.2: clips 1 and -0.47 put 0 on 0.02 with a real zero point, on 0 with an integer one."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert pact(-0.47, 1.0, integer_zero=False)(zero).item() == pytest.approx(0.02)
    q = pact(-0.47, 1.0)
    assert q(zero).item() == 0.0
    ramp = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    assert q.codes(ramp).min() == 0 and q.codes(ramp).max() == 15


def test_pact_one_sided():
    q, x = (
        pact(None, 1.5, form="one-sided"),
        torch.tensor([-1, 0, 0.23, 1.5, 2], dtype=torch.double),
    )
    equal(q(x).detach(), [0, 0, 0.2, 1.5, 1.5])
    equal(each(q, q.high, x), [0, 0, -0.02, 1, 1])
    leaf = x.clone().requires_grad_()
    q(leaf).sum().backward()
    assert leaf.grad.tolist() == [0, 0, 1, 0, 0]
    plain = pact(None, 1.5, form="one-sided", plus=False)
    assert each(plain, plain.high, x).tolist() == [0, 0, 0, 1, 1]


def test_pact_symmetric():
    x = torch.tensor([-2, -0.73, 0, 0.4, 2], dtype=torch.float64)
    q = pact(None, 0.7, form="symmetric")
    equal(q(x).detach(), [-0.7, -0.7, 0, 0.4, 0.7])
    equal(each(q, q.high, x), [-1, -1, 0, 0, 1])
    wide = pact(None, 0.7, form="symmetric", extended=True)
    assert wide.codes(x).tolist() == [-8, -7, 0, 4, 7]
    assert each(wide, wide.high, x)[0].item() == pytest.approx(-8 / 7)


def test_pact_starts_at_percentiles_and_comes_back():
    x = torch.randn(100_000)
    q = PACT(4).calibrate(x)
    low, high = (torch.quantile(x, p).item() for p in (0.001, 0.999))
    assert q.low.item() == pytest.approx(low, abs=0.05)
    assert q.high.item() == pytest.approx(high, abs=0.05)
    q.high.data.fill_(-1.0)
    q.low.data.fill_(1.0)
    q(x).sum().backward()
    assert torch.isfinite(q(x)).all() and q.high.grad.item() > 0


def test_lsq_plus_is_its_formula():
    x = torch.rand(1000, dtype=torch.float64) * 3 + 1
    q = LSQPlus(4).double().calibrate(x)
    low, high = x.min(), x.max()
    s = (high - low) / 15
    assert_close((q.scale.detach(), q.offset.detach()), (s[None], (low + 8 * s)[None]))
    wide = torch.cat([x, torch.tensor([-5.0, 9.0]).double()]).requires_grad_()
    out, g = q(wide), torch.randn(1002, dtype=torch.float64)
    out.backward(g)
    beta, s = q.offset.detach(), q.scale.detach()
    v = ((wide - beta) / s).detach()
    codes = v.clamp(-8, 7).round()
    inside = (v >= -8) & (v <= 7)
    factor = 1 / sqrt(1002 * 7)
    assert_close(out.detach(), codes * s + beta)
    assert_close(wide.grad, g * inside)
    assert_close(q.offset.grad, (g * ~inside).sum()[None] * factor)
    expected = (g * torch.where(inside, codes - v, codes)).sum() * factor
    assert_close(q.scale.grad, expected[None], rtol=1e-6, atol=1e-9)
    centered = LSQPlus(4, init="sigma").double().calibrate(torch.randn(5000).double() + 0.5)
    assert centered.offset.item() == 0 and centered.scale.item() == pytest.approx(3.5 / 8, 0.05)


def test_float32_gradient_is_the_reference_formula():
    """The bar of issue 5: equal to 1e-6, on a whole weight, at 2, 4 and 8 bits."""
    x, g = torch.randn(768, 768) * 0.04, torch.randn(768, 768)
    for bits in (2, 4, 8):
        q = LSQ(bits).calibrate(x)
        leaf = x.clone().requires_grad_()
        q(leaf).backward(g)
        v = (x / q.scale.detach()).double()  # ties are decided in float32, the sums in float64
        inside = (v >= q.qmin) & (v <= q.qmax)
        terms = g.double() * torch.where(inside, v.round() - v, v.round().clamp(q.qmin, q.qmax))
        factor = 1 / sqrt(x.numel() * q.qmax)
        error = (q.scale.grad.double() - terms.sum() * factor).abs() / (terms.abs().sum() * factor)
        assert error < 1e-6
        assert torch.equal(leaf.grad, g * inside)


@pytest.mark.parametrize("make", [LSQ, LSQPlus, LearnedClip, PACT])
def test_groups_are_as_many_quantizers(make):
    """One module with three groups does what three modules do, gradients included."""
    x = torch.randn(3, 4, 10) * torch.tensor([0.1, 1, 5])[:, None, None]
    leaf = x.clone().requires_grad_()
    q = make(4, groups=3).calibrate(x)
    g = torch.randn_like(x)
    q(leaf).backward(g)
    for i in range(3):
        one, part = make(4).calibrate(x[i]), x[i].clone().requires_grad_()
        one(part).backward(g[i])
        assert_close(q(x)[i], one(part))
        assert_close(leaf.grad[i], part.grad)
        for mine, his in zip(q.parameters(), one.parameters(), strict=True):
            assert mine.shape == (3, 1)
            assert_close(mine.grad[i], his.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(q.decode(q.codes(x)), q(x))


def test_refusals():
    for rule, words in {
        "min": "init is one of",
        "truncation=x": "only truncation and percentile take a number",
        "mse=0.1": "only truncation and percentile take a number",
        "percentile=0.7": "from 0 to below 0.5",
    }.items():
        with pytest.raises(ValueError, match=words):
            parse_rule(rule)
    with pytest.raises(ValueError, match="'mse' gives one clip for both sides"):
        start_bounds(torch.randn(1, 4), "mse", 4)
    with pytest.raises(ValueError, match="form is one of"):
        PACT(4, form="three-sided")
    with pytest.raises(ValueError, match="extended is a switch of the symmetric form"):
        PACT(4, extended=True)
    with pytest.raises(ValueError, match="one-sided form has no zero point"):
        PACT(4, form="one-sided", integer_zero=False)
    for make in (LearnedClip, PACT, LSQPlus):
        with pytest.raises(ValueError, match="bits must be an integer from 2 to 8"):
            make(9)
        with pytest.raises(ValueError, match="finite values to start from"):
            make(4).calibrate(torch.tensor([1.0, float("inf")]))
    with pytest.raises(ValueError, match="groups must be a positive integer"):
        LearnedClip(4, groups=0)
    with pytest.raises(ValueError, match=r"\(5, 2\) does not divide into 4 equal groups"):
        LearnedClip(4, groups=4)(torch.randn(5, 2))
    assert sorted(GAMMA) == [*range(2, 9)] and issubclass(tq.quantizers.PACT, nn.Module)
