"""Places of a Transformer that a plan may name beside its matrices.

A ``Point`` marks a tensor on its way: it passes it on until a plan puts a quantizer there.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..registry import register
from .rounding import fake_quantize, integer_range, positive


class Spot(nn.Module):
    """Base of what a plan may name beside layers with matrices; never holds another one."""


class Point(Spot):
    """Pass a tensor on; ``MinMax`` puts a quantizer in its place.

    Args:
        features: width of the last axis, where each feature may have a range of its own; None
            where the whole tensor shares one.
        signed: False for what is never negative: its zeros must stay zero.

    >>> point = Point(features=4)
    >>> point(torch.ones(2, 3, 4)).shape, point
    (torch.Size([2, 3, 4]), Point(features=4, signed=True))
    """

    def __init__(self, features: int | None = None, signed: bool = True) -> None:
        super().__init__()
        self.features, self.signed = features, signed

    def forward(
        self, x: Float[Tensor, "batch tokens ..."], real: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens ..."]:
        return x

    def extra_repr(self) -> str:
        return f"features={self.features}, signed={self.signed}"


class Vector(Spot):
    """A vector of weights to multiply with, such as the gamma of a LayerNorm."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self) -> Float[Tensor, " features"]:
        return self.weight


@register
class Positions(Spot):
    """The fixed sinusoids of the original Transformer, in floats or quantized once, row by row.

    Row p has sin(p / 10000^(2i / width)) at 2i and the cosine at 2i + 1.

    Args:
        width: features, even.
        length: rows of the table, the longest sentence.
        bits: None for floats.

    Raises:
        ValueError: an odd width.

    >>> round(Positions(width=4, length=9)(start=1, tokens=1).tolist()[0][0], 5)  # the sine of 1
    0.84147
    """

    def __init__(self, width: int, length: int, bits: int | None = None) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"sinusoids come in pairs; choose an even width, got {width}")
        self.width, self.length, self.bits = width, length, bits
        rate = 10000 ** (-torch.arange(0, width, 2) / width)
        angle = torch.arange(length)[:, None] * rate
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        if bits is not None:
            _, top = integer_range(bits, signed=False)
            low, high = table.amin(1, keepdim=True), table.amax(1, keepdim=True)
            table = fake_quantize(table, positive((high - low) / top), 0, top, offset=low)
        self.register_buffer("table", table, persistent=False)  # the arguments say it all

    def forward(self, start: int, tokens: int) -> Float[Tensor, "tokens width"]:
        if start + tokens > self.length:
            raise ValueError(
                f"the model has {self.length} positions, a sentence has {start + tokens} pieces; "
                "cut it, or build the model with a larger length"
            )
        return self.table[start : start + tokens]

    def quantized(self, bits: int) -> "Positions":
        """Return the same table on a grid."""
        return Positions(self.width, self.length, bits)

    def config(self) -> dict:
        """Return the arguments that rebuild this module."""
        bits = {} if self.bits is None else {"bits": self.bits}
        return {"width": self.width, "length": self.length} | bits

    def extra_repr(self) -> str:
        return f"width={self.width}, length={self.length}, bits={self.bits}"
