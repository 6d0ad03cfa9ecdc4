"""Edits that put a quantizer on weights, on the input of a layer, or both.

Each is a frozen dataclass whose fields are the arguments of the quantizer of the same name in
``lsq``, ``clips``, ``sawb`` and ``ranges``, and ``per``: "tensor", "channel" (first axis:
output rows, words; of GPT-2's Conv1D input rows, of fused experts whole ones) or a whole number, so
many neighbors along the last axis sharing a scale.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from ..spaces import Edit
from ..stages import mask_of
from . import clips, lsq, ranges, sawb
from .inputs import INPUT, place
from .rounding import integer_range
from .weight_edit import Per, WeightEdit, weights_to_quantize


@dataclass(frozen=True)
class LSQ(WeightEdit):
    """Quantize every weight of a layer, cores included, with learned scales; biases stay in float.

    Args:
        bits: 2 to 8.
        init, grad_factor: as in ``lsq.LSQ``.
        activations: None for weights only; otherwise the bits of a ``TTLinear``'s input, whose
            partial merges and middle product then get 8 bits. For the input of any other layer
            there is ``Inputs``.
        per: one scale per "tensor", per "channel" or per so many neighbors; see ``quantizers``.
        scale_dtype: "float16" or "bfloat16" halves the bytes of scales; see ``lsq.LSQ``. Of weights
            alone: inputs have one scale. No other edit has this.

    Source: spec sheet QTC, section 4.

    >>> layer = LSQ(bits=4)(nn.Linear(24, 36))
    >>> layer.parametrizations.weight[0]
    LSQ(bits=4, signed=True, init='lsq')
    """

    bits: int
    init: str = "lsq"
    grad_factor: bool = True
    activations: int | None = None
    per: Per = "tensor"
    scale_dtype: str = "float32"
    kind = lsq.LSQ

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activations is not None:
            integer_range(self.activations)

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Leave out what is no argument of the quantizer."""
        if activation and self.scale_dtype != "float32":
            raise ValueError(
                f"an input's one scale is in float32, got scale_dtype={self.scale_dtype!r}; "
                "leave it to weights"
            )
        return {name: value for name, value in chosen.items() if name != "activations"}

    def __call__(self, module: nn.Module) -> nn.Module:
        names = weights_to_quantize(self, module)
        if self.activations is not None:
            places = {"quant_input": self.activations, "quant_merge": 8, "quant_middle": 8}
            if not all(hasattr(module, place) for place in places):
                raise TypeError(
                    f"LSQ(activations=...) needs a TTLinear, got {type(module).__name__}; put a TT "
                    "edit before it, quantize weights only, or add Inputs(LSQ(bits))"
                )
            like = getattr(module, names[0])
            for place, bits in places.items():
                quantizer = lsq.LSQ(bits, init=self.init, grad_factor=self.grad_factor)
                setattr(module, place, quantizer.to(like))
        return super().__call__(module)


@dataclass(frozen=True)
class LSQPlus(WeightEdit):
    """Quantize weights with a learned scale and offset: see ``lsq.LSQPlus``.

    >>> LSQPlus(bits=4)(nn.Linear(24, 36)).parametrizations.weight[0].init
    'sigma'
    """

    bits: int
    init: str | None = None  # "sigma" on weights, "max" on inputs
    grad_factor: bool = True
    per: Per = "tensor"
    kind = lsq.LSQPlus

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

    Args:
        statistics: None for the one of least error: "dense" on a weight without a mask and
            "search" on one with (unless ``coefficients`` are given).
            "original": the clip that the dense weight asks for at this moment, before its mask;
            later it follows the masked one by the same ratio.

    >>> SAWB(bits=4)(nn.Linear(24, 36)).parametrizations.weight[0]
    SAWB(bits=4)
    """

    bits: int
    zero: bool = True
    plus: bool = True
    extended: bool = False
    statistics: str | None = None
    coefficients: tuple[float, float] | None = None
    per: Per = "tensor"
    kind = sawb.SAWB

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Fill in the published line where nothing else is asked for."""
        line = self.statistics in (None, "original")
        return chosen | ({"statistics": "dense"} if line else {})

    def on(self, module: nn.Module, name: str) -> "SAWB":
        """Choose the statistics for a weight that carries a mask."""
        if mask_of(module, name) is None:
            return self
        if self.statistics == "original":
            return self._from_the_dense(module, name)
        free = self.statistics is None and self.coefficients is None
        return replace(self, statistics="search") if free else self

    @torch.no_grad()
    def _from_the_dense(self, module: nn.Module, name: str) -> "SAWB":
        """Return the line, stretched so that the masked weight asks for the dense one's clip."""
        if module.parametrizations[name].original.is_meta:
            raise ValueError(f"{name} is on meta and asks for no clip; load the weights first")
        line = self.quantizer()
        pair = module.parametrizations[name].original, getattr(module, name)
        dense, masked = (float(line.scale_of(w.detach().reshape(1, -1))) for w in pair)
        stretched = tuple(c * dense / masked for c in line.line)
        return replace(self, statistics="dense", coefficients=stretched)


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
class Inputs(Edit):
    """Quantize what enters a layer, by any of these edits or ``LSQ``; needs calibration batches.

    >>> plan = {"*.query": [SAWB(bits=4), Inputs(PACT(bits=4))]}
    """

    by: object

    def __post_init__(self) -> None:
        if isinstance(self.by, type) or not callable(getattr(self.by, "quantizer", None)):
            raise TypeError(f"Inputs takes an edit that quantizes, such as PACT(8), got {self.by}")

    def __call__(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Embedding) or hasattr(module, "num_embeddings"):
            raise TypeError(
                f"the input of a {type(module).__name__} is token ids, which are integers already; "
                "leave Inputs out for it"
            )
        if isinstance(module, nn.MultiheadAttention):
            raise TypeError(
                "the inputs of an nn.MultiheadAttention are query, key and value, and one "
                "quantizer would see the query alone; leave Inputs out for it"
            )
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
        return place(module, INPUT, self.by.quantizer(activation=True).to(like))
