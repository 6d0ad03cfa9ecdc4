"""Block masks with learned scores: movement pruning of blocks, of whole heads, of FFN dimensions.

A ``BlockMask`` stands on a weight before its quantizer and has one score per block. A score is a
parameter like any other: the task's loss moves it through the mask, a penalty pulls it down, and
``movement.CubicThreshold`` says how high it must be. Masks of one ``group`` share their scores.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..precision import Fine
from ..registry import register
from ..stages import chain_of
from ..steps import at_hand
from .movement import FINAL, Straight, blocks_kept


@register
class BlockMask(Fine):
    """Keep the blocks of a weight whose score is above the threshold, zero the others.

    Args:
        shape: of the weight.
        block: (rows, columns) of a block; both divide the shape.
        group: masks of one model with the same group share the scores of the first of them. It
            takes ``tie(model)`` to bring them together, which ``compress`` and loading do.
        kind: what the penalty weighs together, such as "attention" and "dense".
        threshold: of sigmoid(score), at the end of training and whenever the model is not training.
        minimum: see ``blocks_kept``.
        repeat: the rows are so many matrices on top of each other, such as gate and up of a FFN,
            and a block is one in each of them.

    Scores start at 0. Backward, a score gets the sum of gradient times weight over its block, kept
    or not, so a block can come back; a weight gets its gradient where it is kept. ``present`` is
    the threshold while training: a schedule moves it.

    Source: spec sheet Block Pruning, 3.1; movement pruning is Sanh et al. 2020.

    >>> mask = BlockMask([4, 4], [2, 4])
    >>> _ = mask.scores.data.copy_(torch.tensor([[0.0], [-3.0]]))
    >>> mask(torch.ones(4, 4)).sum(1).tolist()
    [4.0, 4.0, 0.0, 0.0]
    """

    def __init__(
        self,
        shape: Sequence[int],
        block: Sequence[int],
        group: str | None = None,
        kind: str = "dense",
        threshold: float | int = FINAL,
        minimum: float | int = 0.0,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        if len(shape) != 2 or len(block) != 2 or repeat < 1 or any(
            b < 1 or n % b for n, b in zip(shape, (block[0] * repeat, block[1]), strict=True)
        ):  # fmt: skip
            times = f"{repeat} times " if repeat > 1 else ""
            raise ValueError(
                f"{times}blocks of {'x'.join(map(str, block))} must divide a matrix of "
                f"{'x'.join(map(str, shape))}; choose divisors of both sides"
            )
        if not (0 < threshold < 1 and 0 <= minimum <= 1):
            raise ValueError(f"threshold and minimum are shares, got {threshold} and {minimum}")
        self.shape, self.block, self.repeat = tuple(shape), tuple(block), repeat
        self.group, self.kind = group, kind
        self.threshold, self.minimum, self.present = threshold, minimum, threshold
        self.scores = nn.Parameter(torch.zeros(self.grid, dtype=torch.float32))
        self._source: tuple[BlockMask, ...] = ()  # in a tuple: no child, so it is saved once

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along rows and columns."""
        rows = self.shape[0] // self.repeat
        return rows // self.block[0], self.shape[1] // self.block[1]

    @property
    def source(self) -> "BlockMask":
        """The mask whose scores this one uses: itself, or the first of its group."""
        return self._source[0] if self._source else self

    def follow(self, source: "BlockMask") -> None:
        """Use the scores of another mask from now on.

        Raises:
            ValueError: it has another number of blocks.
        """
        blocks = [grid[0] * grid[1] for grid in (self.grid, source.grid)]
        if blocks[0] != blocks[1]:
            raise ValueError(
                f"masks of group {self.group!r} share one score per block, but one has "
                f"{blocks[1]} blocks and another {blocks[0]}; give them groups of their own"
            )
        self.scores, self._source = None, (source,)

    def lead(self) -> None:
        """Have scores of its own; those that it shared are copied."""
        if self._source:
            shared = self.source.scores
            own = shared.detach().clone().reshape(self.grid)
            self.scores = nn.Parameter(own, requires_grad=shared.requires_grad)
            self._source = ()

    def kept(self) -> Bool[Tensor, "rows columns"]:
        """Return which blocks stay at this moment."""
        tau = self.present if self.training else self.threshold
        with at_hand(self.source):
            return blocks_kept(self.source.scores, tau, self.minimum).reshape(self.grid)

    def spread(self, blocks: Tensor) -> Tensor:
        """Return the matrix that repeats every block's number over its block."""
        (a, b), (p, q), times = self.grid, self.block, self.repeat
        return blocks[None, :, None, :, None].expand(times, a, p, b, q).reshape(self.shape)

    def mask_for(self, weight: Float[Tensor, "out in"]) -> Bool[Tensor, "out in"]:
        """Return where the weight stays (True)."""
        return self.spread(self.kept())

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        with at_hand(self.source):
            kept = self.kept()  # refuses scores that are not here
            scores = self.source.scores.reshape(self.grid)
            return weight * self.spread(Straight.apply(scores, kept)).to(weight.dtype)

    def fix(self, kept: Bool[Tensor, "rows columns"]) -> None:
        """Decide by hand which blocks stay, at any threshold; the scores learn nothing after."""
        scores = self.source.scores
        scores.data.copy_(torch.where(kept.reshape(scores.shape), torch.inf, -torch.inf))
        scores.requires_grad_(False)

    def config(self) -> dict:
        """Return the arguments that rebuild this mask, defaults left out."""
        default = dict(group=None, kind="dense", threshold=FINAL, minimum=0.0, repeat=1)
        changed = {k: getattr(self, k) for k, v in default.items() if getattr(self, k) != v}
        return {"shape": list(self.shape), "block": list(self.block)} | changed

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.config().items())


