"""Sizes by rank, ratio or error; and the new layers through every verb, as tensor trains go."""

import copy
import warnings
from math import prod

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.factors.kronecker import modes_within

ALL = [tq.TT, tq.LowRank, tq.Kronecker]


def model():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Embedding(50, 24, padding_idx=0), nn.Linear(24, 36), nn.Linear(36, 24))
    return net.eval()


def numbers(layer):
    return sum(core.numel() for core in layer.cores)


def trained(rows=48, cols=36, decay=0.8):
    """A layer whose singular values fall, as those of trained weights do."""
    layer = nn.Linear(cols, rows)
    u, _ = torch.linalg.qr(torch.randn(rows, cols))
    v, _ = torch.linalg.qr(torch.randn(cols, cols))
    layer.weight.data = u * decay ** torch.arange(cols) @ v.T
    return layer


PLAN = {
    "0": [tq.Kronecker(rank=2, col_modes=(6, 4)), tq.LSQ(bits=4)],
    "1": [tq.LowRank(rank=5), tq.LSQ(bits=4)],
    "2": [tq.Kronecker(rank=2, out_modes=(4, 6), in_modes=(6, 6)), tq.LSQ(bits=4)],
}


def student():
    return tq.calibrate(tq.compress(model(), PLAN))


def test_every_factor_has_its_own_quantizer():
    net = student()
    assert [len(net[i].parametrizations) for i in range(3)] == [4, 2, 4]
    for layer in net:
        for name, chain in layer.parametrizations.items():
            assert getattr(layer, name).unique().numel() <= 16 and chain[0].scale > 0
    assert isinstance(net[1].bias, nn.Parameter)
    net(torch.tensor([[1, 2, 3]])).square().sum().backward()
    for layer in net:
        for chain in layer.parametrizations.values():
            assert chain.original.grad.abs().sum() > 0 and chain[0].scale.grad.abs() > 0


def test_packed_baked_and_dense_copies_give_the_same_outputs():
    net, ids = student(), torch.tensor([[1, 49, 3]])
    y = net(ids)
    packed = tq.pack(net)
    assert torch.equal(packed(ids), y) and torch.equal(tq.unpack(packed)(ids), y)
    assert torch.equal(tq.bake(net)(ids), y)
    dense = tq.bake(net, dense=True)
    assert [type(layer) for layer in dense] == [nn.Embedding, nn.Linear, nn.Linear]
    assert dense[0].padding_idx == 0
    assert_close(dense(ids), y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_saved_and_loaded_bit_for_bit(tmp_path, packed):
    net, ids = student(), torch.tensor([[1, 49, 3]])
    tq.save(tq.pack(net) if packed else net, tmp_path / "s.safetensors")
    again = tq.load(model(), tmp_path / "s.safetensors")
    assert torch.equal(again(ids), net(ids))
    assert [layer.config() for layer in again] == [layer.config() for layer in net]


def test_report_counts_every_factor():
    net = student()
    rows = {row["name"]: row for row in tq.report(net).rows}
    assert rows["0"]["parameters"] == 2 * (50 * 6 + 4)
    assert rows["1"]["parameters"] == 5 * (24 + 36) + 36
    assert rows["2"]["parameters"] == 2 * (4 * 6 + 6 * 6) + 24
    assert rows["1"]["nominal"] == 5 * (24 + 36) / 2 + 36 * 4


def test_preview_says_what_compress_makes():
    plan = {"0": [tq.Kronecker(ratio=4)], "1": [tq.LowRank(error=0.8)], "2": [tq.TT(ratio=2)]}
    shown, made = tq.preview(model(), plan), tq.compress(model(), plan)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in made]
    assert [row["after"] for row in shown.rows] == counts
    words = str(shown)
    assert "KroneckerEmbedding rank 1 of 50x4 and 1x6" in words
    assert f"LowRankLinear rank {made[1].rank} of 36x{made[1].rank} and {made[1].rank}x24" in words
    assert f"TTLinear ranks {made[2].ranks}" in words
    assert [row["edits"] for row in shown.rows][0] == ["Kronecker(ratio=4)"]


@pytest.mark.parametrize("ratio", [1.5, 2, 4, 8.0])
@pytest.mark.parametrize("edit", ALL)
def test_a_ratio_is_reached_by_the_largest_rank_that_can(edit, ratio):
    layer = nn.Linear(96, 48)
    extra = {"out_modes": (6, 8), "in_modes": (8, 12)} if edit is tq.Kronecker else {}
    new = edit(ratio=ratio, **extra)(layer)
    budget = layer.weight.numel() / ratio * 1.005
    rank = new.rank if hasattr(new, "rank") else max(new.ranks)
    above = edit(rank=rank + 1, **extra)(layer)
    assert numbers(new) <= budget < numbers(above)


