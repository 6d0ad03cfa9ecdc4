"""Tensors to cores and back: tensor trains (TT) and tensor-train matrices (TTM).

Reshapes are row-major, the last index runs fastest. Every decomposition returns its factors and the
norm of what each SVD dropped, so the exact error is known without rebuilding the tensor.
"""

from collections.abc import Sequence
from math import prod, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from ..precision import widened
from ..shapes import Ranks, tt_ranks
from .svd import allowed_norm, check_finite, leading


def tt_svd(
    tensor: Float[Tensor, "..."],
    ranks: Ranks | None = None,
    *,
    error: float | None = None,
    method: str = "auto",
) -> tuple[list[Tensor], Float[Tensor, "_"]]:
    """Split a tensor into tensor-train cores by one SVD per cut.

    Args:
        tensor: any order ``d`` >= 1; a weight matrix is reshaped to (*out_modes, *in_modes) first.
        ranks: one limit for all inner ranks, or all ``d + 1``; clipped to the admissible ones. None
            for the admissible ones themselves.
        error: keep only the ranks that this relative error needs. Every cut may spend an equal
            share of what the cuts before it have left over.
        method: of the SVDs, see ``svd.truncated_svd``.

    Returns:
        ``d`` cores shaped (rank before, mode, rank after), and for each of the ``d - 1`` cuts the
        norm of the dropped singular values, in float64. ``dropped.norm()`` *is* the error in the
        Frobenius norm: the cuts are orthogonal projections one after another.

    Raises:
        ValueError: ranks that do not fit the order, an error outside 0 to 1, or a NaN or infinite
            entry.

    Source: Oseledets 2011, algorithm 1. It gives every cut the same share of the error.

    >>> w = torch.randn(24, 36)
    >>> cores, dropped = tt_svd(w.reshape(4, 6, 6, 6), ranks=(1, 3, 6, 4, 1))
    >>> [tuple(core.shape) for core in cores]
    [(1, 4, 3), (3, 6, 6), (6, 6, 4), (4, 6, 1)]
    >>> error = (w - tt_dense(cores).reshape(24, 36)).norm()
    >>> torch.allclose(error, dropped.norm().float(), rtol=1e-4)
    True
    """
    check_finite(tensor)
    modes, dtype = tuple(tensor.shape), tensor.dtype
    limits = tt_ranks(modes, tensor.numel() if ranks is None else ranks)
    cores, dropped, rest, before = [], [], widened(tensor), 1
    del tensor
    left = allowed_norm(rest, error)
    for k, mode in enumerate(modes[:-1]):
        share = None if left is None else left / sqrt(len(modes) - 1 - k)  # squares add up
        u, s, v, lost = leading(rest.reshape(before * mode, -1), limits[k + 1], share, method)
        cores.append(u.reshape(before, mode, -1))
        dropped.append(lost)
        del rest  # it may be as large as the weight
        rest, before = s[:, None] * v, len(s)
        left = None if left is None else sqrt(max(left**2 - float(lost) ** 2, 0))
    cores.append(rest.reshape(before, modes[-1], 1))
    cores = [core.to(dtype) for core in cores]
    no_cut = torch.zeros(0, dtype=torch.float64, device=cores[0].device)
    return cores, torch.stack(dropped) if dropped else no_cut


def tt_dense(cores: Sequence[Float[Tensor, "_ _ _"]]) -> Float[Tensor, "..."]:
    """Rebuild the tensor, shaped by the modes, from its tensor-train cores."""
    full = cores[0]
    for core in cores[1:]:
        full = torch.tensordot(
            full, core, dims=1
        )  # (1, m1, .., r) x (r, m, s) -> (1, m1, .., m, s)
    return full.squeeze(0).squeeze(-1)


def balance_norms(cores: Sequence[Tensor]) -> list[Tensor]:
    """Rescale the cores to one common Frobenius norm; their product stays the same.

    A plain TT-SVD leaves orthonormal cores and puts the whole norm in the last one. That is nothing
    to rounding, as a calibrated scale grows with its core; it is to training, where an optimizer
    such as Adam moves large and small numbers, and the scales, by equal amounts. A zero core stays.

    Source: spec sheet QTC, section 3 (the authors' released code).

    >>> cores, _ = tt_svd(torch.randn(6, 6, 6), ranks=4)
    >>> norms = torch.stack([core.norm() for core in balance_norms(cores)])
    >>> torch.allclose(norms, norms[0].expand(3))
    True
    """
    norms = torch.stack([widened(core).norm() for core in cores]).double()
    if (norms == 0).any():
        return list(cores)
    common = norms.log().mean().exp()
    wide = [widened(core) for core in cores]
    scaled = [core * (common / n).to(core.dtype) for core, n in zip(wide, norms, strict=True)]
    return [new.to(core.dtype) for new, core in zip(scaled, cores, strict=True)]


