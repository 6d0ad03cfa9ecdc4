"""The one rounding step under all quantizers, with its straight-through gradients by hand.

``fake_quantize`` serves LSQ, LSQ+, learned clips, PACT and fixed grids alike; they differ in which
numbers stand behind the scale and in the four switches at its end.
"""

from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from ..precision import widened

MIN_SCALE = 1e-8  # a scale that training drives to zero or below is read as this
PIECE = 2**17  # elements at a time: 512 KiB of float32
LEAST = {torch.float16: 2**-24, torch.bfloat16: 2**-26}  # of such scales: positive, >= MIN_SCALE


def integer_range(bits: int, signed: bool = True) -> tuple[int, int]:
    """Return (qmin, qmax) of ``bits`` bits, such as (-8, 7) for four signed ones.

    Raises:
        ValueError: ``bits`` is not an integer from 2 to 8.
    """
    whole = isinstance(bits, Integral) and not isinstance(bits, bool)
    if not whole or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 2 to 8, got {bits!r}")
    bits = int(bits)  # also numpy's
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def positive(scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the scale as it is used: at least MIN_SCALE, which float16 would round to zero."""
    return scale.clamp_min(2**-24 if scale.dtype == torch.float16 else MIN_SCALE)


class _RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def round_ste(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round half to even; the gradient passes straight through.

    >>> x = torch.tensor([0.4, 1.5, 2.5], requires_grad=True)
    >>> round_ste(x).sum().backward(); x.grad.tolist()
    [1.0, 1.0, 1.0]
    """
    return _RoundSTE.apply(x)


class _HoldSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, low: float | None, high: float | None) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, None


def hold(
    x: Float[Tensor, "..."], low: float | None = None, high: float | None = None
) -> Float[Tensor, "..."]:
    """Clamp, and pass the gradient all the same, so that what went too far can come back.

    >>> x = torch.tensor([-1.0, 1.0], requires_grad=True)
    >>> hold(x, low=0.0).sum().backward(); x.grad.tolist()
    [1.0, 1.0]
    """
    return _HoldSTE.apply(x, low, high)


class _ToTypeSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, dtype: torch.dtype, least: float) -> Tensor:
        return x.clamp_min(least).to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, None