def test_a_ratio_for_tables():
    table = nn.Embedding(1000, 64)
    for edit in (tq.TTM(ratio=10), tq.TTM(ratio=10, init="random")):
        new = edit(table)
        above = tq.TTM(rank=max(new.ranks) + 1)(table)
        assert numbers(new) <= 6400 * 1.005 < numbers(above)
    new = tq.Kronecker(ratio=8)(table)
    assert new.col_modes == (8, 8) and numbers(new) == 8008  # KroneckerBERT_8's way
    new = tq.Kronecker(ratio=8, col_modes=(2, 32))(table)
    assert new.rank == 3 and numbers(new) == 3 * (2 * 1000 + 32)


def test_a_ratio_chooses_the_modes_of_one_product():
    layer = nn.Linear(768, 768)
    new = tq.Kronecker(ratio=21)(layer)
    assert new.rank == 1 and layer.weight.numel() / numbers(new) >= 21 / 1.005
    sizes = [
        a * b + (768 // a) * (768 // b)
        for a in range(1, 769)
        for b in range(1, 769)
        if 768 % a == 768 % b == 0
    ]
    assert numbers(new) == max(s for s in sizes if s <= layer.weight.numel() / 21 * 1.005)
    with pytest.raises(ValueError, match="768 x 768 has at least 1,536 numbers, .* more than 593"):
        tq.Kronecker(ratio=1000)(layer)
    assert modes_within(30522, 768, 30522 * 96 + 8, tall=True) == ((30522, 1), (96, 8))


@pytest.mark.parametrize("error", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("edit", [tq.TT, tq.LowRank])
def test_an_error_is_met_by_the_smallest_rank(edit, error):
    layer = trained()
    new = edit(error=error)(layer)
    distance = (new.dense().weight - layer.weight).norm().item()
    assert distance <= error * layer.weight.norm().item() * (1 + 1e-5)
    if edit is tq.LowRank:
        less = edit(rank=new.rank - 1)(layer).dense().weight
        assert (less - layer.weight).norm().item() > error * layer.weight.norm().item()


def test_an_error_for_products_and_tables():
    layer = nn.Linear(36, 24)
    layer.weight.data = sum(torch.kron(torch.randn(4, 6), torch.randn(6, 6)) for _ in range(3))
    new = tq.Kronecker(error=1e-3)(layer)  # balanced modes: 24 in (4, 6), 36 in (6, 6)
    assert (new.out_modes, new.in_modes, new.rank) == ((4, 6), (6, 6), 3)
    table = nn.Embedding(60, 36)
    table.weight.data = torch.randn(60, 2) @ torch.randn(2, 36)
    with pytest.raises(ValueError, match="2,160 numbers, where the weight has 2,160"):
        tq.TTM(error=0.05, row_modes=(60,), col_modes=(36,))(table)
    product = nn.Embedding(60, 36)
    product.weight.data = torch.randn(60, 6)[..., None].mul(torch.randn(6)).flatten(1)
    assert tq.Kronecker(error=0.01)(product).rank == 1
    falling = tq.TTM(rank=3, order=2)(table).dense()
    distance = (tq.TTM(error=0.5, order=2)(falling).dense().weight - falling.weight).norm().item()
    assert distance <= 0.5 * falling.weight.norm().item()


def test_without_modes_the_right_factor_is_the_smallest():
    new = tq.Kronecker(rank=1)(nn.Linear(36, 25))
    assert (new.out_modes, new.in_modes) == ((5, 5), (18, 2))
    assert tq.Kronecker(rank=1)(nn.Embedding(50, 24)).col_modes == (12, 2)


@pytest.mark.parametrize("kind", [tq.LowRank, tq.Kronecker])
def test_random_start_keeps_the_bias(kind):
    edit = kind(rank=2, init="random")
    layer = nn.Linear(24, 36)
    new = edit(layer)
    assert torch.equal(new.bias, layer.bias)
    near = type(edit)(rank=edit.rank)(layer).dense().weight
    assert (new.dense().weight - layer.weight).norm() > 1.1 * (near - layer.weight).norm()
    assert edit(nn.Linear(24, 36, bias=False)).bias is None
    assert edit(nn.Linear(24, 36).double()).core_0.dtype == torch.float64


REFUSED = [
    (tq.LowRank(rank=3), nn.Embedding(20, 8), TypeError, "takes an nn.Linear, got Embedding"),
    (tq.Kronecker(rank=1), nn.Conv1d(4, 4, 1), TypeError,
     "Kronecker takes an nn.Linear or nn.Embedding, got Conv1d"),
    (tq.Kronecker(rank=1, col_modes=(4, 2)), nn.Linear(8, 8), ValueError,
     r"col_modes for an embedding; got Kronecker\(rank=1, .* for a 8 x 8 Linear"),
    (tq.Kronecker(rank=1, in_modes=(4, 2)), nn.Embedding(20, 8), ValueError, "embedding; got"),
    (tq.Kronecker(rank=1, out_modes=(4, 3), in_modes=(4, 2)), nn.Linear(8, 8), ValueError,
     "factors 4 x 4 and 3 x 2 .* give 12 x 8, but the matrix is 8 x 8"),
    (tq.LowRank(ratio=100), nn.Linear(24, 36), ValueError,
     r"\(ratio=100\) cannot be reached: a 36 x 24 Linear has 60 numbers at rank 1, only 14.40"),
    (tq.TT(ratio=1000), nn.Linear(24, 36), ValueError, "cannot be reached"),
    (tq.LowRank(error=0.01), nn.Linear(24, 36), ValueError,
     "needs rank 24 in a 36 x 24 Linear: 1,440 numbers, where the weight has 864; allow a larger"),
    (tq.Kronecker(error=0.01), nn.Linear(24, 36), ValueError, "allow a larger error or leave"),
    (tq.TT(error=0.01), nn.Linear(24, 36), ValueError, "allow a larger error or leave"),
    (tq.TTM(error=0.01, order=2), nn.Embedding(36, 24), ValueError, "allow a larger error"),
    (tq.TT(error=0.3, in_modes=(5, 5)), nn.Linear(24, 36), ValueError, "give 36 x 25, but"),
    (tq.TTM(ratio=3, col_modes=(5, 5), order=2), nn.Embedding(36, 24), ValueError, "columns must"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "layer", "error", "message"), REFUSED)
@pytest.mark.parametrize("verb", [tq.compress, tq.preview])
def test_what_cannot_be_done_is_refused(edit, layer, error, message, verb):
    net = nn.Sequential(layer)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=message):
        verb(net, {"0": [edit]})
    assert net[0] is layer and all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("edit", [*ALL, tq.TTM])
def test_arguments_that_contradict_each_other(edit):
    name = edit.__name__
    for wrong in ({}, {"rank": 3, "ratio": 8}, {"ratio": 8, "error": 0.3}):
        with pytest.raises(ValueError, match=f"{name} needs one of rank, ratio and error, got"):
            edit(**wrong)
    with pytest.raises(ValueError, match="above 1 .*, got 0.5"):
        edit(ratio=0.5)
    with pytest.raises(ValueError, match="between 0 and 1, got 1.5"):
        edit(error=1.5)
    with pytest.raises(ValueError, match="init is 'svd' or 'random', got 'zeros'"):
        edit(rank=3, init="zeros")
    with pytest.raises(ValueError, match="start from the weight: use init='svd'"):
        edit(error=0.3, init="random")


def test_counts_and_an_error_contradict_each_other():
    with pytest.raises(ValueError, match="counts fit some of them: say a rank or a ratio"):
        tq.TTM(error=0.3, counts=(1, 2))


@pytest.mark.parametrize("edit", [tq.LowRank, tq.Kronecker])
@pytest.mark.parametrize("verb", [tq.compress, tq.preview])
def test_a_rank_above_the_admissible_one_is_clipped_and_said(edit, verb):
    extra = {"out_modes": (4, 9), "in_modes": (6, 4)} if edit is tq.Kronecker else {}
    plan = {"1": [edit(rank=40, **extra)]}
    with pytest.warns(UserWarning, match="rank 40 is more than a 36 x 24 Linear can use, using 24"):
        verb(model(), plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verb(model(), {"1": [edit(rank=24, **extra)]})


@pytest.mark.parametrize("edit", [tq.LowRank(error=0.5), tq.Kronecker(ratio=4), tq.TT(error=0.5)])
def test_nan_weights_are_refused(edit):
    net = model()
    net[1].weight.data[3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        tq.compress(net, {"1": [edit]}, inplace=True)
    assert type(net[1]) is nn.Linear


@pytest.mark.parametrize("edit", [tq.LowRank(rank=2), tq.Kronecker(rank=1)])
def test_what_would_be_lost_is_refused(edit):
    name = type(edit).__name__
    with pytest.raises(ValueError, match=f"put {name} first in the plan"):
        tq.compress(model(), {"1": [tq.LSQ(bits=4), edit]})
    with pytest.raises(TypeError, match=r"LSQ\(activations=...\) needs a TTLinear"):
        tq.compress(model(), {"1": [edit, tq.LSQ(bits=4, activations=8)]})


def test_an_error_on_a_model_without_values():
    with pytest.raises(ValueError, match="needs the values of the weight, which is on meta"):
        tq.preview(model().to("meta"), {"1": [tq.LowRank(error=0.3)]})


def test_edits_are_values_that_print_short():
    assert repr(tq.TT(rank=4)) == "TT(rank=4)" and tq.TT(4) == tq.TT(rank=4)
    assert repr(tq.Kronecker(ratio=8, col_modes=(6, 4))) == "Kronecker(ratio=8, col_modes=(6, 4))"
    assert tq.LowRank(error=0.3) == tq.LowRank(error=0.3) != tq.LowRank(error=0.2)
    assert tq.LowRank(ratio=4).resolve(nn.Linear(24, 36)) == tq.LowRank(rank=3)
    assert hash(tq.LowRank(rank=3)) == hash(tq.LowRank(rank=3))


def test_a_student_learns():
    net = tq.calibrate(tq.compress(model(), PLAN))
    ids = torch.randint(1, 50, (8, 6))
    with torch.no_grad():
        target = model()(ids)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    found = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(ids) - target).square().mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.5 * found[0]
    assert prod(net[1].core_0.shape) == 36 * 5
