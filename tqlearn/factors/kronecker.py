"""Matrices to Kronecker products and back: the nearest product, and sums of several.

``out_modes`` = (m1, m2) and ``in_modes`` = (n1, n2) say the shapes by name: the left factor A is
m1 x n1, the right factor B is m2 x n2, and (A x B)[i1 m2 + i2, j1 n2 + j2] = A[i1, j1] B[i2, j2].
"""

from collections.abc import Sequence
from functools import reduce
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from ..precision import widened
from ..shapes import divisors, kronecker_macs, kronecker_parameters
from .svd import allowed_norm, check_finite, leading

Factors = list[tuple[Tensor, Tensor]]


def rearrange(
    matrix: Float[Tensor, "out in"], out_modes: Sequence[int], in_modes: Sequence[int]
) -> Float[Tensor, "left right"]:
    """Return the matrix as (m1 n1) x (m2 n2), so that A x B becomes vec(A) vec(B)^T.

    Row i1 n1 + j1 holds the block that A[i1, j1] multiplies; both vecs are row-major. The entries
    only move, so the Frobenius norm stays.

    Source: Van Loan and Pitsianis 1993; spec sheet KroneckerBERT, 1.5.

    >>> a, b = torch.randn(2, 3), torch.randn(4, 5)
    >>> moved = rearrange(torch.kron(a, b), (2, 4), (3, 5))
    >>> torch.equal(moved, a.reshape(-1, 1) * b.reshape(1, -1))
    True
    """
    check_pair(out_modes, in_modes, *matrix.shape)
    (m1, m2), (n1, n2) = out_modes, in_modes
    return matrix.reshape(m1, m2, n1, n2).transpose(1, 2).reshape(m1 * n1, m2 * n2)


def nearest_kronecker(
    matrix: Float[Tensor, "out in"],
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    rank: int | None = 1,
    *,
    error: float | None = None,
    method: str = "auto",
) -> tuple[Factors, Float[Tensor, ""]]:
    """Return the sum of ``rank`` Kronecker products that is nearest to a matrix.

    Args:
        out_modes, in_modes: the shapes of the factors, by output and input; see the module.
        rank: how many products, clipped to what is exact; None for no limit.
        error: take only as many as this relative error needs.
        method: of the SVD, see ``svd.truncated_svd``. "auto" never makes a full SVD of a large
            table: it works on the Gram matrix of the short side, 8 x 8 for 23 million entries.

    Returns:
        (A, B) per product, the largest first, with the square root of the singular value on each;
        and the norm of the dropped ones, in float64, which *is* the error in the Frobenius norm.

    Raises:
        ValueError: modes that do not multiply to the shape, a rank below 1, an error outside 0 to
            1, a NaN or infinite entry.

    A pair is unique up to (c A, B / c) only: compare products, never factors.

    Source: Van Loan and Pitsianis 1993; spec sheet KroneckerBERT, 1.5.

    >>> w = torch.randn(24, 36)
    >>> factors, dropped = nearest_kronecker(w, out_modes=(4, 6), in_modes=(6, 6), rank=3)
    >>> [tuple(factor.shape) for factor in factors[0]]
    [(4, 6), (6, 6)]
    >>> torch.allclose((w - kronecker_dense(factors)).norm(), dropped.float(), rtol=1e-4)
    True
    """
    check_finite(matrix)
    (m1, m2), (n1, n2) = check_pair(out_modes, in_modes, *matrix.shape)
    moved = rearrange(widened(matrix), out_modes, in_modes)
    u, s, v, dropped = leading(moved, rank, allowed_norm(moved, error), method)
    root = s.sqrt()
    left = (u * root).T.reshape(-1, m1, n1).to(matrix.dtype)
    right = (root[:, None] * v).reshape(-1, m2, n2).to(matrix.dtype)
    return list(zip(left.contiguous(), right.contiguous(), strict=True)), dropped


def kronecker_dense(factors: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "out in"]:
    """Rebuild the matrix from its factors."""
    return reduce(torch.add, [torch.kron(a, b) for a, b in factors])


def modes_within(
    rows: int, cols: int, numbers: float | int, tall: bool = False
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the out_modes and in_modes of the largest single product of at most ``numbers``;
    ``tall`` keeps all rows in the left factor, as an embedding does.

    Of equally large ones the one with the fewest MACs. For a random matrix the largest is also the
    nearest: it catches about (P + Q) / (P Q) of the squares, P and Q being the factors' sizes.

    Raises:
        ValueError: every product of that shape is larger.

    >>> modes_within(768, 768, 768 * 768 / 8)
    ((256, 3), (256, 3))
    """
    outs = [(rows // d, d) for d in ([1] if tall else divisors(rows))]
    found = [(out, (cols // d, d)) for out in outs for d in divisors(cols)]
    sizes = {modes: kronecker_parameters(*modes) for modes in found}
    if not (fitting := [modes for modes in found if sizes[modes] <= numbers]):
        raise ValueError(
            f"a Kronecker product of {rows} x {cols} has at least {min(sizes.values()):,} numbers, "
            f"which is more than {numbers:,.0f}; ask for a smaller ratio, or use LowRank"
        )
    return max(fitting, key=lambda modes: (sizes[modes], -min(kronecker_macs(*modes))))


def check_pair(
    out_modes: Sequence[int], in_modes: Sequence[int], rows: int, cols: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the modes as two pairs, or raise a ValueError if they do not make rows x cols."""
    if len(out_modes) != 2 or len(in_modes) != 2:
        raise ValueError(
            "a Kronecker product has two factors, so out_modes and in_modes are pairs, got "
            f"{tuple(out_modes)} and {tuple(in_modes)}"
        )
    if (prod(out_modes), prod(in_modes)) != (rows, cols) or min(*out_modes, *in_modes) < 1:
        (m1, m2), (n1, n2) = out_modes, in_modes
        raise ValueError(
            f"factors {m1} x {n1} and {m2} x {n2} (out_modes {tuple(out_modes)}, in_modes "
            f"{tuple(in_modes)}) give {m1 * m2} x {n1 * n2}, but the matrix is {rows} x {cols}"
        )
    return tuple(out_modes), tuple(in_modes)
