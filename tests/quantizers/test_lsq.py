"""Spec sheet QTC, acceptance checks 6 and 7 (quantizer), and LSQ's equations written out."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.quantizers.grid import uncalibrated
from tqlearn.quantizers.lsq import LSQ
from tqlearn.quantizers.rounding import fake_quantize, integer_range, round_ste

X = torch.tensor([-1.03, -0.92, -0.37, -0.04, 0, 0.04, 0.26, 0.52, 0.74, 0.93], dtype=torch.float64)
G = torch.arange(1, 11, dtype=torch.float64) / 10


@pytest.mark.parametrize(
    ("bits", "scale", "codes", "dx", "ds"),
    [
        (
            4,
            0.1,
            [-8, -8, -4, 0, 0, 0, 3, 5, 7, 7],
            [0, 0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0, 0],
            10.85,
        ),
        (4, 0.2, [-5, -5, -2, 0, 0, 0, 1, 3, 4, 5], G.tolist(), 0.58),
        (8, 0.01, (X * 100).round().tolist(), G.tolist(), 0.0),
    ],
)
def test_quantizer_vectors(bits, scale, codes, dx, ds):
    x = X.clone().requires_grad_()
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    out = fake_quantize(x, s, *integer_range(bits))
    out.backward(G)
    assert_close(out.detach(), torch.tensor(codes, dtype=torch.float64) * scale, atol=1e-12, rtol=0)
    assert_close(x.grad, torch.tensor(dx, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(s.grad) == pytest.approx(ds, abs=1e-12)


def test_scale_gradient_is_equation_three():
    """LSQ written out with torch's own autograd: round by a straight-through difference."""
    q = LSQ(bits=3).double().calibrate(torch.randn(40, 30).double())
    x = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    (q(x) ** 2).sum().backward()
    mine = q.scale.grad.clone(), x.grad.clone()

    s = q.scale.detach().clone().requires_grad_()
    x2 = x.detach().clone().requires_grad_()
    factor = 1 / sqrt(x2.numel() * q.qmax)
    scaled = s * factor + (s * (1 - factor)).detach()
    v = (x2 / scaled).clamp(q.qmin, q.qmax)
    ((scaled * (v + (v.round() - v).detach())) ** 2).sum().backward()
    assert_close(mine, (s.grad, x2.grad), rtol=1e-9, atol=1e-12)


