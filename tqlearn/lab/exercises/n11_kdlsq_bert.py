"""Exercises of notebook 11: five values in a byte, a clip that learns, a start from batches."""

import torch
import torch.nn.functional as F

from .base import Exercise, Gradient, Invariant, Mistake


def pack_five(codes):
    """One byte (uint8) for each five of the codes -1, 0, 1; the first of the five counts once."""
    import torch
    import torch.nn.functional as F

    digits = F.pad(codes + 1, (0, -len(codes) % 5), value=1)
    powers = torch.tensor([1, 3, 9, 27, 81])
    return (digits.reshape(-1, 5) * powers).sum(1).to(torch.uint8)


def _packed(codes, shift=1, fill=1, powers=(1, 3, 9, 27, 81), dtype=torch.uint8):
    digits = F.pad((codes + shift) % 256, (0, -len(codes) % 5), value=fill)
    return (digits.reshape(-1, 5) * torch.tensor(powers)).sum(1).to(dtype)


def _by_columns(codes):
    digits = F.pad(codes + 1, (0, -len(codes) % 5), value=1)
    return (digits.reshape(5, -1).T * torch.tensor([1, 3, 9, 27, 81])).sum(1).to(torch.uint8)


def _cut_short(codes):
    return pack_five(codes[: len(codes) // 5 * 5])


def _codes(generator):
    for n in (20, 23, 41, 64):
        yield (torch.randint(-1, 2, (n,), generator=generator),)


def learned_clip(v, clip, bits, through):
    """v on 2^bits - 1 levels up to the clip, shape of v; backward() gives KDLSQ's gradients."""
    Q = 2 ** (bits - 1) - 1
    x = v / clip
    held = x.clamp(-1, 1)
    residual = (held * Q).round() / Q - held
    out = clip * (held + residual.detach())
    beyond = (x.abs() > 1) * (v - v.detach())  # worth zero, but it has the slope of v
    return out + beyond if through else out


def _one_more_level(v, clip, bits, through):
    Q = 2 ** (bits - 1) - 1
    x = v / clip
    held = x.clamp(-(Q + 1) / Q, 1)
    out = clip * (held + ((held * Q).round() / Q - held).detach())
    beyond = (x != held) * (v - v.detach())
    return out + beyond if through else out


def _lsq_rule(v, clip, bits, through):
    return learned_clip(v, clip, bits, False)


def _always_through(v, clip, bits, through):
    return learned_clip(v, clip, bits, True)


def _value(v, clip, bits):
    return learned_clip(v.detach(), clip.detach(), bits, False)


def _no_residual(v, clip, bits, through):
    held = torch.minimum(torch.maximum(v, -clip), clip)  # as plain PACT learns
    out = held + (_value(v, clip, bits) - held).detach()
    return out + ((v / clip).abs() > 1) * (v - v.detach()) if through else out


def _slope_of_the_code(v, clip, bits, through):
    code = (_value(v, clip, bits) / clip).detach()
    moves = torch.ones_like(v) if through else ((v / clip).abs() <= 1).to(v.dtype)
    return clip * code + moves * (v - v.detach())


def _with_the_factor(v, clip, bits, through):
    f = (v.numel() * (2 ** (bits - 1) - 1)) ** -0.5
    return learned_clip(v, clip * f + (clip * (1 - f)).detach(), bits, through)


def _weights(generator):
    for bits, through in ((2, True), (2, False), (3, True), (4, False)):
        v = torch.randn(6, 7, generator=generator)
        clip = 0.9 + 0.4 * torch.rand((), generator=generator)
        yield v, clip, bits, through


def start_from_batches(batches, gamma):
    """The mean, over the batches, of the clips that their real tokens ask for: one number."""
    import torch

    clips = []
    for x, mask in batches:
        v = x[mask.bool()].flatten().sort().values
        k = round(gamma * len(v) / 2)
        clips.append(torch.maximum(v[k].abs(), v[len(v) - 1 - k].abs()))
    return torch.stack(clips).mean()


def _clips(batches, gamma, take=lambda x, m: x[m.bool()], tail=2, of=None):
    found = []
    for x, mask in batches:
        v = take(x, mask).flatten().sort().values
        k = round(gamma * len(v) / tail)
        ends = v[k].abs(), v[len(v) - 1 - k].abs()
        found.append((of or torch.maximum)(*ends))
    return torch.stack(found)


def _everyone(batches, gamma):
    return _clips(batches, gamma, take=lambda x, m: x).mean()


def _padding_as_zeros(batches, gamma):
    return _clips(batches, gamma, take=lambda x, m: x * m[..., None]).mean()


def _in_one_pot(batches, gamma):
    every = torch.cat([x[mask.bool()] for x, mask in batches])
    return _clips([(every, torch.ones(len(every)))], gamma)[0]


def _padding_is_no_data(value, batches, gamma):
    top = torch.stack([x[mask.bool()].abs().max() for x, mask in batches]).max()
    return 0 < float(value) <= float(top) * 1.0001


def _token_batches(generator):
    for gamma in (0.1, 0.02, 0.0):
        batches = []
        for tokens in (6, 9, 7):
            x = torch.randn(3, tokens, 8, generator=generator)
            tall = x.exp().sub(1).mul(torch.tensor([1.0, -1.0, 1.0])[:, None, None])
            lengths = torch.tensor([tokens, tokens - 2, tokens - 4])[:, None]
            mask = (torch.arange(tokens) < lengths).long()
            batches.append((torch.where(mask[..., None] == 1, tall, 50 * x), mask))
        yield batches, gamma


EXERCISES = (
    Exercise(
        id="11.1", title="five in a byte",
        difficulty="easy", minutes=10, answer=pack_five, cases=_codes,
        mistakes=(
            Mistake("a digit of base 3 is 0, 1 or 2: add 1 to the code before it counts",
                    lambda codes: _packed(codes, shift=0, fill=0)),
            Mistake("filled up with the digit 0, which is the code -1; the code 0 is the digit 1",
                    lambda codes: _packed(codes, fill=0)),
            Mistake("the first of the five should count once, the last 81 times, not the reverse",
                    lambda codes: _packed(codes, powers=(81, 27, 9, 3, 1))),
            Mistake("the powers are those of 4: that is two bits for each, and five need ten",
                    lambda codes: _packed(codes, powers=(1, 4, 16, 64, 256))),
            Mistake("five neighbors share a byte: reshape(-1, 5), not reshape(5, -1)", _by_columns),
            Mistake("the codes after the last full five are lost: fill up with the code 0",
                    _cut_short),
        ),
        hints=(
            "codes + 1 are digits of base 3. Put five neighbors into a row with reshape(-1, 5), "
            "multiply by 1, 3, 9, 27, 81 and add up.",
            "-len(codes) % 5 codes are missing at the end. torch.nn.functional.pad(t, (0, n), "
            "value=1) appends n digits 1. At last, .to(torch.uint8).",
        ),
    ),
    # Passes, too: Q with the other sign, as rounding is odd; >= 1 for > 1: no case has |x| = 1,
    # where torch's own clamp and minimum, both a way to the answer, disagree on the slope.
    Exercise(
        id="11.2", title="a clip that learns",
        difficulty="medium", minutes=14, answer=learned_clip, cases=_weights,
        checks=(Gradient(),),
        mistakes=(
            Mistake("codes run from -Q to Q; yours have one more below, as LSQ's do",
                    _one_more_level),
            Mistake("right for activations; with through=True v hears g beyond the clip, too",
                    _lsq_rule),
            Mistake("right for weights; with through=False v hears nothing beyond the clip",
                    _always_through),
            Mistake("the clip hears nothing from inside: freeze the residual alone, "
                    "not the whole rounded value", _no_residual),
            Mistake("inside, the clip gets the slope of the code; the residual is what stays fixed",
                    _slope_of_the_code),
            Mistake("the clip's gradient has LSQ's factor; here it is the plain sum",
                    _with_the_factor),
        ),
        hints=(
            "clip * (x + residual), with x = v / clip clamped to -1 .. 1 and the residual "
            "detached: let torch differentiate that. What does it give inside, what outside?",
            "That is the rule for activations. For weights, add something worth zero that has the "
            "slope of v where |x| > 1: (x.abs() > 1) * (v - v.detach()).",
        ),
    ),
    # Passes, too: no second .abs(), or -v[k] for the first: v is sorted, so if its upper end is
    # below 0, the lower one is larger in size and wins, and if its lower end is above 0, the upper
    # one wins; maximum swapped.
    Exercise(
        id="11.3", title="a start from real tokens",
        difficulty="medium", minutes=10, answer=start_from_batches, cases=_token_batches,
        checks=(
            Invariant("larger than any real entry: padding has moved it", _padding_is_no_data),
        ),
        mistakes=(
            Mistake("padding has a say in it: choose the real tokens first, x[mask.bool()]",
                    _everyone),
            Mistake("padding counts as zeros, which makes the tails thinner: leave it out",
                    _padding_as_zeros),
            Mistake("gamma is the share of both tails together: k counts half of it",
                    lambda b, g: _clips(b, g, tail=1).mean()),
            Mistake("only the upper end is looked at; the lower one may reach farther",
                    lambda b, g: _clips(b, g, of=lambda low, high: high).mean()),
            Mistake("all batches in one pot; what is asked for is the mean of their clips",
                    _in_one_pot),
            Mistake("the largest of the clips; what is asked for is their mean",
                    lambda b, g: _clips(b, g).max()),
        ),
        hints=(
            "x[mask.bool()] has the shape (real tokens, width). Flatten it, sort it, and look at "
            "both ends, k places in.",
            "v.sort().values[k] and [len(v) - 1 - k]; torch.maximum of their sizes; "
            "torch.stack(clips).mean() in the end.",
        ),
    ),
)  # fmt: skip
