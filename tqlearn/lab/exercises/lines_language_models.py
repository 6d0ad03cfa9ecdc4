"""Lines to fill in on the way through lesson 16: perplexity, and GPTQ's one step."""

import torch

from .base import Exercise, Mistake


def perplexity(p):
    """As if so many words were equally likely at each place; p (n,): chances of those that came."""
    return torch.exp(-p.log().mean())


def _chances(generator):
    for n in (5, 40):
        yield (0.01 + 0.98 * torch.rand(n, generator=generator, dtype=torch.float64),)


def passed_on(rest, error, row):
    """The columns still to be rounded, (out, left), after one has left an error (out,) to them."""
    return rest - torch.outer(error, row)


def _columns(generator):
    for out, left in ((4, 4), (6, 3), (2, 9)):
        shapes = (out, left), (out,), (left,)
        yield tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


EXERCISES = (
    Exercise(
        id="16.a", title="how many words it wavers between",
        difficulty="easy", minutes=3, answer=perplexity, cases=_chances,
        mistakes=(
            Mistake("those are the nats: perplexity is exp of them", lambda p: -p.log().mean()),
            Mistake("the mean of 1 / p lets one bad guess decide: average the logarithms",
                    lambda p: (1 / p).mean()),
            Mistake("one over the mean chance; average the logarithms, and then exp",
                    lambda p: 1 / p.mean()),
            Mistake("the logarithm is the natural one here, so the way back is exp, not a power "
                    "of two",
                    lambda p: 2 ** -p.log().mean()),
            Mistake("the sign is turned: surprise is minus the logarithm",
                    lambda p: torch.exp(p.log().mean())),
            Mistake("a sum grows with the text: take the mean",
                    lambda p: torch.exp(-p.log().sum())),
        ),
        hints=(
            "From the inside out: the logarithm of each chance, their mean, a sign, exp.",
            "-p.log().mean() are nats per word; torch.exp of that.",
        ),
    ),
    Exercise(
        id="16.b", title="what the others take over",
        difficulty="easy", minutes=3, answer=passed_on, cases=_columns,
        mistakes=(
            Mistake("the error is taken away from the others, not added: look at the sign",
                    lambda rest, error, row: rest + torch.outer(error, row)),
            Mistake("every later column takes its own share, row[j]",
                    lambda rest, error, row: rest - error[:, None]),
            Mistake("every output has an error of its own; yours is one for all",
                    lambda rest, error, row: rest - error.mean() * row),
        ),
        hints=(
            "rest[r, j] loses error[r] times row[j]: a table of products.",
            "torch.outer(error, row) is that table, of the shape (out, left).",
        ),
    ),
)  # fmt: skip
