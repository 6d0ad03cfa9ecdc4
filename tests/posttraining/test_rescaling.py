"""Scales for the inputs: the best of all that are tried, by a plain loop, and what is refused."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import tqlearn as tq
from tqlearn.posttraining import rescale


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16))


@pytest.fixture
def x():
    """Some inputs are a hundred times larger than others."""
    torch.manual_seed(1)
    return torch.randn(400, 48) * 10 ** (2 * torch.rand(48))


def student_of(net, *edits):
    return tq.calibrate(tq.compress(net, {"*": [*edits]})).eval()


def by_hand(rows, size, bits):
    """The fraction k / 80 of max|w| / qmax that loses least, row by row."""
    top, found = 2 ** (bits - 1) - 1, []
    for w, h in zip(rows.double(), size.double(), strict=True):
        tried = [w.abs().max() / top * k / 80 for k in range(1, 81)]
        lost = [(((w / s).round().clamp(-top - 1, top) * s - w) ** 2 * h).sum() for s in tried]
        found.append(min(zip(lost, tried, strict=True), key=lambda pair: pair[0])[1])
    return torch.stack(found).float()


@pytest.mark.parametrize("per", ["tensor", "channel", 16])
@pytest.mark.parametrize("bits", [2, 4])
def test_every_group_has_the_best_scale_that_is_tried(net, x, per, bits):
    student = student_of(net, tq.LSQ(bits, per=per))
    tq.rescale(student, [x[:100], x[100:]])
    given, weights = x, [layer.weight.detach() for layer in (net[0], net[2])]
    for place, weight in zip((0, 2), weights, strict=True):
        chain = student[place].parametrizations.weight
        groups = chain[0].groups
        size = given.square().mean(0).expand_as(weight).reshape(groups, -1)
        expected = by_hand(weight.reshape(groups, -1), size, bits)
        assert torch.allclose(chain[0].scale.detach().flatten(), expected, rtol=1e-5)
        assert torch.equal(chain.original, weight), "weights stay"
        given = student[:2](x).detach()  # the next layer's, after the first has its new scales
    assert torch.equal(tq.pack(student)(x), student(x))


@pytest.mark.parametrize("per", ["tensor", "channel", 8])
def test_a_conv1d_has_its_inputs_in_rows(net, x, per):
    layer = Conv1D(32, 48)
    layer.weight.data.copy_(net[0].weight.T)
    student = student_of(nn.Sequential(layer), tq.LSQ(3, per=per))
    ((before, after),) = tq.rescale(student, [x]).values()
    q = student[0].parametrizations.weight[0]
    size = x.square().mean(0)[:, None].expand(48, 32).reshape(q.groups, -1)
    expected = by_hand(layer.weight.detach().reshape(q.groups, -1), size, 3)
    assert torch.allclose(q.scale.detach().flatten(), expected, rtol=1e-5)
    with torch.no_grad():
        lost = (student(x) - x @ layer.weight - layer.bias).square().sum()
        assert after == pytest.approx(float(lost / (x @ layer.weight).square().sum()), rel=1e-3)
    assert after < before


def test_outputs_suffer_less_where_inputs_differ_and_errors_are_told(net, x):
    student = student_of(net, tq.LSQ(3, init="mse", per=16))
    with torch.no_grad():
        before, exact = student[0](x), net[0](x)
        found = rescale(student, [x])
        whole = (x @ net[0].weight.T).square().sum()
        lost = [((y - exact).square().sum() / whole).item() for y in (before, student[0](x))]
    assert found["0"] == pytest.approx(lost, rel=1e-4)
    assert found["0"][1] < 0.7 * found["0"][0] and [*found] == ["0", "2"]


def test_alike_inputs_want_the_scales_of_least_squares(net):
    student = student_of(net[:1], tq.LSQ(3, init="mse", per="channel"))
    expected = student[0].parametrizations.weight[0].scale.detach().clone()
    rescale(student, [torch.eye(48)])
    assert torch.equal(student[0].parametrizations.weight[0].scale, expected)


def test_inputs_that_are_all_zero_want_the_scales_of_least_squares(net, x):
    student = tq.calibrate(tq.compress(net, {"0": [tq.LSQ(bits=3, init="max")]}))
    best = tq.calibrate(tq.compress(net, {"0": [tq.LSQ(bits=3, init="mse")]}))
    tq.rescale(student, [torch.zeros_like(x)])
    for name, module in student.named_modules():
        if hasattr(module, "scale"):
            torch.testing.assert_close(module.scale, best.get_submodule(name).scale)


def test_a_mask_is_seen_and_stays(net, x):
    student = student_of(net[:1], tq.TwoFour(), tq.LSQ(4, init="max", per="channel"))
    kept = student[0].weight != 0
    rescale(student, [x])
    weight = net[0].weight.detach() * student[0].parametrizations.weight[0].mask
    expected = by_hand(weight, x.square().mean(0).expand(32, 48), 4)
    found = student[0].parametrizations.weight[1].scale.detach().flatten()
    assert torch.allclose(found, expected, rtol=1e-5)
    assert not student[0].weight[~kept].any() and torch.equal(tq.pack(student)(x), student(x))


def test_inputs_that_were_never_seen_change_nothing_else(net, x):
    x[:, 16:32] = 0  # a whole group of every row
    student = student_of(net[:1], tq.LSQ(4, init="max", per=16))
    rescale(student, [x])
    scales = student[0].parametrizations.weight[0].scale.detach().reshape(32, 3)
    alike = by_hand(net[0].weight.detach()[:, 16:32], torch.ones(32, 16), 4)
    assert torch.allclose(scales[:, 1], alike, rtol=1e-5)


def test_scales_of_16_bits_stay_such_and_their_range_is_kept(net, x):
    student = student_of(net, tq.LSQ(4, per=16, scale_dtype="float16"))
    rescale(student, [x])
    packed = tq.pack(student)
    assert torch.equal(packed(x), student(x))
    net[0].weight.data.mul_(1e-6)
    student = student_of(net[:1], tq.LSQ(4, init="max", per=16, scale_dtype="bfloat16"))
    q = student[0].parametrizations.weight[0]
    q.scale_dtype = "float16"
    with pytest.raises(ValueError, match="float16 takes scales from"):
        rescale(student, [x])


def test_what_keeps_its_scales_is_said(net, x):
    plan = {"0": [tq.LSQ(4)], "2": [tq.SAWB(4)]}
    student = tq.calibrate(tq.compress(net, plan))
    with pytest.warns(UserWarning, match=r"1 weights keep their scales, '2\.weight': new"):
        assert [*rescale(student, [x])] == ["0"]
    with pytest.raises(ValueError, match="no weight of a linear layer has the scales of LSQ"):
        rescale(student_of(net, tq.SAWB(4)), [x])
    with pytest.raises(ValueError, match="no weight of a linear layer has the scales of LSQ"):
        rescale(student_of(net, tq.LSQPlus(4)), [x])
    with pytest.raises(ValueError, match="quantizers have no scale yet"):
        rescale(tq.compress(net, {"*": [tq.LSQ(4)]}), [x])
    with pytest.raises(TypeError, match="batches"):
        rescale(student_of(net, tq.LSQ(4)), x)
