"""Linear layers whose weight is a product of small cores; the weight itself is never formed.

Cores are parameters named ``core_0``, ``core_1`` ... so that any of them can be parametrized
(masked, quantized). ``config()`` returns the arguments that rebuild a layer without its values.
"""

from collections.abc import Sequence
from math import prod, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..precision import widened
from ..registry import register
from ..shapes import Ranks, tt_ranks
from ..stages import Cores
from .cores import dense_linear, new_bias, with_cores
from .low_rank import low_rank
from .trains import balance_norms, tt_dense, tt_svd


def check_modes(
    out_modes: Sequence[int], in_modes: Sequence[int], weight: Float[Tensor, "out in"]
) -> None:
    """Raise a ValueError unless the modes multiply to the shape of a weight."""
    if (prod(out_modes), prod(in_modes)) != tuple(weight.shape):
        raise ValueError(
            f"modes {tuple(out_modes)} x {tuple(in_modes)} give {prod(out_modes)} x "
            f"{prod(in_modes)}, but weight is {weight.shape[0]} x {weight.shape[1]}"
        )


@register
class TTLinear(Cores):
    """A linear layer y = x W^T + b whose weight is a tensor train, out modes first.

    W[(i_1..i_p), (j_1..j_q)] = G_1[:, i_1, :] .. G_p[:, i_p, :] G_p+1[:, j_1, :] .. G_d[:, j_q, :],
    so W = L R with L (out, r) and R (r, in) merged from p and q cores, and rank(W) <= r, the middle
    rank.

    Args:
        out_modes: sizes that multiply to the output width.
        in_modes: sizes that multiply to the input width.
        ranks: limit for all inner ranks, or all p + q + 1; clipped to the admissible ones.
        bias: add a learned bias, full precision.

    ``forward`` merges each half from its open end towards the middle rank (fewest MACs), then does
    two thin products: r (in + out) MACs per token in place of in * out.

    Source: QTC's released code; spec sheet QTC, 2.1 and 2.2.

    >>> layer = TTLinear((24, 32), (32, 24), ranks=(1, 24, 30, 24, 1))
    >>> sum(core.numel() for core in layer.cores), layer(torch.randn(2, 3, 768)).shape
    (47232, torch.Size([2, 3, 768]))
    """

    def __init__(
        self, out_modes: Sequence[int], in_modes: Sequence[int], ranks: Ranks, bias: bool = True
    ) -> None:
        super().__init__()
        self.out_modes, self.in_modes = tuple(out_modes), tuple(in_modes)
        self.out_features, self.in_features = prod(out_modes), prod(in_modes)
        modes = self.out_modes + self.in_modes
        self.ranks = tt_ranks(modes, ranks)
        shapes = list(zip(self.ranks[:-1], modes, self.ranks[1:], strict=True))
        self._new_cores(shapes, std=sqrt(1 / (self.out_features + self.in_features)))
        self.bias = new_bias(self.out_features) if bias else None
        # places for activation quantizers; see ``edits.LSQ(activations=...)``
        self.quant_input, self.quant_merge, self.quant_middle = (nn.Identity() for _ in range(3))

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, out_modes: Sequence[int], in_modes: Sequence[int], ranks: Ranks
    ) -> "TTLinear":
        """Return the layer nearest to a dense one, by TT-SVD with balanced norms; bias copied.

        Raises:
            ValueError: the modes do not multiply to the shape of the weight, or it has a NaN.
        """
        weight = widened(linear.weight.detach())
        check_modes(out_modes, in_modes, weight)
        layer = cls(out_modes, in_modes, ranks, bias=linear.bias is not None).to(weight)
        cores, _ = tt_svd(weight.reshape(*out_modes, *in_modes), layer.ranks)
        return with_cores(layer, balance_norms(cores), linear)

    def halves(self) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
        """Return L and R, each merged from its open end."""
        cores, p, merge = self.cores, len(self.out_modes), self.quant_merge
        left = cores[0].reshape(self.out_modes[0], -1)  # (m1, r1)
        for core in cores[1:p]:
            r, mode, s = core.shape
            left = merge(left @ core.reshape(r, mode * s)).reshape(-1, s)  # (m1 .. mk, rk)
        right = cores[-1].reshape(cores[-1].shape[0], -1)  # (r, nq)
        for core in reversed(cores[p:-1]):
            r, mode, s = core.shape
            right = merge(core.reshape(r * mode, s) @ right).reshape(r, -1)  # (r, nk .. nq)
        return left, right

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        left, right = self.halves()
        middle = self.quant_middle(F.linear(self.quant_input(x), right))  # (..., r)
        return F.linear(middle, left, self.bias)

    def product(self) -> Float[Tensor, "out in"]:
        """Return the dense weight with the gradients of its cores."""
        return tt_dense(self.cores).reshape(self.out_features, self.in_features)

    @torch.no_grad()
    def dense(self) -> nn.Module:
        """Return the ordinary layer with the same weight."""
        return dense_linear(self, self.product())

    def config(self) -> dict:
        """Return the arguments that rebuild this layer."""
        return {
            "out_modes": list(self.out_modes),
            "in_modes": list(self.in_modes),
            "ranks": list(self.ranks),
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        return f"out_modes={self.out_modes}, in_modes={self.in_modes}, ranks={self.ranks}"


@register
class LowRankLinear(Cores):
    """A linear layer y = x W^T + b with W = L R, L (out, rank) and R (rank, in).

    The plain baseline beside every tensor train and Kronecker product: rank (in + out) numbers, and
    as many MACs per token.

    Args:
        in_features, out_features: widths, as in ``nn.Linear``.
        rank: clipped to the smaller width.
        bias: add a learned bias, full precision.

    Source: Eckart and Young 1936 for the start; L and R share the square roots of the singular
    values.

    >>> layer = LowRankLinear(768, 3072, rank=30)
    >>> sum(core.numel() for core in layer.cores), layer(torch.randn(2, 3, 768)).shape
    (115200, torch.Size([2, 3, 3072]))
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"a rank is at least 1, got {rank}")
        self.in_features, self.out_features = in_features, out_features
        self.rank = min(rank, in_features, out_features)
        shapes = [(out_features, self.rank), (self.rank, in_features)]
        self._new_pairs(shapes, self.rank, std=sqrt(1 / (in_features + out_features)))
        self.bias = new_bias(out_features) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int) -> "LowRankLinear":
        """Return the layer nearest to a dense one, by truncated SVD; bias copied.

        Raises:
            ValueError: a rank below 1, or a weight with a NaN.
        """
        weight = widened(linear.weight.detach())
        layer = cls(weight.shape[1], weight.shape[0], rank, bias=linear.bias is not None)
        left, right, _ = low_rank(weight, layer.rank)
        return with_cores(layer.to(weight), [left, right], linear)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        left, right = self.cores
        return F.linear(F.linear(x, right), left, self.bias)

    def product(self) -> Float[Tensor, "out in"]:
        """Return the dense weight with the gradients of its cores."""
        return self.core_0 @ self.core_1

    @torch.no_grad()
    def dense(self) -> nn.Module:
        """Return the ordinary layer with the same weight."""
        return dense_linear(self, self.product())

    def config(self) -> dict:
        """Return the arguments that rebuild this layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.rank,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
