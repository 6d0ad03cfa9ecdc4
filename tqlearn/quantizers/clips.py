"""Quantizers that learn where to clip: KDLSQ's symmetric one, and PACT with its plus-variants."""

from jaxtyping import Float
from torch import Tensor

from ..registry import register
from .grid import Quantizer
from .initial_scales import parse_rule, start_bounds, start_scale
from .rounding import MIN_SCALE, fake_quantize, hold, positive

FORMS = ("two-sided", "one-sided", "symmetric")


@register
class LearnedClip(Quantizer):
    """KDLSQ's quantizer: a learned clip and 2^b - 1 levels, symmetric about zero.

    x -> clip / Q * round(clamp(x / clip, -1, 1) * Q) with Q = 2^(b-1) - 1, so "2 bit" is ternary:
    -clip, 0, clip. Zeros stay exactly zero.

    Args:
        bits: 2 to 8.
        init: see ``initial_scales``; "truncation" takes the share to cut from a table by bits.
        straight: the gradient of x is g everywhere, beyond the clip too (KDLSQ's rule for weights).
            False: zero beyond the clip (its rule for activations).
        groups: see ``grid``.

    The clip's gradient is the plain sum of g sign(x) outside and g (round(x Q / clip) / Q - x /
    clip) inside, without LSQ's factor: train it with an optimizer that normalizes, at its own rate.

    Source: spec sheet KDLSQ, 2.3 (quantizer), 3.1 and 3.3 (start).

    >>> import torch
    >>> q = LearnedClip(bits=2, init="max").calibrate(torch.tensor([-1.0, 0.5]))
    >>> q.codes(torch.tensor([-2.0, -0.51, -0.5, 0.0, 0.8])).tolist()
    [-1, -1, 0, 0, 1]
    """

    options = {"init": "truncation", "straight": True}

    def __init__(
        self, bits: int, init: str = "truncation", straight: bool = True, groups: int = 1
    ) -> None:
        super().__init__(bits, groups)
        parse_rule(init)
        self.qmax = 2 ** (bits - 1) - 1
        self.qmin = -self.qmax
        self.init, self.straight = init, straight
        self.clip = self.learned()

    @property
    def scale(self) -> Float[Tensor, "..."]:
        """The step between two codes, clip / Q."""
        return hold(self.clip, low=MIN_SCALE) / self.qmax

    def start(self, rows: Float[Tensor, "rows n"]) -> None:
        """Set the clips from the rows of a tensor."""
        found = start_scale(rows, self.init, self.bits, self.qmin, self.qmax)
        self.fill(self.clip, positive(found) * self.qmax)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rows = self.rows(x)
        out = fake_quantize(rows, self.scale, self.qmin, self.qmax, through=self.straight)
        return out.reshape(x.shape)


@register
class PACT(Quantizer):
    """Learned clips with an exact zero: for inputs of layers, and for weights if you like.

    Zeros stay exactly zero in every form (the two-sided one unless ``integer_zero`` is False).

    Args:
        bits: 2 to 8.
        form: "two-sided": clips [low, high] around zero, 2^b codes. "one-sided": [0, high], for
            inputs that are never negative. "symmetric": [-high, high], 2^b - 1 codes.
        plus: PACT+, whose clip gradients also count the rounding inside the range.
        integer_zero: round the zero point of the two-sided form.
        extended: use the spare code of the symmetric form, -2^(b-1), below -high.
        init: see ``initial_scales``; "percentile" leaves 0.1 % at either end.
        groups: see ``grid``.

    The gradient of x is g strictly between the clips. Clips get no weight decay and a learning rate
    of their own from our trainers.

    Source: spec sheet Deep Compression, section 4. The symmetric form's negative side has the sign
    that the derivative has; the scale is not refitted after the zero point is rounded.

    Raises:
        ValueError: an unknown form, or a switch of another form.

    >>> import torch
    >>> q = PACT(bits=4, init="max").calibrate(torch.tensor([-0.47, 1.0]))
    >>> q(torch.tensor([0.0])).item(), int(q.zero_point)
    (0.0, 5)
    """

    options = {
        "form": "two-sided",
        "plus": True,
        "integer_zero": True,
        "extended": False,
        "init": "percentile",
    }

    def __init__(
        self,
        bits: int,
        form: str = "two-sided",
        plus: bool = True,
        integer_zero: bool = True,
        extended: bool = False,
        init: str = "percentile",
        groups: int = 1,
    ) -> None:
        super().__init__(bits, groups)
        parse_rule(init)
        if form not in FORMS:
            raise ValueError(f"form is one of {FORMS}, got {form!r}")
        if extended and form != "symmetric":
            raise ValueError(f"extended is a switch of the symmetric form, not of {form!r}")
        if not integer_zero and form != "two-sided":
            raise ValueError(f"the {form} form has no zero point; leave integer_zero out")
        self.form, self.plus, self.integer_zero = form, plus, integer_zero
        self.extended, self.init = extended, init
        half = 2 ** (bits - 1) - 1
        symmetric = form == "symmetric"
        self.qmin, self.qmax = (-half - extended, half) if symmetric else (0, 2**bits - 1)
        self.high = self.learned()
        if form == "two-sided":
            self.low = self.learned()

    def bounds(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Return the clips as they are used: low at most 0, high above it."""
        high = hold(self.high, low=MIN_SCALE)
        return (hold(self.low, high=0.0) if self.form == "two-sided" else high * 0), high

    @property
    def scale(self) -> Float[Tensor, "..."]:
        """The step between two codes."""
        low, high = self.bounds()
        return (high - low) / self.qmax

    @property
    def zero_point(self) -> Float[Tensor, "..."] | None:
        """The code of 0.0, None where it is code 0."""
        if self.form != "two-sided":
            return None
        zero = -self.bounds()[0].detach() / positive(self.scale.detach())
        return zero.round() if self.integer_zero else zero

    def start(self, rows: Float[Tensor, "rows n"]) -> None:
        """Set the clips from the rows of a tensor."""
        if self.form == "two-sided":
            low, high = start_bounds(rows, self.init, self.bits)
            self.fill(self.low, low.clamp_max(0))
        else:
            high = start_scale(rows, self.init, self.bits, self.qmin, self.qmax) * self.qmax
        self.fill(self.high, high.clamp_min(MIN_SCALE * self.qmax))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        low, high = self.bounds()
        two = self.form == "two-sided"
        out = fake_quantize(
            self.rows(x),
            (high - low) / self.qmax,
            self.qmin,
            self.qmax,
            offset=low if two else None,
            strict=True,
            residual=self.plus,
            integer=two and self.integer_zero,
        )
        return out.reshape(x.shape)
