"""``Kronecker``, the edit that makes sums of Kronecker products of linear layers and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from ..shapes import divisors, factorize, kronecker_parameters
from .kronecker import check_pair, modes_within, nearest_kronecker
from .kronecker_layers import KroneckerEmbedding, KroneckerLinear
from .sizing import SLACK, Structure, check_plain, fitting

Pair = tuple[int, int]
Modes = Sequence[int] | None


@dataclass(frozen=True, repr=False)
class Kronecker(Structure):
    """Replace a linear layer or an embedding by a sum of Kronecker products.

    Args:
        rank: how many products are summed; clipped, with a warning, to what is exact.
        ratio, error: instead of a rank; see ``sizing.Structure``. Without modes, a ratio means one
            product of the largest shape that fits (``kronecker.modes_within``).
        out_modes, in_modes: of a linear layer, (m1, m2) and (n1, n2) for factors m1 x n1 and
            m2 x n2. None for the smallest right factor (2 x 2 for even widths), or for balanced
            modes where an error decides the rank.
        col_modes: of an embedding, (d / n, n): the right factor is a row of n. None as above.
        init: "svd" for the nearest sum of products, "random" from scratch.

    Source: spec sheet KroneckerBERT, 1.1 to 1.5.

    >>> Kronecker(rank=1, out_modes=(384, 2), in_modes=(48, 16))(nn.Linear(768, 768))
    KroneckerLinear(out_modes=(384, 2), in_modes=(48, 16), rank=1)
    >>> Kronecker(ratio=8)(nn.Embedding(1000, 64))
    KroneckerEmbedding(num_embeddings=1000, col_modes=(8, 8), rank=1)
    """

    out_modes: Modes = None
    in_modes: Modes = None
    col_modes: Modes = None
    init: str = "svd"

    def shapes(self, layer: nn.Module) -> tuple[Pair, Pair]:
        """Return the modes of the rows and of the columns of a layer's weight."""
        check_plain("Kronecker", layer, nn.Linear, nn.Embedding)
        table, (rows, cols) = isinstance(layer, nn.Embedding), layer.weight.shape
        wrong = (self.out_modes, self.in_modes) if table else (self.col_modes,)
        if any(modes is not None for modes in wrong):
            names = "out_modes and in_modes are for a linear layer, col_modes for an embedding"
            raise ValueError(f"{names}; got {self!r} for {self.words(layer)}")
        first = (rows, 1) if table else self.out_modes
        second = self.col_modes if table else self.in_modes
        if self.ratio is not None and second is None and (table or first is None):
            numbers = SLACK * layer.weight.numel() / self.ratio
            return modes_within(rows, cols, numbers, tall=table)
        first = self._split(rows) if first is None else first
        second = self._split(cols) if second is None else second
        return check_pair(first, second, rows, cols)

    def _split(self, width: int) -> Pair:
        if self.error is not None:
            return factorize(width, 2)
        small = divisors(width)[:2][-1]
        return (width // small, small)

    def resolve(self, layer: nn.Module) -> "Kronecker":
        """Return this edit with the rank and the modes that it means for a layer."""
        fixed = replace(self, **self._named(layer))
        return super(Kronecker, fixed).resolve(layer)

    def _named(self, layer: nn.Module) -> dict[str, Pair]:
        rows, cols = self.shapes(layer)
        table = isinstance(layer, nn.Embedding)
        return {"col_modes": cols} if table else {"out_modes": rows, "in_modes": cols}

    def limit(self, layer: nn.Module) -> int:
        """Return the highest rank that a layer can use."""
        (m1, m2), (n1, n2) = self.shapes(layer)
        return min(m1 * n1, m2 * n2)

    def numbers(self, layer: nn.Module, rank: int) -> int:
        """Count the numbers of all factors at a rank."""
        return kronecker_parameters(*self.shapes(layer), rank)

    def rank_of_error(self, layer: nn.Module) -> int:
        """Return how many products the error needs."""
        weight = layer.weight.detach()
        return len(nearest_kronecker(weight, *self.shapes(layer), None, error=self.error)[0])

    def empty(self, layer: nn.Module) -> nn.Module:
        """Return the layer with random values."""
        modes, rank = self._named(layer), fitting(self, layer)
        if isinstance(layer, nn.Embedding):
            return KroneckerEmbedding(layer.num_embeddings, **modes, rank=rank,
                                      padding_idx=layer.padding_idx)  # fmt: skip
        return KroneckerLinear(**modes, rank=rank, bias=layer.bias is not None)

    def nearest(self, layer: nn.Module) -> nn.Module:
        """Return the layer nearest to the weight."""
        modes, rank = self._named(layer), fitting(self, layer)
        if isinstance(layer, nn.Embedding):
            return KroneckerEmbedding.from_embedding(layer, **modes, rank=rank)
        return KroneckerLinear.from_linear(layer, **modes, rank=rank)
