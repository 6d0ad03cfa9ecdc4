"""Weight quantizers whose clip is read off the weights themselves: SAWB and TWN.

Nothing is learned but the weights. In training the clip follows them at every forward; it is stored
and stands still in evaluation.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..precision import widened
from ..registry import register
from .grid import Quantizer
from .rounding import fake_quantize, positive

# (bits, has a zero level) -> (c_rms, c_abs); spec sheet Deep Compression, 3.1
COEFFICIENTS = {
    (2, False): (3.12, -2.064),
    (3, False): (7.509, -6.892),
    (4, False): (12.68, -12.80),
    (5, False): (17.74, -18.64),
    (2, True): (2.6, -1.71),
    (4, True): (12.035, -12.03),
    (7, True): (28.24, -30.81),
    (8, True): (31.76, -35.04),
}
# the 4-bit line refitted for 2:4 weights, with the zeros in the statistics or without; 10.1 there
MASKED = {"masked": (17.80, -23.65), "kept": (12.59, -11.83)}
STATISTICS = ("dense", *MASKED, "search")
FRACTIONS = [k / 20 for k in range(8, 29)]  # of a line's clip, for the search: 0.4 to 1.4
SAMPLE = 2**14  # weights of a row that the search looks at


class _Following(Quantizer):
    """A quantizer whose scale is a buffer, set anew from x at every forward in training."""

    def __init__(self, bits: int, groups: int) -> None:
        super().__init__(bits, groups)
        self.register_buffer("scale", self.unset())

    def start(self, rows: Float[Tensor, "rows n"]) -> None:
        """Set the scales from the rows of a tensor; one without data (meta) has none to read."""
        scales = rows[:, 0] if rows.is_meta else self.scale_of(rows)
        self.scale = scales.reshape(self.scale.shape).to(self.scale.dtype)

    def follow(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return x as rows; in training, move the scale after them."""
        rows = self.rows(x)
        if self.training and x.numel():
            with torch.no_grad():
                self.start(rows.detach().reshape(self.groups, -1))
        return rows


