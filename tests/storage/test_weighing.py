"""Sizes of files that are never written: to the byte those of files that are."""

import json

import pytest
import torch
from safetensors.torch import save
from torch import nn

import tqlearn as tq
from tqlearn.storage import file_size, weigh
from tqlearn.storage.weighing import ORDER
from tqlearn.surgery import skeleton_of, sketch

KINDS = (torch.float64, torch.int64, torch.float32, torch.int32, torch.float16, torch.bfloat16)
KINDS += (torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn)


def header(file):
    return json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])


@pytest.mark.parametrize("notes", [{}, {"format": "pt", "naïve": 'says "ö"\n'}])
def test_the_size_of_a_file_of_every_type(notes):
    sizes = (1, 3, 1000)
    tensors = {f"{k}.layer{n}": torch.zeros(n, 2).to(k) for k in KINDS for n in sizes}
    tensors |= {"scalar": torch.zeros(()), "none": torch.zeros(0, 4)}
    assert file_size(tensors, notes) == len(save(tensors, notes or None))
    order = [entry["dtype"] for name, entry in header(save(tensors)).items() if name[0] != "_"]
    assert [*dict.fromkeys(order)] == [kind for kind in ORDER if kind in order]


@pytest.mark.parametrize("count", range(1, 9))  # of letters: every remainder of 8
def test_the_header_is_filled_up(count):
    tensors = {"n" * count: torch.zeros(5)}
    assert file_size(tensors, {}) == len(save(tensors))


def net():
    torch.manual_seed(0)
    layers = nn.Embedding(30, 16), nn.Linear(16, 8), nn.Linear(8, 16), nn.LayerNorm(16)
    model = nn.Sequential(*layers, nn.Linear(16, 30, bias=False))
    model[4].weight = model[0].weight
    return model


PLANS = {
    "dense": {},
    "tied": {"0": [tq.LSQ(bits=3)]},
    "factored and tied": {"0": [tq.TTM(rank=3), tq.LSQ(bits=4, per="channel")]},
    "masks": {"1": [tq.TwoFour(), tq.SAWB(bits=4)], "2": [tq.TwoFour("1:4")]},
    "blocks": {"1": [tq.BlockPrune((4, 4))], "2": [tq.BlockPrune((4, None)), tq.LSQ(bits=8)]},
    "pairs": {
        "1": [tq.LowRank(error=0.6)],
        "2": [tq.TT(rank=2), tq.Uniform(bits=5)],
    },
    "inputs": {"1": [tq.LSQPlus(bits=6), tq.Inputs(tq.PACT(bits=8))], "2": [tq.Ternary()]},
    "short scales": {"1": [tq.TwoFour(), tq.LSQ(bits=4, per=8, scale_dtype="float16")]},
    "inputs alone": {"1": [tq.Inputs(tq.LSQ(bits=8))]},
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_sketch_weighs_what_the_student_weighs(plan):
    model = net()
    student = tq.calibrate(tq.compress(model, plan), [torch.arange(8)])
    real, told = tq.report(student), weigh(sketch(model, plan))
    assert real == told and real.file > 500
    assert all(p.is_meta for p in sketch(model, plan).parameters())


def test_a_skeleton_shares_what_its_model_shares():
    model = net()
    bare = skeleton_of(model)
    assert bare[4].weight is bare[0].weight and not model[0].weight.is_meta
    assert weigh(skeleton_of(model)) == tq.report(model)
    assert [n for n, _ in bare.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_a_sketch_refuses_what_compress_refuses():
    with pytest.raises(ValueError, match="plan pattern 'x' matches no"):
        sketch(net(), {"x": [tq.LSQ(bits=4)]})
    with pytest.raises(ValueError, match="^1: .* cannot be reached"):
        sketch(net(), {"1": [tq.LowRank(ratio=90)]})


def test_a_model_with_numbers_still_needs_its_scales():
    student = tq.compress(net(), PLANS["inputs alone"])
    with pytest.raises(
        ValueError, match="1 quantizers have no scale yet, the first is '1.quant_input'"
    ):
        tq.pack(student)
