"""Integers only: modes, ranks, and the counts of parameters, MACs and bytes that follow from them.

One MAC is one multiply and one add; FLOPs are twice the MACs. A "mode" is the size of one axis of
the reshaped weight; ``ranks`` always include the two outer ones, which are 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod
from numbers import Integral

from .arguments import require

Ranks = int | Sequence[int]
MOST = 64  # modes on a side: a tensor of torch has no more axes


def factorize(n: int, order: int) -> tuple[int, ...]:
    """Split ``n`` into ``order`` factors that are as equal as its prime factors allow, ascending.

    The largest prime goes to the smallest product so far, so 768 in three becomes 8 x 8 x 12.

    Raises:
        ValueError: ``n`` or ``order`` is below 1.

    >>> factorize(768, 3), factorize(768, 2), factorize(7, 2)
    ((8, 8, 12), (24, 32), (1, 7))
    """
    _check_order(n, order)
    factors = [1] * order
    for p in reversed(_primes(n)):
        factors[factors.index(min(factors))] *= p
    return tuple(sorted(factors))


def cover(n: int, order: int) -> tuple[int, ...]:
    """Return ``order`` near-equal modes whose product is at least ``n``, for tables that get
    padded.

    >>> cover(30522, 3), cover(1000, 3)
    ((31, 31, 32), (10, 10, 10))
    """
    _check_order(n, order)
    modes = [1] * order
    while prod(modes) < n:
        modes[modes.index(min(modes))] += 1
    return tuple(sorted(modes))


def divisors(n: int) -> list[int]:
    """Return the divisors of ``n``, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [d for d in range(1, n + 1) if n % d == 0]


def _check_order(n: int, order: int) -> None:
    require("a size", n, int)
    require("an order", order, int)
    if n < 1 or not 1 <= order <= MOST:
        raise ValueError(
            f"a size and an order of at least 1 are needed, and an order of {MOST} at most, got "
            f"n={n}, order={order}"
        )


def _primes(n: int) -> list[int]:
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found + [n] * (n > 1)


def tt_ranks(modes: Sequence[int], ranks: Ranks) -> tuple[int, ...]:
    """Return the ranks of a tensor train over ``modes``, clipped to what an exact train needs.

    Args:
        modes: sizes of the axes, ``d`` of them.
        ranks: one integer, the limit for every inner rank, or all ``d + 1`` ranks with outer 1s.

    A rank above min(product of the modes before it, product after it) only stores zeros.

    Raises:
        ValueError: a rank is below 1, there are not ``d + 1`` of them, or an outer one is not 1.
        TypeError: a rank is no whole number.

    >>> tt_ranks((24, 32, 32, 24), 30)
    (1, 24, 30, 24, 1)
    """
    d = len(modes)
    ranks = require("ranks", ranks, Ranks)
    if isinstance(ranks, int):
        ranks = (1, *[ranks] * (d - 1), 1)
    if len(ranks) != d + 1 or ranks[0] != 1 or ranks[-1] != 1:
        raise ValueError(
            f"{d} modes {tuple(modes)} need {d + 1} ranks that start and end with 1, got {ranks}"
        )
    if min(*ranks, *modes) < 1:
        raise ValueError(f"ranks and modes are at least 1, got ranks {ranks}, modes {tuple(modes)}")
    limits = [min(prod(modes[:k]), prod(modes[k:])) for k in range(d + 1)]
    return tuple(min(r, limit) for r, limit in zip(ranks, limits, strict=True))


def tt_parameters(modes: Sequence[int], ranks: Ranks) -> int:
    """Count the numbers in a tensor train: the sum of rank before x mode x rank after.

    The ranks are taken as written when all are given (the papers' arithmetic), clipped when one
    integer stands for all.

    >>> tt_parameters((24, 32, 32, 24), (1, 24, 30, 24, 1))
    47232
    """
    ranks = tt_ranks(modes, ranks) if isinstance(ranks, Integral) else tuple(ranks)
    return sum(r * m * s for m, (r, s) in zip(modes, pairwise(ranks), strict=True))


def ttm_parameters(row_modes: Sequence[int], col_modes: Sequence[int], ranks: Ranks) -> int:
    """Count the numbers in a tensor-train matrix, whose core k is (rank, row, column, rank).

    >>> ttm_parameters((16, 20, 10, 10), (4, 4, 8, 6), (1, 20, 20, 20, 1))
    66480
    """
    return tt_parameters([v * e for v, e in zip(row_modes, col_modes, strict=True)], ranks)


