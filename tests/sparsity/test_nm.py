"""Spec sheet Deep Compression, acceptance checks 8 to 10 and 12: masks, errors, training."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tqlearn.sparsity.edits import TwoFour
from tqlearn.sparsity.nm import NMMask, grouped, nm_mask, ungrouped, zeroed
from tqlearn.sparsity.patterns import Pattern
from tqlearn.sparsity.wanda import activation_aware
from tqlearn.stages import mask_of

PATTERNS = ["2:4", "1:2", "4:8", "1:4", "3:4", "4:8 pairs"]


def test_the_spec_sheets_groups():
    groups = [[0.1, -0.9, 0.4, -0.2], [0, 0, 0.3, -0.3], [0.5, 0.5, 0.5, -0.5]]
    mask = nm_mask(torch.tensor(groups).abs())
    assert mask.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(5))
def test_every_group_keeps_the_largest(pattern, seed):
    form = Pattern.of(pattern)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(7, 6 * form.group, generator=generator)
    if seed == 4:
        scores = (4 * scores).round()  # many ties
    mask = nm_mask(scores, pattern).reshape(-1, form.group)
    assert (mask.sum(1) == form.keep).all()
    runs, kept = scores.reshape(len(mask), -1, form.run).norm(dim=2), mask[:, :: form.run]
    assert torch.equal(mask, kept.repeat_interleave(form.run, 1))
    least = runs.masked_fill(~kept, torch.inf).amin(1)
    assert (least >= runs.masked_fill(kept, -1).amax(1)).all()
    for row, chosen in zip(runs.tolist(), kept.tolist(), strict=True):  # ties: the earlier goes
        order = sorted(range(len(row)), key=lambda i: row[i])
        assert sorted(order[-sum(chosen) :]) == [i for i, c in enumerate(chosen) if c]


def test_pieces_make_the_mask_of_the_whole(monkeypatch):
    scores = (4 * torch.rand(9, 24)).round()
    wanted = {pattern: nm_mask(scores, pattern) for pattern in PATTERNS}
    for size in (1, 5):
        monkeypatch.setattr("tqlearn.sparsity.nm.PIECE", size)
        assert all(torch.equal(nm_mask(scores, p), mask) for p, mask in wanted.items())


def test_groups_run_along_the_axis_that_is_asked_for():
    scores = torch.rand(8, 12)
    along = nm_mask(scores, axis=0)
    assert torch.equal(along, nm_mask(scores.T.contiguous()).T)
    assert (along.reshape(2, 4, 12).sum(1) == 2).all()
    assert not torch.equal(along, nm_mask(scores))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("width", [1, 5, 6, 8, 11])
def test_a_short_group_keeps_what_a_full_one_does(pattern, width):
    form = Pattern.of(pattern)
    scores = torch.zeros(3, width) if width == 5 else torch.rand(3, width)
    mask = nm_mask(scores, pattern, pad=True)
    for start in range(0, width, form.group):
        size = min(form.group, width - start)
        kept = mask[:, start : start + size].sum(1)
        low = min(size, form.keep) if form.run == 1 else min(size, form.keep) - 1
        assert (kept >= low).all() and (kept <= form.keep).all()


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("pattern", ["2:4", "4:8 pairs"])
def test_taking_groups_apart_and_together(axis, pattern):
    x = torch.randn(3, 5, 6)
    assert torch.equal(ungrouped(grouped(x, Pattern.of(pattern), axis), (3, 5, 6), axis), x)
    flat = torch.randn(7)
    assert torch.equal(ungrouped(grouped(flat, Pattern.of(pattern), -1), (7,), -1), flat)


def squared_error(mask: torch.Tensor, x: torch.Tensor) -> float:
    return float((x * ~mask).square().mean())


def test_pruning_errors_of_a_gaussian():
    """Check 9; pairs are scored by their Euclidean norm, which has the least error."""
    x = torch.randn(1000, 2000)
    found = {p: squared_error(nm_mask(x.abs(), p), x) for p in ("2:4", "1:2", "4:8", "4:8 pairs")}
    expected = {"2:4": 0.1324, "1:2": 0.1817, "4:8": 0.1033, "4:8 pairs": 0.208}
    assert found == pytest.approx(expected, abs=1e-3)
    median = x.abs().flatten().median()
    assert squared_error(x.abs() > median, x) == pytest.approx(0.0713, abs=1e-3)


def quantized(x: torch.Tensor, clip: float) -> torch.Tensor:
    return (x / clip).clamp(-1, 1).mul(7).round() * (clip / 7)


def clip_of(x: torch.Tensor) -> float:
    """SAWB's clip for 15 levels with a zero, spec sheet 3.1."""
    return float(12.035 * x.square().mean().sqrt() - 12.03 * x.abs().mean())


