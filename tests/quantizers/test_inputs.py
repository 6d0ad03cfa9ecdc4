"""Layers whose input cannot be quantized say why."""

import pytest
import torch
from torch import nn

import tqlearn as tq


def encoder():
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()


def test_a_layer_that_is_never_called():
    plan = {"*out_proj": [tq.LSQ(4), tq.Inputs(tq.PACT(8))]}
    with pytest.raises(TypeError, match="MultiheadAttention multiplies with the weight of its out"):
        tq.compress(encoder(), plan)
    student = tq.calibrate(tq.compress(encoder(), {"*out_proj": [tq.LSQ(4)]}))  # the way out
    x = torch.randn(2, 3, 16)
    assert torch.equal(tq.pack(student)(x), student(x))


def test_a_layer_that_no_batch_uses():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x) @ self.spare.weight

    student = tq.compress(Half(), {"*": [tq.Inputs(tq.PACT(8))]})
    with pytest.raises(ValueError, match="reached 1 quantizers, .*'spare.quant_input'; either"):
        tq.calibrate(student, [torch.randn(2, 4)])
