"""Exercises of notebook 05: a spare code, a clip for every row, a zero point, two clips."""

import torch

from .base import Exercise, Invariant, Mistake


def quantize_extended(w, clip, bits):
    """w on the grid with a zero and one more place, one step below -clip; same shape, floats."""
    top = 2 ** (bits - 1) - 1
    step = clip / top
    return (w / step).clamp(-top - 1, top).round() * step


def _extended(codes, step=lambda top, clip: clip / top):
    """A wrong answer to 05.1: ``codes`` turns w / step into codes, given the largest one."""

    def answer(w, clip, bits):
        top = 2 ** (bits - 1) - 1
        return codes(w / step(top, clip), top) * step(top, clip)

    return answer


def _weights(generator):
    for bits, shape in ((2, (5, 8)), (3, (60,)), (4, (3, 4, 10))):
        w = torch.randn(shape, generator=generator)
        w[torch.rand(shape, generator=generator) < 0.3] = 0
        yield w, torch.tensor(0.7), bits


def _zeros_stay(value, w, *_):
    return bool((value[w == 0] == 0).all())


def quantize_rows(w, c_rms, c_abs, bits):
    """w (rows, columns), every row on the grid with a zero, inside its own clip from the line."""
    rms = w.square().mean(1, keepdim=True).sqrt()
    clip = c_rms * rms + c_abs * w.abs().mean(1, keepdim=True)
    clip = torch.where(clip < rms / 4, w.abs().amax(1, keepdim=True), clip)
    top = 2 ** (bits - 1) - 1
    return (w / clip * top).clamp(-top, top).round() * clip / top


def _rows(size, guard=lambda w: w.abs().amax(1, keepdim=True), mean=torch.abs, less=torch.lt):
    """A wrong answer to 05.2, with one of its parts replaced."""

    def answer(w, c_rms, c_abs, bits):
        rms = size(w)
        clip = c_rms * rms + c_abs * mean(w).mean(1, keepdim=True)
        clip = torch.where(less(clip, rms / 4), guard(w), clip)
        top = 2 ** (bits - 1) - 1
        return (w / clip * top).clamp(-top, top).round() * clip / top

    return answer


def _rms(w):
    return w.square().mean(1, keepdim=True).sqrt()


def _one_clip(w, c_rms, c_abs, bits):
    return quantize_rows(w.reshape(1, -1), c_rms, c_abs, bits).reshape(w.shape)


def _uneven_rows(generator):
    for bits, shape in ((4, (6, 40)), (4, (12, 12)), (2, (5, 30))):
        spread = 0.2 + torch.rand(shape[0], 1, generator=generator) * 4
        w = torch.randn(shape, generator=generator) * spread + 0.3 * spread
        c_rms, c_abs = (12.035, -12.03) if bits == 4 else (2.6, -2.5)
        w[0] = -0.7  # a row of one size only, and three whose clips are this share of their rms
        for row, share, sign in ((1, 0.22, 1), (2, 0.29, 1), (3, 0.22, -1)):
            off = ((c_abs / (share - c_rms)) ** 2 - 1) ** 0.5
            w[row] = sign * torch.tensor([1 + off, 1 - off]).repeat(shape[1] // 2)
        yield w, c_rms, c_abs, bits


def quantize_two_sided(x, low, high, bits):
    """x on 2**bits places from about low to about high, with 0 among them; same shape, floats."""
    n = 2**bits - 1
    scale = (high - low) / n
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, n) - zero) * scale


def _two_sided(zero=torch.round, codes=lambda v, n: v.round().clamp(0, n), back=None, count=0):
    """A wrong answer to 05.3, with one of its parts replaced."""

    def answer(x, low, high, bits):
        n = 2**bits - 1
        scale = (high - low) / (n + count)
        point = zero(-low / scale)
        code = codes(x / scale + point, n)
        return (code - point) * scale if back is None else back(code, low, scale)

    return answer


def _activations(generator):
    for bits, shape in ((4, (4, 30)), (3, (80,)), (2, (3, 5, 8))):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        x[torch.rand(shape, generator=generator) < 0.2] = 0
        low, high = -0.3 - 0.4 * torch.rand(2, generator=generator, dtype=torch.float64)
        yield x, low, 1.3 - high, bits


def clip_gradients(x, low, high, g, bits):
    """PACT+'s gradients for x (same shape), low and high (numbers), as a tuple of tensors."""
    n = 2**bits - 1
    z = (x - low) * n / (high - low)
    below, beyond = (z <= 0).to(g), (z >= n).to(g)
    inside = 1 - below - beyond
    share = inside * (z.round() - z) / n
    return g * inside, (g * (below - share)).sum(), (g * (beyond + share)).sum()


def _spoiled(slopes, dx=lambda g, inside: g * inside):
    """A wrong answer to 05.4: ``slopes`` takes below, beyond, the inner residual and n."""

    def answer(x, low, high, g, bits):
        n = 2**bits - 1
        z = (x - low) * n / (high - low)
        below, beyond = (z <= 0).to(g), (z >= n).to(g)
        inside = 1 - below - beyond
        by_low, by_high = slopes(below, beyond, inside * (z.round() - z), n)
        return dx(g, inside), (g * by_low).sum(), (g * by_high).sum()

    return answer


def _gradients_in(generator):
    for x, low, high, bits in _activations(generator):
        yield x, low, high, torch.randn(x.shape, generator=generator, dtype=x.dtype), bits


