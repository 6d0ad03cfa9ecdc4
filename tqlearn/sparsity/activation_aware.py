"""``TwoFour``, the edit that puts an N:M mask on a weight, and masks that know the inputs.

The mask comes before the quantizer: ``{"*": [TwoFour(), LSQ(bits=4)]}``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .cores import Cores
from .edits import attach, weight_names
from .patterns import Pattern
from .quantize import is_quantizer
from .sparsify import UPDATES, NMMask, activation_aware, is_mask


def input_axis(module: nn.Module, weight: Float[Tensor, "..."]) -> int:
    """Return the axis of a weight along which its layer sums: the input.

    That is the last one; the channels of a convolution; the mode of a train's last core, whose last
    axis is an outer rank of 1.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return 1 - weight.dim()
    return next((a for a in range(-1, -weight.dim(), -1) if weight.shape[a] > 1), -weight.dim())


@dataclass(frozen=True)
class TwoFour:
    """Keep two of every four neighbors along the input of a weight; the rest is exactly zero.

    Args:
        pattern: "2:4", "1:2", "4:8" or any "N:M"; "4:8 pairs" keeps adjacent pairs.
        update: "fixed": the smallest magnitudes go now, once, and get no gradient. "ste" and
            "sr-ste" choose anew in every forward; see ``sparsify.NMMask``.
        decay: SR-STE's lambda.
        pad: allow a short last group where the width is not divisible.
        only: names of the weights to mask, such as ("core_0",); None for all of the layer's.

    On a tensor train, a Kronecker product or a low-rank pair every factor is masked along its own
    input, so the ranks or modes on that side must be divisible.

    Source: spec sheet Deep Compression, section 6; a fixed mask by magnitude is its default.

    >>> layer = TwoFour()(nn.Linear(24, 36))
    >>> int((layer.weight != 0).sum()), layer.parametrizations.weight[0]
    (432, NMMask('2:4', shape=(36, 24), axis=-1, update='fixed'))
    """

    pattern: str = "2:4"
    update: str = "fixed"
    decay: float | int = 2e-4
    pad: bool = False
    only: Sequence[str] | None = None

    def __post_init__(self) -> None:
        Pattern.of(self.pattern)
        if self.update not in UPDATES:
            raise ValueError(f"update is 'fixed', 'ste' or 'sr-ste', got {self.update!r}")
        if not self.decay >= 0:
            raise ValueError(f"a decay is at least 0, got {self.decay}")
        if self.only is not None and (not self.only or isinstance(self.only, str)):
            raise ValueError(f"only lists names of weights, such as ('core_0',), got {self.only!r}")

    def __call__(self, module: nn.Module) -> nn.Module:
        """Put the masks on, in place, and return the layer.

        Raises:
            TypeError: the layer has no weight.
            ValueError: a width without whole groups, a weight that is masked or quantized already,
                an unknown name in ``only``, or a NaN.
        """
        names = weight_names(module)
        if not names:
            raise TypeError(
                f"TwoFour found no weight to mask on a {type(module).__name__}; leave it out of "
                "the plan, or call tqlearn.unpack(model) first if it is packed"
            )
        if unknown := [name for name in self.only or () if name not in names]:
            raise ValueError(f"{type(module).__name__} has no weight {unknown[0]!r}, only {names}")
        masks = {name: self._mask(module, name) for name in self.only or names}
        for name, mask in masks.items():
            attach(module, name, mask)
        return module

    def _mask(self, module: nn.Module, name: str) -> NMMask:
        where, weight = f"{type(module).__name__}.{name}", getattr(module, name).detach()
        chains = getattr(module, "parametrizations", {})
        for stage in chains[name] if name in chains else ():
            if is_quantizer(stage):
                raise ValueError(
                    f"{where} is quantized already; put TwoFour before the quantizer in the plan, "
                    "or call tqlearn.bake(model) before"
                )
            if is_mask(stage):
                raise ValueError(f"{where} has a mask already; call tqlearn.bake(model) before")
        axis, group = input_axis(module, weight), Pattern.of(self.pattern).group
        if weight.shape[axis] % group and not self.pad:
            ways = "leave the layer out"
            if isinstance(module, Cores):
                ways = "choose ranks and modes that are, name the cores that fit in only=(...)"
            raise ValueError(
                f"TwoFour({self.pattern!r}) needs a width divisible by {group}, but {where} with "
                f"shape {(*weight.shape,)} has {weight.shape[axis]} along its input; {ways}, or "
                "allow a short last group with pad=True"
            )
        shape = list(weight.shape)
        mask = NMMask(shape, self.pattern, axis, self.pad, self.update, self.decay)
        return mask.remask(weight) if self.update == "fixed" else mask


@torch.no_grad()
def input_norms(model: nn.Module, batches: Iterable) -> dict[str, Float[Tensor, "in"]]:
    """Return, for every linear layer, the Euclidean norm of each input feature over all tokens.

    Take them from the dense model, before anything is pruned: ``remask(student, norms)``.

    Args:
        model: any torch model, run in eval mode.
        batches: what the model is called with: dicts (keywords), tuples (positions) or tensors.

    Raises:
        ValueError: no batch reached a linear layer.

    Source: Sun et al. 2023 (Wanda); see ``sparsify.activation_aware``.

    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> input_norms(model, [torch.tensor([[3.0, 0.0], [4.0, 2.0]])])["0"].tolist()
    [5.0, 2.0]
    """
    squares: dict[str, Tensor] = {}

    def listen(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            power = inputs[0].detach().float().reshape(-1, inputs[0].shape[-1]).square().sum(0)
            squares[name] = squares.get(name, 0) + power

        return hook

    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    training = model.training
    try:
        for batch in batches:
            if isinstance(batch, Mapping):
                model.eval()(**batch)
            else:
                model.eval()(*batch if isinstance(batch, tuple | list) else (batch,))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not squares:
        raise ValueError("input norms need a batch that reaches a linear layer")
    return {name: power.sqrt() for name, power in squares.items()}


@torch.no_grad()
def remask(model: nn.Module, norms: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Make every fixed N:M mask anew from the present weights, in place, and return the model.

    Args:
        model: a model with ``TwoFour`` masks.
        norms: of ``input_norms``; then linear layers are scored by |w| times their input's norm.
            Everything else (cores have no input of their own) goes by magnitude, as it does
            without norms.

    Scales of quantizers stay as they are: calibrate after this.

    Raises:
        ValueError: no fixed mask anywhere, or a masked linear layer that ``norms`` does not name.
    """
    found = [
        (name, module, chain)
        for name, module in model.named_modules()
        for chain in getattr(module, "parametrizations", {}).values()
        if any(isinstance(stage, NMMask) and stage.update == "fixed" for stage in chain)
    ]
    if not found:
        raise ValueError("the model has no fixed N:M mask; compress it with TwoFour first")
    by_input = norms is not None
    lost = [n for n, m, _ in found if by_input and isinstance(m, nn.Linear) and n not in norms]
    if lost:
        raise ValueError(f"no input norm for {lost[0]!r}; known are {sorted(norms)}")
    for name, module, chain in found:
        x = chain.original
        for stage in takewhile(lambda stage: not is_quantizer(stage), chain):
            if isinstance(stage, NMMask) and stage.update == "fixed":
                aware = by_input and isinstance(module, nn.Linear)
                stage.remask(activation_aware(x, norms[name]) if aware else x)
            x = stage(x)
    return model
