"""Edits: frozen dataclasses that turn one layer into another. Any callable module -> module will
do.

Structure is replaced (``TT``, ``TTM`` return new layers); values are parametrized (``LSQ`` sits on
the weight or on every core, whatever layer that is). In a plan, structure comes first.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize

from . import quantize
from .cores import own_class
from .embeddings import TTMEmbedding
from .layers import TTLinear, check_modes
from .shapes import Ranks, cover, factorize, tt_ranks

Modes = Sequence[int] | None


def weight_names(module: nn.Module) -> list[str]:
    """Return the names of a layer's own weights (cores included, biases and vectors not)."""
    parametrized = getattr(module, "parametrizations", {})
    plain = [n for n, p in module.named_parameters(recurse=False) if p.dim() > 1]
    return plain + [
        n for n, chain in parametrized.items() if chain.is_tensor and chain.original.dim() > 1
    ]


@dataclass(frozen=True)
class TT:
    """Replace a linear layer by a tensor train.

    Args:
        rank: limit for every inner rank, or all ranks with the outer 1s; what lies above the
            admissible ones is clipped (with a warning when ranks were listed one by one).
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

    rank: Ranks
    out_modes: Modes = None
    in_modes: Modes = None
    order: int = 2
    init: str = "svd"

    def __post_init__(self) -> None:
        _check_init(self.init)

    def shapes(self, linear: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (out_modes, in_modes) for a layer: ascending out, descending in."""
        _check_plain("TT", linear, nn.Linear)
        out_modes = self.out_modes or factorize(linear.out_features, self.order)
        in_modes = self.in_modes or factorize(linear.in_features, self.order)[::-1]
        check_modes(out_modes, in_modes, linear.weight)
        _say_clipped("TT", (*out_modes, *in_modes), self.rank)
        return tuple(out_modes), tuple(in_modes)

    def skeleton(self, linear: nn.Module) -> TTLinear:
        """Return the layer without its values, for a preview."""
        with torch.device("meta"):
            return TTLinear(*self.shapes(linear), self.rank, bias=linear.bias is not None)

    def __call__(self, linear: nn.Module) -> TTLinear:
        shapes = self.shapes(linear)
        if self.init == "svd":
            return TTLinear.from_linear(linear, *shapes, self.rank)
        layer = TTLinear(*shapes, self.rank, bias=linear.bias is not None).to(linear.weight)
        if linear.bias is not None:
            layer.bias.data.copy_(linear.bias)
        return layer