def test_scale_gradient_by_frozen_residual_difference():
    """With the rounding residual held, the output is linear in the scale: a difference is exact."""
    x, s = torch.randn(200).double(), torch.tensor(0.3).double()
    qmin, qmax = integer_range(4)
    v = x / s
    inside = (v >= qmin) & (v <= qmax)
    residual = v.round() - v

    def frozen_out(scale):
        return torch.where(inside, x + scale * residual, scale * v.round().clamp(qmin, qmax))

    g, h = torch.randn(200).double(), 1e-3
    difference = ((frozen_out(s + h) - frozen_out(s - h)) * g).sum() / (2 * h)
    s.requires_grad_()
    fake_quantize(x, s, qmin, qmax).backward(g)
    assert_close(s.grad, difference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_properties(bits, signed):
    x = torch.randn(4000) if signed else torch.rand(4000)
    q = LSQ(bits, signed=signed).calibrate(x)
    y = q(x)
    assert torch.equal(q(y), y)  # idempotent
    assert y.unique().numel() <= 2**bits
    inside = (x / q.scale >= q.qmin) & (x / q.scale <= q.qmax)
    assert (y - x)[inside].abs().max() <= q.scale / 2 * (1 + 1e-5)
    assert (q(torch.zeros(3)) == 0).all()
    assert torch.equal(q.codes(x).float() * q.scale, y)
    assert q.codes(x).min() >= q.qmin and q.codes(x).max() <= q.qmax


def test_start_values():
    x = torch.randn(1000)
    for rule, start in (("lsq", 2 * x.abs().mean() / sqrt(7)), ("max", x.abs().max() / 7)):
        assert_close(LSQ(4, init=rule).calibrate(x).scale, start[None], check_dtype=False)


def test_least_squares_start_of_a_gaussian():
    """400,000 samples of N(0, 1) at 4 bits: s = 0.339, error 0.0119; min-max is 3.5 times worse."""
    x = torch.randn(400_000)
    best, widest = LSQ(4, init="mse").calibrate(x), LSQ(4, init="max").calibrate(x)
    errors = [float((q(x) - x).square().mean().detach()) for q in (best, widest)]
    assert float(best.scale.detach()) == pytest.approx(0.339, abs=0.01)
    assert errors[0] == pytest.approx(0.0119, abs=3e-4) and errors[1] > 3 * errors[0]


def test_gradient_factor_can_be_left_out():
    x = torch.randn(50)
    grads = []
    for factor in (True, False):
        q = LSQ(4, grad_factor=factor).calibrate(x)
        q(x).sum().backward()
        grads.append(q.scale.grad)
    assert_close(grads[0] * sqrt(50 * 7), grads[1])


def test_a_scale_that_went_negative_comes_back():
    q = LSQ(4).calibrate(torch.randn(100))
    q.scale.data.fill_(-0.1)
    assert torch.isfinite(q(torch.randn(100))).all()
    q(torch.randn(100)).sum().backward()
    assert torch.isfinite(q.scale.grad)


def test_round_ste_rounds_half_to_even():
    assert round_ste(torch.tensor([0.5, 1.5, -0.5])).tolist() == [0.0, 2.0, -0.0]


def test_forgotten_calibration_is_loud():
    model = tq.compress(nn.Sequential(nn.Linear(6, 4)), {"0": [tq.LSQ(bits=4)]})
    assert torch.isnan(model(torch.randn(2, 6))).all()
    assert uncalibrated(model) == ["0.parametrizations.weight.0"]
    for verb in (tq.report, tq.pack):
        with pytest.raises(ValueError, match="no scale yet.*call tqlearn.calibrate"):
            verb(model)


def test_activations_are_calibrated_by_batches():
    model = nn.Sequential(nn.Linear(12, 8))
    student = tq.compress(model, {"0": [tq.TT(rank=8), tq.LSQ(bits=8, activations=8)]})
    with pytest.raises(ValueError, match="activations need batches"):
        tq.calibrate(student)
    batches = [torch.randn(5, 12) for _ in range(3)]
    tq.calibrate(student, batches)
    starts = [2 * b.abs().mean() / sqrt(127) for b in batches]
    assert_close(student[0].quant_input.scale.detach(), torch.stack(starts).mean()[None])
    assert not uncalibrated(student)
    x = torch.randn(64, 12)
    error = (student(x) - model(x)).norm() / model(x).norm()
    assert 0 < float(error.detach()) < 0.1  # 8 bits everywhere, LSQ's start clips a little


def test_a_quantizer_no_batch_reached_is_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    student = tq.compress(Half(), {"*": [tq.TT(rank=4), tq.LSQ(bits=8, activations=8)]})
    with pytest.raises(ValueError, match="no batch reached 3 quantizers.*unused"):
        tq.calibrate(student, [torch.randn(2, 4)])


def test_refusals():
    for bits in (1, 9):
        with pytest.raises(ValueError, match="bits must be an integer from 2 to 8"):
            tq.LSQ(bits=bits)
    with pytest.raises(ValueError, match="init is one of .'lsq', 'max', 'mse'.*got 'min'"):
        LSQ(4, init="min")
    with pytest.raises(ValueError, match="finite values to start from"):
        LSQ(4).calibrate(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="finite values to start from"):
        LSQ(4).calibrate(torch.zeros(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_quantized_weight_has_the_models_type(dtype):
    model = tq.compress(nn.Sequential(nn.Linear(12, 8)).to(dtype), {"0": [tq.LSQ(bits=4)]})
    model[0].parametrizations.weight.original.data.zero_()  # the scale's start is MIN_SCALE
    y = tq.calibrate(model)(torch.ones(2, 12, dtype=dtype))
    fine = torch.float64 if dtype == torch.float64 else torch.float32  # a scale is never rounded
    assert y.dtype == dtype and model[0].parametrizations.weight[0].scale.dtype == fine
    assert torch.equal(y[0], model[0].bias)  # a zero weight stays zero, in float16 too


def test_quantizers_of_activations_stand_where_the_layer_stands():
    layer = tq.LSQ(bits=8, activations=8)(
        tq.factors.TTLinear((4, 6), (6, 4), 3).to("meta").double()
    )
    for q in (layer.quant_input, layer.quant_merge, layer.quant_middle):
        assert q.scale.is_meta and q.scale.dtype == torch.float64
    student = tq.compress(
        nn.Sequential(nn.Linear(24, 24)), {"0": [tq.TT(3), tq.LSQ(8, activations=8)]}
    )
    empty = tq.rebuild(nn.Sequential(nn.Linear(24, 24)).to("meta"), tq.describe(student))
    assert all(p.is_meta for p in empty.parameters())
