"""Exercises of notebook 04: unsigned codes, a fitted scale, an offset's slope, a scale per row."""

import torch

from .base import Exercise, Gradient, Invariant, Mistake


def quantize_unsigned(x, scale, bits):
    """x on the grid scale * (0, 1, ..., largest code); same shape, floats."""
    largest = 2**bits - 1
    return scale * (x / scale).round().clamp(0, largest)


def _clipped(qmin, qmax):
    """A wrong answer to 04.1: the bounds are functions of the bits."""
    return lambda x, scale, b: scale * (x / scale).round().clamp(qmin(b), qmax(b))


def _inputs(generator):
    for bits, shape in ((2, (5, 7)), (3, (40,)), (4, (3, 4, 9))):
        x = torch.rand(shape, generator=generator) * 1.3 - 0.15  # some below zero, some above
        yield x, torch.tensor(1.0 / 2**bits), bits


def refine_scale(w, scale, qmin, qmax, rounds):
    """The scale after ``rounds`` times: look up the codes, fit the scale to them."""
    for _ in range(rounds):
        q = (w / scale).round().clamp(qmin, qmax)
        scale = (w * q).sum() / (q * q).sum()
    return scale


def _fitted(fit):
    """A wrong answer to 04.2: ``fit`` takes the weights and their codes."""

    def answer(w, scale, qmin, qmax, rounds):
        for _ in range(rounds):
            scale = fit(w, (w / scale).round().clamp(qmin, qmax))
        return scale

    return answer


def _weights_to_fit(generator):
    for bits, rounds, start in ((4, 3, 0.1), (2, 2, 0.4), (3, 8, 1.0)):
        w = torch.randn(12, 25, generator=generator, dtype=torch.float64)
        scale = torch.tensor(start, dtype=torch.float64)
        yield w, scale, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, rounds


def _no_worse(value, w, scale, qmin, qmax, rounds):
    def error(s):
        return (s * (w / s).round().clamp(qmin, qmax) - w).square().sum()

    return bool(value > 0) and bool(error(value) <= error(scale) * (1 + 1e-6))


def offset_gradients(x, scale, offset, g, qmin, qmax):
    """The gradients for x (same shape), scale and offset (numbers), as a tuple of tensors."""
    v = (x - offset) / scale
    inside = (v >= qmin) & (v <= qmax)
    slope = torch.where(inside, v.round() - v, v.clamp(qmin, qmax))
    return g * inside, (g * slope).sum(), (g * ~inside).sum()


def _spoiled(change):
    """A wrong answer to 04.3: ``change`` takes g, what lies inside adds to ds, dx, ds, db."""

    def answer(x, scale, offset, g, qmin, qmax):
        v = (x - offset) / scale
        dx, ds, db = offset_gradients(x, scale, offset, g, qmin, qmax)
        return change(g, (dx * (v.round() - v)).sum(), dx, ds, db)

    return answer


def _shifted_inputs(generator):
    for bits, shape in ((3, (60,)), (2, (7, 9)), (4, (5, 4, 6))):
        x = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.8
        g = torch.randn(shape, generator=generator, dtype=torch.float64)
        scale, offset = (torch.tensor(s, dtype=torch.float64) for s in (2.5 / 2**bits, 0.75))
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        x.view(-1)[:2] = offset + scale * torch.tensor([low, high])  # on the border, to the bit
        yield x, scale, offset, g, low, high


def lsq_rows(w, scales, qmin, qmax):
    """w (rows, columns) on the grids of its rows' scales; backward() gives LSQ's gradients."""
    factor = (w.shape[1] * qmax) ** -0.5
    s = (scales * factor + (scales * (1 - factor)).detach())[:, None]
    v = (w / s).clamp(qmin, qmax)
    return s * (v + (v.round() - v).detach())


def _lsq(w, scales, qmin, qmax, factor=1.0):
    s = (scales * factor + (scales * (1 - factor)).detach())[:, None]
    v = (w / s).clamp(qmin, qmax)
    return s * (v + (v.round() - v).detach())


def _factor_on_all(w, scales, qmin, qmax):
    out, factor = _lsq(w, scales, qmin, qmax), (w.shape[1] * qmax) ** -0.5
    return out * factor + (out * (1 - factor)).detach()


def _plain_rounding(w, scales, qmin, qmax):
    factor = (w.shape[1] * qmax) ** -0.5
    s = (scales * factor + (scales * (1 - factor)).detach())[:, None]
    return s * (w / s).round().clamp(qmin, qmax)


def _all_bridged(w, scales, qmin, qmax):
    s = scales[:, None]
    return w + (s * (w / s).round().clamp(qmin, qmax) - w).detach()


def _border_on_codes(w, scales, qmin, qmax):
    factor = (w.shape[1] * qmax) ** -0.5
    s = (scales * factor + (scales * (1 - factor)).detach())[:, None]
    v = w / s
    return s * (v + (v.round() - v).detach()).clamp(qmin, qmax)


def _rows_to_quantize(generator):
    for bits, shape in ((3, (4, 25)), (2, (9, 6)), (4, (3, 40))):
        w = torch.randn(shape, generator=generator)
        scales = (0.3 + torch.rand(shape[0], generator=generator)) * 3 / 2**bits
        yield w, scales, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


