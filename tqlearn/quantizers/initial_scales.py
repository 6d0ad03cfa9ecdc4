"""Where a quantizer starts: one function per rule that looks at a tensor and proposes its clips.

A rule is a string: "lsq", "max", "mse", "kl", "sigma", "truncation", "percentile"; the last two
take a number, as in "truncation=0.05". Every rule works on rows, one start for each.
"""

from math import ceil, sqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..precision import is_finite, widened

# spec sheet KDLSQ, 3.3 for 2, 3, 4 and 8 bits; 5 to 7 lie between them and are our choice
GAMMA = {2: 0.05, 3: 0.05, 4: 0.02, 5: 0.01, 6: 0.005, 7: 0.002, 8: 0.001}
PERCENTILE = 0.001  # spec sheet Deep Compression, 4.4: 0.1 % at either end
LARGE = 2**24  # elements: what is larger is walked through in parts
RULES = ("lsq", "max", "mse", "kl", "sigma", "truncation", "percentile")


def parse_rule(rule: str) -> tuple[str, float | None]:
    """Return (name, number or None) of a rule such as "truncation=0.05".

    Raises:
        ValueError: an unknown rule, or a number that the rule does not take.

    >>> parse_rule("truncation=0.05"), parse_rule("mse")
    (('truncation', 0.05), ('mse', None))
    """
    name, equals, number = rule.partition("=")
    if name not in RULES:
        raise ValueError(f"init is one of {RULES}, got {rule!r}")
    if not equals:
        return name, None
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if name not in ("truncation", "percentile") or not 0 <= value < 0.5:
        raise ValueError(
            f"init {rule!r}: only truncation and percentile take a number, from 0 to below 0.5, "
            "such as 'truncation=0.05'"
        )
    return name, value


def require_finite(x: Float[Tensor, "..."]) -> None:
    """Raise a ValueError for an empty tensor or one with a NaN or infinite entry, for one on meta
    and for integers.
    """
    if x.is_meta:
        raise ValueError(
            f"a scale needs numbers to start from, but a tensor shaped {(*x.shape,)} is on meta; "
            "load the weights, or give real batches"
        )
    if not x.is_floating_point():
        raise ValueError(
            f"a scale starts from floats, got {x.dtype} of shape {(*x.shape,)}; integers need no "
            "quantizer, so leave this place out or give a batch of floats"
        )
    if x.numel() == 0 or not is_finite(x):
        raise ValueError(
            f"a scale needs finite values to start from, got shape {(*x.shape,)} with "
            f"{int((~torch.isfinite(x)).sum())} NaN or infinite entries"
        )


