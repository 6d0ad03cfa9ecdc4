"""Edits: ``TT`` and ``LowRank`` of a linear layer, ``TTM`` of a table; see ``kronecker_edit``."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from ..shapes import (
    Ranks,
    cover,
    factorize,
    low_rank_parameters,
    tt_parameters,
    tt_ranks,
    ttm_parameters,
)
from .embeddings import TTMEmbedding
from .layers import LowRankLinear, TTLinear, check_modes
from .low_rank import low_rank
from .sizing import Structure, check_plain, fitting, say_clipped
from .trains import check_table_modes, tt_svd, ttm_svd

Modes = Sequence[int] | None


def _say_listed(edit: str, modes: Sequence[int], rank: Ranks | None) -> None:
    """Warn when ranks that were listed one by one lie above the admissible ones."""
    if isinstance(rank, Sequence) and (clipped := tt_ranks(modes, rank)) != tuple(rank):
        words = f"ranks {tuple(rank)} exceed what modes {tuple(modes)} admit"
        say_clipped(edit, words, clipped)


@dataclass(frozen=True, repr=False)
class TT(Structure):
    """Replace a linear layer by a tensor train.

    Args:
        rank: limit for every inner rank, or all ranks with the outer 1s; what lies above the
            admissible ones is clipped (with a warning when ranks were listed one by one).
        ratio, error: instead of a rank; see ``sizing.Structure``.
        out_modes, in_modes: factors of the output and input width; None for ``order`` balanced
            ones.
        order: how many modes each side gets when they are not given.
        init: "svd" starts from the layer's weight (TT-SVD, norms balanced), "random" from scratch.

    Source: spec sheet QTC, sections 2.1 and 3.

    >>> TT(rank=4, order=2)(nn.Linear(24, 36))
    TTLinear(
      out_modes=(6, 6), in_modes=(6, 4), ranks=(1, 4, 4, 4, 1)
      (quant_input): Identity()
      (quant_merge): Identity()
      (quant_middle): Identity()
    )
    """

    out_modes: Modes = None
    in_modes: Modes = None
    order: int = 2
    init: str = "svd"

    def shapes(self, linear: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (out_modes, in_modes) for a layer: ascending out, descending in."""
        check_plain("TT", linear, nn.Linear)
        out_modes, in_modes = self.out_modes, self.in_modes
        if out_modes is None:
            out_modes = factorize(linear.out_features, self.order)
        if in_modes is None:
            in_modes = factorize(linear.in_features, self.order)[::-1]
        check_modes(out_modes, in_modes, linear.weight)
        _say_listed("TT", (*out_modes, *in_modes), self.rank)
        return tuple(out_modes), tuple(in_modes)

    def limit(self, linear: nn.Module) -> int:
        """Return the highest rank that a layer can use."""
        return max(tt_ranks(sum(self.shapes(linear), ()), linear.weight.numel()))

    def numbers(self, linear: nn.Module, rank: Ranks) -> int:
        """Count the numbers of the cores at a rank."""
        return tt_parameters(sum(self.shapes(linear), ()), rank)

    def rank_of_error(self, linear: nn.Module) -> tuple[int, ...]:
        """Return the ranks that the error needs."""
        modes = sum(self.shapes(linear), ())
        cores, _ = tt_svd(linear.weight.detach().reshape(modes), error=self.error)
        return (1, *(core.shape[-1] for core in cores))

    def empty(self, linear: nn.Module) -> TTLinear:
        """Return the layer with random values."""
        return TTLinear(*self.shapes(linear), self.rank, bias=linear.bias is not None)

    def nearest(self, linear: nn.Module) -> TTLinear:
        """Return the layer nearest to the weight."""
        return TTLinear.from_linear(linear, *self.shapes(linear), self.rank)


