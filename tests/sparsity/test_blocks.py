"""Block masks: gradients of scores, the schedule, the penalty, plans, and life with quantizers.

Spec sheet Block Pruning, acceptance checks 1 to 4; sections 3.4 (biases) and 3.5 (minimum).
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tqlearn as tq
from tqlearn.sparsity.blocks import (
    BlockMask,
    RowMask,
    block_density,
    block_masks,
    score_penalty,
    tie,
)
from tqlearn.sparsity.movement import CubicThreshold, blocks_kept
from tqlearn.stages import mask_of


def learned(mask, seed=0):
    """The mask with scores on both sides of the threshold."""
    generator = torch.Generator().manual_seed(seed)
    scores = mask.source.scores
    scores.data = 4 * torch.randn(scores.shape, generator=generator).to(scores) - 2
    return mask


def net(width=8, dims=12):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(width, dims), nn.GELU(), nn.Linear(dims, width)).eval()


def ffn(**options):
    """The two matrices of a FFN with one score per dimension."""
    plan = {
        "0": [tq.BlockPrune((1, None), group="ffn", **options)],
        "2": [tq.BlockPrune((None, 1), group="ffn", **options)],
    }
    return tq.compress(net(), plan)


def upstream(weight, x):
    """A loss that is no sum, and its gradient with respect to a dense weight."""
    dense = weight.detach().clone().requires_grad_()
    loss = (x @ dense.T).tanh().square().sum()
    return torch.autograd.grad(loss, dense)[0]


def test_gradients_of_blocks():
    """Check 1: dS = sum over the block of G * W, dW = M * G, pruned blocks included."""
    torch.manual_seed(0)
    weight = torch.randn(16, 12, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 12, dtype=torch.float64)
    mask = learned(BlockMask([16, 12], [4, 4]).double())
    kept = mask.mask_for(weight)
    assert 0 < kept.sum() < kept.numel()
    (x @ mask(weight).T).tanh().square().sum().backward()
    g = upstream(weight * kept, x)
    blocks = (g * weight).detach().reshape(4, 4, 3, 4).sum((1, 3))
    assert (mask.scores.grad - blocks).abs().max() < 1e-12
    assert (weight.grad - kept * g).abs().max() < 1e-12
    assert blocks[~mask.kept()].abs().min() > 1e-3  # a dropped block is still told where to go


def test_gradients_of_tied_dimensions():
    """Check 2: ds = sum of G1 * W1 over a row plus sum of G2 * W2 over a column."""
    model = ffn().double().train()
    masks = block_masks(model)
    learned(masks["0"])
    assert masks["2"].scores is None and masks["2"].source is masks["0"]
    x = torch.randn(5, 8, dtype=torch.float64)
    with parametrize.cached():
        w1, w2 = model[0].weight, model[2].weight
        w1.retain_grad()
        w2.retain_grad()
        model(x).tanh().square().sum().backward()
    one = (w1.grad * model[0].parametrizations.weight.original).sum(1)
    two = (w2.grad * model[2].parametrizations.weight.original).sum(0)
    assert one.abs().max() > 1e-3 and two.abs().max() > 1e-3
    torch.testing.assert_close(masks["0"].scores.grad[:, 0], one + two, rtol=0, atol=1e-10)
    assert [n for n, _ in model.named_parameters() if n.endswith("scores")] == [
        "0.parametrizations.weight.0.scores"
    ]


def test_schedule():
    """Check 3: the sheet's values, 1 and 0 through warm-up, constant in the cool-down."""
    squad = CubicThreshold(total=110_660, warmup=5400)
    assert squad(5400) == 0 and squad(31_030) == pytest.approx(0.0875, abs=1e-15)
    assert squad(56_660) == pytest.approx(0.1, abs=1e-15)
    assert {squad(step) for step in range(56_661, 110_661, 997)} == {0.1}
    mnli = CubicThreshold(total=147_264, warmup=12_000, final=4)
    assert mnli(12_000) == 0 < mnli(12_001) and mnli(99_264) == pytest.approx(0.1)
    steps = [squad(step) for step in range(0, 110_660, 10)]
    assert steps == sorted(steps)
    mask = BlockMask([64, 64], [8, 8]).train()
    mask.scores.data = 30 * torch.randn(8, 8)  # whatever the scores are
    for step in (0, 1, 5400):
        mask.present = squad(step)
        assert mask.kept().all() and squad(step) / squad.end * 40 == 0
    mask.present = squad(31_030)
    assert 0 < mask.kept().sum() < 64