EXERCISES = (
    Exercise(
        id="04.1", title="numbers that are never negative",
        difficulty="easy", minutes=6, answer=quantize_unsigned, cases=_inputs,
        checks=(
            Invariant("unsigned codes begin at 0, but something negative comes out",
                      lambda value, *_: bool((value >= 0).all())),
            Invariant("more than 2**bits different values come out",
                      lambda value, x, scale, bits: value.unique().numel() <= 2**bits),
        ),
        mistakes=(
            Mistake("this is the signed range; unsigned codes run from 0 to 2**bits - 1",
                    _clipped(lambda b: -(2 ** (b - 1)), lambda b: 2 ** (b - 1) - 1)),
            Mistake("0 to 2**bits is one code too many: zero is a code as well",
                    _clipped(lambda b: 0, lambda b: 2**b)),
            Mistake("half of the codes are missing: no bit goes to the sign now",
                    _clipped(lambda b: 0, lambda b: 2 ** (b - 1) - 1)),
            Mistake("numbers above the largest code are not clipped",
                    _clipped(lambda b: 0, lambda b: 2**20)),
            Mistake("these are the codes; multiply them by the scale",
                    lambda x, scale, bits: quantize_unsigned(x, scale, bits) / scale),
            Mistake("it rounds down, so that every error points the same way",
                    lambda x, scale, b: scale * (x / scale).floor().clamp(0, 2**b - 1)),
        ),
        hints=(
            "The line is that of quantize_by_hand. Only the two bounds change.",
            "Counting 0, three bits have eight codes. Which one is the largest?",
        ),
    ),
    Exercise(
        id="04.2", title="the best scale for given codes",
        difficulty="medium", minutes=12, answer=refine_scale, cases=_weights_to_fit,
        checks=(
            Invariant("the error has grown: is the scale the best one for its codes?", _no_worse),
        ),
        mistakes=(
            Mistake("the fraction stands on its head: the codes' squares belong below",
                    _fitted(lambda w, q: (q * q).sum() / (w * q).sum())),
            Mistake("the ratio of the norms makes both equally long, not equally placed",
                    _fitted(lambda w, q: w.norm() / q.norm())),
            Mistake("the ratio of the mean sizes is no least-squares fit",
                    _fitted(lambda w, q: w.abs().sum() / q.abs().sum())),
            Mistake("the codes are looked up once; a new scale wants new codes, every round",
                    lambda w, scale, qmin, qmax, rounds: refine_scale(w, scale, qmin, qmax, 1)),
            Mistake("the codes leave their range: clamp them",
                    lambda w, s, qmin, qmax, rounds: refine_scale(w, s, -(10**6), 10**6, rounds)),
        ),
        hints=(
            "With the codes fixed, the error is a parabola in s. Set its slope to zero.",
            "d/ds of sum (s q - w)² is 2 sum q (s q - w): zero at s = sum(w q) / sum(q q).",
        ),
    ),
    Exercise(
        id="04.3", title="an offset that learns, too",
        difficulty="medium", minutes=12, answer=offset_gradients, cases=_shifted_inputs,
        mistakes=(
            Mistake("inside the range the offset cancels: its slope is 0 there, not 1",
                    _spoiled(lambda g, rounded, dx, ds, db: (dx, ds, g.sum()))),
            Mistake("where x is clipped, the output moves with the offset: its slope is not 0",
                    _spoiled(lambda g, rounded, dx, ds, db: (dx, ds, 0 * db))),
            Mistake("the offset's slope is 1 outside the range and 0 inside, not the reverse",
                    _spoiled(lambda g, rounded, dx, ds, db: (dx, ds, dx.sum()))),
            Mistake("subtract the offset before you divide by the scale",
                    lambda x, s, offset, g, *ends: offset_gradients(x, s, 0 * offset, g, *ends)),
            Mistake("where x is clipped, the slope of the scale is the bound, not 0",
                    _spoiled(lambda g, rounded, dx, ds, db: (dx, rounded, db))),
            Mistake("the residual has the wrong sign: code minus v, not v minus code",
                    _spoiled(lambda g, rounded, dx, ds, db: (dx, ds - 2 * rounded, db))),
            Mistake("where x is clipped, the output does not follow x: no gradient there",
                    _spoiled(lambda g, rounded, dx, ds, db: (g, ds, db))),
        ),
        hints=(
            "Write round(v) = v + r with a fixed r, put v in, and see what is left of the offset.",
            "Inside: s (v + r) + offset = x + s r. Outside: s * bound + offset.",
        ),
    ),
    Exercise(
        id="04.4", title="a scale for every row",
        difficulty="hard", minutes=18, answer=lsq_rows, cases=_rows_to_quantize,
        checks=(Gradient(),),
        mistakes=(
            Mistake("the scales' gradient lacks the factor 1 / sqrt(columns * qmax)", _lsq),
            Mistake("a scale serves one row: count the columns, not all numbers",
                    lambda w, s, qmin, qmax: _lsq(w, s, qmin, qmax, (w.numel() * qmax) ** -0.5)),
            Mistake("the factor lacks its square root",
                    lambda w, s, qmin, qmax: _lsq(w, s, qmin, qmax, 1 / (w.shape[1] * qmax))),
            Mistake("the factor is for the scales alone; the weights keep their gradient",
                    _factor_on_all),
            Mistake("the factor has changed the value: only the gradient may shrink",
                    lambda w, s, qmin, qmax: _lsq(w, s * (w.shape[1] * qmax) ** -0.5, qmin, qmax)),
            Mistake("the rounding still has slope zero: bridge it", _plain_rounding),
            Mistake("the rounding still has slope zero, and the scales lack their factor",
                    lambda w, s, *ends: s[:, None] * (w / s[:, None]).round().clamp(*ends)),
            Mistake("you bridge the whole quantizer, and the scales get no gradient", _all_bridged),
            Mistake("the border is tested on the code, half a step too late: clamp, then round",
                    _border_on_codes),
        ),
        hints=(
            "scales[:, None] has the shape (rows, 1), so that each row meets its own scale.",
            "a * f + (a * (1 - f)).detach() has the value of a and f times its gradient.",
            "Clamp w / s first, then add (round - itself).detach(), then multiply by s.",
        ),
    ),
)  # fmt: skip
