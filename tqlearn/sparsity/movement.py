"""Scores against a threshold: its schedule over the training, which blocks stay, the gradient.

The masks that use them are in ``blocks``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..arguments import is_sharded

FINAL = 0.1  # the threshold at the end of training, of sigmoid(score)


@dataclass(frozen=True)
class CubicThreshold:
    """The threshold as a function of the training step: flat, a cubic ramp, flat.

    Args:
        total, warmup: steps of the training, and of its unit of warm-up (the learning rate's too).
        initial: how many units the threshold stays at ``start``.
        final: how many units it stays at ``end``: nothing is pushed any more, the weights settle.
        start, end: the two thresholds, of sigmoid(score).

    Source: spec sheet Block Pruning, section 5; the defaults are the SQuAD recipe's.

    >>> squad = CubicThreshold(total=110_660, warmup=5400)
    >>> [round(squad(step), 6) for step in (5400, 31_030, 56_660, 110_660)]
    [0.0, 0.0875, 0.1, 0.1]
    """

    total: int
    warmup: int
    initial: float | int = 1
    final: float | int = 10
    start: float | int = 0.0
    end: float | int = FINAL

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end < 1 or self.end == 0:
            raise ValueError(f"thresholds rise within 0 to 1, got {self.start} to {self.end}")
        if min(self.warmup, self.initial, self.final) < 0 or self.ramp <= 0:
            raise ValueError(
                f"{self.total} steps leave no ramp between {self.initial} x {self.warmup} steps "
                f"of warm-up and {self.final} x {self.warmup} of cool-down; train longer or warm "
                "up shorter"
            )

    @property
    def ramp(self) -> float | int:
        """Steps between warm-up and cool-down."""
        return self.total - (self.initial + self.final) * self.warmup

    def __call__(self, step: int) -> float:
        """Return the threshold at a step."""
        if step <= self.initial * self.warmup:
            return float(self.start)
        if step > self.total - self.final * self.warmup:
            return float(self.end)
        left = 1 - (step - self.initial * self.warmup) / self.ramp
        return self.end + (self.start - self.end) * left**3


class Straight(torch.autograd.Function):
    """0 or 1 forward, the identity to the score backward: neither step nor sigmoid scales it."""

    @staticmethod
    def forward(ctx, scores: Tensor, kept: Tensor) -> Tensor:
        return kept.to(scores.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None


def blocks_kept(
    scores: Float[Tensor, "..."], threshold: float | int, minimum: float | int = 0.0
) -> Bool[Tensor, "..."]:
    """Return which blocks stay: sigmoid(score) > threshold, strictly.

    Args:
        minimum: share of the blocks that stays in any case, the highest scores first: with fewer
            than floor(minimum * blocks) + 1 survivors these are kept instead. 0: no such guard.

    Raises:
        ValueError: FSDP2 has the scores in shards at this moment.

    Source: spec sheet Block Pruning, 3.1 and 3.5.

    >>> blocks_kept(torch.tensor([-3.0, -2.0, 0.0]), 0.1).tolist()
    [False, True, True]
    """
    if is_sharded(scores):
        raise ValueError(
            "the scores of a block mask are sharded at this moment, with another part of the model "
            "than its weight or outside of a forward pass; give all layers whose masks share a "
            "group to one call, fully_shard([layer, layer]), and gather the model to look at it"
        )
    kept = scores.detach().sigmoid() > threshold
    if minimum > 0:
        least = min(int(minimum * scores.numel()) + 1, scores.numel())
        order = scores.detach().flatten().argsort(descending=True, stable=True)
        guard = torch.zeros_like(kept).flatten().index_fill(0, order[:least], True)
        few = kept.sum() < least  # no branch: scores may be on the meta device or a GPU
        kept = torch.where(few, guard.view_as(kept), kept)
    return kept
