"""Lines to fill in on the way through the lessons on fewer bits: 04, 05, 09, 11, 13, 14."""

import torch

from .base import Exercise, Mistake


def scale_slope(v, inside, qmin, qmax):
    """What a growing scale does to each weight; v is w / s, ``inside`` where in range."""
    return torch.where(inside, v.round() - v, v.clamp(qmin, qmax))


def _in_scales(generator):
    for bits, shape in ((3, (60,)), (2, (7, 9)), (4, (5, 4))):
        v = 2**bits * torch.randn(shape, generator=generator, dtype=torch.float64)
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        yield v, (v >= low) & (v <= high), low, high


def gradient_factor(n, qmax):
    """LSQ's factor in front of the scale's gradient, for n weights and the largest code qmax."""
    return (n * qmax) ** -0.5


def _counts(generator):
    for _ in range(3):
        yield int(torch.randint(10, 10_000, (), generator=generator)), 7
    yield 48, int(torch.randint(2, 8, (), generator=generator))


def on_zero_grid(w, clip, top):
    """w on the grid that holds 0: codes from -top to top, the outermost places -clip and clip."""
    return (w / clip * top).clamp(-top, top).round() * clip / top


def _clipped(generator):
    for bits, shape in ((4, (50,)), (3, (6, 8)), (2, (30,))):
        w = torch.randn(shape, generator=generator, dtype=torch.float64)
        yield w, 0.7 + 0.1 * bits, 2 ** (bits - 1) - 1


def quantize_by_hand(w, s):
    """w on the sixteen multiples of s, from -8 s to 7 s; same shape."""
    return s * (w / s).round().clamp(-8, 7)


def _cores(generator):
    for shape, s in (((4, 5, 3), 0.1), ((60,), 0.3), ((9, 9), 0.2)):
        yield torch.randn(shape, generator=generator, dtype=torch.float64), s


def on_clip_grid(v, alpha, Q):
    """v on the levels alpha / Q * (-Q, ..., 0, ..., Q); same shape."""
    return alpha / Q * ((v / alpha).clamp(-1, 1) * Q).round()


def _cut(generator):
    for bits, alpha in ((2, 0.9), (3, 1.3), (8, 1.1)):
        v = torch.randn(70, generator=generator, dtype=torch.float64)
        yield v, torch.tensor(alpha, dtype=torch.float64), 2 ** (bits - 1) - 1


def codes_between(x, low, high, s):
    """The code of each x on the grid from ``low`` to ``high`` with step s: whole numbers from 0."""
    return ((x.clamp(low, high) - low) / s).round()


def _ranges(generator):
    for bits, shape in ((8, (40,)), (3, (5, 8)), (2, (24,))):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        low, high = torch.tensor([-0.8, 1.2], dtype=torch.float64)
        yield x, low, high, (high - low) / (2**bits - 1)


def two_in_a_byte(first, second):
    """The bytes that hold two codes from 0 to 15 each, ``first`` in the low half."""
    return first + 16 * second


def _halves(generator):
    for shape in ((40,), (5, 8)):
        yield tuple(torch.randint(0, 16, (2, *shape), generator=generator))


