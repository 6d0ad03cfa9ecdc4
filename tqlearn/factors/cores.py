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


def dense_table(layer: Cores) -> nn.Embedding:
    """Return an ordinary table with the numbers of a factored one."""
    weight, padding_idx = layer.product(), layer.padding_idx
    return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=padding_idx)


def dense_linear(layer: Cores, weight: Float[Tensor, "out in"]) -> nn.Linear:
    """Return an ordinary layer with this weight, and the bias of a factored one."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None).to(weight)
    linear.weight.data.copy_(weight)
    if layer.bias is not None:
        linear.bias.data.copy_(layer.bias)
    return linear
