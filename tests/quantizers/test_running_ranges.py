"""Spec sheet FullyQT, acceptance checks 1 to 5: grid, gradient, running mean, zeros, buckets."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tqlearn import MinMax, compress
from tqlearn.models import Transformer
from tqlearn.quantizers.named_points import Point, Positions
from tqlearn.quantizers.ranges import Uniform
from tqlearn.quantizers.running_ranges import RunningRange, clamp_rates, switch

REAL = torch.tensor([[True, True, False], [True, False, False]])


def seen(*batches, real=None, **settings):
    q = RunningRange(**({"bits": 8} | settings))
    for batch in batches:
        q(batch, real)
    return q.eval()


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("features", [None, 5])
def test_check_1_grid(bits, features):
    width = torch.tensor([1.0, 2.0, 0.1, 7.0, 3.0]).double()
    x = torch.linspace(-1, 2, 3001).double()[None, :, None] * width - 0.1
    q = RunningRange(bits, features).double()
    out = q(x)
    feature = (0, 1) if features else (0, 1, 2)
    low, high = q.low.flatten(), q.high.flatten()
    assert_close(out.amin(feature).reshape(-1), low)  # both ends exact
    assert_close(out.amax(feature).reshape(-1), high)
    assert_close((low, high), (x.amin(feature).reshape(-1), x.amax(feature).reshape(-1)))
    assert ((out - x).abs() <= q.scale.flatten() / 2 * (1 + 1e-6)).all()
    q.eval()
    assert_close(q(out), out)
    assert q.codes(x).unique().tolist() == list(range(2**bits))
    assert_close(q.decode(q.codes(x)), out)
    assert_close(q(x * 99).amax(), x.amax())


def test_check_1_constant_tensor():
    x = torch.full((1, 2, 3), 0.7)
    for features in (None, 3):
        out = seen(x, features=features)(x)
        assert_close(out, x)
    weight = Uniform(8, groups=4)
    assert_close(weight(torch.full((4, 6), -0.3)), torch.full((4, 6), -0.3))


def test_check_2_gradient():
    q = seen(torch.tensor([[[-1.0], [1.0]]]))
    x = torch.tensor([[[-1.01], [-1.0], [0.3], [1.0], [1.01]]], requires_grad=True)
    q(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 0]
    assert not [*q.parameters()] and not q.low.requires_grad and not q.high.requires_grad
    w = torch.randn(6, 5, requires_grad=True)
    Uniform(4, groups=6)(w).mul(torch.arange(30.0).view(6, 5)).sum().backward()
    assert w.grad.flatten().tolist() == list(range(30))  # the identity


def test_check_2_gradient_per_feature():
    torch.manual_seed(0)
    q = seen(torch.randn(2, 30, 4), features=4)
    x = (2 * torch.randn(2, 300, 4)).requires_grad_()
    (q(x) * 3).sum().backward()
    inside = (x >= q.low.flatten()) & (x <= q.high.flatten())
    assert 0 < inside.sum() < inside.numel()
    assert_close(x.grad, 3.0 * inside)


def test_check_3_running_mean():
    q = RunningRange(8)
    q(torch.zeros(1, 2, 3))
    assert q.low.item() == q.high.item() == 0  # the first batch gives the start
    for n in range(1, 6):
        q(torch.full((1, 2, 3), 2.5))
        assert q.high.item() == pytest.approx(2.5 * (1 - 0.9**n), rel=1e-6)
    before = q.high.clone()
    q.eval()(torch.full((1, 2, 3), 99.0))
    assert_close(q.high, before)


@pytest.mark.parametrize("features", [None, 4])
def test_check_3_padding_is_excluded(features):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    one = seen(x, real=REAL, features=features)
    two = seen(x.masked_fill(~REAL[..., None], 50.0), real=REAL, features=features)
    assert_close((one.low, one.high), (two.low, two.high))
    wrong = seen(x.masked_fill(~REAL[..., None], 50.0), real=REAL, features=features, padding=True)
    assert wrong.high.max() == 50


def test_check_3_in_a_model():
    """Ids under padding change no range anywhere, whatever they are."""
    torch.manual_seed(0)
    small = {"vocabulary": 20, "width": 8, "ffn": 12, "heads": 2, "layers": 1, "dropout": 0.0}
    model = Transformer(**small)
    source = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 0, 0]])
    labels = torch.tensor([[11, 12, 2], [13, 2, -100]])
    found = []
    for padding in (0, 17):
        student = compress(model, {"*": [MinMax(8)]}).train()
        ids = source.masked_fill(source == 0, padding)
        student(ids, source != 0, labels)
        found.append({k: v for k, v in student.state_dict().items() if ".quant_" in k})
    assert len(found[0]) == 2 * 47
    assert_close(*found)


def test_check_4_zeros():
    x = torch.tensor([[[0.0, 0.003, 0.4, 1.0]]])
    assert seen(x, signed=False, bits=4)(x)[0, 0, 0] == 0
    positive = torch.tensor([[[0.003, 0.4, 1.0]]])
    assert seen(positive, signed=False, bits=4)(torch.zeros(1, 1, 3)).abs().max() == 0
    control = seen(positive, bits=4)(torch.zeros(1, 1, 3))
    assert (control > 0).all()


def test_check_4_masked_probabilities_and_silent_nodes():
    torch.manual_seed(0)
    model = Transformer(vocabulary=20, width=8, ffn=12, heads=2, layers=1, dropout=0.0)
    student = compress(model, {"*": [MinMax(4)]}).train()
    kept = {}
    layer = student.encoder["layers"][0]
    layer.attention.softmax.register_forward_hook(lambda m, i, o: kept.update(p=o))
    layer.feed_forward.quant_hidden.register_forward_hook(lambda m, i, o: kept.update(i=i[0], h=o))
    source = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 0, 0]])
    for _ in range(3):
        student(source, labels=source.masked_fill(source == 0, -100))
    assert (kept["p"][1, :, :, 3:] == 0).all() and (kept["p"].sum(-1) - 1).abs().max() < 0.3
    silent = kept["i"] == 0
    assert silent.any() and (kept["h"][silent] == 0).all()


def test_check_5_a_range_per_row():
    torch.manual_seed(0)
    w = torch.randn(768, 768)
    w[7] *= 20

    def error(per):
        layer = nn.Linear(768, 768)
        layer.weight.data = w.clone()
        return (MinMax(8, bucket=per)(layer).weight - w).square().mean().item()

    assert error("tensor") == pytest.approx(0.0240, rel=0.2)
    assert error("feature") == pytest.approx(0.000083, rel=0.2)
    model = Transformer(vocabulary=30, width=16, ffn=32, heads=2, layers=1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            one, rows = (Uniform(6, groups=g)(parameter) for g in (1, len(parameter)))
            assert (rows - parameter).square().sum() <= (one - parameter).square().sum()


def test_rounding_starts_later():
    layer, x = MinMax(2)(nn.Linear(4, 3)), torch.randn(2, 5, 4)
    q = RunningRange(2)
    model = nn.ModuleList([layer, q]).train()
    switch(model, rounds=False)
    assert_close(layer.weight, layer.parametrizations.weight.original)
    assert_close(q(x), x)
    assert q.high == x.max() and torch.isnan(layer.parametrizations.weight[0].high).all()
    switch(model, follows=False, rounds=False)
    q(9 * x)
    assert q.high == x.max()
    switch(model)
    assert len(q(x).unique()) <= 4 and len(layer.weight[0].unique()) <= 4
    assert_close(q.high, 0.9 * x.max() + 0.1 * x.max())


def test_clamp_rates():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant_x = RunningRange(8)

        def forward(self, x, real):
            return self.quant_x(x, real)

    model = Model()
    x = torch.arange(6.0).view(2, 3, 1)
    model(x, REAL)  # real: 0, 1, 3
    assert clamp_rates(model, [(x, REAL)]) == {"quant_x": 0.0}
    model.quant_x.high.fill_(0.5)
    assert clamp_rates(model, [(x, REAL)])["quant_x"] == pytest.approx(2 / 3)
    assert model.training


def test_positions_are_quantized_by_rows():
    table = Positions(8, 30).table
    grid = MinMax(4)(Positions(8, 30))
    assert grid.config() == {"width": 8, "length": 30, "bits": 4}
    assert 0 < (grid.table - table).abs().max() <= 2 / 15 / 2 + 1e-6
    assert all(len(row.unique()) <= 16 for row in grid.table)


def test_refusals():
    with pytest.raises(ValueError, match="bucket is one of"):
        MinMax(8, bucket="row")
    with pytest.raises(ValueError, match="bits must be"):
        MinMax(9)
    with pytest.raises(ValueError, match="4 ranges cannot serve"):
        RunningRange(8, features=4)(torch.randn(1, 2, 5))
    with pytest.raises(ValueError, match="finite"):
        RunningRange(8).calibrate(torch.tensor([[[torch.nan]]]))
    with pytest.raises(TypeError, match="no weight to quantize"):
        MinMax(8)(nn.Dropout())
    with pytest.raises(ValueError, match="quantized already"):
        MinMax(8)(MinMax(8)(nn.Linear(3, 2)))
    assert MinMax(8, zero=False)(Point(signed=False)).signed
