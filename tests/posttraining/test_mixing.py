"""Mixed precision: the knapsack against all combinations, and plans that fit their budget."""

import itertools

import pytest
import torch
from small_models import batches, made
from torch import nn

import tqlearn as tq
from tqlearn.posttraining import knapsack, mixed_precision


def brute(losses, sizes, budget):
    """The best of all combinations, by looking at each."""
    every = itertools.product(*(range(len(options)) for options in losses))
    fit = [c for c in every if sum(s[k] for s, k in zip(sizes, c, strict=True)) <= budget]
    return min(sum(loss[k] for loss, k in zip(losses, c, strict=True)) for c in fit)


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_the_best_of_all_combinations(seed):
    """Four layers, three widths; budgets from the smallest choices to the largest."""
    torch.manual_seed(seed)
    losses = torch.rand(4, 3).double().tolist()
    sizes = torch.randint(1, 40, (4, 3)).tolist()
    least, most = (sum(f(options) for options in sizes) for f in (min, max))
    for budget in range(least, most + 2, 3):
        chosen = knapsack(losses, sizes, budget)
        assert sum(s[k] for s, k in zip(sizes, chosen, strict=True)) <= budget
        found = sum(loss[k] for loss, k in zip(losses, chosen, strict=True))
        assert found == pytest.approx(brute(losses, sizes, budget))


def test_there_may_be_more_choices_than_a_byte_counts():
    assert knapsack([[300.0 - i for i in range(300)]], [[*range(1, 301)]], 290) == [289]


def test_large_budgets_hold_too():
    torch.manual_seed(0)
    losses, sizes = torch.rand(40, 4).tolist(), torch.randint(10**5, 10**7, (40, 4)).tolist()
    budget = 150_000_000
    chosen = knapsack(losses, sizes, budget)
    assert 0.99 * budget < sum(s[k] for s, k in zip(sizes, chosen, strict=True)) <= budget


class Sum(nn.Module):
    """Branches that add up: their errors do, too."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(4))

    def forward(self, x):
        return sum(branch(3.0**k * x[:, k]) for k, branch in enumerate(self.branches))


def test_bits_go_where_the_outputs_lose_most():
    net, given = Sum(), [torch.randn(200, 4, 32)]
    choices = {"*": [[tq.LSQ(bits, init="mse", per="channel")] for bits in range(2, 9)]}
    equal = tq.calibrate(tq.compress(net, {"*": [tq.LSQ(4, init="mse", per="channel")]}))
    plan = mixed_precision(net, given, choices, tq.report(equal).with_metadata)
    assert [edits[0].bits for edits in plan.values()] == [2, 3, 5, 6]
    mixed = tq.calibrate(tq.compress(net, plan))
    assert tq.report(mixed).with_metadata <= tq.report(equal).with_metadata
    with torch.no_grad():
        moved = [m(given[0]) - net(given[0]) for m in (equal, mixed)]
    errors = [float(x.square().mean()) for x in moved]
    assert errors[1] < 0.3 * errors[0]


def test_a_plan_of_a_decoder_fits_its_budget():
    model = made("llama")
    given, found = batches(model), []
    choices = {"*.layers.*": [[tq.LSQ(bits, init="mse", per=16)] for bits in (2, 3, 8)]}
    for budget in (9_000, 10**6):
        plan = mixed_precision(model, given, choices, budget)
        student = tq.calibrate(tq.compress(model, plan))
        rows = [row["bytes"] for row in tq.report(student).rows if "_proj" in row["name"]]
        assert len(rows) == 14 and (sum(rows) > 0.97 * budget or budget == 10**6)
        assert sum(rows) <= budget
        found.append([edits[0].bits for edits in plan.values()])
    assert found[1] == [8] * 14 and 2 in found[0] and 3 in found[0]


def test_losses_are_those_of_the_outputs():
    """One layer, two ways: the cheap one is taken where the better does not fit, and only there."""
    net = nn.Sequential(nn.Linear(8, 4, bias=False))
    choices = {"0": [[tq.LSQ(2)], [tq.LSQ(8)], []]}
    sizes = [8 + 4, 32 + 4, 128]  # codes and a scale; floats
    for budget, edits in ((35, [tq.LSQ(2)]), (36, [tq.LSQ(8)]), (127, [tq.LSQ(8)]), (128, [])):
        assert sizes[0] <= budget
        assert mixed_precision(net, [torch.randn(9, 8)], choices, budget) == {"0": edits}


def test_refusals():
    net, given = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), [torch.tensor([[1, 2, 3]])]
    fine = [[tq.LSQ(2)], [tq.LSQ(4)]]
    with pytest.raises(ValueError, match="the smallest choices take 28 together, and the budget"):
        mixed_precision(net, given, {"1": fine}, budget=20)
    with pytest.raises(ValueError, match="0 is a Embedding; the loss of its outputs"):
        mixed_precision(net, given, {"*": fine}, budget=100)
    with pytest.raises(ValueError, match="choices name no layer to choose for"):
        mixed_precision(net, given, {"*": [[]]}, budget=100)
    with pytest.raises(TypeError, match="are a list of lists of edits, such as"):
        mixed_precision(net, given, {"1": [tq.LSQ(2)]}, budget=100)
    with pytest.raises(TypeError, match="choices map patterns to lists of lists"):
        mixed_precision(net, given, fine, budget=100)
    with pytest.raises(ValueError, match="looks at batches, and the losses here are those of w"):
        mixed_precision(net, given, {"1": [[tq.Inputs(tq.LSQ(8))]]}, budget=1000)
    with pytest.raises(TypeError, match="budget must be a whole number, got 1.5"):
        mixed_precision(net, given, {"1": fine}, budget=1.5)