def merge_macs(modes: Sequence[int], ranks: Sequence[int]) -> int:
    """Count the MACs that merge a chain of cores, from its open end towards the shared rank.

    ``ranks[0]`` belongs to the open end (1), so the running product of modes stays small.
    """
    cost, size = 0, modes[0]
    for mode, (r, s) in zip(modes[1:], pairwise(ranks[1:]), strict=True):
        cost += size * r * mode * s
        size *= mode
    return cost


def tt_macs(out_modes: Sequence[int], in_modes: Sequence[int], ranks: Ranks, tokens: int) -> int:
    """Count the MACs of one tensor-train layer: both halves merged once, then ``tokens`` products.

    Source: spec sheet QTC 2.2; the per-token part is r_p (M + N), the dense layer's is M N.

    >>> tt_macs((24, 32), (32, 24), (1, 24, 30, 24, 1), tokens=128)
    7004160
    """
    p = len(out_modes)
    ranks = tt_ranks((*out_modes, *in_modes), ranks)
    left = merge_macs(out_modes, ranks[: p + 1])
    right = merge_macs(in_modes[::-1], ranks[p:][::-1])
    return left + right + tokens * ranks[p] * (prod(out_modes) + prod(in_modes))


def dense_macs(out_features: int, in_features: int, tokens: int) -> int:
    """Count the MACs of a dense layer."""
    return out_features * in_features * tokens


def low_rank_parameters(out_features: int, in_features: int, rank: int) -> int:
    """Count the numbers in a plain low-rank pair, the baseline next to every tensor train.

    >>> low_rank_parameters(768, 768, 30)  # less than the tensor train A4 of the same rank
    46080
    """
    return rank * (out_features + in_features)


def kronecker_parameters(out_modes: Sequence[int], in_modes: Sequence[int], rank: int = 1) -> int:
    """Count the numbers in a sum of ``rank`` Kronecker products, m1 x n1 by m2 x n2 each.

    Args:
        out_modes: (m1, m2). in_modes: (n1, n2). KroneckerBERT's table lists "n1, m1".

    Source: spec sheet KroneckerBERT, 1.3.

    >>> kronecker_parameters((384, 2), (48, 16))  # KroneckerBERT_21's attention
    18464
    """
    (m1, m2), (n1, n2) = out_modes, in_modes
    return rank * (m1 * n1 + m2 * n2)


def kronecker_macs(out_modes: Sequence[int], in_modes: Sequence[int]) -> tuple[int, int]:
    """Count the MACs per token and product: right factor first, left factor first.

    Source: spec sheet KroneckerBERT, 1.3.

    >>> kronecker_macs((8, 384), (2, 384))  # the FFN's first matrix: right first costs a quarter
    (301056, 1185792)
    """
    (m1, m2), (n1, n2) = out_modes, in_modes
    return n1 * n2 * m2 + m1 * n1 * m2, m1 * n1 * n2 + m1 * n2 * m2


def kronecker_flops(out_modes: Sequence[int], in_modes: Sequence[int], rank: int = 1) -> int:
    """Count the FLOPs per token as the paper does: adds and multiplies of the cheaper order.

    Source: spec sheet KroneckerBERT, 1.3. A sum over n terms has n - 1 adds, so the dense matrix
    counts (2 n - 1) m.

    >>> kronecker_flops((384, 2), (384, 2))
    591360
    """
    (m1, m2), (n1, n2) = out_modes, in_modes
    right_first = (2 * n2 - 1) * m2 * n1 + (2 * n1 - 1) * m2 * m1
    left_first = (2 * n1 - 1) * n2 * m1 + (2 * n2 - 1) * m2 * m1
    return rank * min(right_first, left_first)


def packed_bytes(numel: int, bits: int) -> int:
    """Count the bytes of ``numel`` codes of ``bits`` bits, packed without gaps.

    >>> packed_bytes(10, 4), packed_bytes(10, 3), packed_bytes(3, 32)
    (5, 4, 12)
    """
    return ceil(numel * bits / 8)


def bert_parameters(
    *,
    vocab: int = 30522,
    hidden: int = 768,
    layers: int = 12,
    ffn: int = 3072,
    positions: int = 512,
    types: int = 2,
    pooler: bool = True,
) -> dict[str, int]:
    """Count the parameters of a BERT encoder by group; the defaults are BERT-base.

    >>> sum(bert_parameters().values())
    109482240
    """
    counts = {
        "word embeddings": vocab * hidden,
        "position embeddings": positions * hidden,
        "token types": types * hidden,
        "attention": layers * 4 * hidden * hidden,
        "feed-forward": layers * 2 * hidden * ffn,
        "biases": layers * (5 * hidden + ffn),
        "layer norms": (2 * layers + 1) * 2 * hidden,
    }
    return counts | ({"pooler": hidden * hidden + hidden} if pooler else {})
