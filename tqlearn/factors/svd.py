"""The leading singular triples of a matrix, three ways, with the exact norm of what is left out.

A full SVD of a long matrix computes far more than a compressed layer keeps. The two other ways work
on the Gram matrix of the short side, which is small, and measure afterwards what they lost.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import require
from ..precision import is_finite

METHODS = ("auto", "exact", "gram", "filter")
FLOOR = 1e-3  # what is left, as a share of all squares; rounding blurs smaller differences


def check_finite(tensor: Float[Tensor, "..."]) -> None:
    """Raise a ValueError if an entry is NaN or infinite, or there is none, on meta."""
    if tensor.is_meta:
        raise ValueError(
            f"an SVD needs numbers, but a tensor shaped {(*tensor.shape,)} is on meta; load the "
            "weights first, or start with init='random'"
        )
    if not is_finite(tensor):
        raise ValueError(
            f"a tensor with NaN or infinite entries has no SVD; got one shaped {(*tensor.shape,)}"
        )


def allowed_norm(tensor: Float[Tensor, "..."], error: float | None) -> float | None:
    """Return the norm that a relative error stands for, None for none.

    Raises:
        ValueError: an error outside 0 to 1.
    """
    if error is None:
        return None
    if not 0 <= require("error", error, float) < 1:
        raise ValueError(f"a relative error is at least 0 and below 1, got {error}")
    return error * float(squares(tensor).sqrt())


def squares(tensor: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the sum of squares in float64, added up piece by piece: no second copy.

    >>> float(squares(torch.full((2, 3), 2.0)))
    24.0
    """
    rows = max(1, 2**18 * len(tensor) // max(1, tensor.numel()))
    pieces = (part.double().flatten() for part in tensor.detach().split(rows))
    return sum((piece.dot(piece) for piece in pieces), tensor.new_zeros((), dtype=torch.float64))


def truncated_svd(
    matrix: Float[Tensor, "m n"], rank: int, method: str = "auto"
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r"], Float[Tensor, "r n"], Float[Tensor, ""]]:
    """Return the ``rank`` leading singular triples (u, s, v) and the norm of what they leave out.

    Args:
        rank: clipped to the short side.
        method: "exact" is LAPACK's SVD. "gram" takes the eigenvectors of the short side's Gram
            matrix in float64; singular values below 1e-8 of the first are lost in rounding.
            "filter" finds the leading eigenvectors only, by iterating a block of rank + 10 vectors
            through a Chebyshev polynomial of the Gram matrix until the energy left out changes by
            less than one part in 100,000. "auto" takes the cheapest that is safe: "exact" below
            half a million entries (4 million in float64), "filter" for large ones of low rank.

    Returns:
        u and v have orthonormal columns and rows (to 100 eps) whichever way they were found, so the
        last value *is* the distance from ``matrix`` to u s v, in float64. Where it is too small to
        be told from rounding (3 % of the norm), "filter" hands over to "gram" or "exact" by itself.

    Raises:
        ValueError: an unknown method, or a rank below 1.

    The start vectors have a seed of their own: the same matrix gives the same factors, and torch's
    random numbers stay where they were.

    Source: Zhou, Saad et al. 2006 (Chebyshev-filtered subspace iteration); Halko et al. 2011 for
    the random start.

    >>> w = torch.randn(300, 40) @ torch.randn(40, 500)
    >>> u, s, v, dropped = truncated_svd(w, rank=10, method="filter")
    >>> torch.allclose(s, torch.linalg.svdvals(w)[:10], rtol=1e-4)
    True
    >>> torch.allclose((w - u * s @ v).norm(), dropped.float(), rtol=1e-4)
    True
    """
    rank = require("rank", rank, int)
    short, long = sorted(matrix.shape)
    if method not in METHODS or rank < 1:
        raise ValueError(
            f"method is one of {METHODS} and rank at least 1, got method={method!r}, rank={rank}"
        )
    rank = min(rank, short)
    if matrix.shape[0] < matrix.shape[1]:
        u, s, v, dropped = truncated_svd(matrix.T, rank, method)
        return v.T, s, u.T, dropped
    method = _cheapest(matrix, rank) if method == "auto" else method
    if method == "exact":
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank], s[rank:].double().norm()
    if method == "filter":
        basis = _leading(_gram(matrix, matrix.dtype), rank, matrix.dtype)
        u, s, v, kept = _project(matrix, basis)
        total = squares(matrix if matrix.is_contiguous() else matrix.T)
        left = total - kept
        if rank == short:
            return u, s, v, torch.zeros_like(left)
        if left > FLOOR * total:
            return u, s, v, left.sqrt()
        return truncated_svd(matrix, rank, "gram" if long >= 4 * short else "exact")
    energies, vectors = torch.linalg.eigh(_gram(matrix, torch.float64))  # ascending
    u, s, v, _ = _project(matrix, vectors.flip(1)[:, :rank].to(matrix.dtype))
    return u, s, v, energies[: short - rank].clamp(min=0).sum().sqrt()


def leading(
    matrix: Float[Tensor, "m n"], rank: int | None, allowed: float | None, method: str = "auto"
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r"], Float[Tensor, "r n"], Float[Tensor, ""]]:
    """Return ``truncated_svd`` with no more triples than the norm ``allowed`` to be lost needs.

    Args:
        rank: the upper limit, kept even if more is lost then; None for the short side.
        allowed: None for ``rank`` triples.

    >>> u, s, v, dropped = leading(torch.diag(torch.tensor([4.0, 2.0, 1.0])), None, allowed=1.5)
    >>> [round(x, 5) for x in s.tolist()], round(float(dropped), 5)
    ([4.0, 2.0], 1.0)
    """
    limit = min(matrix.shape) if rank is None else rank
    u, s, v, dropped = truncated_svd(matrix, limit, method)
    if allowed is None:
        return u, s, v, dropped
    lost = tails(s, dropped)
    keep = enough(lost, allowed)
    return u[:, :keep], s[:keep], v[:keep], lost[keep]


def tails(s: Float[Tensor, "r"], dropped: Float[Tensor, ""]) -> Float[Tensor, "_"]:
    """Return the norm lost by keeping 0, 1, .. r singular values; ``dropped`` by keeping all."""
    squared = s.double().square().flip(0).cumsum(0).flip(0) + dropped**2
    return torch.cat([squared.sqrt(), dropped.double()[None]])


def enough(lost: Float[Tensor, "_"], allowed: float) -> int:
    """Return how many to keep, one at least, to lose no more than a norm; ``lost`` of ``tails``."""
    return max(1, int((lost[:-1] > allowed * (1 + 1e-12)).sum()))  # they fall: these come first


def _cheapest(matrix: Float[Tensor, "m n"], rank: int) -> str:
    """Return the method that "auto" stands for, for a matrix that is at least as long as wide."""
    long, short = matrix.shape
    if matrix.numel() < 2**19 or (matrix.dtype == torch.float64 and matrix.numel() < 2**22):
        return "exact"
    if matrix.dtype != torch.float64 and (short <= 128 or 4 * rank <= short):
        return "filter"
    return "gram" if long >= 4 * short else "exact"


def _gram(matrix: Float[Tensor, "m n"], dtype: torch.dtype) -> Float[Tensor, "n n"]:
    """Return matrix^T matrix in float64, summed over blocks of rows that are multiplied in
    ``dtype``; no second copy of the matrix.
    """
    total = matrix.new_zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for part in matrix.split(max(1, 2**20 // matrix.shape[1] // 4096) * 4096):
        whole = len(part) // 4096 * 4096
        blocks = part[:whole].to(dtype).unflatten(0, (-1, 4096)) if whole else part[None, :0]
        total += (blocks.mT @ blocks).double().sum(0) if whole else 0
        rest = part[whole:].to(dtype)
        total += (rest.T @ rest).double()
    return total


def _leading(gram: Float[Tensor, "n n"], rank: int, dtype: torch.dtype) -> Float[Tensor, "n r"]:
    """Return the leading eigenvectors of a positive semidefinite matrix; iterated in float32."""
    n, size = len(gram), rank + 10
    if n <= 128 or 2 * size >= n:
        return torch.linalg.eigh(gram)[1].flip(1)[:, :rank].to(dtype)
    total, before, gram = gram.trace(), -torch.inf, gram.float()
    seeded = torch.Generator(gram.device).manual_seed(0)
    block = gram @ torch.randn(n, size, generator=seeded, device=gram.device)
    for _ in range(50):
        block = torch.linalg.qr(block)[0]
        ritz, turn = torch.linalg.eigh((block.T @ gram @ block).double())
        block, now = block @ turn.float(), ritz[-rank:].sum()
        if now - before < 1e-5 * (total - now) or total - now <= FLOOR * total:
            break
        before, low = now, max(float(ritz[0]), 1e-6 * float(ritz[-1]))
        heavy = size - max(1, int((ritz < 2.5 * low).sum()))  # would drown the others
        light, lead, rest = block[:, : size - heavy], block[:, size - heavy :], gram
        for _ in range(3 if heavy else 0):
            lead = torch.linalg.qr(gram @ lead)[0]
        for _ in range(2 if heavy else 0):
            rest = (rest - lead @ (lead.T @ rest)).T
        block = torch.cat([lead, _filtered(rest, light, low)], dim=1)
    return torch.linalg.qr(block.flip(1)[:, :rank].to(dtype))[0]


def _filtered(
    gram: Float[Tensor, "n n"], block: Float[Tensor, "n b"], low: float, degree: int = 6
) -> Float[Tensor, "n b"]:
    """Apply a Chebyshev polynomial that is at most 1 on [0, low] and grows fast above."""
    center = low / 2
    last, block = block, gram @ block / center - block
    for _ in range(degree - 1):
        last, block = block, 2 * (gram @ block / center - block) - last
    return block


def _project(
    matrix: Float[Tensor, "m n"], basis: Float[Tensor, "n r"]
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r"], Float[Tensor, "r n"], Float[Tensor, ""]]:
    """Return the singular triples of the matrix restricted to an orthonormal basis of its rows,
    and the sum of their squares in float64.

    A basis of eigenvectors, the leading first, leaves orthogonal columns: only their lengths are
    missing then.
    """
    rows_first = matrix.stride(0) >= matrix.stride(1)  # write in the order that will be read
    columns = matrix @ basis if rows_first else (basis.T @ matrix.T).T
    s = sum(part.double().square().sum(0) for part in columns.split(4096)).sqrt()
    # not from the rounded s and basis: 1e-7 of all squares is 1e-5 of a hundredth that is left
    kept = (s / basis.double().norm(dim=0)).square().sum()
    cosines = _gram(columns, columns.dtype) / (s[:, None] * s)
    if (cosines - torch.eye(len(s)).to(s)).abs().max() < 100 * torch.finfo(matrix.dtype).eps:
        s = s.to(matrix.dtype)
        return columns.div_(s), s, basis.T, kept
    q, r = _tall_qr(columns)
    u, s, v = torch.linalg.svd(r)
    return q @ u, s, v @ basis.T, kept


def _tall_qr(matrix: Float[Tensor, "m n"]) -> tuple[Float[Tensor, "m n"], Float[Tensor, "n n"]]:
    """Return the QR factors of a tall matrix, found block by block.

    LAPACK sums a column of millions in float32 to four digits; short columns keep seven.
    """
    rows = max(4096, 4 * matrix.shape[1])
    if len(matrix) <= rows:
        q, r = torch.linalg.qr(matrix)
        return q, r
    lower = [torch.linalg.qr(part) for part in matrix.split(rows)]
    upper, r = _tall_qr(torch.cat([part.R for part in lower]))
    turns = upper.split([len(part.R) for part in lower])
    return torch.cat([part.Q @ turn for part, turn in zip(lower, turns, strict=True)]), r