@register
class SAWB(_Following):
    """Statistics-aware weight binning: clip = c_rms * rms(w) + c_abs * mean|w|.

    A line that was fitted to the clip of least squared error over several distributions, so one
    look at the weights gives a nearly optimal clip. With ``zero`` the levels are clip * k / Q, k
    from -Q to Q, Q = 2^(b-1) - 1, and zeros stay exactly zero. Without it there are 2^b levels,
    odd multiples of clip / (2^b - 1), and a zero becomes +-clip / (2^b - 1): never on masked
    weights.

    Args:
        bits: 2, 4, 7 or 8 with a zero level, 2 to 5 without.
        zero: keep a level at zero.
        plus: SAWB+, the gradient passes beyond the clip too; False: it is zero there.
        extended: with ``zero``, use the spare code as well: integers from -2^(b-1).
        statistics: "dense", the line as published, which returns about 1.5 times the best clip on
            2:4 sparse weights; for those at 4 bits "masked" (a line refitted for statistics with
            the zeros) or "kept" (without them); "search": of 21 clips from 0.4 to 1.4 times the
            line's, the one of least squared error on up to 16,384 of the weights.
        coefficients: your own (c_rms, c_abs) instead.
        groups: see ``grid``.

    Where the line gives less than a quarter of the rms (nearly constant |w|), the clip is max|w|.

    Source: spec sheet Deep Compression, section 3, and 10.1 for the refitted lines and the search.

    Raises:
        ValueError: bits for which there is no line, or a switch that needs the zero level.

    >>> w = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8])
    >>> q = SAWB(bits=4).calibrate(w)
    >>> q.codes(w).tolist(), round(q.clip.item(), 4)
    ([1, -2, 3, -4, 5, -6, 7, -7], 0.6639)
    """

    options = {
        "zero": True,
        "plus": True,
        "extended": False,
        "statistics": "dense",
        "coefficients": None,
    }

    def __init__(
        self,
        bits: int,
        zero: bool = True,
        plus: bool = True,
        extended: bool = False,
        statistics: str = "dense",
        coefficients: tuple[float, float] | list[float] | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__(bits, groups)
        if statistics not in STATISTICS:
            raise ValueError(f"statistics is one of {STATISTICS}, got {statistics!r}")
        if extended and not zero:
            raise ValueError("without a zero level every code is in use; leave extended out")
        if statistics in MASKED and (bits, zero) != (4, True):
            raise ValueError(f"the {statistics!r} line is for 4 bits with a zero level only")
        self.zero, self.plus, self.extended = zero, plus, extended
        self.statistics = statistics
        self.coefficients = None if coefficients is None else list(coefficients)
        fits = statistics == "search" and (bits, zero) == (4, True)
        own = MASKED["masked"] if fits else MASKED.get(statistics)
        self.line = tuple(coefficients or own or _line(bits, zero))
        half = 2 ** (bits - 1) - 1
        self.qmin, self.qmax = (-half - extended, half) if zero else (-half - 1, half)

    @property
    def clip(self) -> Float[Tensor, "..."]:
        """The clip behind the scale."""
        return self.scale * (self.qmax if self.zero else (2**self.bits - 1) / 2)

    @property
    def zero_point(self) -> Float[Tensor, "..."] | None:
        """None, or -1/2 on the grid without a zero: codes stand for k + 1/2."""
        return None if self.zero else torch.full_like(self.scale, -0.5)

    def scale_of(self, rows: Float[Tensor, "rows n"]) -> Float[Tensor, " rows"]:
        """Return the scale that the present weights ask for; it reads them, never .item()."""
        rows = widened(rows)
        n, size = rows.shape[1], rows.abs()  # sums and maxima of it are faster than its norms
        if self.statistics == "kept":
            n = (rows != 0).sum(1).clamp_min(1)
        mean, top = size.sum(1) / n, size.amax(1)
        rms = torch.linalg.vector_norm(rows, dim=1) / n**0.5
        clip = self.line[0] * rms + self.line[1] * mean
        clip = torch.where(clip < 0.25 * rms, top, clip)
        scale = clip / (self.qmax if self.zero else (2**self.bits - 1) / 2)
        return self._searched(rows, scale) if self.statistics == "search" else scale

    def _searched(
        self, rows: Float[Tensor, "rows n"], scale: Float[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """Return, for every row, the fraction of its scale with the least squared error."""
        stride = rows.shape[1] // SAMPLE | 1  # an odd one meets all places of a group
        sample = rows[:, ::stride]
        best, least = scale, torch.full_like(scale, torch.inf)
        for fraction in FRACTIONS:
            step = positive(fraction * scale)[:, None]
            codes = (sample / step).round_() if self.zero else (sample / step).floor_()
            codes = codes.clamp_(self.qmin, self.qmax)
            if not self.zero:
                codes += 0.5
            error = codes.mul_(step).sub_(sample).square_().sum(1)
            best = torch.where(error < least, fraction * scale, best)
            least = torch.minimum(least, error)
        return best

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rows = self.follow(x)
        offset = None if self.zero else positive(self.scale) * 0.5
        scale, qmin, qmax = self.scale, self.qmin, self.qmax
        out = fake_quantize(rows, scale, qmin, qmax, offset=offset, through=self.plus)
        return out.reshape(x.shape)


def _line(bits: int, zero: bool) -> tuple[float, float]:
    if (bits, zero) not in COEFFICIENTS:
        known = sorted(b for b, z in COEFFICIENTS if z == zero)
        raise ValueError(
            f"SAWB has no line for {bits} bits {'with' if zero else 'without'} a zero level; there "
            f"is one for {known}, or give coefficients=(c_rms, c_abs)"
        )
    return COEFFICIENTS[bits, zero]


@register
class Ternary(_Following):
    """TWN: -a, 0 or a, with a threshold of 0.7 mean|w|; what is left out is exactly zero.

    a is the mean of |w| over |w| above the threshold. The gradient passes where |w| is at most
    ``limit``.

    Args:
        groups: see ``grid``; TernaryBERT takes one per row for the word embedding.
        limit: 2.5, as TernaryBERT.

    Source: spec sheet KDLSQ, section 9. In evaluation a stands still; the threshold is always that
    of the weights at hand.

    >>> q = Ternary().calibrate(torch.tensor([0.1, -1.0, 3.0]))
    >>> q(torch.tensor([0.1, -1.0, 3.0])).tolist()
    [0.0, -2.0, 2.0]
    """

    options = {"limit": 2.5}

    def __init__(self, bits: int = 2, limit: float = 2.5, groups: int = 1) -> None:
        super().__init__(bits, groups)
        if bits != 2:
            raise ValueError(f"Ternary stores its three codes in 2 bits, got bits={bits}")
        if not limit > 0:
            raise ValueError(f"limit is a number above 0, got {limit!r}")
        self.qmin, self.qmax, self.limit = -1, 1, limit

    def scale_of(self, rows: Float[Tensor, "rows n"]) -> Float[Tensor, " rows"]:
        """Return the level that the present weights ask for."""
        rows = widened(rows)
        signs = _signs(rows, rows.abs().mean(1, keepdim=True))
        kept = torch.linalg.vecdot(signs, signs).clamp_min(1)
        return torch.linalg.vecdot(rows, signs) / kept

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Return -1, 0 or 1, as int16."""
        rows = widened(self.rows(x))
        return _signs(rows, _mean_size(rows, self.scale)).to(torch.int16).reshape(x.shape)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rows = widened(self.follow(x))
        return _Ternarize.apply(rows, self.scale, self.limit).reshape(x.shape).to(x.dtype)


def _mean_size(rows: Tensor, scale: Tensor) -> Tensor:
    return rows.abs().mean() if scale.dim() == 0 else rows.abs().mean(1, keepdim=True)


def _signs(rows: Tensor, mean: Tensor) -> Tensor:
    """Return -1, 0 or 1: half of 2 * 0.7 mean|w| is where rounding leaves zero."""
    return (rows / positive(1.4 * mean)).clamp_(-1, 1).round_()


class _Ternarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return _signs(x, _mean_size(x, scale)).mul_(positive(scale))

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        edge = ctx.limit * (1 + 2**-23)  # the limit itself is inside
        return torch.ops.aten.hardtanh_backward(grad, x, -edge, edge), None, None
