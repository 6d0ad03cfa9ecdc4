"""Models in half floats: grids and statistics stay in float32, values are rounded once.

Every right value here is that of the same weights in float32.
"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.factors import balance_norms
from tqlearn.sparsity import activation_aware, nm_mask

HALF = [torch.bfloat16, torch.float16]
EDITS = [
    tq.LSQ(4),
    tq.LSQPlus(4),
    tq.LearnedClip(4),
    tq.PACT(8),
    tq.PACT(4, integer_zero=False),
    tq.SAWB(4, zero=False),
    tq.Ternary(),
    tq.Uniform(8),
    tq.Uniform(8, integer_zero=True),
    tq.Uniform(4, integer_zero=True, per="channel"),
    tq.LSQ(4, per=8, scale_dtype="float16"),
]


def net(out=16, width=32, dtype=torch.float32):
    torch.manual_seed(3)
    layer = nn.Linear(width, out, bias=False)
    layer.weight.data.normal_(0.3, 1.0)[0] = 0  # off center: the zero point is no neat number
    return nn.Sequential(layer).to(dtype)


@pytest.mark.parametrize("edit", EDITS, ids=repr)
@pytest.mark.parametrize("dtype", HALF)
def test_a_cast_of_packed_codes_is_the_rounded_decode(edit, dtype):
    packed = tq.pack(tq.calibrate(tq.compress(net(), {"0": [edit]})))
    fine = packed[0].weight.detach().clone()
    half = packed.to(dtype)[0].weight.detach()
    assert torch.equal(half, fine.to(dtype))
    assert torch.equal(packed.float()[0].weight.detach(), fine)  # and nothing is lost on the way


@pytest.mark.parametrize("edit", [*EDITS[:2], *EDITS[3:5], EDITS[7]], ids=repr)
@pytest.mark.parametrize("dtype", HALF)
def test_inputs_are_rounded_on_the_same_grid(edit, dtype):
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    model = tq.calibrate(tq.compress(net(), {"0": [tq.Inputs(edit)]}), [x.float()]).eval()
    fine = model[0].quant_input(x.float())
    half = model.to(dtype)[0].quant_input
    assert half.scale.dtype == torch.float32 and torch.equal(half(x), fine.to(dtype))
    assert torch.equal(half.decode(half.codes(x)).to(dtype), half(x))


@pytest.mark.parametrize("edit", EDITS, ids=repr)
@pytest.mark.parametrize("dtype", HALF)
def test_a_file_loads_into_a_half_model_to_the_bit(edit, dtype, tmp_path):
    packed = tq.pack(tq.calibrate(tq.compress(net(), {"0": [edit]})))
    path, before = tq.save(packed, tmp_path / "x.safetensors"), torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as from_pretrained(dtype=...) builds its models
    try:
        again = tq.load(net(dtype=dtype), path)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(again[0].weight.detach(), packed[0].weight.detach().to(dtype))


STARTS = [
    *(tq.SAWB(bits) for bits in (2, 4, 8)),
    tq.SAWB(4, zero=False),
    tq.Ternary(),
    tq.LSQ(4),
    tq.LSQ(4, init="mse"),
    tq.LSQPlus(4),
    tq.LearnedClip(4, init="sigma"),
    tq.Uniform(4),
]


@pytest.mark.parametrize("edit", STARTS, ids=repr)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("training", [False, True])
def test_statistics_of_a_large_weight_do_not_overflow(edit, dtype, training):
    """200,000 weights of size 1: sums and counts are above float16's 65,504."""
    model = net(500, 400, dtype)
    scales = []
    for m in (model, net(500, 400, dtype).float()):
        student = tq.calibrate(tq.compress(m, {"0": [edit]})).train(training)
        student[0].weight.detach()
        scales.append(student[0].parametrizations.weight[0].scale.detach())
    assert_close(scales[0], scales[1], rtol=1e-5, atol=0)


def test_scale_gradients_of_a_large_half_weight():
    grads = []
    for m in (net(500, 400, torch.float16), net(500, 400, torch.float16).float()):
        student = tq.calibrate(tq.compress(m, {"0": [tq.LSQ(4, grad_factor=False)]}))
        (100 * student[0].weight.float().abs()).sum().backward()
        grads.append(student[0].parametrizations.weight[0].scale.grad)
    assert grads[1].abs() > 65504
    assert_close(grads[0], grads[1], rtol=1e-3, atol=0)  # the weights' own rounding


def test_scores_and_norms_beyond_float16():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).half()
    norms = torch.tensor([4e5, 1e5, 1e5, 2e5])  # over many tokens: all infinite in float16
    mask = nm_mask(activation_aware(weight, norms))
    assert mask.tolist() == [[True, False, False, True]]
    pairs = nm_mask(torch.tensor([[6e4, 6e4, 6e4, 5e4, 1, 1, 2, 2]]).half(), "4:8 pairs")
    assert pairs.tolist() == [[True] * 4 + [False] * 4]
    cores = [torch.full((1, 4, 8), 3e4).half(), torch.full((8, 4, 1), 1e-3).half()]
    new = balance_norms(cores)
    assert_close(new[0].float().norm(), new[1].float().norm(), rtol=1e-3, atol=0)


def test_block_masks_stay_where_they_are():
    student = tq.compress(net(), {"0": [tq.BlockPrune((4, 4))]})
    mask = student[0].parametrizations.weight[0]
    mask.scores.data.fill_(-2.1972246).view(-1)[::2] += 1e-6  # on either side of 0.1
    kept = mask.kept()
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(student.bfloat16()[0].parametrizations.weight[0].kept(), kept)
