"""Layers whose weight is a product of small cores; the weight itself is never formed.

Cores are parameters named ``core_0``, ``core_1`` ... so that any of them can be parametrized
(masked, quantized). ``config()`` returns the arguments that rebuild a layer without its values.
"""

from collections.abc import Sequence
from math import prod, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .decompose import balance_norms, check_table_modes, tt_dense, tt_svd, ttm_dense, ttm_svd
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


def own_class(module: nn.Module) -> nn.Module:
    """Give a parametrized module a class of its own, before a parametrization comes or goes.

    ``parametrize`` keeps its properties on a class that ``copy.deepcopy`` shares between copies; a
    change to one copy would reach into the others.
    """
    cls = type(module)
    if parametrize.is_parametrized(module):
        keep = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, keep)
    return module


class _Cores(nn.Module):
    """What both tensor-train layers share: numbered cores."""

    order: int

    def _new_cores(self, shapes: Sequence[tuple[int, ...]], std: float) -> None:
        """Create random cores; the entries of their product get the standard deviation ``std``.

        Source: spec sheet QTC, section 3: N(0, 1) * std^(1/d) / sqrt(rank after); every entry is a
        sum over prod(ranks) paths with variance std^2 / prod(ranks) each.
        """
        self.order = len(shapes)
        for k, shape in enumerate(shapes):
            core = torch.randn(shape) * (std ** (1 / self.order) / sqrt(shape[-1]))
            self.register_parameter(f"core_{k}", nn.Parameter(core))

    @property
    def cores(self) -> list[Tensor]:
        """The cores as they enter the forward pass, quantized and masked where they are."""
        return [getattr(self, f"core_{k}") for k in range(self.order)]

    @torch.no_grad()
    def set_cores(self, cores: Sequence[Tensor]) -> None:
        """Copy values into the cores."""
        for mine, new in zip(self.cores, cores, strict=True):
            mine.copy_(new)


@register
class TTLinear(_Cores):
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
    two
    thin products: r (in + out) MACs per token in place of in * out.

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
        weight = linear.weight.detach()
        check_modes(out_modes, in_modes, weight)
        layer = cls(out_modes, in_modes, ranks, bias=linear.bias is not None).to(weight)
        cores, _ = tt_svd(weight.reshape(*out_modes, *in_modes), layer.ranks)
        layer.set_cores(balance_norms(cores))
        if layer.bias is not None:
            layer.bias.data.copy_(linear.bias)
        return layer

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


@register
class TTMEmbedding(_Cores):
    """An embedding whose table is a tensor-train matrix; a look-up never builds the table.

    Token i has digits (i_1 .. i_d), i_d fastest; its row is the product of the slices
    G_k[:, i_k, :, :], flattened row-major. The cores are merged into two halves once per batch, the
    slices gathered by token and contracted over the middle rank.

    Args:
        row_modes: sizes that multiply to at least ``num_embeddings``.
        col_modes: sizes that multiply to the embedding width; as many as ``row_modes``.
        ranks: limit for all inner ranks, or all d + 1.
        num_embeddings: words; None for the product of ``row_modes``. Ids at or above it raise.
        padding_idx: kept for the record; the row is not forced to zero.
        std: standard deviation of the random start; 1 as in QTC's code (a LayerNorm follows).

    Source: QTC's released code; spec sheet QTC, 2.3; Khrulkov et al. 2019.

    >>> table = TTMEmbedding((16, 20, 10, 10), (4, 4, 8, 6), ranks=20, num_embeddings=30522)
    >>> sum(core.numel() for core in table.cores), table(torch.tensor([[0, 30521]])).shape
    (66480, torch.Size([1, 2, 768]))
    """

    def __init__(
        self,
        row_modes: Sequence[int],
        col_modes: Sequence[int],
        ranks: Ranks,
        num_embeddings: int | None = None,
        padding_idx: int | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.row_modes, self.col_modes = tuple(row_modes), tuple(col_modes)
        self.num_embeddings = num_embeddings or prod(row_modes)
        self.embedding_dim, self.padding_idx = prod(col_modes), padding_idx
        check_table_modes(self.num_embeddings, self.embedding_dim, self.row_modes, self.col_modes)
        joint = [v * e for v, e in zip(row_modes, col_modes, strict=True)]
        self.ranks = tt_ranks(joint, ranks)
        rims = zip(self.ranks[:-1], self.row_modes, self.col_modes, self.ranks[1:], strict=True)
        self._new_cores(list(rims), std)

    @classmethod
    def from_embedding(
        cls,
        table: nn.Embedding,
        row_modes: Sequence[int],
        col_modes: Sequence[int],
        ranks: Ranks,
    ) -> "TTMEmbedding":
        """Return the embedding nearest to a dense one, by TTM-SVD with balanced norms.

        Raises:
            ValueError: the modes do not fit the table, or it has a NaN.
        """
        weight = table.weight.detach()
        check_table_modes(*weight.shape, tuple(row_modes), tuple(col_modes))
        layer = cls(row_modes, col_modes, ranks, table.num_embeddings, table.padding_idx)
        layer = layer.to(weight)
        cores, _ = ttm_svd(weight, row_modes, col_modes, layer.ranks)
        layer.set_cores(balance_norms(cores))
        return layer

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_embeddings:
            raise IndexError(
                f"token ids run from {int(ids.min())} to {int(ids.max())}, but the table has "
                f"rows 0 to {self.num_embeddings - 1}"
            )
        cores, half = self.cores, (self.order + 1) // 2
        left, right = _merge(cores[:half]), _merge(cores[half:])  # (r, rows, cols, r')
        flat = ids.reshape(-1)
        if right is None:
            return left[0, flat, :, 0].reshape(*ids.shape, -1)
        a = left[0].index_select(0, flat.div(right.shape[1], rounding_mode="floor"))
        b = right[..., 0].transpose(0, 1).index_select(0, flat % right.shape[1])
        return (a @ b).reshape(*ids.shape, -1)  # (t, e1.., r) (t, r, ..ed) -> (t, width)

    @torch.no_grad()
    def dense(self) -> nn.Embedding:
        """Return the ordinary table, without the padded rows."""
        weight = ttm_dense(self.cores)[: self.num_embeddings]
        return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.padding_idx)

    def config(self) -> dict:
        """Return the arguments that rebuild this embedding."""
        return {
            "row_modes": list(self.row_modes),
            "col_modes": list(self.col_modes),
            "ranks": list(self.ranks),
            "num_embeddings": self.num_embeddings,
            "padding_idx": self.padding_idx,
        }

    def extra_repr(self) -> str:
        return f"row_modes={self.row_modes}, col_modes={self.col_modes}, ranks={self.ranks}"


def _merge(cores: Sequence[Float[Tensor, "_ _ _ _"]]) -> Float[Tensor, "_ _ _ _"] | None:
    """Contract neighboring TTM cores into one (rank, rows, columns, rank)."""
    if not cores:
        return None
    merged = cores[0]
    for core in cores[1:]:
        both = torch.einsum("rves,swft->rvweft", merged, core)
        r, v, w, e, f, t = both.shape
        merged = both.reshape(r, v * w, e * f, t)
    return merged