def ttm_svd(
    matrix: Float[Tensor, "rows cols"],
    row_modes: Sequence[int],
    col_modes: Sequence[int],
    ranks: Ranks | None = None,
    *,
    error: float | None = None,
    method: str = "auto",
) -> tuple[list[Tensor], Float[Tensor, "_"]]:
    """Split a matrix into tensor-train-matrix cores; each carries one row and one column mode.

    The rows are padded with zeros up to the product of ``row_modes`` (they cost no error), so an
    embedding table of 30522 words fits 16 x 20 x 10 x 10.

    Args:
        matrix: such as an embedding table, one row per word.
        row_modes: sizes that multiply to at least ``rows``.
        col_modes: sizes that multiply to ``cols``; as many as ``row_modes``.
        ranks, error, method: as in ``tt_svd``.

    Returns:
        Cores shaped (rank before, row mode, column mode, rank after), and the dropped norms.

    Raises:
        ValueError: the modes do not fit the matrix; or as ``tt_svd``.

    Source: Oseledets 2010 (TT-matrix); Khrulkov et al. 2019 for embeddings.

    >>> cores, dropped = ttm_svd(torch.randn(24, 36), (4, 6), (6, 6), ranks=2)
    >>> [tuple(core.shape) for core in cores]
    [(1, 4, 6, 2), (2, 6, 6, 1)]
    """
    rows, cols = matrix.shape
    row_modes, col_modes = tuple(row_modes), tuple(col_modes)
    check_table_modes(rows, cols, row_modes, col_modes)
    joint = [v * e for v, e in zip(row_modes, col_modes, strict=True)]
    cores, dropped = tt_svd(  # without a name here, the large copy goes after the first cut
        _paired(matrix, row_modes, col_modes).reshape(joint), ranks, error=error, method=method
    )
    shapes = zip(cores, row_modes, col_modes, strict=True)
    return [core.reshape(core.shape[0], v, e, core.shape[-1]) for core, v, e in shapes], dropped


def _paired(
    matrix: Float[Tensor, "rows cols"], row_modes: tuple[int, ...], col_modes: tuple[int, ...]
) -> Float[Tensor, "..."]:
    """Return the padded matrix with axes v1 e1 v2 e2 ..: one copy, filled slab by slab."""
    d = len(row_modes)
    pairs = [axis for k in range(d) for axis in (k, d + k)]  # v1 .. vd e1 .. ed -> v1 e1 v2 e2 ..
    tensor = matrix.new_zeros([(row_modes + col_modes)[axis] for axis in pairs])
    slab = prod(row_modes[1:])
    for k, part in enumerate(matrix.split(slab)):
        part = torch.nn.functional.pad(part, (0, 0, 0, slab - len(part)))
        part = part.reshape((1, *row_modes[1:], *col_modes)).permute(pairs)
        tensor[k : k + 1] = part
    return tensor


def ttm_dense(cores: Sequence[Float[Tensor, "_ _ _ _"]]) -> Float[Tensor, "rows cols"]:
    """Rebuild the matrix, padded rows included, from its tensor-train-matrix cores."""
    d = len(cores)
    flat = tt_dense([core.flatten(1, 2) for core in cores])
    split = flat.reshape([n for core in cores for n in core.shape[1:3]])
    tensor = split.permute(*range(0, 2 * d, 2), *range(1, 2 * d, 2))
    return tensor.reshape(prod(tensor.shape[:d]), -1)


def check_table_modes(
    rows: int, cols: int, row_modes: Sequence[int], col_modes: Sequence[int]
) -> None:
    """Raise a ValueError unless the modes hold a table of ``rows`` x ``cols``."""
    if len(row_modes) != len(col_modes):
        raise ValueError(
            f"a tensor-train matrix pairs its modes, got {len(row_modes)} row modes {row_modes} "
            f"and {len(col_modes)} column modes {col_modes}"
        )
    if prod(col_modes) != cols or prod(row_modes) < rows:
        raise ValueError(
            f"modes {row_modes} x {col_modes} give {prod(row_modes)} x {prod(col_modes)}, but the "
            f"table is {rows} x {cols}: columns must be equal, rows at least as many"
        )