EXERCISES = (
    Exercise(
        id="04.a", title="what the scale does to a weight",
        difficulty="easy", minutes=3, answer=scale_slope, cases=_in_scales,
        mistakes=(
            Mistake("that is the code: the slope of one step, which never sees a jump",
                    lambda v, inside, qmin, qmax: v.round().clamp(qmin, qmax)),
            Mistake("outside the range it is the bound; yours is the residual there, too",
                    lambda v, inside, qmin, qmax: v.round() - v),
            Mistake("a clipped weight sits on the rim, and the rim moves with the scale",
                    lambda v, inside, qmin, qmax: (v.round() - v) * inside),
            Mistake("the residual is round(v) - v; its sign is turned",
                    lambda v, inside, qmin, qmax:
                    torch.where(inside, v - v.round(), v.clamp(qmin, qmax))),
        ),
        hints=(
            "torch.where(inside, one, other) takes from the first where inside is True.",
            "Inside: v.round() - v. Outside: the bound, which v.clamp(qmin, qmax) knows.",
        ),
    ),
    Exercise(
        id="04.b", title="the factor in front",
        difficulty="easy", minutes=2, answer=gradient_factor, cases=_counts,
        mistakes=(
            Mistake("it divides: one over the root, or the scale would run even faster",
                    lambda n, qmax: (n * qmax) ** 0.5),
            Mistake("the root of the product of n and qmax, not of n alone",
                    lambda n, qmax: n**-0.5),
            Mistake("the root is missing", lambda n, qmax: 1 / (n * qmax)),
        ),
        hints=("It is the inverse of what R should be without it.", "x ** -0.5 is 1 / sqrt(x)."),
    ),
    Exercise(
        id="05.a", title="a grid that holds the zero",
        difficulty="easy", minutes=3, answer=on_zero_grid, cases=_clipped,
        mistakes=(
            Mistake("those are the codes: the way back to weights is missing",
                    lambda w, clip, top: (w / clip * top).clamp(-top, top).round()),
            Mistake("nothing is cut off: codes beyond top cannot be stored",
                    lambda w, clip, top: (w / clip * top).round() * clip / top),
            Mistake("cut off at top, but in weights: cut the codes",
                    lambda w, clip, top: (w.clamp(-top, top) / clip * top).round() * clip / top),
        ),
        hints=(
            "Measure w in clips, then in codes: w / clip * top runs from -top to top.",
            "Cut off with clamp(-top, top), round, and undo the two steps: * clip / top.",
        ),
    ),
    Exercise(
        id="09.a", title="sixteen values",
        difficulty="easy", minutes=2, answer=quantize_by_hand, cases=_cores,
        mistakes=(
            Mistake("those are the codes: multiply by the scale",
                    lambda w, s: (w / s).round().clamp(-8, 7)),
            Mistake("that grid has 17 values: the largest code of four signed bits is 7",
                    lambda w, s: s * (w / s).round().clamp(-8, 8)),
            Mistake("the codes are cut off, not the weights: clamp after the division",
                    lambda w, s: s * (w.clamp(-8, 7) / s).round()),
        ),
        hints=(
            "Divide, round, clip, multiply: the formula from the inside out.",
            "w / s is measured in scales; .round() and .clamp(-8, 7) make a code of it.",
        ),
    ),
    Exercise(
        id="11.a", title="a grid that ends at its clip",
        difficulty="easy", minutes=3, answer=on_clip_grid, cases=_cut,
        mistakes=(
            Mistake("those are parts of the clip: multiply by alpha",
                    lambda v, alpha, Q: ((v / alpha).clamp(-1, 1) * Q).round() / Q),
            Mistake("rounded before it is multiplied by Q: three levels at any number of bits",
                    lambda v, alpha, Q: alpha * (v / alpha).clamp(-1, 1).round()),
            Mistake("nothing is clipped: x has to stay within -1 and 1",
                    lambda v, alpha, Q: alpha / Q * (v / alpha * Q).round()),
        ),
        hints=(
            "The formula from the inside out: x = v / alpha, clip, times Q, round, back.",
            "clip(x, -1, 1) is x.clamp(-1, 1); the way back is alpha / Q.",
        ),
    ),
    Exercise(
        id="13.a", title="codes from the smallest up",
        difficulty="easy", minutes=3, answer=codes_between, cases=_ranges,
        mistakes=(
            Mistake("the smallest number has the code 0: subtract low",
                    lambda x, low, high, s: (x.clamp(low, high) / s).round()),
            Mistake("what lies outside gets codes that do not exist: clip first",
                    lambda x, low, high, s: ((x - low) / s).round()),
            Mistake("rounded down, the error is up to a whole step: round to the nearest",
                    lambda x, low, high, s: ((x.clamp(low, high) - low) / s).floor()),
        ),
        hints=(
            "From the inside out: clip, subtract the lower end, count the steps, round.",
            "x.clamp(low, high) clips; what is left, minus low, over s, is a number of steps.",
        ),
    ),
    Exercise(
        id="14.a", title="two codes in a byte",
        difficulty="easy", minutes=2, answer=two_in_a_byte, cases=_halves,
        mistakes=(
            Mistake("the first code belongs into the low half; yours has it in the high one",
                    lambda first, second: second + 16 * first),
            Mistake("a half byte is four bits, which are sixteen values",
                    lambda first, second: first + 4 * second),
            Mistake("two codes that are added up can no longer be told apart",
                    lambda first, second: first + second),
        ),
        hints=(
            "The low half counts ones from 0 to 15; what is one in the high half?",
            "As in the formula, but the 8 has been added before: first + 16 * second.",
        ),
    ),
)  # fmt: skip
