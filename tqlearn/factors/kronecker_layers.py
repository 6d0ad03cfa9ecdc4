"""Layers whose weight is a sum of Kronecker products; neither the weight nor a table is formed.

The factors of product k are the parameters ``core_{2k}`` (left, A) and ``core_{2k+1}`` (right, B),
so that any of them can be parametrized (masked, quantized) on its own.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..precision import widened
from ..registry import register
from ..shapes import kronecker_macs
from ..stages import Cores
from .cores import Table, check_ids, dense_linear, looked_up, new_bias, with_cores
from .kronecker import Factors, check_pair, kronecker_dense, nearest_kronecker


class KroneckerCores(Cores):
    """Cores that come in pairs, one pair per Kronecker product."""

    rank: int

    def _new_factors(
        self, out_modes: Sequence[int], in_modes: Sequence[int], rank: int, std: float
    ) -> None:
        """Create random factors; ``rank`` is clipped to what is exact."""
        if rank < 1:
            raise ValueError(f"a sum has at least 1 Kronecker product, got rank={rank}")
        (m1, m2), (n1, n2) = out_modes, in_modes
        self.rank = min(rank, m1 * n1, m2 * n2)
        self._new_pairs([(m1, n1), (m2, n2)] * self.rank, self.rank, std)

    @property
    def factors(self) -> Factors:
        """(A, B) of every product, quantized and masked where they are."""
        cores = self.cores
        return list(zip(cores[::2], cores[1::2], strict=True))

    @property
    def left(self) -> list[str]:
        """The left factor of every product."""
        return [f"core_{k}" for k in range(0, self.order, 2)]

    def product(self) -> Float[Tensor, "rows columns"]:
        """Return the dense weight with the gradients of its factors."""
        return kronecker_dense(self.factors)


@register
class KroneckerLinear(KroneckerCores):
    """A linear layer y = x W^T + b with W = A_1 x B_1 + ... + A_r x B_r, A (m1, n1), B (m2, n2).

    Args:
        out_modes: (m1, m2), which multiply to the output width.
        in_modes: (n1, n2), which multiply to the input width.
        rank: how many products are summed, clipped to what is exact.
        bias: add a learned bias, full precision.

    With x as an n1 x n2 matrix X, a product is A X B^T. ``right_first`` says which multiplication
    comes first, the one with fewer MACs. B's is one matrix product over all tokens. ``left_by``
    says how A's, whose axis lies in the middle, is done, by its share of the work:

    - "batch": a small one, token by token;
    - "spread": one product with A x I, whose zeros cost less than moving the tokens would;
    - "transpose": one product with A, the tokens moved to the last axis and back.

    Source: spec sheet KroneckerBERT, 1.2 and 1.3.

    >>> layer = KroneckerLinear(out_modes=(384, 2), in_modes=(48, 16))
    >>> sum(core.numel() for core in layer.cores), layer(torch.randn(2, 3, 768)).shape
    (18464, torch.Size([2, 3, 768]))
    """

    def __init__(
        self, out_modes: Sequence[int], in_modes: Sequence[int], rank: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = prod(out_modes), prod(in_modes)
        modes = check_pair(out_modes, in_modes, self.out_features, self.in_features)
        self.out_modes, self.in_modes = (m1, m2), (n1, n2) = modes
        self._new_factors(*modes, rank, std=sqrt(1 / (self.out_features + self.in_features)))
        right, left = kronecker_macs(*modes)
        self.right_first = right <= left
        width = m2 if self.right_first else n2  # of what A multiplies
        small = 2 * m1 * n1 * width <= min(right, left)
        spread = 4 * m1 * n1 * width**2 <= self.out_features * self.in_features
        self.left_by = "batch" if small else "spread" if spread else "transpose"
        self.bias = new_bias(self.out_features) if bias else None

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, out_modes: Sequence[int], in_modes: Sequence[int], rank: int = 1
    ) -> "KroneckerLinear":
        """Return the layer nearest to a dense one (Van Loan and Pitsianis); bias copied.

        Raises:
            ValueError: the modes do not multiply to the shape of the weight, or it has a NaN.
        """
        weight = widened(linear.weight.detach())
        check_pair(out_modes, in_modes, *weight.shape)
        layer = cls(out_modes, in_modes, rank, bias=linear.bias is not None).to(weight)
        factors, _ = nearest_kronecker(weight, out_modes, in_modes, layer.rank)
        return with_cores(layer, [core for pair in factors for core in pair], linear)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if self.left_by == "transpose":
            grid = x.reshape(-1, self.in_features).T.reshape(*self.in_modes, -1)
            y = self._products(grid).flatten(0, 1).T.contiguous()  # 3 axes would copy slower
        else:
            y = self._products(x.reshape(-1, *self.in_modes))
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)  # autocast's dtype stays

    def _products(self, x: Float[Tensor, "_ _ _"]) -> Float[Tensor, "_ _ _"]:
        return reduce(torch.add, [self._product(a, b, x) for a, b in self.factors])

    def _product(
        self, a: Float[Tensor, "m1 n1"], b: Float[Tensor, "m2 n2"], x: Float[Tensor, "_ _ _"]
    ) -> Float[Tensor, "_ _ _"]:
        """Return A X B^T for every token; the tokens are the first axis, or transposed the last."""
        for step in ("right", "left") if self.right_first else ("left", "right"):
            if step == "right" and self.left_by == "transpose":
                x = torch.bmm(b.expand(x.shape[0], -1, -1), x)  # (.., n2, t) -> (.., m2, t)
            elif step == "right":
                x = F.linear(x, b)  # (t, .., n2) -> (t, .., m2)
            elif self.left_by == "transpose":
                x = (a @ x.flatten(1)).unflatten(1, x.shape[1:])  # (n1, .., t) -> (m1, .., t)
            elif self.left_by == "spread":
                one = torch.eye(x.shape[2], dtype=a.dtype, device=a.device)
                wide = torch.kron(a, one)
                x = F.linear(x.flatten(1), wide).unflatten(1, (len(a), -1))
            else:
                x = torch.bmm(a.expand(x.shape[0], -1, -1), x)  # (t, n1, ..) -> (t, m1, ..)
        return x

    @torch.no_grad()
    def dense(self) -> nn.Module:
        """Return the ordinary layer with the same weight."""
        return dense_linear(self, self.product())

    def config(self) -> dict:
        """Return the arguments that rebuild this layer."""
        return {
            "out_modes": list(self.out_modes),
            "in_modes": list(self.in_modes),
            "rank": self.rank,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        return f"out_modes={self.out_modes}, in_modes={self.in_modes}, rank={self.rank}"


@register
class KroneckerEmbedding(KroneckerCores, Table):
    """An embedding whose row i is A[i] x B: a narrower table A times one row vector B.

    Args:
        num_embeddings: words. Ids at or above it raise.
        col_modes: (d / n, n): the widths of A's rows and of B, which multiply to the width d.
        rank: how many such products are summed, clipped to what is exact.
        padding_idx: look-ups of this row teach the factors nothing; it is not forced to zero.
        std: standard deviation of the random start; 1 as in ``nn.Embedding``.

    B is a row, so every word keeps a row of its own in A. With ``col_modes`` = (1, d) the sum is
    the plain low-rank table.

    Source: spec sheet KroneckerBERT, 1.4.

    >>> table = KroneckerEmbedding(30522, col_modes=(96, 8))
    >>> sum(core.numel() for core in table.cores), table(torch.tensor([[0, 30521]])).shape
    (2930120, torch.Size([1, 2, 768]))
    """

    def __init__(
        self,
        num_embeddings: int,
        col_modes: Sequence[int],
        rank: int = 1,
        padding_idx: int | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.padding_idx = num_embeddings, padding_idx
        self.embedding_dim = prod(col_modes)
        rows = (num_embeddings, 1)
        _, self.col_modes = check_pair(rows, col_modes, num_embeddings, self.embedding_dim)
        self._new_factors(rows, self.col_modes, rank, std)

    @classmethod
    def from_embedding(
        cls, table: nn.Embedding, col_modes: Sequence[int], rank: int = 1
    ) -> "KroneckerEmbedding":
        """Return the embedding nearest to a dense one (Van Loan and Pitsianis).

        Raises:
            ValueError: the modes do not multiply to the width, or the table has a NaN.
        """
        weight = widened(table.weight.detach())
        rows = (table.num_embeddings, 1)
        check_pair(rows, col_modes, *weight.shape)
        layer = cls(table.num_embeddings, col_modes, rank, table.padding_idx).to(weight)
        factors, _ = nearest_kronecker(weight, rows, col_modes, layer.rank)
        layer.set_cores([core for pair in factors for core in pair])
        return layer.to(table.weight.dtype)

    def look_up(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """Return the rows of ids, without building the table."""
        check_ids(ids, self.num_embeddings)
        rows = [(F.embedding(ids, a)[..., None] * b).flatten(-2) for a, b in self.factors]
        return looked_up(reduce(torch.add, rows), ids, self.padding_idx)

    def logits(self, hidden: Float[Tensor, "... width"]) -> Float[Tensor, "... words"]:
        """Return hidden @ table^T, the output layer of a model that ties it, without the table.

        Each product costs d + v d / n MACs per token, in place of v d for v words.

        Source: spec sheet KroneckerBERT, 1.4 (the paper does not say how it ties the two).
        """
        grid = hidden.unflatten(-1, self.col_modes)
        parts = [F.linear((grid @ b.T).squeeze(-1), a) for a, b in self.factors]
        return reduce(torch.add, parts)

    def config(self) -> dict:
        """Return the arguments that rebuild this embedding."""
        return {
            "num_embeddings": self.num_embeddings,
            "col_modes": list(self.col_modes),
            "rank": self.rank,
            "padding_idx": self.padding_idx,
        }

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, col_modes={self.col_modes}, rank={self.rank}"