@dataclass(frozen=True, repr=False)
class TTM(Structure):
    """Replace an embedding table by a tensor-train matrix.

    Args:
        rank: as in ``TT``.
        ratio, error: instead of a rank; see ``sizing.Structure``.
        row_modes: factors of at least the number of words; None for ``order`` near-equal ones.
        col_modes: factors of the width, as many; None for balanced ones.
        order: how many modes when they are not given.
        init: "svd" or "random" (standard deviation 1, a LayerNorm should follow).
        counts: how often each word occurs, to fit the words that matter (``fit_rows``).

    Source: spec sheet QTC, sections 2.3 and 3.

    >>> TTM(rank=4, order=3)(nn.Embedding(1000, 64))
    TTMEmbedding(row_modes=(10, 10, 10), col_modes=(4, 4, 4), ranks=(1, 4, 4, 1))
    """

    row_modes: Modes = None
    col_modes: Modes = None
    order: int = 3
    init: str = "svd"
    counts: Sequence[int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "random" and self.counts is not None:
            raise ValueError("counts fit the rows of a trained table; they go with init='svd'")
        if self.error is not None and self.counts is not None:
            raise ValueError(
                "an error is that of all rows, and counts fit some of them: say a rank or a ratio"
            )

    def shapes(self, table: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (row_modes, col_modes) for a table."""
        check_plain("TTM", table, nn.Embedding)
        rows, cols = self.row_modes, self.col_modes
        rows = cover(table.num_embeddings, self.order) if rows is None else tuple(rows)
        cols = factorize(table.embedding_dim, len(rows)) if cols is None else tuple(cols)
        if len(rows) == len(cols):
            _say_listed("TTM", [v * e for v, e in zip(rows, cols, strict=True)], self.rank)
        return rows, cols

    def limit(self, table: nn.Module) -> int:
        """Return the highest rank that a table can use."""
        rows, cols = self.shapes(table)
        check_table_modes(*table.weight.shape, rows, cols)
        joint = [v * e for v, e in zip(rows, cols, strict=True)]
        return max(tt_ranks(joint, table.weight.numel()))

    def numbers(self, table: nn.Module, rank: Ranks) -> int:
        """Count the numbers of the cores at a rank."""
        return ttm_parameters(*self.shapes(table), rank)

    def rank_of_error(self, table: nn.Module) -> tuple[int, ...]:
        """Return the ranks that the error needs."""
        cores, _ = ttm_svd(table.weight.detach(), *self.shapes(table), error=self.error)
        return (1, *(core.shape[-1] for core in cores))

    def empty(self, table: nn.Module) -> TTMEmbedding:
        """Return the table with random values."""
        return TTMEmbedding(*self.shapes(table), self.rank, table.num_embeddings, table.padding_idx)

    def nearest(self, table: nn.Module) -> TTMEmbedding:
        """Return the table nearest to the weight, or to the rows that occur."""
        return TTMEmbedding.from_embedding(table, *self.shapes(table), self.rank, self.counts)


@dataclass(frozen=True, repr=False)
class LowRank(Structure):
    """Replace a linear layer by two thin ones, the plain baseline.

    Args:
        rank: columns of the left and rows of the right factor; clipped, with a warning, to the
            smaller width.
        ratio, error: instead of a rank; see ``sizing.Structure``.
        init: "svd" starts from the layer's weight, "random" from scratch.

    Source: Eckart and Young 1936.

    >>> LowRank(ratio=8)(nn.Linear(768, 768))
    LowRankLinear(in_features=768, out_features=768, rank=48)
    """

    init: str = "svd"

    def limit(self, linear: nn.Module) -> int:
        """Return the highest rank that a layer can use."""
        check_plain("LowRank", linear, nn.Linear)
        return min(linear.weight.shape)

    def numbers(self, linear: nn.Module, rank: int) -> int:
        """Count the numbers of both factors at a rank."""
        return low_rank_parameters(*linear.weight.shape, rank)

    def rank_of_error(self, linear: nn.Module) -> int:
        """Return the rank that the error needs."""
        return low_rank(linear.weight.detach(), error=self.error)[0].shape[1]

    def empty(self, linear: nn.Module) -> LowRankLinear:
        """Return the layer with random values."""
        rank = fitting(self, linear)
        has = linear.bias is not None
        return LowRankLinear(linear.in_features, linear.out_features, rank, bias=has)

    def nearest(self, linear: nn.Module) -> LowRankLinear:
        """Return the layer nearest to the weight."""
        return LowRankLinear.from_linear(linear, fitting(self, linear))
