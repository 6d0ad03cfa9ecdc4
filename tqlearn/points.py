"""Places of a Transformer that a plan may name beside its matrices, and the pieces they stand in.

A ``Point`` marks a tensor on its way: it passes it on until a plan puts a quantizer there. Softmax
and LayerNorm stand here in pieces, so that their numerators and denominators have points too.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .registry import register
from .rounding import fake_quantize, integer_range, positive

FAR = -1e9  # a score that no softmax sees; finite in bfloat16 too


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


def wide(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return half precision as float32: a grid of 8 bits does not fit into bfloat16."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Softmax(nn.Module):
    """Softmax over keys in pieces: exp, sum and quotient, with a point behind each.

    The largest score is subtracted first, so numerators lie in (0, 1], and the denominator, a sum
    of numerators as the numerator's point left them, is at least 1. Zeros of masked keys stay
    zero under any quantizer that a point with ``signed=False`` gets.

    Source: spec sheet FullyQT, section 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.quant_numerator = Point(signed=False)
        self.quant_denominator = Point()
        self.quant_output = Point(signed=False)

    def forward(
        self,
        scores: Float[Tensor, "batch heads queries keys"],
        allowed: Bool[Tensor, "#batch 1 #queries keys"],
        real: Bool[Tensor, "batch queries"] | None = None,
    ) -> Float[Tensor, "batch heads queries keys"]:
        scores = wide(scores).masked_fill(~allowed, FAR)
        numerator = (scores - scores.detach().amax(-1, keepdim=True)).exp()
        numerator = self.quant_numerator(numerator.transpose(1, 2), real)  # points: tokens first
        total = self.quant_denominator(numerator.sum(-1, keepdim=True), real)
        return self.quant_output(numerator / total, real).transpose(1, 2)


class Norm(nn.Module):
    """LayerNorm in pieces: x - mean, its standard deviation, their quotient, gamma and beta.

    Mean, variance and beta are sums, which no point quantizes; ``gamma`` is a place of its own.

    Source: spec sheet FullyQT, section 3.

    >>> x = torch.randn(2, 3, 8)
    >>> bool(torch.allclose(Norm(8)(x), nn.functional.layer_norm(x, (8,)), atol=1e-6))
    True
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = Vector(features)
        self.bias = nn.Parameter(torch.zeros(features))
        self.quant_numerator = Point(features)
        self.quant_denominator = Point()
        self.quant_quotient = Point(features)
        self.quant_output = Point(features)

    def forward(
        self,
        x: Float[Tensor, "batch tokens features"],
        real: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens features"]:
        x = wide(x)
        x = x - x.mean(-1, keepdim=True)
        deviation = (x.square().mean(-1, keepdim=True) + self.eps).sqrt()
        numerator = self.quant_numerator(x, real)
        quotient = numerator / self.quant_denominator(deviation, real)
        quotient = self.quant_quotient(quotient, real)
        return self.quant_output(quotient * self.gamma() + self.bias, real)
