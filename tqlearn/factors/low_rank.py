"""A matrix as the product of two thin ones: the plain baseline of every other factorization."""

from jaxtyping import Float
from torch import Tensor

from ..precision import widened
from .svd import allowed_norm, check_finite, leading


def low_rank(
    matrix: Float[Tensor, "m n"],
    rank: int | None = None,
    *,
    error: float | None = None,
    method: str = "auto",
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r n"], Float[Tensor, ""]]:
    """Return the factors of the nearest matrix of a given rank: matrix ~ left @ right.

    Args:
        rank: clipped to the short side; None for all of it.
        error: keep only as many columns as this relative error needs.
        method: of the SVD, see ``svd.truncated_svd``.

    Returns:
        Both factors with the square roots of the singular values on them, and the norm of the
        dropped ones, in float64, which *is* the error in the Frobenius norm.

    Raises:
        ValueError: a rank below 1, an error outside 0 to 1, or a NaN or infinite entry.

    Source: Eckart and Young 1936.

    >>> import torch
    >>> w = torch.randn(24, 36)
    >>> left, right, dropped = low_rank(w, rank=5)
    >>> left.shape, right.shape
    (torch.Size([24, 5]), torch.Size([5, 36]))
    >>> torch.allclose((w - left @ right).norm(), dropped.float(), rtol=1e-4)
    True
    """
    check_finite(matrix)
    wide = widened(matrix)
    u, s, v, dropped = leading(wide, rank, allowed_norm(wide, error), method)
    root = s.sqrt()
    return (u * root).to(matrix.dtype), (root[:, None] * v).to(matrix.dtype), dropped