def truncation(
    x: Float[Tensor, "rows n"], gamma: float
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return what remains of each row's range when ``gamma`` of its entries are cut, half per tail.

    Source: spec sheet KDLSQ, 3.1, with the upper index n - 1 - k (n - k is one too far at k = 0).

    >>> low, high = truncation(torch.arange(100.0)[None], gamma=0.1)
    >>> low.item(), high.item()
    (5.0, 94.0)
    """
    n = x.shape[1]
    k = min(round(gamma * n / 2), (n - 1) // 2)
    if 64 * (k + 1) <= n <= LARGE:  # so few of many are soon found; a search takes less memory
        ends = (x.topk(k + 1, 1, largest, sorted=False).values for largest in (False, True))
        return next(ends).amax(1), next(ends).amin(1)
    return x.kthvalue(k + 1, 1).values, x.kthvalue(n - k, 1).values


def histogram_kl(x: Float[Tensor, " n"], bits: int) -> Float[Tensor, ""]:
    """Return the clip of |x| whose coarse cumulative histogram diverges least from the fine one.

    Source: spec sheet KDLSQ, 3.2. Both resamplings keep the end points.
    """
    size = x.abs()
    top, n, points = size.max(), x.numel(), 2 ** (bits - 1)
    bins = ceil(sqrt(n))
    if bins <= points or top == 0:
        return top
    counts = torch.histc(size.float(), bins, 0, float(top)).double()
    fine = counts.cumsum(0) / n
    divergence = []
    for i in range(points + 1, bins + 1):
        clipped = fine.clone()
        clipped[i - 1 :] = 1
        coarse = _resample(clipped[:i], points)
        clipped[:i] = _resample(coarse, i)
        ratio = (fine + 1e-12) / (clipped + 1e-12)
        divergence.append(((fine - clipped) * ratio.log2()).sum())
    best = int(torch.stack(divergence).argmin()) + points + 1
    return ((best + 0.5) * top / bins).clamp_max(top)


def _resample(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x[None, None], size=size, mode="linear", align_corners=True)[0, 0]


def start_bounds(
    x: Float[Tensor, "rows n"], rule: str, bits: int
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return the (low, high) clips of each row by "max", "truncation", "percentile" or "sigma".

    "sigma" gives three standard deviations about the mean, widened to be symmetric (LSQ+).

    Raises:
        ValueError: a rule that knows symmetric clips only.
    """
    name, number = parse_rule(rule)
    x = widened(x)
    if name == "max":
        return x.amin(1), x.amax(1)
    if name in ("truncation", "percentile"):
        if name == "percentile":
            number = 2 * (PERCENTILE if number is None else number)
        return truncation(x, GAMMA[bits] if number is None else number)
    if name == "sigma":
        mean, spread = x.mean(1), 3 * x.std(1, unbiased=False)
        clip = torch.maximum((mean - spread).abs(), (mean + spread).abs())
        return -clip, clip
    raise ValueError(
        f"init {rule!r} gives one clip for both sides; two-sided clips start from 'max', "
        "'truncation', 'percentile' or 'sigma'"
    )


def start_scale(
    x: Float[Tensor, "rows n"], rule: str, bits: int, qmin: int, qmax: int
) -> Float[Tensor, " rows"]:
    """Return each row's start scale for a grid through zero, qmin .. qmax.

    "lsq": 2 mean|x| / sqrt(qmax). "max": max|x| / qmax, which clips nothing. "mse": the one of 80
    fractions of that with the least squared error. "kl": ``histogram_kl``. All others: the larger
    of the two clips of ``start_bounds`` over qmax.

    Source: Esser et al. 2020, section 2.1 ("lsq"); spec sheet KDLSQ, section 3.
    """
    name, _ = parse_rule(rule)
    x = widened(x)
    if name == "lsq":
        return 2 * _mean_size(x) / sqrt(qmax)
    if name == "kl":
        return torch.stack([histogram_kl(row, bits) for row in x]).to(x.dtype) / qmax
    if name in ("max", "mse"):
        low, high = x.aminmax(dim=1)
        widest = torch.maximum(-low, high) / qmax
        return widest if name == "max" else least_squares(x, qmin, qmax)
    low, high = start_bounds(x, rule, bits)
    return torch.maximum(low.abs(), high.abs()) / qmax


def least_squares(
    x: Float[Tensor, "rows n"],
    qmin: int,
    qmax: int,
    weights: Float[Tensor, "rows n"] | None = None,
) -> Float[Tensor, " rows"]:
    """Return for each row the one of 80 fractions of max|x| / qmax with the least squared error.

    Args:
        weights: what each squared error counts; None for all alike.
    """
    x = widened(x)
    low, high = x.aminmax(dim=1)
    tried = torch.maximum(-low, high) / qmax * torch.arange(1, 81, device=x.device)[:, None] / 80
    tried, errors = tried.clamp_min(1e-8).to(x.dtype), []
    for s in tried:
        error = (x / s[:, None]).round_().clamp_(qmin, qmax).mul_(s[:, None]).sub_(x).square_()
        errors.append((error if weights is None else error.mul_(weights)).sum(1))
    return tried.gather(0, torch.stack(errors).argmin(0)[None])[0]


def _mean_size(x: Tensor) -> Tensor:
    """Return the mean of |x| of each row; of a large tensor without a second one of its size."""
    if x.numel() <= LARGE:
        return x.abs().mean(1)
    parts = x.split(max(1, LARGE // len(x)), dim=1)
    return (sum(part.abs().sum(1, dtype=torch.float64) for part in parts) / x.shape[1]).to(x.dtype)
