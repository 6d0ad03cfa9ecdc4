"""Lines to fill in on the way through lesson 15: the score of a draw, and a front."""

import torch

from .base import Exercise, Mistake


def drawn_f1(right, found, gold, draws):
    """F1 (draws,) in percent; right, found, gold (n,): spans; draws (n, draws): how often each."""
    return 200 * (right @ draws) / ((found + gold) @ draws)


def _each_its_own(right, found, gold, draws):
    each = 200 * right / (found + gold)
    return (each @ draws) / draws.sum(0)


def _spans(generator):
    for n, draws in ((12, 5), (30, 9)):
        gold = torch.randint(1, 5, (n,), generator=generator).double()
        found = (gold + torch.randint(0, 3, (n,), generator=generator)).clamp(min=1)
        right = torch.minimum(gold, found) - torch.randint(0, 2, (n,), generator=generator)
        picks = torch.randint(n, (draws, n), generator=generator)
        often = torch.stack([row.bincount(minlength=n) for row in picks], dim=1).double()
        yield right, found, gold, often


def beaten(sizes, scores):
    """True (n,) for each model that another one beats: no larger, no worse, and better in one."""
    no_worse = (sizes <= sizes[:, None]) & (scores >= scores[:, None])  # (n, n): column beats row?
    better = (sizes < sizes[:, None]) | (scores > scores[:, None])
    return (no_worse & better).any(1)


def _pairs(sizes, scores):
    """Is column smaller, as small, better, as good as row?"""
    small, good = sizes - sizes[:, None], scores - scores[:, None]
    return small < 0, small <= 0, good > 0, good >= 0


def _in_both(sizes, scores):
    smaller, _, better, _ = _pairs(sizes, scores)
    return (smaller & better).any(1)


def _by_itself(sizes, scores):
    _, small, _, good = _pairs(sizes, scores)
    return (small & good).any(1)


def _by_a_twin(sizes, scores):
    _, small, _, good = _pairs(sizes, scores)
    return (small & good).sum(1) > 1


def _models(generator):
    for n in (7, 14):
        sizes = torch.randint(1, 9, (n,), generator=generator).double()
        scores = torch.randint(1, 9, (n,), generator=generator).double()
        sizes[0], scores[0] = sizes[1], scores[1]  # twins
        sizes[2], sizes[3], scores[4], scores[5] = 0.0, 0.0, 9.0, 9.0
        yield sizes, scores


EXERCISES = (
    Exercise(
        id="15.a", title="the score of a draw",
        difficulty="easy", minutes=4, answer=drawn_f1, cases=_spans,
        mistakes=(
            Mistake("F1 of a text is one fraction of sums, not the mean of its sentences' F1",
                    _each_its_own),
            Mistake("that is precision: the spans that there are belong below as well",
                    lambda r, f, g, d: 100 * (r @ d) / (f @ d)),
            Mistake("that is recall: the spans that were found belong below as well",
                    lambda r, f, g, d: 100 * (r @ d) / (g @ d)),
            Mistake("what stands below has to be drawn, too, with the same sentences",
                    lambda r, f, g, d: 200 * (r @ d) / (f + g).sum()),
            Mistake("half of it: F1 is twice the right ones over found and gold together",
                    lambda r, f, g, d: 100 * (r @ d) / ((f + g) @ d)),
            Mistake("a fraction; percent are asked for",
                    lambda r, f, g, d: 2 * (r @ d) / ((f + g) @ d)),
        ),
        hints=(
            "How many right spans has a draw? Each sentence's, times how often it was drawn, "
            "summed: right @ draws.",
            "200 * (right @ draws) over the same sum of found + gold.",
        ),
    ),
    Exercise(
        id="15.b", title="who is beaten",
        difficulty="medium", minutes=6, answer=beaten, cases=_models,
        mistakes=(
            Mistake("better in one thing is enough, if it is no worse in the other", _in_both),
            Mistake("every model is as small and as good as itself; that beats nobody", _by_itself),
            Mistake("twins do not beat each other: somewhere it has to be better", _by_a_twin),
            Mistake("you have marked those that nobody beats; the beaten ones are asked for",
                    lambda b, s: ~beaten(b, s)),
            Mistake("you have marked who beats somebody; turn the table, any(1) for any(0)",
                    lambda b, s: beaten(-b, -s)),
            Mistake("fewer bytes are better, not more", lambda b, s: beaten(-b, s)),
            Mistake("a higher score is better, not a lower one", lambda b, s: beaten(b, -s)),
        ),
        hints=(
            "sizes <= sizes[:, None] is a table (n, n): in row i and column j it says whether j is "
            "no larger than i. The same for the scores, the other way round.",
            "(no larger & no worse & (smaller | better)).any(1)",
        ),
    ),
)  # fmt: skip
