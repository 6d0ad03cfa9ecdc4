"""What every edit of weights does: find a layer's weights, put something on them, share scales."""

from dataclasses import fields
from numbers import Integral

import torch
from torch import Tensor, nn

from ..arguments import settle
from ..spaces import Edit
from ..stages import attach, chain_of, is_mask, is_quantizer, weights_of

Per = str | int


def weights_to_quantize(edit: object, module: nn.Module) -> list[str]:
    """Return the names of the weights an edit will quantize.

    Raises:
        TypeError: the layer has no weight.
        ValueError: a weight is quantized already.
    """
    names = weights_of(module, type(edit).__name__, "quantize")
    for name in names:
        chains = getattr(module, "parametrizations", {})
        if name in chains and any(is_quantizer(stage) for stage in chains[name]):
            raise ValueError(
                f"{type(module).__name__}.{name} is quantized already; start from the teacher, "
                "or call tqlearn.bake(model) before quantizing anew"
            )
    return names


def groups_of(shape: tuple[int, ...], per: Per) -> int:
    """Return how many scales a tensor gets.

    Raises:
        ValueError: no such granularity, or the last axis does not divide.

    >>> groups_of((768, 3072), "channel"), groups_of((768, 3072), 64)
    (768, 36864)
    """
    if per == "tensor":
        return 1
    if per == "channel":
        return shape[0]
    if not isinstance(per, Integral) or isinstance(per, bool) or per < 1:
        raise ValueError(f"per is 'tensor', 'channel' or a number of neighbors, got {per!r}")
    if shape[-1] % per:
        raise ValueError(f"the last axis of {tuple(shape)} does not divide into groups of {per}")
    return torch.Size(shape).numel() // per


class WeightEdit(Edit):
    """Base of the edits: quantize every weight of a layer, cores included; biases stay in float."""

    kind: type  # the quantizer
    per: Per

    def __post_init__(self) -> None:
        number = isinstance(self.per, Integral) and not isinstance(self.per, bool)
        groups_of((1,), 1 if number and self.per > 0 else self.per)
        settle(self)
        self.quantizer()  # refuses bad arguments now, not at the first layer

    def quantizer(self, like: Tensor | None = None, *, activation: bool = False) -> nn.Module:
        """Return a fresh quantizer, for a weight like this one or for activations."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "per"}
        chosen = self.settings(chosen, activation)
        groups = 1 if like is None else groups_of(tuple(like.shape), self.per)
        return self.kind(**chosen, groups=groups)

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Return the quantizer's arguments; those left at None depend on where it stands."""
        return chosen

    def __call__(self, module: nn.Module) -> nn.Module:
        for name in weights_to_quantize(self, module):
            masks = chain_of(module, name)
            masked = bool(masks) and all(map(is_mask, masks))  # of the same shape as without them
            like = module.parametrizations[name].original if masked else getattr(module, name)
            attach(module, name, self.on(module, name).quantizer(like))
        return module

    def on(self, module: nn.Module, name: str) -> "WeightEdit":
        """Return the edit as it is meant for this weight."""
        return self