@register
class RowMask(nn.Module):
    """Keep the entries of a bias whose row of the weight has at least one block left.

    It follows the ``BlockMask`` on the same layer's weight. Without it a dead row still adds its
    bias, and removing the row changes the outputs.

    Source: spec sheet Block Pruning, 3.4.
    """

    def __init__(self) -> None:
        super().__init__()
        self._source: tuple[BlockMask, ...] = ()

    def follow(self, mask: BlockMask) -> "RowMask":
        """Take the rows of this mask from now on, and return the module."""
        self._source = (mask,)
        return self

    def mask_for(self, bias: Float[Tensor, " out"]) -> Bool[Tensor, " out"]:
        """Return which entries stay (True)."""
        (mask,) = self._source
        rows = mask.kept().any(1).repeat_interleave(mask.block[0])
        return rows.repeat(mask.repeat)

    def forward(self, bias: Float[Tensor, " out"]) -> Float[Tensor, " out"]:
        return bias * self.mask_for(bias).to(bias.dtype)

    def config(self) -> dict:
        """Return the arguments that rebuild this mask: none."""
        return {}


def block_masks(model: nn.Module) -> dict[str, BlockMask]:
    """Return the block mask of every layer that has one, by the layer's name."""
    return {
        name: stage
        for name, module in model.named_modules()
        for stage in chain_of(module, "weight")
        if isinstance(stage, BlockMask)
    }


def tie(model: nn.Module) -> nn.Module:
    """Let the masks of each group share the scores of the first of them, in place.

    Copies of single layers take a copy of the shared scores along; this brings them together
    again, and lets every bias follow the mask of its own layer. Once is as good as twice.

    Raises:
        ValueError: masks of one group with different numbers of blocks.
    """
    groups: dict[str, BlockMask] = {}
    for mask in block_masks(model).values():
        first = mask if mask.group is None else groups.setdefault(mask.group, mask)
        if first is mask:
            mask.lead()
        else:
            mask.follow(first)
    for module in model.modules():
        masks = [s for s in chain_of(module, "weight") if isinstance(s, BlockMask)]
        for stage in chain_of(module, "bias"):
            if isinstance(stage, RowMask) and masks:
                stage.follow(masks[0])
    return model


def score_penalty(
    masks: Iterable[BlockMask], weights: Mapping[str, float | int]
) -> Float[Tensor, ""]:
    """Return R: the mean of sigmoid(score), first per tensor, then per kind, then over the kinds.

    Args:
        masks: of ``block_masks(model).values()``; scores that several share count once.
        weights: a factor per kind, such as {"attention": 1, "dense": 0.5}.

    Raises:
        ValueError: no mask, or a kind without a factor.

    Source: spec sheet Block Pruning, 4.2. Means, not sums: the authors' lambdas of 5 to 40 belong
    to them.

    >>> score_penalty([BlockMask([8, 8], [4, 4])], {"dense": 1}).item()
    0.5
    """
    kinds: dict[str, list[Tensor]] = {}
    for mask in masks:
        if mask.source is mask:
            kinds.setdefault(mask.kind, []).append(mask.scores.sigmoid().mean())
    if not kinds or (unknown := [kind for kind in kinds if kind not in weights]):
        wrong = f"kinds {unknown} have no factor" if kinds else "the model has no block mask"
        raise ValueError(f"a penalty needs masks and a factor for each kind, but {wrong}")
    return torch.stack([weights[k] * torch.stack(r).mean() for k, r in kinds.items()]).mean()


def block_density(model: nn.Module) -> dict[str, float]:
    """Return the share of weights that the block masks keep, per kind and "all" together."""
    kept: dict[str, list[int]] = {}
    for mask in block_masks(model).values():
        numbers = int(mask.kept().sum()) * mask.repeat * mask.block[0] * mask.block[1]
        for kind in (mask.kind, "all"):
            so_far = kept.setdefault(kind, [0, 0])
            so_far[0] += numbers
            so_far[1] += mask.shape[0] * mask.shape[1]
    return {kind: part / whole for kind, (part, whole) in kept.items()}
