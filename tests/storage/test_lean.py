"""A packed model is small when it runs: no floats stay, a table is decoded where it is read."""

import gc

import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn.storage.codes import look_up, pack_bits
from tqlearn.storage.packed import Packed


def held(numel):
    """How many float tensors of that size are alive."""
    gc.collect()
    found = [x for x in gc.get_objects() if type(x) is torch.Tensor]
    return sum(x.is_floating_point() and x.numel() == numel for x in found)


def packed_pair(layer, *edits, **options):
    student = tq.calibrate(tq.compress(nn.Sequential(layer), {"0": [*edits]})).eval()
    return student, tq.pack(student, **options)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("numel", [0, 1, 37, 40])
def test_look_up_gives_what_stands_for_each_code(bits, dtype, numel):
    codes, values = torch.randint(-1, 2**bits - 1, (numel,)), torch.randn(2**bits, dtype=dtype)
    stream = pack_bits(codes, bits, -1)
    assert torch.equal(look_up(stream, bits, values, (numel,)), values[codes + 1])


@pytest.mark.parametrize("keep", [False, True])
def test_floats_stay_only_where_they_are_asked_for(keep):
    student, packed = packed_pair(nn.Linear(41, 43), tq.LSQ(bits=4), keep_floats=keep)
    x = torch.randn(2, 41)
    wanted = student(x)
    del student
    before = held(41 * 43)
    assert torch.equal(packed(x), wanted) and torch.equal(packed(x), wanted)
    assert held(41 * 43) - before == keep
    again = tq.pack(packed, keep_floats=not keep)
    assert torch.equal(again(x), wanted)


QUANTIZERS = [
    *(tq.LSQ(bits=bits) for bits in (2, 3, 4, 5, 8)),
    tq.LSQ(bits=4, per="channel"),
    tq.LSQ(bits=3, per=16),
    tq.SAWB(bits=4),
    tq.Uniform(bits=6),
    tq.PACT(bits=4),
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_table_is_decoded_where_it_is_looked_up(quantizer, dtype, monkeypatch):
    student, packed = packed_pair(nn.Embedding(30, 48).to(dtype), quantizer)
    ids = torch.tensor([[3, 29, 3], [0, 7, 11]])
    wanted = student(ids)
    monkeypatch.setattr(Packed, "_values", None)  # the whole table cannot be decoded
    assert torch.equal(packed(ids), wanted) and packed(ids).dtype == dtype
    assert packed(ids[:0]).shape == (0, 3, 48)
    with pytest.raises(IndexError):
        packed(torch.tensor([30]))


@pytest.mark.parametrize("edits", [[tq.LSQ(bits=3)], [tq.LSQ(bits=4, per=3)],
                                   [tq.TwoFour(pad=True), tq.SAWB(bits=4)]], ids=repr)  # fmt: skip
def test_a_table_of_odd_rows_is_decoded_whole(edits):
    student, packed = packed_pair(nn.Embedding(30, 9 if len(edits) == 1 else 12), *edits)
    ids = torch.tensor([3, 29, 3])
    assert torch.equal(packed(ids), student(ids))


def test_max_norm_is_kept():
    """Only rows that are looked up are scaled to it, as in torch."""
    layer = nn.Embedding(30, 48)
    student, packed = packed_pair(layer, tq.LSQ(bits=4))
    ids = torch.tensor([3, 29])
    wanted = nn.functional.embedding(ids, student[0].weight.detach().clone(), max_norm=0.5)
    found = nn.functional.embedding(ids, packed[0].weight, max_norm=0.5)
    assert torch.equal(found, wanted)
    assert torch.allclose(found.norm(dim=1), torch.tensor(0.5))


def test_a_look_up_after_a_write_gives_what_was_written():
    _, packed = packed_pair(nn.Embedding(30, 48), tq.LSQ(bits=8))
    weight, ids = packed[0].weight, torch.tensor([3, 29])
    before = nn.functional.embedding(ids, weight)
    weight.mul_(-1)
    assert torch.allclose(nn.functional.embedding(ids, weight), -before, atol=0.03)


def test_a_look_at_the_weight_costs_nothing_until_its_numbers_are_wanted(monkeypatch):
    student, packed = packed_pair(nn.Linear(24, 36), tq.LSQ(bits=4))
    wanted, made = student[0].weight.detach(), []
    decode = Packed._values
    monkeypatch.setattr(Packed, "_values", lambda self, *a: made.append(1) or decode(self, *a))
    weight = packed[0].weight
    assert (weight.shape, weight.dtype, weight.device.type) == ((36, 24), torch.float32, "cpu")
    assert not weight.requires_grad and weight.numel() == 36 * 24 and not made
    assert torch.equal(weight, wanted) and torch.equal(weight.T @ weight, wanted.T @ wanted)
    assert "0." in repr(weight) and torch.equal(torch.stack([weight])[0], wanted) and made


def test_gradients_pass_through_a_packed_layer():
    student, packed = packed_pair(nn.Linear(24, 36), tq.LSQ(bits=4))
    x = torch.randn(2, 24)
    slopes = []
    for model in (student, packed):
        leaf = x.clone().requires_grad_()
        model(leaf).square().sum().backward()
        slopes.append(leaf.grad)
    assert torch.equal(*slopes)
