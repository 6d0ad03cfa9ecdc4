"""Edits: frozen dataclasses that turn one layer into another. Any callable module -> module will
do.

Structure is replaced (``TT``, ``TTM``, ``LowRank`` and ``Kronecker`` return new layers); values are
parametrized (``LSQ`` sits on the weight or on every core, whatever layer that is). In a plan,
structure comes first.
"""

from dataclasses import dataclass

from torch import nn

from . import quantize
from .layers import TTLinear
from .products import Kronecker, LowRank
from .pruning import BlockPrune
from .quantizers import PACT, SAWB, Inputs, LearnedClip, LSQPlus, Ternary, Uniform
from .trains import TT, TTM
from .weights import Per, WeightEdit, attach, weight_names, weights_to_quantize

__all__ = [
    "LSQ",
    "PACT",
    "SAWB",
    "TT",
    "TTM",
    "BlockPrune",
    "Inputs",
    "Kronecker",
    "LSQPlus",
    "LearnedClip",
    "LowRank",
    "Ternary",
    "Uniform",
    "attach",
    "weight_names",
]


@dataclass(frozen=True)
class LSQ(WeightEdit):
    """Quantize every weight of a layer, cores included, with learned scales; biases stay in float.

    Args:
        bits: 2 to 8.
        init, grad_factor: as in ``quantize.LSQ``.
        activations: None for weights only; otherwise the bits of a ``TTLinear``'s input, whose
            partial merges and middle product then get 8 bits. For the input of any other layer
            there is ``Inputs``.
        per: one scale per "tensor", per "channel" or per so many neighbors; see ``quantizers``.

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
    kind = quantize.LSQ

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activations is not None:
            quantize.integer_range(self.activations)

    def settings(self, chosen: dict, activation: bool) -> dict:
        """Leave out what is no argument of the quantizer."""
        return {name: value for name, value in chosen.items() if name != "activations"}

    def __call__(self, module: nn.Module) -> nn.Module:
        names = weights_to_quantize(self, module)
        if self.activations is not None:
            if not isinstance(module, TTLinear):
                raise TypeError(
                    f"LSQ(activations=...) needs a TTLinear, got {type(module).__name__}; put a TT "
                    "edit before it, quantize weights only, or add Inputs(LSQ(bits))"
                )
            like = getattr(module, names[0])
            places = {"quant_input": self.activations, "quant_merge": 8, "quant_middle": 8}
            for place, bits in places.items():
                quantizer = quantize.LSQ(bits, init=self.init, grad_factor=self.grad_factor)
                setattr(module, place, quantizer.to(like))
        return super().__call__(module)
