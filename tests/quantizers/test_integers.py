"""I-BERT's integer functions: spec sheet neighbors, section 1, acceptance checks a to d."""

from math import isqrt, sqrt

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from tqlearn.quantizers import integers


def coded(bits, low=-4.0, high=4.0, count=20001):
    x = torch.linspace(low, high, count, dtype=torch.float64)
    scale = max(-low, high) / (2 ** (bits - 1) - 1)
    return x, (x / scale).round().long(), scale


def gelu_error(bits):
    x, q, scale = coded(bits)
    out, fine = integers.gelu(q, scale)
    return (out * fine - F.gelu(x)).abs().max().item()


def real_gelu(x):
    a, b, _ = integers.ERF
    u = x / sqrt(2)
    return x / 2 * (1 + u.sign() * (a * (u.abs().clamp_max(-b) + b) ** 2 + 1))


def test_check_a_polynomials():
    x = torch.linspace(-4, 4, 100001, dtype=torch.float64)
    error = real_gelu(x) - F.gelu(x)
    assert 0.0181 < error.abs().max() <= 0.0183
    assert error.square().mean().sqrt().item() == pytest.approx(0.0082, abs=1e-4)
    p = torch.linspace(-0.693147, 0, 100001, dtype=torch.float64)
    a, b, c = integers.EXP
    assert (a * (p + b) ** 2 + c - p.exp()).abs().max().item() == pytest.approx(0.0019, abs=1e-4)
    rounded = (0.3585 * (p + 1.353) ** 2 + 0.344 - p.exp()).abs().max()
    assert rounded <= 0.0022


def test_check_b_integers_follow_the_polynomial():
    for bits in (16, 22):
        x, q, scale = coded(bits)
        out, fine = integers.gelu(q, scale)
        assert (out * fine - real_gelu(q * scale)).abs().max() < 1e-3
    assert gelu_error(16) == pytest.approx(0.01821, abs=5e-5)
    assert gelu_error(22) == pytest.approx(0.01815, abs=5e-5)
    x, q, scale = coded(20, -20.0, 0.0)
    out, fine = integers.exp(q, scale)
    assert (out * fine - x.exp()).abs().max() < 0.0022


def test_trap_eight_bits_are_too_few_for_the_gelu():
    assert gelu_error(8) > 1
    assert gelu_error(12) == pytest.approx(0.031, abs=0.005)


def test_check_c_square_root():
    torch.manual_seed(0)
    n = torch.cat([torch.randint(0, 2**32, (20000,)), torch.arange(300)])
    root, steps = integers.square_root(n)
    assert root.tolist() == [isqrt(value) for value in n.tolist()]
    assert steps <= 6


def test_check_d_softmax():
    torch.manual_seed(0)
    x = 3 * torch.randn(64, 50).double()
    scale = 2.0**-12
    out, fine = integers.softmax((x / scale).round().long(), scale)
    assert ((out * fine).sum(-1) - 1).abs().max() <= 50 * fine
    assert (out * fine - x.softmax(-1)).abs().max() < 2 * fine
    masked = torch.where(torch.arange(50) < 40, (x / scale).round().long(), -(2**18))
    assert (integers.softmax(masked, scale)[0][:, 40:] == 0).all()


def test_layer_norm():
    torch.manual_seed(0)
    for spread in (300, 2**20):
        q = (spread * torch.randn(10, 768)).round().long() + 57
        out, scale = integers.layer_norm(q)
        assert_close(out.double() * scale, F.layer_norm(q.double(), (768,)), atol=0.02, rtol=0.01)
    assert (integers.layer_norm(torch.full((1, 8), 5))[0] == 0).all()


def test_requantize():
    q = torch.randint(-(2**20), 2**20, (1000,))
    for ratio in (0.00371, 0.77, 12.5):
        found = integers.requantize(q, ratio, 1.0)
        assert (found - q * ratio).abs().max() <= 0.51 + ratio * 2**20 * 2**-24
    with pytest.raises(ValueError, match="subtract the maximum"):
        integers.exp(torch.tensor([1]), 0.1)
