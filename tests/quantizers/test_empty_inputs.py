"""No rows, no tokens: every layer and quantizer passes an empty tensor through, as torch does."""

import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn.quantizers import RunningRange

LAYERS = [tq.TT(rank=4), tq.LowRank(rank=2), tq.Kronecker(rank=1)]
QUANTIZERS = [
    tq.LSQ(8),
    tq.LSQPlus(8),
    tq.PACT(8),
    tq.LearnedClip(8),
    tq.Uniform(8),
    tq.SAWB(8),
    tq.Ternary(),
]


@pytest.mark.parametrize("edit", LAYERS, ids=repr)
@pytest.mark.parametrize("shape", [(0, 8), (0, 5, 8), (3, 0, 8)])
def test_linear_layers(edit, shape):
    x = torch.zeros(shape, requires_grad=True)
    y = edit(nn.Linear(8, 4))(x)
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_tables(order, shape):
    ids = torch.zeros(shape, dtype=torch.long)
    for edit in (tq.TTM(rank=4, order=order), tq.Kronecker(rank=1)):
        assert edit(nn.Embedding(99, 32))(ids).shape == (*shape, 32)


@pytest.mark.parametrize("edit", QUANTIZERS, ids=repr)
@pytest.mark.parametrize("shape", [(0, 8), (0, 5, 8), (3, 0, 8)])
def test_quantized_inputs(edit, shape):
    model = tq.compress(nn.Sequential(nn.Linear(8, 4)), {"0": [tq.LSQ(4), tq.Inputs(edit)]})
    batches = [torch.zeros(shape), torch.randn(5, 8)]  # an empty batch tells nothing
    tq.calibrate(model, batches).train()
    quantizer = model[0].quant_input
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    y = model(torch.zeros(shape))
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in quantizer.parameters())


def test_running_ranges_of_padding_alone():
    q = RunningRange(8, features=4).train()
    x, none = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    q(x, torch.ones(2, 3, dtype=torch.bool))
    low = q.low.clone()
    assert q(x, none).shape == x.shape and torch.equal(q.low, low)
    assert q(torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 3, 4)


def test_no_batch_with_a_row_is_refused():
    model = tq.compress(nn.Sequential(nn.Linear(8, 4)), {"0": [tq.Inputs(tq.LSQ(8))]})
    with pytest.raises(ValueError, match="no batch reached 1 quantizers"):
        tq.calibrate(model, [torch.zeros(0, 8)])
