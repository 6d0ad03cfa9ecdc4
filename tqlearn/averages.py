"""Averages over what counts: real tokens, labeled rows. Without any they are 0, never NaN."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .precision import widened


def wide(*tensors: Tensor) -> list[Tensor]:
    """Return half floats as float32: float16 rounds EPS to zero, and its squares overflow."""
    return [widened(tensor) for tensor in tensors]


def masked_mean(values: Float[Tensor, "*rows"], mask: Shaped[Tensor, "*rows"]) -> Float[Tensor, ""]:
    """Average over the tokens whose mask is 1 (or True); 0 where there is none.

    >>> masked_mean(torch.tensor([[1.0, 9.0]]), torch.tensor([[1, 0]])).item()
    1.0
    """
    weight = mask.to(values.dtype)
    total = weight.sum()
    return (values.masked_fill(mask == 0, 0) * weight).sum() / total.where(total > 0, 1)


def mean_of(
    rows: Float[Tensor, "*rows"], mask: Shaped[Tensor, "*rows"] | None
) -> Float[Tensor, ""]:
    """Average over the rows that count; over all of them where the mask is None."""
    return masked_mean(rows, torch.ones_like(rows) if mask is None else mask)


def real_rows(
    x: Float[Tensor, "*rows width"], mask: Shaped[Tensor, "*rows"] | None
) -> Float[Tensor, "*rows width"]:
    """Return zeros in the rows that do not count: the gradient of a NaN is NaN, whatever comes."""
    return x if mask is None else x.masked_fill((mask == 0)[..., None], 0)


def hard_labels(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Return the cross-entropy with labels, a mean over those that are not -100; 0 without any.

    >>> hard_labels(torch.zeros(2, 4), torch.tensor([1, -100])).exp().item()
    4.0
    """
    (logits,) = wide(logits)
    total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    return total / (labels != -100).sum().clamp(min=1)
