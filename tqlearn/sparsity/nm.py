"""N:M masks: of every M neighbors along the input dimension, N stay and the rest are exactly zero.

Block masks, with scores that learn, are in ``blocks``; their names stand here too.

A mask is a module that stands on a weight before its quantizer. ``mask_for`` returns it (True
stays), ``forward`` applies it. ``mask_of`` asks a weight that carries masks for what they leave.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..precision import widened
from ..registry import register
from .patterns import Pattern

UPDATES = ("fixed", "ste", "sr-ste")
PIECE = 2**14  # groups at a time: what a processor's cache holds


def magnitude(weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the score |w|: what is small goes first."""
    return weight.detach().abs()


def nm_mask(
    scores: Float[Tensor, "..."], pattern: str = "2:4", axis: int = -1, pad: bool = False
) -> Bool[Tensor, "..."]:
    """Return the mask that keeps the highest scores of every group; True stays.

    Ties are stable: of equal scores the earlier ones go first, so runs are reproducible.

    Args:
        scores: non-negative, such as ``magnitude(weight)``.
        pattern: "N:M", or "N:M pairs" for adjacent pairs, scored by their Euclidean norm.
        axis: along which the groups run: the input dimension, the last one of a linear layer.
        pad: let the last group be short. The places that it lacks are dropped first, so it keeps
            as many of its numbers as a full group does.

    Raises:
        ValueError: the axis is not divisible by M and ``pad`` is False.

    Source: spec sheet Deep Compression, section 6.1 and acceptance check 8.

    >>> nm_mask(torch.tensor([[0.1, 0.9, 0.4, 0.2], [0.5, 0.5, 0.5, 0.5]])).int().tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    form, width = Pattern.of(pattern), scores.shape[axis]
    if width % form.group and not pad:
        raise ValueError(
            f"{pattern} needs a width divisible by {form.group}, but shape {(*scores.shape,)} has "
            f"{width} along the input; leave the tensor out, or allow a short group with pad=True"
        )
    if scores.is_meta:  # a skeleton: what is loaded into it brings its mask
        return torch.empty_like(scores, dtype=torch.bool)
    groups = grouped(scores, form, axis, fill=-1.0)
    if form.run > 1:
        groups = widened(groups)
        runs = groups.unflatten(-1, (-1, form.run))
        groups = torch.where(runs < 0, 0, runs).norm(dim=-1) - (runs < 0).all(-1).to(scores)
    dropped = (form.group - form.keep) // form.run
    size = PIECE if groups.device.type == "cpu" else max(1, len(groups))  # a GPU takes it whole
    kept = torch.cat([_kept(part, dropped) for part in groups.split(size)])
    kept = kept if form.run == 1 else kept.repeat_interleave(form.run, dim=1)
    return ungrouped(kept, tuple(scores.shape), axis)


def _kept(groups: Float[Tensor, "groups runs"], dropped: int) -> Bool[Tensor, "groups runs"]:
    """Say which scores of a group have ``dropped`` others before them: lower ones, earlier equals.

    What is above the last score to go stays. Where fewer stay than should, that score is there more
    than once (or is no number), and each pair is compared. A stable sort says the same, many times
    as slowly for groups of four.
    """
    kept = groups > _last_to_go(groups.unbind(1), dropped)[:, None]
    whole = groups.shape[1] - dropped
    if int(kept.count_nonzero()) < whole * len(groups):
        tied = kept.sum(1) < whole
        kept[tied] = _compared(groups[tied], dropped)
    return kept


def _last_to_go(columns: Sequence[Tensor], dropped: int) -> Tensor:
    """Return the ``dropped``-th lowest of each group: passes of a bubble sort, from the nearer end.

    >>> columns = torch.tensor([3, 9, 5, 7]).unbind()
    >>> [int(_last_to_go(columns, dropped)) for dropped in (1, 2, 3, 4)]
    [3, 5, 7, 9]
    """
    ends, passes = (torch.minimum, torch.maximum), dropped
    if 2 * dropped > len(columns):
        ends, passes = ends[::-1], len(columns) - dropped + 1
    for left in reversed(range(passes)):
        end, others = columns[0], []
        for score in columns[1:]:
            if left:
                others.append(ends[1](end, score))
            end = ends[0](end, score)
        columns = others
    return end


def _compared(groups: Float[Tensor, "groups runs"], dropped: int) -> Bool[Tensor, "groups runs"]:
    """Compare each pair once: who does not win of two, loses."""
    columns = groups.unbind(1)
    later = range(len(columns) - 1, -1, -1)  # all of these go before, until they have won
    ranks = [groups.new_full((len(groups),), n, dtype=torch.uint8) for n in later]
    for j, score in enumerate(columns):
        for i in range(j):
            won = (columns[i] <= score).view(torch.uint8)
            ranks[j] += won
            ranks[i] -= won
    return torch.stack([rank >= dropped for rank in ranks], 1)


def grouped(x: Tensor, form: Pattern, axis: int, fill: float | bool = 0) -> Tensor:
    """Return the groups of a tensor as rows (groups, M), a short last one filled up."""
    rows = x.movedim(axis, -1).flatten(0, -2) if x.dim() > 1 else x[None]
    if short := -rows.shape[1] % form.group:
        rows = nn.functional.pad(rows, (0, short), value=fill)
    return rows.reshape(-1, form.group)


def ungrouped(groups: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Return the tensor of a shape that ``grouped`` took apart, without what filled it up."""
    front = list(shape)
    width = front.pop(axis)
    rows = groups.reshape(*front, -1)[..., :width]
    return rows.movedim(-1, axis).contiguous()


