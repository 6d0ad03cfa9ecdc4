"""Integer arithmetic behind quantized layers: products, and I-BERT's GELU, softmax and LayerNorm.

A real number is scale * code (I-BERT), or low + scale * code (FullyQT's min-max grid). What a chip
does in 32 bits is done here in int64, so that a scale that is too fine gives a right answer, not an
overflow; ``product`` really sums in int32.
"""

from math import floor, frexp, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Codes = Int[Tensor, "..."]
ERF = (-0.2888, -1.769, 1.0)  # a (x + b)^2 + c
EXP = (0.35815147, 0.96963238 / 0.35815147 / 2, 1 - 0.96963238**2 / 0.35815147 / 4)
DROPPED = 14  # low bits of the erf that the GELU does without


def product(
    x: Int[Tensor, "n k"],
    weight: Int[Tensor, "m k"],
    x_grid: tuple[Tensor, Tensor],
    weight_grid: tuple[Tensor, Tensor],
) -> Float[Tensor, "n m"]:
    """Return the product of two tensors on min-max grids, summed in int32.

    With x = s q + l and w = t p + r, the sum over k of x w is
    s t sum(q p) + s r sum(q) + l t sum(p) + k l r: one integer product and two integer sums.

    Args:
        x, weight: codes 0 to 255.
        x_grid: (scale, low), one number each: a range per feature would not leave the sum.
        weight_grid: (scale, low), numbers or one per row.

    Raises:
        ValueError: a range per feature, or so long a sum that int32 could overflow.

    Source: spec sheet FullyQT, sections 5 and 9, check 7.

    >>> grid = torch.tensor(0.5), torch.tensor(-1.0)
    >>> product(torch.tensor([[0, 2, 4]]), torch.tensor([[1, 1, 3]]), grid, grid).tolist()
    [[1.0]]
    """
    (s, low), (t, r) = x_grid, weight_grid
    if s.numel() > 1 or low.numel() > 1:
        raise ValueError(
            f"the sum runs over the features, so they must share one range; got {s.numel()} of "
            'them: quantize this place with MinMax(bits, bucket="tensor")'
        )
    k = x.shape[1]
    if k * 255**2 >= 2**31:
        raise ValueError(f"{k} products of 8-bit codes may overflow int32; at most 33025 do not")
    q, p = x.to(torch.int32), weight.to(torch.int32)
    t, r = t.reshape(-1), r.reshape(-1)
    sums = q.sum(1, keepdim=True, dtype=torch.int32), p.sum(1, dtype=torch.int32)
    total = q @ p.T
    s, low, t, r = s.double(), low.double(), t.double(), r.double()  # four large terms cancel
    return (s * t * total + s * r * sums[0] + low * t * sums[1] + k * low * r).float()


@torch.no_grad()
def linear(
    layer: nn.Linear, point: nn.Module, x: Float[Tensor, "... in"]
) -> Float[Tensor, "... out"]:
    """Return what a min-max quantized layer gives for what left a quantized point, in integers.

    Args:
        layer: with ``ranges.Uniform`` on its weight.
        point: the quantizer in front of it, one range for its tensor.

    >>> from tqlearn import MinMax
    >>> layer, point = nn.Linear(4, 3), MinMax(8, bucket="tensor").quantizer(activation=True)
    >>> layer, x = MinMax(8)(layer), torch.randn(2, 5, 4)
    >>> out = layer(point(x))
    >>> bool(torch.allclose(linear(layer, point, x), out, atol=1e-5))
    True
    """
    chain = layer.parametrizations.weight
    q = chain[-1]
    codes = q.codes(chain.original)
    grids = (point.scale, point.low), (q.scale, q.low)
    out = product(point.codes(x).flatten(0, -2), codes, *grids)
    return (out if layer.bias is None else out + layer.bias).unflatten(0, x.shape[:-1])


def polynomial(q: Codes, scale: float, a: float, b: float, c: float) -> tuple[Codes, float]:
    """Return codes and scale of a (x + b)^2 + c for x = scale * q, computed on integers.

    Source: spec sheet FullyQT, section 9.
    """
    out = a * scale**2
    return (q + floor(b / scale)) ** 2 + floor(c / out), out


