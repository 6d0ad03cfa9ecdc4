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

from .cores import Cores
from .decompose import balance_norms, tt_dense, tt_svd, widened
from .registry import register
from .shapes import Ranks, tt_ranks


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
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None
        if bias:
            nn.init.uniform_(self.bias, -1 / sqrt(self.out_features), 1 / sqrt(self.out_features))
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
        layer.set_cores(balance_norms(cores))
        if layer.bias is not None:
            layer.bias.data.copy_(linear.bias)
        return layer.to(linear.weight.dtype)

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

    @torch.no_grad()
    def dense(self) -> nn.Linear:
        """Return the ordinary layer with the same weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        linear = linear.to(self.cores[0])
        linear.weight.copy_(tt_dense(self.cores).reshape(self.out_features, self.in_features))
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear

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