def test_errors_of_four_bits_under_a_mask():
    """Check 10: which statistics the clip is taken from matters more than one would think."""
    x = torch.randn(1000, 4000)
    masked = x * nm_mask(x.abs())
    assert float(masked.abs().mean()) == pytest.approx(0.59402, abs=1e-3)
    assert float(masked.square().mean()) == pytest.approx(0.86755, abs=2e-3)
    clips = {"dense": clip_of(x), "masked": clip_of(masked), "kept": clip_of(masked[masked != 0])}
    grid = torch.linspace(2.5, 2.85, 36).tolist()
    clips["best"] = min(grid, key=lambda c: float((quantized(masked, c) - masked).norm()))
    expected = {"dense": 2.4364, "masked": 4.0636, "kept": 1.5607, "best": 2.6658}
    assert clips == pytest.approx(expected, abs=0.03)
    total = {k: float((quantized(masked, c) - x).square().mean()) for k, c in expected.items()}
    figures = {"dense": 0.1403, "masked": 0.1465, "kept": 0.1730, "best": 0.1398}
    assert total == pytest.approx(figures, abs=4e-4)
    part = {k: float((quantized(masked, c) - masked).square().mean()) for k, c in expected.items()}
    parts = {"dense": 0.00786, "masked": 0.01406, "kept": 0.04056, "best": 0.00732}
    assert part == pytest.approx(parts, abs=1e-4)
    lost = (masked != 0) & (quantized(masked, 2.4364) == 0)
    assert float(lost.float().mean()) == pytest.approx(0.0025, abs=2e-4)


def test_mask_then_quantize_is_quantize_then_mask():
    x = torch.randn(64, 64)
    mask = nm_mask(x.abs())
    assert torch.equal(quantized(x * mask, 2.5), quantized(x, 2.5) * mask)