def test_threshold_in_evaluation_is_the_final_one():
    mask = BlockMask([4, 4], [2, 4])
    mask.scores.data = torch.tensor([[0.0], [-2.5]])  # sigmoid 0.076
    mask.present = 0.05
    assert mask.train().kept().tolist() == [[True], [True]]
    assert mask.eval().kept().tolist() == [[True], [False]]


def test_the_final_threshold_is_a_score_of_minus_2_197():
    found = blocks_kept(torch.tensor([-2.1973, -2.1972]), 0.1)
    assert found.tolist() == [False, True]
    assert not blocks_kept(torch.zeros(1), 0.5).item()  # strict


def test_minimum():
    """0.5 % of 400 blocks: three stay, the highest scores, if fewer would."""
    scores = torch.full((400,), -9.0)
    scores[[7, 70, 300]] = torch.tensor([-5.0, -4.0, -6.0])
    assert blocks_kept(scores, 0.1).sum() == 0
    assert blocks_kept(scores, 0.1, 0.005).nonzero().flatten().tolist() == [7, 70, 300]
    scores[:50] = 0
    assert blocks_kept(scores, 0.1, 0.005).sum() == 50


def bert_base_masks():
    """Check 4's shapes: 48 tensors of 576 scores, 12 of 3072."""
    attention = [BlockMask([768, 768], [32, 32], kind="attention") for _ in range(48)]
    return attention + [BlockMask([3072, 768], [1, 768]) for _ in range(12)]


def test_penalty():
    """Check 4: 5.0 at the start for lambda 10; section 4.2's gradient; what lambda_ffn does."""
    masks = [mask.double() for mask in bert_base_masks()]
    assert (10 * score_penalty(masks, {"attention": 1, "dense": 1})).item() == 5.0
    assert (10 * score_penalty(masks, {"attention": 1, "dense": 0.5})).item() == 3.75
    for i, mask in enumerate(masks):
        learned(mask, i)
    score_penalty(masks, {"attention": 1, "dense": 0.5}).backward()
    for mask, factor in ((masks[3], 1 / 48), (masks[50], 0.5 / 12)):
        s = mask.scores.detach().sigmoid()
        wanted = factor / 2 * s * (1 - s) / mask.scores.numel()
        assert (mask.scores.grad - wanted).abs().max() < 1e-12
    before = [mask.scores.grad.clone() for mask in (masks[3], masks[50])]
    for mask in masks:
        mask.scores.grad = None
    score_penalty(masks, {"attention": 1, "dense": 0.25}).backward()
    assert torch.equal(masks[3].scores.grad, before[0])
    assert torch.allclose(masks[50].scores.grad, before[1] / 2, rtol=1e-12, atol=0)


def test_penalty_counts_shared_scores_once_and_refuses_what_it_does_not_know():
    model = ffn()
    assert score_penalty(block_masks(model).values(), {"dense": 2}).item() == 1.0
    with pytest.raises(ValueError, match=r"kinds \['dense'\] have no factor"):
        score_penalty(block_masks(model).values(), {"attention": 1})
    with pytest.raises(ValueError, match="the model has no block mask"):
        score_penalty([], {})


def test_bias_follows_its_row():
    """Section 3.4: a row without blocks has no bias; partly dead rows keep theirs."""
    layer = tq.BlockPrune((2, 4))(nn.Linear(8, 4))
    layer.parametrizations.bias.original.data.fill_(1)
    layer.parametrizations.weight[0].scores.data = torch.tensor([[-9.0, -9.0], [-9.0, 0.0]])
    assert layer.bias.tolist() == [0, 0, 1, 1]
    assert not hasattr(tq.BlockPrune((2, 4), bias=False)(nn.Linear(8, 4)).parametrizations, "bias")