EXERCISES = (
    Exercise(
        id="05.1", title="the spare code",
        difficulty="easy", minutes=6, answer=quantize_extended, cases=_weights,
        checks=(
            Invariant("a weight that was exactly zero is not zero any more", _zeros_stay),
            Invariant("more than 2**bits different values come out",
                      lambda value, w, clip, bits: value.unique().numel() <= 2**bits),
        ),
        mistakes=(
            Mistake("the code -2**(bits - 1) never occurs: let w reach one step below -clip",
                    _extended(lambda v, top: v.clamp(-top, top).round())),
            Mistake("the spare code is the one below, as in two's complement, not one above",
                    _extended(lambda v, top: v.clamp(-top, top + 1).round())),
            Mistake("the step has changed: clip belongs to the code 2**(bits - 1) - 1, as before",
                    _extended(lambda v, top: v.clamp(-top - 1, top).round(),
                              lambda top, clip: clip / (top + 1))),
            Mistake("it rounds down, so that every error points the same way",
                    _extended(lambda v, top: v.clamp(-top - 1, top).floor())),
        ),
        hints=(
            "Take with_zero_by_hand and change one bound.",
            "The step stays clip / top. Only the smallest code becomes -top - 1.",
        ),
    ),
    # Passes, too: <= for <, as no clip is a quarter of the rms to the last bit.
    Exercise(
        id="05.2", title="a clip for every row",
        difficulty="medium", minutes=12, answer=quantize_rows, cases=_uneven_rows,
        checks=(Invariant("it has NaN or infinite entries: look at the row of one size",
                          lambda value, *_: bool(torch.isfinite(value).all())),),
        mistakes=(
            Mistake("one clip for the whole matrix: every row has statistics of its own",
                    _one_clip),
            Mistake("these are the statistics of the columns: average along dimension 1",
                    lambda w, *rest: quantize_rows(w.T, *rest).T),
            Mistake("the guard is missing: a row whose weights all have one size gets no room",
                    _rows(_rms, less=lambda clip, limit: clip != clip)),
            Mistake("the rms is about zero, not about the mean: a standard deviation is too small",
                    _rows(lambda w: w.std(1, keepdim=True, correction=0))),
            Mistake("the second statistic is the mean of |w|, not of w",
                    _rows(_rms, mean=lambda w: w)),
            Mistake("the root is missing: rms is the root of the mean square",
                    _rows(lambda w: w.square().mean(1, keepdim=True))),
            Mistake("the guard's largest weight is that of the row, not of the matrix",
                    _rows(_rms, guard=lambda w: w.abs().amax())),
        ),
        hints=(
            "mean(1, keepdim=True) has the shape (rows, 1), so each row meets its own number.",
            "torch.where(clip < rms / 4, largest, clip) is the guard; then with_zero_by_hand.",
        ),
    ),
    Exercise(
        id="05.3", title="an integer zero point",
        difficulty="medium", minutes=12, answer=quantize_two_sided, cases=_activations,
        checks=(Invariant("an input that was exactly zero is not zero any more", _zeros_stay),),
        mistakes=(
            Mistake("the zero point is not rounded: 0 falls between two places",
                    _two_sided(zero=lambda point: point)),
            Mistake("on the way back subtract the rounded zero point; adding low moves 0 again",
                    _two_sided(back=lambda code, low, scale: code * scale + low)),
            Mistake("the zero point is -low / scale: with the other sign the grid lies elsewhere",
                    _two_sided(zero=lambda point: -point.round())),
            Mistake("the codes leave 0 ... 2**bits - 1: clip them",
                    _two_sided(codes=lambda v, n: v.round())),
            Mistake("2**bits places have 2**bits - 1 steps between them", _two_sided(count=1)),
            Mistake("these are codes of a signed grid; here they run from 0 to 2**bits - 1",
                    _two_sided(codes=lambda v, n: v.round().clamp(-(n + 1) // 2, n // 2))),
        ),
        hints=(
            "The zero point is the code that stands for 0. Codes are whole numbers.",
            "code = round(x / scale + zero), clipped; back is (code - zero) * scale.",
        ),
    ),
    # Passes, too: .to() any other tensor, as all have one type; < for <= and > for >=, as autograd
    # itself has it: a slope at the very end of the range is a convention, so no x lies there.
    Exercise(
        id="05.4", title="two clips that learn",
        difficulty="hard", minutes=18, answer=clip_gradients, cases=_gradients_in,
        mistakes=(
            Mistake("this is PACT: PACT+ counts what rounding does inside the range, too",
                    _spoiled(lambda below, beyond, r, n: (below, beyond))),
            Mistake("the residual is to be divided by n = 2**bits - 1: clips span n steps",
                    _spoiled(lambda below, beyond, r, n: (below - r, beyond + r))),
            Mistake("when low rises the steps shrink: its inner part has the other sign",
                    _spoiled(lambda below, beyond, r, n: (below + r / n, beyond + r / n))),
            Mistake("the residual has the wrong sign: round(z) minus z, not z minus round(z)",
                    _spoiled(lambda below, beyond, r, n: (below + r / n, beyond - r / n))),
            Mistake("below low the output is low: its slope there is +1, not -1",
                    _spoiled(lambda below, beyond, r, n: (-below - r / n, beyond + r / n))),
            Mistake("beyond the clips the output does not follow x: no gradient there",
                    _spoiled(lambda below, beyond, r, n: (below - r / n, beyond + r / n),
                             dx=lambda g, inside: g)),
        ),
        hints=(
            "Inside, the output is low + (high - low) / n * (z + r) = x + (high - low) r / n.",
            "So inside high has the slope r / n and low -r / n; beyond its clip each has 1.",
        ),
    ),
)  # fmt: skip
