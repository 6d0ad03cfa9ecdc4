"""Under autocast a factored layer returns the type that the dense layer returns."""

import pytest
import torch
from torch import nn

import tqlearn as tq

EDITS = {
    "TT": tq.TT(rank=4, order=2),
    "LowRank": tq.LowRank(rank=4),
    "Kronecker": tq.Kronecker(rank=1),
    "batch": tq.Kronecker(rank=2, out_modes=(2, 16), in_modes=(2, 16)),
    "spread": tq.Kronecker(rank=2, out_modes=(16, 2), in_modes=(4, 8)),
    "transpose": tq.Kronecker(rank=2, out_modes=(8, 4), in_modes=(8, 4)),
    "LSQ": tq.LSQ(4),
    "inputs": tq.Inputs(tq.LSQ(4)),
    "SAWB": tq.SAWB(4),
    "TwoFour": tq.TwoFour(),
}
TABLES = {"TTM": tq.TTM(rank=4, order=2), "Kronecker": tq.Kronecker(rank=1), "LSQ": tq.LSQ(4)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", EDITS)
def test_linear_layers(name, bias):
    layer, x = nn.Sequential(nn.Linear(32, 32, bias=bias)), torch.randn(3, 5, 32)
    student = tq.calibrate(tq.compress(layer, {"0": [EDITS[name]]}), [x])
    if name in ("batch", "spread", "transpose"):  # the three ways of a Kronecker product
        assert student[0].left_by == name
    with torch.autocast("cpu", torch.bfloat16):
        have, want = student(x), layer(x)
    assert have.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(have.float(), student(x), atol=0.05, rtol=0.05)  # bfloat16's digits
    assert student(x).dtype == torch.float32


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    table, ids = nn.Sequential(nn.Embedding(30, 16)), torch.randint(0, 30, (2, 7))
    student = tq.calibrate(tq.compress(table, {"0": [TABLES[name]]}))
    with torch.autocast("cpu", torch.bfloat16):
        have, want = student(ids), table(ids)
    assert have.dtype == want.dtype == torch.float32
    torch.testing.assert_close(have, student(ids), atol=0.05, rtol=0.05)  # bfloat16 on the way
