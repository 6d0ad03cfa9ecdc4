"""Node pruning: outputs of a feed-forward layer's ReLU that hardly ever speak are taken out.

FullyQT keeps the largest value of every tensor as part of its ranges; a node whose largest value is
small against its layer's spread is dropped after training, without training again.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..registry import resized_linear
from .layers import FeedForward
from .transformer import Transformer


@torch.no_grad()
def node_maxima(
    model: Transformer, batches: Iterable[Mapping], momentum: float = 0.9
) -> dict[str, Float[Tensor, " nodes"]]:
    """Return the running maximum of every node's ReLU output, by name of its layer.

    Args:
        batches: dicts that the model is called with, ``labels`` with -100 at padding.
        momentum: share of the old maximum in the new one; 0.0 keeps the largest of all batches.

    Padding does not count. A node that never speaks has a maximum of exactly 0 either way.

    Raises:
        ValueError: no batches, or a momentum outside 0 to 1.

    Source: spec sheet FullyQT, section 8, node pruning.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is the share of the old maximum, 0 to below 1: {momentum!r}")
    found: dict[str, Tensor] = {}

    def listen(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            x, real = (*inputs, None)[:2]
            new = (x if real is None else x[real]).detach().reshape(-1, x.shape[-1]).amax(0)
            old = found.get(name, new)
            mean = momentum * old + (1 - momentum) * new
            found[name] = mean if momentum else torch.maximum(old, new)

        return hook

    layers = {n: m for n, m in model.named_modules() if isinstance(m, FeedForward)}
    hooks = [m.quant_hidden.register_forward_pre_hook(listen(n)) for n, m in layers.items()]
    training = model.training
    try:
        for batch in batches:
            model.eval()(**batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("the maxima of nodes need at least one batch to look at")
    return found


@dataclass(frozen=True)
class PrunedNodes:
    """A pruned model, and the nodes that each layer lost: {name: (dropped, all)}."""

    model: Transformer
    layers: dict[str, tuple[int, int]]

    def share(self, side: str) -> float:
        """Return the share of nodes that the "encoder" or the "decoder" lost."""
        rows = [row for name, row in self.layers.items() if name.startswith(side)]
        return sum(dropped for dropped, _ in rows) / sum(total for _, total in rows)


def prune_nodes(model: Transformer, maxima: Mapping[str, Tensor], z: float = 0.025) -> PrunedNodes:
    """Return a copy without the nodes whose maximum is at most z standard deviations.

    The standard deviation is that of a layer's own maxima, so how many go adapts by itself. With
    z = 0.0 only nodes go that never spoke: the outputs stay. Otherwise a dropped node changes the
    layer's output by at most its maximum times the norm of its column in the second matrix.

    Args:
        model: in floats: a row with a range of its own has no zero that would survive; prune first,
            quantize then.
        maxima: of ``node_maxima``.

    Raises:
        ValueError: a negative z, a quantized model, or all nodes of a layer would go.

    Source: spec sheet FullyQT, section 8, node pruning.
    """
    if z < 0:
        raise ValueError(f"z is a number of standard deviations, at least 0, got {z}")
    student, lost = copy.deepcopy(model), {}
    for name, largest in maxima.items():
        layer = student.get_submodule(name)
        if any(hasattr(part, "parametrizations") for part in (layer.up, layer.down)):
            raise ValueError(f"{name} is quantized; prune the model in floats and quantize it then")
        keep = largest > z * largest.std()
        if not keep.any():
            raise ValueError(f"z={z} would drop all {len(keep)} nodes of {name}; lower it")
        layer.up, layer.down = _without(layer.up, layer.down, keep)
        lost[name] = int((~keep).sum()), len(keep)
    return PrunedNodes(student, lost)


@torch.no_grad()
def _without(up: nn.Linear, down: nn.Linear, keep: Tensor) -> tuple[nn.Linear, nn.Linear]:
    """Return both layers without the nodes that are not kept."""
    count = int(keep.sum())
    first = resized_linear(up.in_features, count).to(up.weight)
    second = resized_linear(count, down.out_features).to(up.weight)
    first.weight.copy_(up.weight[keep])
    first.bias.copy_(up.bias[keep])
    second.weight.copy_(down.weight[:, keep])
    second.bias.copy_(down.bias)
    return first.train(up.training), second.train(down.training)