def test_a_dead_dimension_is_dead_in_both_matrices():
    model = ffn()
    learned(block_masks(model)["0"])
    kept = block_masks(model)["0"].kept()[:, 0]
    assert torch.equal(model[0].weight.any(1), kept) and torch.equal(model[2].weight.any(0), kept)
    assert torch.equal(model[0].bias != 0, kept) and model[2].bias.all()
    assert block_density(model) == {"dense": kept.float().mean(), "all": kept.float().mean()}


def test_copies_share_among_themselves():
    model = ffn()
    twin = copy.deepcopy(model)
    learned(block_masks(twin)["0"])
    assert block_masks(model)["2"].kept().all() and not block_masks(twin)["2"].kept().all()
    assert block_masks(twin)["2"].source is block_masks(twin)["0"]
    again = tq.compress(twin, {"2": [tq.LSQ(bits=8)]})  # copies one layer alone
    masks = block_masks(again)
    assert masks["2"].source is masks["0"] and masks["0"] is not block_masks(twin)["0"]
    assert again[0].parametrizations.bias[0]._source[0] is masks["0"]
    tie(tie(again))
    assert block_masks(again)["2"].source is masks["0"]


def test_a_mask_that_loses_its_group_keeps_the_scores():
    model = ffn()
    learned(block_masks(model)["0"])
    alone = nn.Sequential(nn.Identity(), nn.Identity(), copy.deepcopy(model[2]))
    tie(alone)
    mask = block_masks(alone)["2"]
    assert mask.source is mask and torch.equal(mask.kept(), block_masks(model)["2"].kept())


@pytest.mark.parametrize("bits", [4, 8])
def test_mask_then_quantize_then_pack_then_save(bits, tmp_path):
    plan = {
        "0": [tq.BlockPrune((1, None), group="ffn"), tq.LSQ(bits)],
        "2": [tq.BlockPrune((None, 1), group="ffn"), tq.LSQ(bits)],
    }
    model = tq.compress(net(), plan)
    learned(block_masks(model)["0"])
    tq.calibrate(model)
    mask, x = mask_of(model[0]), torch.randn(4, 8)
    packed = tq.pack(model)
    again = tq.load(net(), tq.save(model, tmp_path / "model.safetensors")).eval()
    loaded = tq.load(net(), tq.save(packed, tmp_path / "packed.safetensors")).eval()
    for made in (packed, again, loaded, tq.bake(model)):
        assert torch.equal(made(x), model(x))
        assert not made[0].weight[~mask].any() and made[0].weight[mask].any()
    assert block_masks(again)["2"].source is block_masks(again)["0"]
    assert block_masks(packed) == {}
    sizes = tq.report(model)
    assert sizes.nominal == 2 * 96 * bits // 8 + 4 * 20 and sizes.with_metadata == sizes.nominal + 8


def test_order_is_mask_first():
    quantized = tq.LSQ(bits=4)(nn.Linear(8, 8))
    with pytest.raises(ValueError, match="quantized already; put BlockPrune first"):
        tq.BlockPrune((4, 4))(quantized)
    masked = tq.BlockPrune((4, 4))(nn.Linear(8, 8))
    with pytest.raises(ValueError, match="masked already"):
        tq.BlockPrune((4, 4))(masked)
    with pytest.raises(ValueError, match="has a mask already"):
        tq.TwoFour()(masked)


