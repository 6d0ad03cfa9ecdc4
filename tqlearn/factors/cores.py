"""What factored layers share beside ``stages.Cores``: ids, biases, ways to and from dense ones."""

from collections.abc import Sequence
from math import sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..stages import Cores


def check_ids(ids: Int[Tensor, "..."], rows: int) -> None:
    """Raise an IndexError for a token id outside a table; on a GPU and in compiled code as a device
    assert, for no look-up should wait for the check.
    """
    words = f"the table has rows 0 to {rows - 1}"
    inside = ((ids >= 0) & (ids < rows)).all()
    if ids.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(inside, f"a token id is out of range: {words}")
    elif not ids.is_meta and not inside:
        raise IndexError(f"token ids run from {int(ids.min())} to {int(ids.max())}, but {words}")


def new_bias(out_features: int) -> nn.Parameter:
    """Return a random bias within 1 / sqrt(out_features), as in QTC's code."""
    limit = 1 / sqrt(out_features)
    return nn.Parameter(torch.empty(out_features).uniform_(-limit, limit))


def with_cores(layer: Cores, cores: Sequence[Tensor], linear: nn.Linear) -> Cores:
    """Return a factored layer with these cores, and the bias and number format of a dense one."""
    layer.set_cores(cores)
    if layer.bias is not None:
        layer.bias.data.copy_(linear.bias)
    return layer.to(linear.weight.dtype)


def looked_up(
    rows: Float[Tensor, "... width"], ids: Int[Tensor, "..."], padding_idx: int | None
) -> Float[Tensor, "... width"]:
    """Return rows of a table; those of the padding index teach it nothing, as in nn.Embedding."""
    if padding_idx is None:
        return rows
    return torch.where((ids == padding_idx)[..., None], rows.detach(), rows)  # models write into it


def dense_table(layer: Cores) -> nn.Embedding:
    """Return an ordinary table with the numbers of a factored one."""
    weight, frozen, padding_idx = layer.product(), layer.is_frozen, layer.padding_idx
    return nn.Embedding.from_pretrained(weight, freeze=frozen, padding_idx=padding_idx)


def dense_linear(layer: Cores, weight: Float[Tensor, "out in"]) -> nn.Module:
    """Return an ordinary layer with this weight, and the bias of a factored one."""
    rows, columns = weight.shape
    if layer.dense_like is None:
        linear = nn.Linear(columns, rows, bias=layer.bias is not None).to(weight)
    else:  # GPT-2's Conv1D
        linear, weight = layer.dense_like(rows, columns).to(weight), weight.T
    linear.weight.data.copy_(weight)
    linear.weight.requires_grad_(not layer.is_frozen)
    if layer.bias is not None:
        linear.bias.data.copy_(layer.bias)
        linear.bias.requires_grad_(layer.bias.requires_grad)
    return linear