def gelu(q: Codes, scale: float) -> tuple[Codes, float]:
    """Return codes and scale of GELU: x / 2 (1 + erf(x / sqrt 2)), erf by a polynomial.

    Feed it the fine scale of an accumulator, 16 bits or more, and quantize after it: with a scale
    of 8 bits the 14 low bits that it drops are all there is.

    >>> out, scale = gelu(torch.tensor([10000, 20000]), 1e-4)
    >>> [round(value, 2) for value in (out * scale).tolist()]  # exactly 0.841 and 1.954
    [0.84, 1.96]
    """
    a, b, c = ERF
    inner = scale / sqrt(2)
    erf, erf_scale = polynomial(q.abs().clamp_max(floor(-b / inner)), inner, a, b, c)
    erf, erf_scale = (erf * q.sign()) >> DROPPED, erf_scale * 2**DROPPED
    return q * (erf + floor(1 / erf_scale)), scale * erf_scale / 2


def exp(q: Codes, scale: float) -> tuple[Codes, float]:
    """Return codes and scale of exp(x) for x at most 0: a power of two times a polynomial.

    x = p - z ln 2 with p in (-ln 2, 0]; the polynomial's value at p is shifted right by z.

    Raises:
        ValueError: a positive code.
    """
    if q.numel() and int(q.max()) > 0:
        raise ValueError(
            f"the integer exp takes numbers up to 0, got {int(q.max())}; subtract the maximum"
        )
    step = floor(0.6931471805599453 / scale)
    z = (-q).div(step, rounding_mode="floor")
    value, out = polynomial(q + z * step, scale, *EXP)
    return value >> z.clamp_max(62), out


def requantize(q: Codes, scale: float, new: float) -> Codes:
    """Return the codes of the same numbers at another scale: one multiplication and one shift.

    The ratio of the scales is written as b / 2^c with b below 2^24.

    >>> requantize(torch.tensor([100, -100]), 0.5, 0.25).tolist()
    [200, -200]
    """
    mantissa, exponent = frexp(scale / new)
    b, c = round(mantissa * 2**24), 24 - exponent
    return q * b << -c if c <= 0 else (q * b + (1 << (c - 1))) >> c


def softmax(q: Codes, scale: float, bits: int = 8) -> tuple[Codes, float]:
    """Return codes and scale (2^-bits) of a softmax over the last axis.

    Exponentials are taken at 16 bits; one integer division per row. All is rounded down.

    >>> out, scale = softmax(torch.tensor([[0, 0, 0, 0]]), 1e-3)
    >>> (out * scale).tolist()
    [[0.24609375, 0.24609375, 0.24609375, 0.24609375]]
    """
    value, fine = exp(q - q.amax(-1, keepdim=True), scale)
    value = requantize(value, fine, 2**-15)
    factor = 2**32 // value.sum(-1, keepdim=True)
    return value * factor >> (32 - bits), 2.0**-bits


def square_root(n: Codes) -> tuple[Codes, int]:
    """Return the floor of the square root, by Newton's steps on integers, and how many it took.

    Starts above the root, at 2^ceil(bits / 2); the last step, which changes nothing, counts.

    >>> square_root(torch.tensor([0, 1, 15, 16, 10**9]))[0].tolist()
    [0, 1, 3, 4, 31622]
    """
    bits = torch.frexp(n.double()).exponent.long()
    x, steps = 1 << ((bits + 1) // 2), 0
    while True:
        steps += 1
        lower = (x + n // x.clamp_min(1)) >> 1
        lower = torch.where(n > 0, lower, 0)
        if not bool((lower < x).any()):
            return x, steps
        x = torch.minimum(x, lower)


def layer_norm(q: Codes) -> tuple[Codes, float]:
    """Return codes and scale of (x - mean) / deviation over the last axis; x's scale drops out.

    Shifts to the right keep the sum of squares below 2^32. Gamma and beta come after: multiply the
    scale, and add floor(beta / (gamma scale)) to the codes.

    >>> out, scale = layer_norm(torch.tensor([[1000, -1000, 3000, -3000]]))
    >>> [round(value, 3) for value in (out * scale)[0].tolist()]
    [0.447, -0.447, 1.342, -1.342]
    """
    n = q.shape[-1]
    y = q - (2 * q.sum(-1, keepdim=True) + n).div(2 * n, rounding_mode="floor")
    shift = 0
    while int(((y >> shift) ** 2).sum(-1).max()) >= 2**32:
        shift += 1
    root, _ = square_root(((y >> shift) ** 2).sum(-1, keepdim=True))
    factor = 2**31 // (root << shift).clamp_min(1)
    return y * factor >> 1, sqrt(n) / 2**30