def test_refusals():
    with pytest.raises(ValueError, match="blocks of 3x4 must divide a matrix of 8x8"):
        tq.BlockPrune((3, 4))(nn.Linear(8, 8))
    with pytest.raises(TypeError, match="takes linear layers, got Embedding"):
        tq.BlockPrune((4, 4))(nn.Embedding(8, 8))
    with pytest.raises(ValueError, match=r"a block is \(rows, columns\)"):
        tq.BlockPrune((0, 4))
    with pytest.raises(ValueError, match="threshold and minimum are shares"):
        tq.BlockPrune((4, 4), threshold=1.5)
    with pytest.raises(ValueError, match="share one score per block"):
        tq.compress(net(), {"*": [tq.BlockPrune((1, None), group="ffn")]})
    with pytest.raises(ValueError, match="100 steps leave no ramp"):
        CubicThreshold(total=100, warmup=10)
    with pytest.raises(ValueError, match="thresholds rise"):
        CubicThreshold(total=100, warmup=1, start=0.2)
    with pytest.raises(ValueError, match="holds NaN"):
        layer = nn.Linear(8, 8)
        layer.weight.data[0, 0] = torch.nan
        tq.BlockPrune((4, 4))(layer)


def test_a_refused_plan_changes_nothing():
    model = net()
    plan = {"0": [tq.BlockPrune((4, 4))], "2": [tq.BlockPrune((5, 5))]}
    with pytest.raises(ValueError, match="must divide"):
        tq.compress(model, plan, inplace=True)
    assert block_masks(model) == {} and type(model[0]) is nn.Linear


def test_fixed_blocks_stay_fixed_at_any_threshold_and_in_copies():
    model, kept = ffn().train(), torch.arange(12)[:, None] < 6
    block_masks(model)["0"].fix(kept)
    for made in (model, copy.deepcopy(model), tq.compress(model, {"2": [tq.LSQ(bits=8)]})):
        masks = block_masks(made)
        assert masks["2"].source is masks["0"] and not masks["0"].scores.requires_grad
        for masks["0"].present in (0.0, 0.1):
            assert torch.equal(masks["0"].kept(), kept)
    alone = tie(nn.Sequential(copy.deepcopy(model[2])))
    assert not block_masks(alone)["0"].scores.requires_grad


def test_row_mask_knows_only_its_own_layer():
    model = ffn()
    assert isinstance(model[2].parametrizations.bias[0], RowMask)
    block_masks(model)["0"].fix(torch.arange(12)[:, None] < 6)
    assert not block_masks(model)["0"].scores.requires_grad
    assert model[2].bias.all() and model[0].bias.ne(0).sum() == 6
    assert (
        tq.preview(net(), {"0": [tq.BlockPrune((4, 4))]})
        .rows[0]["becomes"]
        .endswith("BlockMask + RowMask")
    )


def test_repeated_rows_share_their_blocks(tmp_path):
    """Gate and up in one weight: a dimension is a row in each half, and one score."""
    torch.manual_seed(0)
    layer = tq.BlockPrune((1, None), repeat=2)(nn.Linear(4, 6).double())
    mask = layer.parametrizations.weight[0]
    assert mask.grid == (3, 1) and mask.config()["repeat"] == 2
    mask.scores.data = torch.tensor([[0.0], [-3.0], [0.0]], dtype=torch.float64)
    alive = torch.tensor([True, False, True] * 2)
    assert torch.equal(layer.weight.any(1), alive) and torch.equal(layer.bias != 0, alive)
    assert block_density(layer) == {"dense": 2 / 3, "all": 2 / 3}
    x = torch.randn(5, 4, dtype=torch.float64)
    wanted = upstream(layer.weight, x) * layer.parametrizations.weight.original
    (x @ layer.weight.T).tanh().square().sum().backward()
    assert torch.allclose(mask.scores.grad, wanted.view(2, 3, 4).sum((0, 2))[:, None], atol=1e-12)
    path = tq.save(layer, tmp_path / "layer.safetensors")
    again = tq.load(nn.Linear(4, 6).double(), path)
    assert torch.equal(again.weight, layer.weight)
    with pytest.raises(ValueError, match="2 times blocks of 1x4 must divide a matrix of 5x4"):
        tq.BlockPrune((1, None), repeat=2)(nn.Linear(4, 5))
