"""Hadamard matrices, and the orthogonal matrices made of them that spread an outlier over a row.

A Hadamard matrix has entries 1 and -1 and orthogonal rows. Divided by the root of its width it is
orthogonal, and every entry has the same size: no channel is large any more. With random signs in
front, no fixed pattern of the inputs can undo that.
"""

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import require


def hadamard(n: int) -> Float[Tensor, "n n"]:
    """Return a Hadamard matrix of n rows, with 1 and -1, in float64.

    Sylvester's doubling of the smallest core that n allows: 1, or one of Paley's, whose width is
    q + 1 (q a prime, 3 over a multiple of 4) or 2 (q + 1) (q a prime, 1 over one). So 12, 20, 28,
    36, 44, 48, 60 ..., and each times a power of 2.

    Raises:
        ValueError: none that we can build.

    Source: Paley 1933, *On orthogonal matrices*; Sylvester 1867.

    >>> h = hadamard(576)
    >>> torch.equal(h @ h.T, 576 * torch.eye(576, dtype=torch.float64))
    True
    """
    if not (found := _core(require("hadamard: n", n, int))):
        raise ValueError(
            f"no Hadamard matrix of {n} rows is known here: it takes 1, 2, or Paley's widths (12, "
            "20, 28, 36 ...) times a power of 2; spread(n) uses blocks instead"
        )
    core, doublings = found
    h = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
    for _ in range(doublings):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def spread(n: int, seed: int = 0, *, keep_ones: bool = False) -> Float[Tensor, "n n"]:
    """Return an orthogonal matrix R that spreads each channel of x R over many, in float64.

    R = diag(random signs) H / sqrt(n). A width without a Hadamard matrix gets equal blocks of its
    largest divisor that has one: 2 for 18, and 1 for an odd width, which gets signs alone.

    Args:
        keep_ones: the vector of ones stays itself under R, so that R may pass a LayerNorm: it then
            keeps the mean of a row. A Householder reflection, which changes each entry by about
            1 / n, sees to it.

    >>> r = spread(12, seed=1, keep_ones=True)
    >>> torch.allclose(r.sum(1), torch.ones(12).double())
    True
    """
    if require("spread: n", n, int) < 1:
        raise ValueError(f"a width is at least 1, got {n}")
    block = max(d for d in range(1, n + 1) if n % d == 0 and _core(d))
    h = torch.block_diag(*[hadamard(block) / sqrt(block)] * (n // block))
    generator = torch.Generator().manual_seed(require("spread: seed", seed, int))
    signs = torch.randint(2, (n, 1), generator=generator).double() * 2 - 1
    r = signs * h
    if keep_ones:
        ones = torch.ones(n, dtype=torch.float64)
        u = ones @ r - ones  # what the ones become, less themselves
        if bool((length := u.norm()) > 1e-9):
            u = u / length
            r = r - 2 * torch.outer(r @ u, u)
    return r


def _core(n: int) -> tuple[int, int] | None:
    """Return (core, how often it is doubled) for a width, None where there is no core."""
    doublings = 0
    cores = []
    while n >= 1:
        if n == 1 or _kind(n):
            cores.append((n, doublings))
        if n % 2:
            break
        n, doublings = n // 2, doublings + 1
    return cores[-1] if cores else None  # the smallest


def _kind(n: int) -> int | None:
    """Return the prime behind Paley's matrix of n rows; negative for the second kind."""
    if n % 4 == 0 and _is_prime(n - 1):
        return n - 1
    if n % 4 == 0 and (n // 2 - 1) % 4 == 1 and _is_prime(n // 2 - 1):
        return -(n // 2 - 1)
    return None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(sqrt(n)) + 1))


def _paley(n: int) -> Float[Tensor, "n n"]:
    """Return Paley's matrix: ones around the table of which differences are squares."""
    q = abs(_kind(n))
    squares = {x * x % q for x in range(1, q)}
    residue = torch.tensor([0, *(1 if x in squares else -1 for x in range(1, q))]).double()
    at = torch.arange(q)
    table = residue[(at[:, None] - at[None]) % q]  # Jacobsthal's matrix
    first = _kind(n) > 0
    c = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    c[0, 1:], c[1:, 0], c[1:, 1:] = 1, -1 if first else 1, table
    one = torch.eye(q + 1, dtype=torch.float64)
    if first:
        return c + one
    pair = torch.tensor([[1, 1], [1, -1]]).double(), torch.tensor([[1, -1], [-1, -1]]).double()
    return torch.kron(c, pair[0]) + torch.kron(one, pair[1])