def scale_in(dtype: torch.dtype, scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return scales rounded to a 16-bit float type, in the type that they came in.

    What that type would round to zero becomes the least scale it is given here; what is beyond its
    range becomes infinite. The gradient passes straight through.

    >>> scale = torch.tensor([0.1, 1e-9], requires_grad=True)
    >>> found = scale_in(torch.float16, scale); found.tolist() == [0.0999755859375, 2**-24]
    True
    >>> found.sum().backward(); scale.grad.tolist()
    [1.0, 1.0]
    """
    return _ToTypeSTE.apply(scale, dtype, LEAST[dtype])


def _edges(qmin: int, qmax: int, strict: bool, dtype: torch.dtype) -> tuple[float, float]:
    """Open interval that holds the range: without its ends, or one float beyond them."""
    eps = 0.0 if strict else 2**-52 if dtype == torch.float64 else 2**-23
    return qmin - eps * max(-qmin, 1e-30), qmax + eps * qmax


def _pieces(x: Tensor) -> list[slice]:
    """Cut a tensor along its first axis into what a processor's cache holds; a GPU takes it whole.

    Ten passes over a piece in the cache cost less than three over the tensor in memory.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    length = PIECE if x.dim() == 1 else max(1, PIECE // max(1, x.shape[1]))
    return [slice(i, i + length) for i in range(0, max(1, len(x)), length)]


def _at(s: Tensor | None, piece: slice) -> Tensor | None:
    return s if s is None or s.dim() < 2 else s[piece]


def _to_grid(v: Tensor, s: Tensor, zero: Tensor | None, qmin: int, qmax: int) -> Tensor:
    if zero is None:
        return v.clamp_(qmin, qmax).round_().mul_(s)
    return v.add_(zero).clamp_(qmin, qmax).round_().sub_(zero).mul_(s)


def _inside(values: Tensor, z: Tensor, edges: tuple, out: Tensor | None = None) -> Tensor:
    """Return the values where z lies between the edges, and 0 elsewhere."""
    out = torch.empty_like(z) if out is None else out
    return torch.ops.aten.hardtanh_backward.grad_input(values, z, *edges, grad_input=out)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b) if a.dim() == 1 else torch.linalg.vecdot(a, b)


class _FakeQuantize(torch.autograd.Function):
    """One walk over x forward, one over x and the gradient backward; nothing else is kept.

    x is one line with one scale, or (rows, n) with scales (rows, 1).
    """

    @staticmethod
    def forward(ctx, x, scale, offset, qmin, qmax, factor, through, strict, residual, integer):
        s, zero = positive(scale), None
        if offset is not None:
            zero = -offset / s
            zero = zero.round() if integer else zero
        if torch.compiler.is_compiling():  # a graph has no use for pieces and buffers
            out = _to_grid(x / s, s, zero, qmin, qmax)
        else:
            out = torch.empty_like(x)
            for piece in _pieces(x):
                size = _at(s, piece)
                v = torch.div(x[piece], size, out=out[piece])
                _to_grid(v, size, _at(zero, piece), qmin, qmax)
        ctx.learns = any(t is not None and t.requires_grad for t in (scale, offset))
        ctx.settings = qmin, qmax, factor, through, strict, residual
        if ctx.learns or not through:
            ctx.save_for_backward(x, scale, offset)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        qmin, qmax, factor, through, strict, residual = ctx.settings
        blank = [None] * 7
        if through and not ctx.learns:
            return grad, None, None, *blank
        x, scale, offset = ctx.saved_tensors
        s = positive(scale)
        zero = None if offset is None else -offset / s
        edges = _edges(qmin, qmax, strict, x.dtype)
        dx, dscale, doffset = grad if through else torch.empty_like(x), [], []
        for piece in _pieces(x):
            g, z = grad[piece], x[piece] / _at(s, piece)  # z: where x lies among the codes
            if zero is not None:
                z.add_(_at(zero, piece))
            if not through:
                _inside(g, z, edges, out=dx[piece])
            if not ctx.learns:
                continue
            if offset is not None:
                doffset.append((g - _inside(g, z, edges)).sum(-1))
            within = _inside(z, z, edges)  # d (x to the grid) / d scale: code - z in, code out
            code = z.clamp_(qmin, qmax)
            code = code.round_() if residual else code
            dscale.append(_dot(g, code.sub_(within)))
        found = [_collected(parts, scale, factor) for parts in (dscale, doffset)]
        return dx, *found, *blank


def _collected(parts: list[Tensor], scale: Tensor, factor: float) -> Tensor | None:
    if not parts:
        return None
    total = torch.stack(parts).sum() if scale.dim() < 2 else torch.cat(parts)
    return total.reshape(scale.shape) * factor


def fake_quantize(
    x: Float[Tensor, "..."],
    scale: Float[Tensor, "..."],
    qmin: int,
    qmax: int,
    factor: float = 1.0,
    offset: Float[Tensor, "..."] | None = None,
    *,
    through: bool = False,
    strict: bool = False,
    residual: bool = True,
    integer: bool = False,
) -> Float[Tensor, "..."]:
    """Return scale * clamp(round(x / scale), qmin, qmax) with LSQ's gradients for both inputs.

    For an incoming gradient g, dx = g inside [qmin, qmax] and 0 outside; d scale = ``factor`` times
    the sum of g (q - x / scale) inside, g qmin below, g qmax above. Gradients of NaN stay NaN.

    Args:
        x: any tensor; (groups, n) where ``scale`` is (groups, 1). Half floats are computed in
            float32 and rounded once at the end.
        scale: one positive number, or one for each row.
        offset: what code 0 stands for, shaped like ``scale``: scale * q + offset, with
            d offset = ``factor`` times the sum of g outside.
        through: dx = g outside too.
        strict: count x at the very ends of the range as outside.
        residual: False leaves the inner part of d scale away, as plain PACT does.
        integer: round the zero point -offset / scale, so that x = 0 gives exactly 0.

    Source: Esser et al. 2020, equations 1 to 3; spec sheet QTC, section 4 (``factor`` 1); spec
    sheet KDLSQ, 2.1 to 2.3; spec sheet Deep Compression, section 4.
    """
    wide = widened(x)
    flat = wide.reshape(-1) if scale.dim() < 2 else wide
    switches = (through, strict, residual, integer)
    out = _FakeQuantize.apply(flat, scale, offset, qmin, qmax, factor, *switches)
    return out.reshape(x.shape).to(x.dtype)