def zeroed(weight: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return a weight with exact zeros where the mask is False, as ``masked_fill`` does.

    That one goes number by number on a CPU, this comparison by whole registers. It takes a mask in
    floats, so it works piece by piece, and not where the mask is kept for a gradient.
    """
    if weight.is_meta or mask.is_meta:  # on its way from a disk: nothing to compute with yet
        return torch.empty_like(weight, device="meta")
    if weight.device.type != "cpu" or (weight.requires_grad and torch.is_grad_enabled()):
        return weight.masked_fill(~mask, 0)
    rows, found = max(1, PIECE * len(weight) // max(1, weight.numel())), torch.empty_like(weight)
    for out, w, m in zip(*(x.split(rows) for x in (found, weight, mask)), strict=True):
        out.copy_(torch.ops.aten.threshold_backward(w, m.to(w.dtype), 0.5))
    return found


class _Keep(torch.autograd.Function):
    """Mask forward; backward passes everything, plus a decay of what was dropped."""

    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.decay = decay
        ctx.save_for_backward(weight.masked_fill(mask, 0) if decay else None)
        return weight.masked_fill(~mask, 0)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (dropped,) = ctx.saved_tensors
        return grad if dropped is None else grad + ctx.decay * dropped, None, None


@register
class NMMask(nn.Module):
    """Keep N of every M neighbors of a weight, the rest is exactly zero.

    Args:
        shape: of the weight.
        pattern, axis, pad: as in ``nm_mask``.
        update: "fixed": the mask is made once and stored, and a dropped weight gets no gradient.
            "ste": made anew from the weights in every forward, and the gradient passes straight
            through to all weights. "sr-ste": as "ste", and dropped weights are pulled to zero by
            ``decay`` times their value.
        decay: SR-STE's lambda.

    The dropped numbers of a weight are not touched: they wait under the mask, where a fixed one
    lets only weight decay reach them. A fixed mask drops everything until ``remask`` has made it.

    Source: spec sheet Deep Compression, section 6.2; SR-STE is Zhou et al. 2021, *Learning N:M
    Fine-grained Structured Sparse Neural Networks From Scratch*. With Adam it is reported to lose
    accuracy, so "fixed" is the default.

    >>> mask = NMMask([1, 4]).remask(torch.tensor([[0.1, -0.9, 0.4, -0.2]]))
    >>> mask(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [[0.0, 2.0, 3.0, 0.0]]
    """

    def __init__(
        self,
        shape: list[int],
        pattern: str = "2:4",
        axis: int = -1,
        pad: bool = False,
        update: str = "fixed",
        decay: float | int = 2e-4,
    ) -> None:
        super().__init__()
        if update not in UPDATES:
            raise ValueError(f"update is 'fixed', 'ste' or 'sr-ste', got {update!r}")
        self.form = Pattern.of(pattern)
        self.shape, self.pattern, self.axis, self.pad = tuple(shape), pattern, axis, pad
        self.update, self.decay = update, decay
        blank = torch.zeros(self.shape, dtype=torch.bool) if update == "fixed" else None
        self.register_buffer("mask", blank)

    @torch.no_grad()
    def remask(self, scores: Float[Tensor, "..."]) -> "NMMask":
        """Make the stored mask from scores (of a weight: its magnitude) and return the module.

        Raises:
            ValueError: scores of another shape, or a mask that is not fixed.
        """
        if self.mask is None:
            raise ValueError(f"a mask with update={self.update!r} follows the weights by itself")
        if tuple(scores.shape) != self.shape:
            raise ValueError(f"the mask is for shape {self.shape}, got scores {(*scores.shape,)}")
        self.mask = nm_mask(scores.abs(), self.pattern, self.axis, self.pad)
        return self

    @torch.no_grad()
    def mask_for(self, weight: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """Return the mask as it meets a weight: the stored one, or the one of this moment."""
        if self.mask is not None:
            return self.mask
        return nm_mask(magnitude(weight), self.pattern, self.axis, self.pad)

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.update == "fixed":
            return zeroed(weight, self.mask)  # and so is the gradient
        decay = self.decay if self.update == "sr-ste" else 0.0
        return _Keep.apply(weight, self.mask_for(weight), decay)

    def config(self) -> dict:
        """Return the arguments that rebuild this mask, defaults left out."""
        default = {"pattern": "2:4", "axis": -1, "pad": False, "update": "fixed", "decay": 2e-4}
        changed = {k: getattr(self, k) for k, v in default.items() if getattr(self, k) != v}
        return {"shape": list(self.shape)} | changed

    def extra_repr(self) -> str:
        return f"{self.pattern!r}, shape={self.shape}, axis={self.axis}, update={self.update!r}"