@dataclass(frozen=True)
class TTM:
    """Replace an embedding table by a tensor-train matrix.

    Args:
        rank: as in ``TT``.
        row_modes: factors of at least the number of words; None for ``order`` near-equal ones.
        col_modes: factors of the width, as many; None for balanced ones.
        order: how many modes when they are not given.
        init: "svd" or "random" (standard deviation 1, a LayerNorm should follow).
        counts: how often each word occurs, to fit the words that matter (``fit_rows``).

    Source: spec sheet QTC, sections 2.3 and 3.

    >>> TTM(rank=4, order=3)(nn.Embedding(1000, 64))
    TTMEmbedding(row_modes=(10, 10, 10), col_modes=(4, 4, 4), ranks=(1, 4, 4, 1))
    """

    rank: Ranks
    row_modes: Modes = None
    col_modes: Modes = None
    order: int = 3
    init: str = "svd"
    counts: Sequence[int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_init(self.init)
        if self.init == "random" and self.counts is not None:
            raise ValueError("counts fit the rows of a trained table; they go with init='svd'")

    def shapes(self, table: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (row_modes, col_modes) for a table."""
        _check_plain("TTM", table, nn.Embedding)
        rows = tuple(self.row_modes or cover(table.num_embeddings, self.order))
        cols = tuple(self.col_modes or factorize(table.embedding_dim, len(rows)))
        if len(rows) == len(cols):
            _say_clipped("TTM", [v * e for v, e in zip(rows, cols, strict=True)], self.rank)
        return rows, cols

    def skeleton(self, table: nn.Module) -> TTMEmbedding:
        """Return the layer without its values, for a preview."""
        with torch.device("meta"):
            return TTMEmbedding(*self.shapes(table), self.rank, table.num_embeddings)

    def __call__(self, table: nn.Module) -> TTMEmbedding:
        shapes = self.shapes(table)
        if self.init == "svd":
            return TTMEmbedding.from_embedding(table, *shapes, self.rank, self.counts)
        layer = TTMEmbedding(*shapes, self.rank, table.num_embeddings, table.padding_idx)
        return layer.to(table.weight)


@dataclass(frozen=True)
class LSQ:
    """Quantize every weight of a layer, cores included, with learned scales; biases stay in float.

    Args:
        bits: 2 to 8, one scale per tensor.
        init, grad_factor: as in ``quantize.LSQ``.
        activations: None for weights only; otherwise the bits of a ``TTLinear``'s input, whose
            partial merges and middle product then get 8 bits.

    Source: spec sheet QTC, section 4.

    >>> layer = LSQ(bits=4)(nn.Linear(24, 36))
    >>> layer.parametrizations.weight[0]
    LSQ(bits=4, signed=True, init='lsq')
    """

    bits: int
    init: str = "lsq"
    grad_factor: bool = True
    activations: int | None = None

    def __post_init__(self) -> None:
        quantize.integer_range(self.bits)
        if self.activations is not None:
            quantize.integer_range(self.activations)

    def quantizer(self, bits: int) -> quantize.LSQ:
        """Return a fresh quantizer with these settings."""
        return quantize.LSQ(bits, init=self.init, grad_factor=self.grad_factor)

    def __call__(self, module: nn.Module) -> nn.Module:
        names = weight_names(module)
        if not names:
            raise TypeError(
                f"LSQ found no weight to quantize on a {type(module).__name__}; leave it out "
                "of the plan, or call tqlearn.unpack(model) first if it is packed"
            )
        if self.activations is not None:
            if not isinstance(module, TTLinear):
                raise TypeError(
                    f"LSQ(activations=...) needs a TTLinear, got {type(module).__name__}; put a TT "
                    "edit before it or quantize weights only"
                )
            like = getattr(module, names[0])
            module.quant_input = self.quantizer(self.activations).to(like)
            module.quant_merge = self.quantizer(8).to(like)
            module.quant_middle = self.quantizer(8).to(like)
        for name in names:
            chains = getattr(module, "parametrizations", {})
            if name in chains and any(quantize.is_quantizer(stage) for stage in chains[name]):
                raise ValueError(
                    f"{type(module).__name__}.{name} is quantized already; start from the teacher, "
                    "or call tqlearn.bake(model) before quantizing anew"
                )
            attach(module, name, self.quantizer(self.bits))
        return module


def attach(module: nn.Module, name: str, parametrization: nn.Module) -> None:
    """Put a parametrization (mask, quantizer) on one tensor of a module.

    Raises:
        ValueError: the tensor has a NaN or infinite entry.
    """
    tensor = getattr(module, name)
    chain = getattr(module, "parametrizations", {})
    original = chain[name].original if name in chain else tensor
    if not original.is_meta and not torch.isfinite(original).all():
        raise ValueError(
            f"{type(module).__name__}.{name} holds NaN or infinite entries; repair the model first"
        )
    parametrize.register_parametrization(
        own_class(module), name, parametrization.to(original), unsafe=True
    )


def _check_plain(edit: str, module: nn.Module, cls: type[nn.Module]) -> None:
    """Raise unless the module computes what ``cls`` does, with nothing on its weight."""
    if not isinstance(module, cls):
        raise TypeError(f"{edit} takes an nn.{cls.__name__}, got {type(module).__name__}")
    if type(module).forward is not cls.forward:
        raise TypeError(
            f"{edit} takes an nn.{cls.__name__}, but {type(module).__name__} has a forward of its "
            "own (a scaled embedding?), which would be lost; quantize it with LSQ or leave it out"
        )
    if parametrize.is_parametrized(module):
        raise ValueError(
            f"{edit} replaces the layer and would drop the mask or quantizer on its weight; put "
            f"{edit} first in the plan, or call tqlearn.bake(model) before"
        )


def _check_init(init: str) -> None:
    if init not in ("svd", "random"):
        raise ValueError(f"init is 'svd' or 'random', got {init!r}")


def _say_clipped(edit: str, modes: Sequence[int], rank: Ranks) -> None:
    """Warn when ranks that were listed one by one lie above the admissible ones."""
    if not isinstance(rank, int) and (clipped := tt_ranks(modes, rank)) != tuple(rank):
        warnings.warn(
            f"{edit}: ranks {tuple(rank)} exceed what modes {tuple(modes)} admit, using {clipped}",
            stacklevel=4,
        )
