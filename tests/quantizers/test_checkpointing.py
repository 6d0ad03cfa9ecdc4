"""Gradient checkpointing repeats forward passes; what follows the batches moves once per step."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import tqlearn as tq
from tqlearn.quantizers import RunningRange, Uniform
from tqlearn.sparsity.transitions import FadingNorm


def weights(edit):
    return tq.calibrate(tq.compress(nn.Sequential(nn.Linear(8, 8)), {"0": [edit]}))


FOLLOWERS = {
    "Uniform": lambda: Uniform(4, momentum=0.9).calibrate(torch.randn(50)),
    "RunningRange": lambda: RunningRange(4).calibrate(torch.randn(50)),
    "per feature": lambda: RunningRange(4, features=8).calibrate(torch.randn(50, 8)),
    "present range": lambda: Uniform(4).calibrate(torch.randn(50)),
    "SAWB": lambda: weights(tq.SAWB(4)),
    "Ternary": lambda: weights(tq.Ternary()),
    "FadingNorm": lambda: FadingNorm(8),
}


def step(model, reentrant=None):
    """One training step in two accumulated batches; gradients, and everything that is stored."""
    model = copy.deepcopy(model).train()
    if isinstance(model[1], FadingNorm):
        model[1].mix.fill_(0.5)  # half of its statistics are the running ones
    torch.manual_seed(1)
    for _ in range(2):
        x = torch.randn(4, 8, requires_grad=True)
        out = model(x) if reentrant is None else checkpoint(model, x, use_reentrant=reentrant)
        out.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [x.grad, *gradients], [*model.buffers()]


@pytest.mark.parametrize("reentrant", [False, True], ids=["hooks", "reentrant"])
@pytest.mark.parametrize("name", FOLLOWERS)
def test_one_update_per_step(name, reentrant):
    model = nn.Sequential(nn.Linear(8, 8), FOLLOWERS[name](), nn.Linear(8, 8))
    before = [*copy.deepcopy(model).buffers()]
    want, stored = step(model)
    have, again = step(model, reentrant)
    assert_close(have, want)
    assert_close(again, stored)
    if name not in ("SAWB", "Ternary"):  # the test can see a range that moves
        assert all(not torch.equal(a, b) for a, b in zip(stored[:2], before, strict=False))


def test_a_use_that_was_not_the_last_is_refused():
    """Its range has moved on: the repeated pass would round differently from the first."""
    q = Uniform(4, momentum=0.9).calibrate(torch.randn(50)).train()
    x = torch.randn(4, 8, requires_grad=True)
    once = checkpoint(q, x, use_reentrant=False)
    twice = checkpoint(lambda y: q(3 * y).tanh(), once, use_reentrant=False)
    with pytest.raises(ValueError, match="not its last one, and its running range has moved on"):
        twice.sum().backward()