def layer_with(update: str, **options) -> nn.Linear:
    torch.manual_seed(0)
    return TwoFour(update=update, **options)(nn.Linear(16, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_is_zeroed_as_masked_fill_does_to_the_bit(dtype):
    values = [-3.0, 2.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-7, 0.0]
    weight = torch.tensor([values, values], dtype=dtype).T.requires_grad_()
    mask = torch.tensor([[True] * 8, [False] * 8]).T
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    found, other = zeroed(weight, mask), weight.masked_fill(~mask, 0)
    for one in (found.detach(), zeroed(weight.detach(), mask)):
        assert torch.equal(one.view(bits), other.detach().view(bits))
    upstream = torch.randn_like(weight)
    pair = [torch.autograd.grad(out, weight, upstream)[0] for out in (found, other)]
    assert torch.equal(*pair)


def test_a_large_weight_is_zeroed_piece_by_piece(monkeypatch):
    monkeypatch.setattr("tqlearn.sparsity.nm.PIECE", 24)
    for shape in ((7, 8), (1, 50), (0, 8), (3, 4, 4)):
        weight = torch.randn(shape)
        assert torch.equal(zeroed(weight, weight > 0), weight.relu())


def test_gradients_of_the_three_updates():
    for update in ("fixed", "ste", "sr-ste"):
        layer, g = layer_with(update, decay=0.5), torch.randn(8, 16)
        original, mask = layer.parametrizations.weight.original, mask_of(layer)
        assert torch.equal(layer.weight, torch.where(mask, original, 0.0))
        layer.weight.backward(g)
        dropped = torch.where(mask, 0.0, original).detach()
        wanted = {"fixed": g * mask, "ste": g, "sr-ste": g + 0.5 * dropped}[update]
        assert_close(original.grad, wanted)


def train(layer: nn.Linear, steps: int = 100) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-2, weight_decay=0.1)
    x, y = torch.randn(64, 16), torch.randn(64, 8)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        if layer.parametrizations.weight[0].update == "fixed":
            mask = layer.parametrizations.weight[0].mask
            assert not layer.parametrizations.weight.original.grad[~mask].any()
        optimizer.step()


@pytest.mark.parametrize("update", ["fixed", "ste", "sr-ste"])
def test_masks_persist_through_adamw(update):
    """Check 12: exact zeros at half of the places, in every group, after decay and momentum."""
    layer = layer_with(update)
    first, before = mask_of(layer), layer.weight.detach().clone()
    train(layer)
    groups = layer.weight.detach().reshape(-1, 4)
    assert ((groups == 0).sum(1) == 2).all()
    assert not torch.equal(layer.weight, before)
    assert torch.equal(mask_of(layer), first) == (update == "fixed")
    assert torch.equal(layer.weight.detach() != 0, mask_of(layer))


def test_a_dropped_weight_of_a_fixed_mask_only_decays():
    layer = layer_with("fixed")
    original, mask = layer.parametrizations.weight.original, mask_of(layer)
    before = original.detach().clone()
    train(layer, steps=10)
    assert_close(original[~mask], before[~mask] * (1 - 3e-2 * 0.1) ** 10)


def test_a_following_mask_is_that_of_the_present_weights():
    layer = layer_with("ste").eval()
    layer.parametrizations.weight.original.data = torch.arange(128.0).reshape(8, 16)
    assert mask_of(layer).reshape(-1, 4).int().tolist() == [[0, 0, 1, 1]] * 32
    assert "mask" not in dict(layer.parametrizations.weight[0].named_buffers())  # not saved


def test_mask_of_layers_without_one():
    layer = nn.Linear(8, 4)
    assert mask_of(layer) is None and mask_of(layer, "bias") is None
    assert mask_of(nn.utils.parametrizations.weight_norm(layer)) is None


def test_activation_aware_scores_listen_to_the_input():
    weight, norms = torch.tensor([[3.0, -2.0, 1.0, 0.5]]), torch.tensor([1.0, 1.0, 10.0, 10.0])
    assert nm_mask(weight.abs()).int().tolist() == [[1, 1, 0, 0]]
    assert nm_mask(activation_aware(weight, norms)).int().tolist() == [[0, 0, 1, 1]]
    same = torch.full((4,), 2.0)
    assert_close(activation_aware(weight, same), 2 * weight.abs())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_mask_keeps_the_type(dtype):
    layer = TwoFour("4:8 pairs")(nn.Linear(16, 8).to(dtype))
    assert layer.weight.dtype == dtype and layer.parametrizations.weight[0].mask.dtype == torch.bool
    x = torch.ones(2, 16, dtype=dtype)
    layer(x).sum().backward()
    assert layer.parametrizations.weight.original.grad.dtype == dtype


def test_refusals():
    with pytest.raises(ValueError, match=r"divisible by 4, but shape \(3, 6\) has 6 along"):
        nm_mask(torch.rand(3, 6))
    with pytest.raises(ValueError, match="update is 'fixed', 'ste' or 'sr-ste', got 'hard'"):
        NMMask([4, 4], update="hard")
    with pytest.raises(ValueError, match="update='ste' follows the weights by itself"):
        NMMask([4, 4], update="ste").remask(torch.rand(4, 4))
    with pytest.raises(ValueError, match=r"for shape \(4, 4\), got scores \(4, 8\)"):
        NMMask([4, 4]).remask(torch.rand(4, 8))
