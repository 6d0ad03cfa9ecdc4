"""Edits that put a quantizer on weights, on the input of a layer, or both.

Each is a frozen dataclass whose fields are the arguments of the quantizer of the same name in
``quantize``, ``clips``, ``sawb`` and ``ranges``, and ``per``: "tensor", "channel" (first axis:
output rows, words) or a whole number, so many neighbors along the last axis sharing a scale.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import clips, quantize, ranges, sawb
from .activations import INPUT, place
from .cores import own_class

Per = str | int


def weight_names(module: nn.Module) -> list[str]:
    """Return the names of a layer's own weights (cores included, biases and vectors not)."""
    parametrized = getattr(module, "parametrizations", {})
    plain = [n for n, p in module.named_parameters(recurse=False) if p.dim() > 1]
    return plain + [
        n for n, chain in parametrized.items() if chain.is_tensor and chain.original.dim() > 1
    ]


def attach(module: nn.Module, name: str, parametrization: nn.Module) -> None:
    """Put a parametrization (mask, quantizer) on one tensor of a module.

    Raises:
        ValueError: the tensor has a NaN or infinite entry.
    """
    tensor = getattr(module, name)
    chain = getattr(module, "parametrizations", {})
    original = chain[name].original if name in chain else tensor
    if not original.is_meta and not torch.isfinite(original).all():
        raise ValueError(
            f"{type(module).__name__}.{name} holds NaN or infinite entries; repair the model first"
        )
    stage = parametrization.to(original).train(module.training)
    parametrize.register_parametrization(own_class(module), name, stage, unsafe=True)


def weights_to_quantize(edit: object, module: nn.Module) -> list[str]:
    """Return the names of the weights an edit will quantize.

    Raises:
        TypeError: the layer has no weight.
        ValueError: a weight is quantized already.
    """
    names = weight_names(module)
    if not names:
        raise TypeError(
            f"{type(edit).__name__} found no weight to quantize on a {type(module).__name__}; "
            "leave it out of the plan, or call tqlearn.unpack(model) first if it is packed"
        )
    for name in names:
        chains = getattr(module, "parametrizations", {})
        if name in chains and any(quantize.is_quantizer(stage) for stage in chains[name]):
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
    if not isinstance(per, int) or per < 1:
        raise ValueError(f"per is 'tensor', 'channel' or a number of neighbors, got {per!r}")
    if shape[-1] % per:
        raise ValueError(f"the last axis of {tuple(shape)} does not divide into groups of {per}")
    return torch.Size(shape).numel() // per


class WeightEdit:
    """Base of the edits: quantize every weight of a layer, cores included; biases stay in float."""

    kind: type  # the quantizer
    per: Per

    def __post_init__(self) -> None:
        groups_of((1,), 1 if isinstance(self.per, int) and self.per > 0 else self.per)
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
            attach(module, name, self.quantizer(getattr(module, name)))
        return module


@dataclass(frozen=True)
class LSQPlus(WeightEdit):
    """Quantize weights with a learned scale and offset: see ``quantize.LSQPlus``.

    >>> LSQPlus(bits=4)(nn.Linear(24, 36)).parametrizations.weight[0].init
    'sigma'
    """

    bits: int
    init: str | None = None  # "sigma" on weights, "max" on inputs
    grad_factor: bool = True
    per: Per = "tensor"
    kind = quantize.LSQPlus

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Fill in the start that LSQ+ takes for weights or for activations."""
        return chosen | {"init": self.init or ("max" if activation else "sigma")}


@dataclass(frozen=True)
class LearnedClip(WeightEdit):
    """Quantize weights as KDLSQ does, 2^b - 1 levels inside a learned clip: ``clips.LearnedClip``.

    >>> LearnedClip(bits=2)(nn.Linear(24, 36)).parametrizations.weight[0]
    LearnedClip(bits=2)
    >>> LearnedClip(bits=8).quantizer(activation=True)
    LearnedClip(bits=8, straight=False)
    """

    bits: int
    init: str = "truncation"
    straight: bool | None = None  # True on weights, False on inputs
    per: Per = "tensor"
    kind = clips.LearnedClip

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Fill in KDLSQ's gradient rule for weights or for activations."""
        return chosen | {"straight": not activation if self.straight is None else self.straight}


@dataclass(frozen=True)
class PACT(WeightEdit):
    """Quantize between learned clips with an exact zero: see ``clips.PACT``; made for inputs.

    >>> Inputs(PACT(bits=4))(nn.Linear(24, 36)).quant_input
    PACT(bits=4)
    """

    bits: int
    form: str = "two-sided"
    plus: bool = True
    integer_zero: bool = True
    extended: bool = False
    init: str = "percentile"
    per: Per = "tensor"
    kind = clips.PACT


@dataclass(frozen=True)
class SAWB(WeightEdit):
    """Quantize weights inside the clip that their statistics ask for: see ``sawb.SAWB``.

    >>> SAWB(bits=4)(nn.Linear(24, 36)).parametrizations.weight[0]
    SAWB(bits=4)
    """

    bits: int
    zero: bool = True
    plus: bool = True
    extended: bool = False
    statistics: str = "dense"
    coefficients: tuple[float, float] | None = None
    per: Per = "tensor"
    kind = sawb.SAWB


@dataclass(frozen=True)
class Ternary(WeightEdit):
    """Quantize weights to -a, 0, a by TWN's threshold: see ``sawb.Ternary``.

    >>> Ternary()(nn.Linear(24, 36)).parametrizations.weight[0]
    Ternary(bits=2)
    """

    limit: float = 2.5
    per: Per = "tensor"
    kind = sawb.Ternary


@dataclass(frozen=True)
class Uniform(WeightEdit):
    """Quantize between the smallest and the largest value: see ``ranges.Uniform``.

    >>> Uniform(bits=8)(nn.Linear(24, 36)).parametrizations.weight[0]
    Uniform(bits=8)
    >>> Uniform(bits=8).quantizer(activation=True)
    Uniform(bits=8, momentum=0.9)
    """

    bits: int
    momentum: float | None = None  # 0 on weights, 0.9 on inputs
    signed: bool = True
    integer_zero: bool = False
    per: Per = "tensor"
    kind = ranges.Uniform

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Fill in FullyQT's present range for weights, its running one for activations."""
        momentum = 0.9 * activation if self.momentum is None else self.momentum
        return chosen | {"momentum": momentum}


@dataclass(frozen=True)
class Inputs:
    """Quantize what enters a layer, by any of these edits or ``LSQ``; needs calibration batches.

    >>> plan = {"*.query": [SAWB(bits=4), Inputs(PACT(bits=4))]}
    """

    by: object

    def __post_init__(self) -> None:
        if not callable(getattr(self.by, "quantizer", None)):
            raise TypeError(f"Inputs takes an edit that quantizes, such as PACT(8), got {self.by}")

    def __call__(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Embedding) or hasattr(module, "num_embeddings"):
            raise TypeError(
                f"the input of a {type(module).__name__} is token ids, which are integers already; "
                "leave Inputs out for it"
            )
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
        return place(module, INPUT, self.by.quantizer(activation=True).to(like))
