"""Softmax and LayerNorm in pieces, with a named point at every tensor that FullyQT quantizes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..quantizers.named_points import Point, Vector

FAR = -1e9  # a score that no softmax sees; finite in bfloat16 too


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
