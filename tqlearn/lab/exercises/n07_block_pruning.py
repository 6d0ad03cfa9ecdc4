"""Exercises of notebook 07: fill the holes, a gate that learns, a head that asks nothing."""

import torch

from .base import Cost, Exercise, Gradient, Invariant, Mistake


def fill_holes(w, noise):
    """The zeros of w become mean + 0.01 * std * noise; w and noise of one shape -> that shape."""
    return torch.where(w == 0, w.mean() + 0.01 * w.std() * noise, w)


def _with_holes(generator):
    for shape, block in (((12, 16), 4), ((9, 30), 3), ((20, 8), 2)):
        w = torch.randn(shape, generator=generator) + 0.4  # off center, so that the mean matters
        grid = torch.rand(shape[0] // block, shape[1] // block, generator=generator) < 0.6
        w = w * grid.repeat_interleave(block, 0).repeat_interleave(block, 1)
        w[:block, :block] = 1.5  # something stays, and something goes
        w[-block:, -block:] = 0.0
        yield w, torch.randn(shape, generator=generator)


def _stays(value, w, noise):
    return torch.equal(value[w != 0], w[w != 0])


def gated(w, scores, tau, block):
    """w with its blocks kept or zeroed by the scores, and the gradients of block pruning."""
    kept = (scores.sigmoid() > tau).to(w.dtype)
    gate = kept + (scores - scores.detach())  # the value is kept, the slope for a score is 1
    return w * gate.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def _spread(grid, block):
    return grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def _gate_by(gate):
    """A wrong answer to 07.2: ``gate`` takes scores and tau."""
    return lambda w, scores, tau, block: w * _spread(gate(scores, tau), block)


def _hard(scores, tau):
    return (scores.sigmoid() > tau).float()


def _through(scores):
    return scores - scores.detach()


def _all_weights_hear(w, scores, tau, block):
    held = w.detach() * _spread(_hard(scores, tau) + _through(scores), block)
    return held + (w - w.detach())


def _scored(generator):
    for (rows, columns), block, tau in (((3, 4), (4, 2), 0.1), ((2, 5), (3, 3), 0.3),
                                        ((4, 2), (1, 6), 0.5)):  # fmt: skip
        scores = 2 * torch.randn(rows, columns, generator=generator) - 1
        scores[0, 0], scores[-1, -1] = 2.0, -4.0
        scores[0, 1] = 0.0  # at tau 0.5 it is just at the threshold
        shape = rows * block[0], columns * block[1]
        yield torch.randn(shape, generator=generator), scores, tau, block


def dead_query_head(x, real, value, bias, output):
    """What a head adds whose query is all zero; x (batch, tokens, width) -> the same shape."""
    share = real.to(x.dtype)[..., None]
    mean = (x * share).sum(1) / share.sum(1)  # (batch, width), over the real tokens
    return ((mean @ value.T + bias) @ output.T)[:, None].expand_as(x)


def _mean_of(weights):
    """A wrong answer to 07.3: ``weights`` takes real and returns (batch, tokens) shares."""

    def answer(x, real, value, bias, output):
        mean = (x * weights(real.to(x.dtype))[..., None]).sum(1)
        return ((mean @ value.T + bias) @ output.T)[:, None].expand_as(x)

    return answer


def _without_bias(x, real, value, bias, output):
    return dead_query_head(x, real, value, torch.zeros_like(bias), output)


def _own_value(x, real, value, bias, output):
    return (x @ value.T + bias) @ output.T


def _only_real(x, real, value, bias, output):
    return dead_query_head(x, real, value, bias, output) * real[..., None]


def _tokens(generator):
    for batch, tokens, width, size in ((3, 7, 12, 4), (2, 9, 8, 2), (4, 5, 16, 8)):
        x = torch.randn(batch, tokens, width, generator=generator)
        lengths = torch.randint(1, tokens, (batch,), generator=generator)
        real = torch.arange(tokens) < lengths[:, None]
        value = torch.randn(size, width, generator=generator)
        bias = torch.randn(size, generator=generator)
        yield x, real, value, bias, torch.randn(width, size, generator=generator)


EXERCISES = (
    Exercise(
        id="07.1", title="fill the holes",
        difficulty="easy", minutes=8, answer=fill_holes, cases=_with_holes,
        checks=(Invariant("what is not zero has to stay as it is", _stays),),
        mistakes=(
            Mistake("zeros become 0.01 * std * noise here: the mean is missing",
                    lambda w, noise: torch.where(w == 0, 0.01 * w.std() * noise, w)),
            Mistake("zeros become the mean alone: the noise is missing",
                    lambda w, noise: torch.where(w == 0, w.mean(), w)),
            Mistake("the noise is a hundred times too large: 0.01 is missing",
                    lambda w, noise: torch.where(w == 0, w.mean() + w.std() * noise, w)),
            Mistake("mean and standard deviation are those of the whole tensor, zeros included",
                    lambda w, noise: torch.where(
                        w == 0, w[w != 0].mean() + 0.01 * w[w != 0].std() * noise, w)),
            Mistake("the noise counts in standard deviations, not in variances",
                    lambda w, noise: torch.where(w == 0, w.mean() + 0.01 * w.var() * noise, w)),
        ),
        hints=(
            "torch.where(condition, a, b) takes a where the condition holds, and b elsewhere.",
            "The condition is w == 0; b is w itself.",
        ),
        rtol=1e-3,
    ),
    # Passes, too: True and False without .to(), as + makes floats of them; the type of scores,
    # which is that of w.
    Exercise(
        id="07.2", title="a gate that learns",
        difficulty="medium", minutes=12, answer=gated, cases=_scored,
        checks=(Gradient(),),
        mistakes=(
            Mistake("no gradient reaches the scores: a comparison has none, give it one",
                    _gate_by(_hard)),
            Mistake("the sigmoid's slope is in the scores' gradient; it should be left out",
                    _gate_by(lambda s, tau: _hard(s, tau) + _through(s.sigmoid()))),
            Mistake("blocks are multiplied by sigmoid(score); they should stay or go as a whole",
                    _gate_by(lambda s, tau: s.sigmoid())),
            Mistake("the scores are compared with tau; their sigmoids should be",
                    _gate_by(lambda s, tau: (s > tau).float() + _through(s))),
            Mistake("a block stays if it is strictly above the threshold; this keeps equal ones",
                    _gate_by(lambda s, tau: (s.sigmoid() >= tau).float() + _through(s))),
            Mistake("weights of dead blocks get a gradient; only kept ones should",
                    _all_weights_hear),
            Mistake("a score hears the mean over its block; it should hear the sum",
                    lambda w, scores, tau, block: w * _spread(
                        _hard(scores, tau) + _through(scores) / (block[0] * block[1]), block)),
        ),
        hints=(
            "x - x.detach() is zero, and its gradient for x is one.",
            "A gate per block: (scores.sigmoid() > tau).to(w.dtype) + (scores - scores.detach()).",
            "Spread it with repeat_interleave along both axes, and multiply w by it.",
        ),
    ),
    # Passes, too: True and False without .to(), as * makes floats of them; the type of any other
    # tensor.
    Exercise(
        id="07.3", title="the head that asks nothing",
        difficulty="hard", minutes=15, answer=dead_query_head, cases=_tokens,
        checks=(Cost("average first: products of every token cost {ratio} times as much"),),
        mistakes=(
            Mistake("padding is in the mean; only real tokens are looked at",
                    _mean_of(lambda real: torch.full_like(real, 1 / real.shape[1]))),
            Mistake("the shares of the real tokens have to add up to one: it is a mean, not a sum",
                    _mean_of(lambda real: real)),
            Mistake("padding is left out of the sum but counted in the division",
                    _mean_of(lambda real: real / real.shape[1])),
            Mistake("the value's bias is missing: a mean of constants is the constant",
                    _without_bias),
            Mistake("every token gets its own value; it should get the mean over all of them",
                    _own_value),
            Mistake("tokens of the padding ask, too: all rows of a sentence are alike",
                    _only_real),
        ),
        hints=(
            "With a zero query all scores of attention are 0: what does a softmax make of those?",
            "Value and output are linear, so the mean of the values is the value of the mean.",
            "Mean over real tokens, then value with its bias, then output, then expand_as(x).",
        ),
    ),
)  # fmt: skip
