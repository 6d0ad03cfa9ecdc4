"""The products that ``kernels.py`` times: each with the values that it has to give."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from tqlearn.sparsity import magnitude, nm_mask

HALF, BRAIN = torch.float16, torch.bfloat16


@dataclass
class Product:
    """A product to call, what it has to give in float64, and the relative error that is allowed."""

    call: Callable[[], Tensor]
    wanted: Tensor
    limit: float = 0.0

    def error(self) -> float:
        """Return the relative error of the call's values."""
        off = self.call().double() - self.wanted
        return (off.norm() / self.wanted.norm()).item()


def plain(x: Tensor, w: Tensor) -> Tensor:
    """Return x W^T in float64: exact for 8-bit codes."""
    return x.double() @ w.double().t()


def codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return 8-bit codes and the scale of each row; zeros stay zero."""
    scale = x.float().abs().amax(1, keepdim=True) / 127
    return (x / scale).round().to(torch.int8), scale


def semi_structured(w: Tensor, cutlass: bool) -> Tensor:
    """Return a 2:4 weight in the format of one of torch's two backends."""
    torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = cutlass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "in prototype stage", at the first one
        return torch.sparse.to_sparse_semi_structured(w)


def pruned(w: Tensor) -> Tensor:
    """Return a weight with two zeros in every four neighbors along its inputs."""
    return w * nm_mask(magnitude(w))


def dense(x: Tensor, w: Tensor, dtype: torch.dtype) -> Product:
    """Return the plain layer."""
    x, w = x.to(dtype), w.to(dtype)
    return Product(lambda: F.linear(x, w), plain(x, w), torch.finfo(dtype).eps)


def sparse(x: Tensor, w: Tensor, dtype: torch.dtype, cutlass: bool) -> Product:
    """Return the layer with a 2:4 weight."""
    x, w = x.to(dtype), pruned(w).to(dtype)
    kept = semi_structured(w, cutlass)
    return Product(lambda: F.linear(x, kept), plain(x, w), torch.finfo(dtype).eps)


def sparse_int8(x: Tensor, w: Tensor, cutlass: bool) -> Product:
    """Return the 2:4 product of codes, summed in 32 bits; the weight stands first in it."""
    x, w = codes(x)[0], codes(pruned(w))[0]
    kept = semi_structured(w, cutlass)
    if cutlass:
        multiply = partial(torch._sparse_semi_structured_mm, kept.packed, kept.meta)
    else:
        multiply = partial(torch._cslt_sparse_mm, kept.packed)
    return Product(lambda: multiply(x.t(), out_dtype=torch.int32).t(), plain(x, w))


def int8(x: Tensor, w: Tensor) -> Product:
    """Return the product of codes, summed in 32 bits."""
    x, w = codes(x)[0], codes(w)[0]
    return Product(lambda: torch._int_mm(x, w.t()), plain(x, w))


def int8_with_scales(x: Tensor, w: Tensor, dtype: torch.dtype) -> Product:
    """Return the layer as an 8-bit one runs: codes of its inputs, product, scales."""
    x, (w, rows) = x.to(dtype), codes(w)

    def call() -> Tensor:
        coded, tokens = codes(x)
        return (torch._int_mm(coded, w.t()) * tokens * rows.t()).to(dtype)

    coded, tokens = codes(x)
    wanted = plain(coded, w) * tokens.double() * rows.double().t()
    return Product(call, wanted, torch.finfo(dtype).eps)


def int8_weights(x: Tensor, w: Tensor, dtype: torch.dtype) -> Product:
    """Return the layer with 8-bit weights and inputs in floats."""
    x, (w, rows) = x.to(dtype), codes(w)
    rows = rows[:, 0].to(dtype)
    wanted = plain(x, w) * rows.double()
    return Product(lambda: torch._weight_int8pack_mm(x, w, rows), wanted, torch.finfo(dtype).eps)


CONTESTANTS: dict[str, Callable[[Tensor, Tensor], Product]] = {
    "dense float16": partial(dense, dtype=HALF),
    "dense bfloat16": partial(dense, dtype=BRAIN),
    "int8": int8,
    "int8 with scales, float16": partial(int8_with_scales, dtype=HALF),
    "int8 weights, bfloat16": partial(int8_weights, dtype=BRAIN),
    "2:4 float16, cuSPARSELt": partial(sparse, dtype=HALF, cutlass=False),
    "2:4 bfloat16, cuSPARSELt": partial(sparse, dtype=BRAIN, cutlass=False),
    "2:4 int8, cuSPARSELt": partial(sparse_int8, cutlass=False),
    "2:4 float16, CUTLASS": partial(sparse, dtype=HALF, cutlass=True),
    "2:4 bfloat16, CUTLASS": partial(sparse, dtype=BRAIN, cutlass=True),
    "2:4 int8, CUTLASS": partial(sparse_int8, cutlass=True),
}


def base_of(name: str) -> str:
    """Return the dense product that a contestant is measured by."""
    return "dense bfloat16" if "bfloat16" in name else "dense float16"
