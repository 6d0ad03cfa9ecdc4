"""Layers on their way to cheaper ones: a LayerNorm to an affine map, a GELU to a ReLU.

``mix`` says how far they are: 1 is the layer one starts from, 0 the one to end with. The callbacks
that move it are in ``hf.transitions``.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..registry import register
from ..steps import recomputing


@register
class NoNorm(nn.Module):
    """Return x * weight + bias: what a LayerNorm is without its statistics.

    Source: spec sheet Block Pruning, section 9.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        return x * self.weight + self.bias

    def config(self) -> dict:
        """Return the arguments that rebuild this layer."""
        return {"width": self.weight.numel()}


@register
class FadingNorm(nn.Module):
    """A LayerNorm whose statistics fade from each token's own to running ones.

    Args:
        width: of the tokens.
        eps: as in ``nn.LayerNorm``.

    ``decay`` is that of the running mean and variance, which are collected while training, padding
    included. They are kept with the sum of their weights, by which they are divided.

    Source: spec sheet Block Pruning, section 9.

    >>> x, norm = torch.randn(5, 8), nn.LayerNorm(8)
    >>> torch.allclose(FadingNorm.of(norm)(x), norm(x), atol=1e-6)
    True
    """

    def __init__(self, width: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps, self.decay = eps, 0.99
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mix", torch.ones(()))
        self.register_buffer("statistics", torch.zeros(3))  # mean, variance, weight: sums

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> "FadingNorm":
        """Return one that has the very parameters of a LayerNorm."""
        made = cls(norm.weight.numel(), norm.eps).to(norm.weight).train(norm.training)
        made.weight, made.bias = norm.weight, norm.bias
        return made

    @property
    def running(self) -> Float[Tensor, "2"]:
        """The running mean and variance."""
        return self.statistics[:2] / self.statistics[2].clamp(min=1e-30)

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        mean = x.mean(-1, keepdim=True)
        variance = x.var(-1, keepdim=True, unbiased=False)
        if self.training and not recomputing():
            with torch.no_grad():
                new = torch.stack([mean.mean(), variance.mean(), torch.ones_like(mean).mean()])
                self.statistics.lerp_(new.to(self.statistics), 1 - self.decay)
        running = self.running
        mean = torch.lerp(running[0].to(x), mean, self.mix.to(x))
        variance = torch.lerp(running[1].to(x), variance, self.mix.to(x))
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    @torch.no_grad()
    def freeze(self) -> NoNorm:
        """Return the affine layer that this one has become, whatever ``mix`` says.

        Raises:
            ValueError: no statistics yet.
        """
        if not self.statistics[2] > 0:
            raise ValueError("no running statistics yet; train with the FadingNorm first")
        mean, variance = self.running
        made = NoNorm(self.weight.numel()).to(self.weight).train(self.training)
        made.weight.copy_(self.weight / (variance + self.eps).sqrt())
        made.bias.copy_(self.bias - mean * made.weight)
        return made

    def config(self) -> dict:
        """Return the arguments that rebuild this layer."""
        return {"width": self.weight.numel(), "eps": self.eps}


@register
class FadingReLU(nn.Module):
    """An activation that fades from GELU to ReLU.

    Source: spec sheet Block Pruning, section 9.

    >>> x = torch.tensor([-1.0, 2.0])
    >>> torch.equal(FadingReLU()(x), F.gelu(x))
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", torch.ones(()))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.lerp(F.relu(x), F.gelu(x), self.mix.to(x))

    def config(self) -> dict:
        """Return the arguments that rebuild this activation: none."""
        return {}
