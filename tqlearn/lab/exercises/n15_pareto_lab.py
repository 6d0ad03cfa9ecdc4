"""Exercises of notebook 15: enough sentences, a front's area, and a plan of your own."""

from math import ceil, floor

import torch

from .base import Exercise, Mistake
from .plans import alike, budgets, reaches, slots


def sentences_needed(one, other, points):
    """Fewest sentences for which 1.96 standard errors of a paired difference are ``points``."""
    from math import ceil

    apart = 100 * (one - other)  # (n,): points that a sentence gives to one and not to the other
    spread = apart.std().item()
    return ceil((1.96 * spread / points) ** 2)


def _needed(one, other, points, apart=None, whole=ceil, power=2):
    """A wrong answer to 15.1: the spread of something else, rounded down, or no square."""
    spread = (100 * (one - other)).std() if apart is None else apart(one, other)
    return whole((1.96 * float(spread) / points) ** power)


def _hits(generator):
    for n, points in ((120, 1.0), (300, 2.5), (80, 0.3)):
        one = (torch.rand(n, generator=generator) < 0.9).double()
        other = torch.where(torch.rand(n, generator=generator) < 0.85, one, 1 - one)
        yield one, other, points


def covered(sizes, scores, most, least):
    """Area of the corner (fewer bytes than most, higher score than least) that models cover."""
    area, top = 0.0, least
    for size, score in sorted(zip(sizes.tolist(), scores.tolist(), strict=True)):
        if size < most and score > top:  # a strip that no smaller model has covered
            area += (most - size) * (score - top)
            top = score
    return area


def _covered(sizes, scores, most, least, every=False, rest=False, outside=False, up=True):
    """A wrong answer to 15.2: strips twice, up to the neighbor, from outside, or downwards."""
    area, top = 0.0, least
    models = sorted(zip(sizes.tolist(), scores.tolist(), strict=True))
    for place, (size, score) in enumerate(models):
        if (outside or size < most) and score > top:
            end = models[place + 1][0] if rest and place + 1 < len(models) else most
            area += (end - size) * (score - (least if every else top))
            top = score if up else top
    return area


def _fronts(generator):
    for n in (5, 9, 15):
        sizes = (100 + 200 * torch.rand(n, generator=generator, dtype=torch.float64)).round()
        scores = 50 + 50 * torch.rand(n, generator=generator, dtype=torch.float64)
        scores[sizes.argmax()] = 101.0  # the best is too large
        scores[sizes.argmin()] = 30.0  # and the smallest too bad
        yield sizes, scores, 0.5 * (sizes.max() + sizes.sort().values[-2]).item(), 45.0


def best_under(budget):
    """A plan for the teacher whose file has at most ``budget`` bytes; nothing is trained."""
    from tqlearn import LSQ, LowRank

    three = LSQ(bits=3, init="mse")
    pair = [LowRank(rank=30), three]  # large matrices as pairs, everything on three bits
    return {"*.attention.*": [LSQ(bits=3, init="mse", per="channel")],
            "*.intermediate.dense": pair, "*.output.dense": pair, "*": [three]}  # fmt: skip


def _beats_the_plain(held):
    from tqlearn import LSQ

    return slots((("*", (LSQ(bits=2, init="mse", per="channel"),)),), held) + 4


EXERCISES = (
    # Passes, too: a spread as a tensor, which ceil takes as well, and differences the other way.
    Exercise(
        id="15.1", title="enough sentences",
        difficulty="medium", minutes=10, answer=sentences_needed, cases=_hits,
        mistakes=(
            Mistake("both models have seen the same sentences: take the spread of the differences, "
                    "not the sum of two variances",
                    lambda *a: _needed(*a, lambda x, y: 100 * (x.var() + y.var()).sqrt())),
            Mistake("that is the spread of one model; the difference has its own",
                    lambda *a: _needed(*a, lambda x, y: 100 * x.std())),
            Mistake("one sentence too few: round up", lambda *a: _needed(*a, whole=floor)),
            Mistake("an error shrinks with the root of the number: half of it costs four times as "
                    "many",
                    lambda *a: _needed(*a, power=1)),
            Mistake("a hit is worth 100 points, and points are what the bar is given in",
                    lambda *a: _needed(*a, lambda x, y: (x - y).std())),
        ),
        hints=(
            "d = 100 * (one - other) is 0 for most sentences. The standard error of its mean over "
            "n of them is d.std() / sqrt(n).",
            "1.96 * d.std() / sqrt(n) <= points, solved for n, rounded up.",
        ),
    ),
    # Passes, too: pairs that are not checked for length, tensors in place of lists, and a model on
    # the edge of the corner, whose strip is empty.
    Exercise(
        id="15.2", title="one number for a front",
        difficulty="hard", minutes=15, answer=covered, cases=_fronts,
        mistakes=(
            Mistake("what a smaller model has covered already is counted again",
                    lambda *a: _covered(*a, every=True)),
            Mistake("a model is there for every larger budget: its strip ends at most, not at its "
                    "neighbor",
                    lambda *a: _covered(*a, rest=True)),
            Mistake("what has more bytes than most covers nothing",
                    lambda *a: _covered(*a, outside=True)),
            Mistake("the next strip begins at the best score so far",
                    lambda *a: _covered(*a, up=False)),
            Mistake("that is the share of the corner; its area is asked for",
                    lambda b, s, most, least: covered(b, s, most, least) / most),
        ),
        hints=(
            "Draw it: every model covers the rectangle from itself to the corner (most, least). "
            "Go from the smallest to the largest; what does each add?",
            "Only the part above the best score so far: (most - size) * (score - top).",
        ),
    ),
    # Passes, too: what still fits and still beats the plain plan by four points: other starts of
    # the scales, one scale for the attention, ranks of 29 and 31.
    Exercise(
        id="15.3", title="the best model under N kilobytes",
        difficulty="hard", minutes=20, answer=best_under, cases=budgets(185_000, 300),
        goal=reaches(_beats_the_plain),
        mistakes=(
            Mistake("three bits everywhere are too large: what can go before the bits do?",
                    alike(3)),
            Mistake("two bits everywhere fit, and have forgotten much: mix", alike(2)),
            Mistake("a scale for each row helps a little, and is what you have to beat",
                    alike(2, "channel")),
        ),
        hints=(
            "What did the sweep put at that size? Its plans take large matrices apart and keep "
            "three bits.",
            "LowRank(rank=30) and LSQ(bits=3, init='mse') for the two large matrices of a layer, "
            "LSQ(bits=3) for the rest, per='channel' for the attention.",
        ),
    ),
)  # fmt: skip
