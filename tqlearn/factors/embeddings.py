"""Embedding tables as products of small cores; a look-up never builds the table."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..precision import widened
from ..registry import register
from ..shapes import Ranks, tt_ranks
from .cores import Table, check_ids, looked_up
from .trains import balance_norms, check_table_modes, ttm_dense, ttm_svd


@register
class TTMEmbedding(Table):
    """An embedding whose table is a tensor-train matrix; a look-up never builds the table.

    Token i has digits (i_1 .. i_d), i_d fastest; its row is the product of the slices
    G_k[:, i_k, :, :], flattened row-major. The cores are merged into two halves once per batch, the
    slices gathered by token and contracted over the middle rank.

    Args:
        row_modes: sizes that multiply to at least ``num_embeddings``.
        col_modes: sizes that multiply to the embedding width; as many as ``row_modes``.
        ranks: limit for all inner ranks, or all d + 1.
        num_embeddings: words; None for the product of ``row_modes``. Ids at or above it raise (on a
            GPU and in compiled code as a device assert: no look-up waits for the check).
        padding_idx: look-ups of this row teach the cores nothing; it is not forced to zero.
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
        counts: Sequence[int] | None = None,
    ) -> "TTMEmbedding":
        """Return the embedding nearest to a dense one, by TTM-SVD with balanced norms.

        Args:
            counts: how often each word occurs; None treats all rows alike. With counts, words that
                never occur are left out of the SVD and ``fit_rows`` follows.

        Raises:
            ValueError: the modes or the counts do not fit the table, or it has a NaN.
        """
        weight = widened(table.weight.detach())
        check_table_modes(*weight.shape, tuple(row_modes), tuple(col_modes))
        layer = cls(row_modes, col_modes, ranks, table.num_embeddings, table.padding_idx)
        layer, often = layer.to(weight), None
        if counts is not None:
            if len(counts) != len(weight) or sum(counts) <= 0:
                raise ValueError(
                    f"counts need one entry for each of the {len(weight)} rows and one above "
                    f"0, got {len(counts)} entries that sum to {sum(counts)}"
                )
            often = torch.tensor(counts, device=weight.device)
            weight = weight * (often > 0)[:, None]
        cores, _ = ttm_svd(weight, row_modes, col_modes, layer.ranks)
        layer.set_cores(balance_norms(cores))
        layer = layer if often is None else layer.fit_rows(weight, often)
        return layer.to(table.weight.dtype)

    def fit_rows(
        self,
        table: Float[Tensor, "rows width"],
        counts: Int[Tensor, "rows"],
        steps: int = 300,
        lr: float = 3e-3,
    ) -> "TTMEmbedding":
        """Fit the cores to the rows that occur, weighted by the square root of their counts.

        Least squares by Adam with a linearly falling rate. A pre-trained table is close to random
        for an SVD over all words: all-MiniLM-L6-v2's, at 220 thousand numbers, keeps a relative
        error of 0.96 on the words of ATIS; fitted to those 864 words it is 0.2, weighted by
        frequency. What the counts leave out is not represented.
        """
        ids = counts.nonzero().flatten()
        weight = counts[ids].to(table.dtype).sqrt()
        weight, target = (weight / weight.mean())[:, None], table[ids]
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                (weight * (self(ids) - target).square()).mean().backward()
                optimizer.step()
                fall.step()
        self.zero_grad()
        return self

    def look_up(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """Return the rows of ids, without building the table."""
        check_ids(ids, self.num_embeddings)
        cores, half = self.cores, (self.order + 1) // 2
        left, right = _merge(cores[:half]), _merge(cores[half:])  # (r, rows, cols, r')
        flat = ids.reshape(-1)
        if right is None:
            rows = left[0, flat, :, 0].reshape(*ids.shape, self.embedding_dim)
            return looked_up(rows, ids, self.padding_idx)
        a = left[0].index_select(0, flat.div(right.shape[1], rounding_mode="floor"))
        b = right[..., 0].transpose(0, 1)  # (rows, r, cols); a low-rank pair has one row for all
        b = b[0] if len(b) == 1 else b.index_select(0, flat % right.shape[1])
        rows = (a @ b).reshape(*ids.shape, self.embedding_dim)  # (t, e1.., r) (t, r, ..ed)
        rows = rows.to(cores[0].dtype)  # autocast leaves a look-up its type
        return looked_up(rows, ids, self.padding_idx)

    def product(self) -> Float[Tensor, "rows width"]:
        """Return the table, without the padded rows, with the gradients of its cores."""
        return ttm_dense(self.cores)[: self.num_embeddings]

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
