"""The "filled" phase: zeros of a compacted model become small numbers, which can learn again."""

import copy

import torch
from torch import nn

from ..arguments import require, require_model
from ..precision import widened


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0, spread: float | int = 0.01) -> nn.Module:
    """Return a copy whose exact zeros in matrices are small numbers, so that they can learn again.

    A zero becomes mean + ``spread`` * standard deviation * N(0, 1), both of its whole tensor. This
    begins the "filled" phase: the shapes stay, the density inside them becomes 1.

    Raises:
        ValueError: masks or quantizers stand on weights; ``compact`` or ``bake`` first. A spread
            below 0.

    Source: spec sheet Block Pruning, section 8.

    >>> filled = fill(nn.Sequential(nn.Linear(4, 4)).requires_grad_(False))
    >>> int((filled[0].weight == 0).sum())
    0
    """
    require_model("fill", model)
    require("fill: seed", seed, int)
    if not require("fill: spread", spread, float) >= 0:
        raise ValueError(f"a spread is at least 0, got {spread}")
    if any(hasattr(module, "parametrizations") for module in model.modules()):
        raise ValueError("fill takes plain weights; call tqlearn.compact(model) first")
    filled, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for parameter in filled.parameters():
        zero = parameter == 0
        if parameter.dim() > 1 and bool(zero.any()):
            wide = widened(parameter)
            noise = torch.randn(parameter.shape, generator=generator).to(wide)
            parameter.copy_(torch.where(zero, wide.mean() + spread * wide.std() * noise, wide))
    return filled
