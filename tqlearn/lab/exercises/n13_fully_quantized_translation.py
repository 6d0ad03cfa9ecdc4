"""Exercises of notebook 13: a grid that keeps its zero, ranges that run, scales that fold."""

import torch

from .base import Exercise, Gradient, Invariant, Mistake


def zero_grid(x, high, bits):
    """x on the 2^bits levels from 0 to high; backward() passes inside and stops outside."""
    s = high.detach() / (2**bits - 1)
    held = x.clamp(x.new_zeros(()), high.detach())
    hat = s * (held / s).round()
    return held + (hat - held).detach()


def _everywhere(x, high, bits):
    return x + (zero_grid(x, high, bits) - x).detach()


def _levels(x, high, bits, top):
    s = high.detach() / top
    held = x.clamp(x.new_zeros(()), high.detach())
    return held + (s * (held / s).round() - held).detach()


def _free_range(x, high, bits):
    low, top = x.min().detach(), high.detach()
    s = (top - low) / (2**bits - 1)
    held = x.clamp(low, top)
    return held + (low + s * ((held - low) / s).round() - held).detach()


def _rounded_down(x, high, bits):
    s = high.detach() / (2**bits - 1)
    held = x.clamp(x.new_zeros(()), high.detach())
    return held + (s * (held / s + 1e-6).floor() - held).detach()


def _range_learns(x, high, bits):
    held = torch.minimum(x.clamp_min(0), high)
    return held + (zero_grid(x, high, bits) - held).detach()


def _zero_is_zero(value, x, high, bits):
    return bool((value[x <= 0] == 0).all())


def _signals(generator):
    for bits in (2, 3, 4):
        x = torch.randn(5, 8, generator=generator) + 0.3
        high = 0.8 + 0.4 * torch.rand((), generator=generator)
        yield x.round(decimals=3), high, bits


def running_range(batches, momentum):
    """(low, high) per feature after all batches (x, mask): a running mean of real extremes."""
    low = high = None
    for x, mask in batches:
        real = x[mask.bool()]
        new_low, new_high = real.amin(0), real.amax(0)
        if low is None:
            low, high = new_low, new_high
        low = momentum * low + (1 - momentum) * new_low
        high = momentum * high + (1 - momentum) * new_high
    return low, high


def _run(batches, momentum, take=lambda x, m: x[m.bool()], start=None, share=None):
    keep = momentum if share is None else share(momentum)
    low, high = start or (None, None)
    for x, mask in batches:
        rows = take(x, mask).reshape(-1, x.shape[-1])
        new_low, new_high = rows.amin(0), rows.amax(0)
        if low is None:
            low, high = new_low, new_high
        low, high = keep * low + (1 - keep) * new_low, keep * high + (1 - keep) * new_high
    return low, high


def _extremes(batches):
    rows = [x[mask.bool()] for x, mask in batches]
    lows, highs = (torch.stack([getattr(r, f)(0) for r in rows]) for f in ("amin", "amax"))
    return lows, highs


def _record(batches, momentum):
    lows, highs = _extremes(batches)
    return lows.amin(0), highs.amax(0)


def _plain_mean(batches, momentum):
    lows, highs = _extremes(batches)
    return lows.mean(0), highs.mean(0)


def _from_zero(batches, momentum):
    zero = torch.zeros(batches[0][0].shape[-1])
    return _run(batches, momentum, start=(zero, zero))


def _only_real(value, batches, momentum):
    most = torch.stack([x[mask.bool()].abs().amax() for x, mask in batches]).max()
    return all(float(t.abs().max()) <= float(most) * 1.0001 for t in value)


def _padded(generator):
    for momentum in (0.9, 0.6):
        batches = []
        for tokens in (7, 5, 8, 6):
            x = torch.randn(4, tokens, 6, generator=generator) + torch.arange(6.0) - 4
            lengths = torch.tensor([tokens, tokens - 1, tokens - 2, 2])[:, None]
            mask = (torch.arange(tokens) < lengths).long()
            batches.append((torch.where(mask[..., None] == 1, x, 30 * x), mask))
        yield batches, momentum


def folded_product(q, s, low, W, bits):
    """x W^T for x = s q + low with a range per feature, W' on a grid per row: (n, k) -> (n, m)."""
    scaled = W * s  # column k carries the scale of feature k
    r, top = scaled.amin(1), scaled.amax(1)
    t = (top - r) / (2**bits - 1)
    p = ((scaled - r[:, None]) / t[:, None]).round().int()
    q = q.int()
    return t * (q @ p.T) + r * q.sum(1, keepdim=True) + W @ low


def _folded(q, s, low, W, bits, scaled=None, after=1.0, rows=True, kind=torch.int32, parts="rl"):
    scaled = W * s if scaled is None else scaled
    r, top = (scaled.amin(1), scaled.amax(1)) if rows else (scaled.min(), scaled.max())
    r, top = r.expand(len(W)), top.expand(len(W))
    t = (top - r) / (2**bits - 1)
    p = ((scaled - r[:, None]) / t[:, None]).round().to(kind)
    out = t * (q.to(kind) @ p.T)
    out = out + (r * q.int().sum(1, keepdim=True) if "r" in parts else 0)
    return out * after + (W @ low if "l" in parts else 0)


def _scaled_afterwards(q, s, low, W, bits):
    r, top = W.amin(1, keepdim=True), W.amax(1, keepdim=True)
    t = (top - r) / (2**bits - 1)
    return q.float() @ ((t * ((W - r) / t).round() + r) * s).T + W @ low


def _features(generator):
    for n, k, m in ((5, 12, 7), (3, 40, 4), (6, 25, 9)):
        q = torch.randint(0, 256, (n, k), generator=generator).to(torch.uint8)
        s = 0.01 * (1 + 5 * torch.rand(k, generator=generator))
        low = torch.randn(k, generator=generator) - 0.5
        W = torch.randn(m, k, generator=generator) * (1 + torch.arange(m)[:, None])
        yield q, s, low, W, 8


EXERCISES = (
    # Passes, too: high with its gradient, as hat is detached later; s with the other sign, as
    # rounding is odd; zeros of another tensor.
    Exercise(
        id="13.1", title="a grid that keeps its zero",
        difficulty="easy", minutes=10, answer=zero_grid, cases=_signals,
        checks=(Invariant("what is 0 or below has to become exactly 0", _zero_is_zero), Gradient()),
        mistakes=(
            Mistake("the gradient passes everywhere; where x is clamped it has to be 0",
                    _everywhere),
            Mistake("the lower end is that of this tensor; fix it at 0, whatever comes",
                    _free_range),
            Mistake("from 0 to 2^b there are 2^b + 1 levels: the last code is 2^b - 1",
                    lambda x, high, bits: _levels(x, high, bits, 2**bits)),
            Mistake("that is the signed half, 2^(b-1) levels; nothing is negative here",
                    lambda x, high, bits: _levels(x, high, bits, 2 ** (bits - 1) - 1)),
            Mistake("rounded down: the nearest level is asked for, so round()", _rounded_down),
            Mistake("the range learns, too; here it is a constant: high.detach()", _range_learns),
        ),
        hints=(
            "Clamp first: torch then passes the gradient inside and stops it outside, by itself. "
            "Only round() has to be hidden from it.",
            "held + (hat - held).detach() has the value of hat and the gradient of held. "
            "held = x.clamp(0, high) needs high.detach(), and 0 as a tensor: x.new_zeros(()).",
        ),
    ),
    # Passes, too: high is None, as low and high are None together.
    Exercise(
        id="13.2", title="a range that runs",
        difficulty="easy", minutes=10, answer=running_range, cases=_padded,
        checks=(Invariant("wider than any real entry: padding has moved it", _only_real),),
        mistakes=(
            Mistake("padding has a say in it: choose the real positions first, x[mask.bool()]",
                    lambda b, m: _run(b, m, take=lambda x, mask: x)),
            Mistake("padding counts as zeros, which pull the ends toward 0: leave it out",
                    lambda b, m: _run(b, m, take=lambda x, mask: x * mask[..., None])),
            Mistake("the momentum is the share of the old range, not of the new batch",
                    lambda b, m: _run(b, m, share=lambda keep: 1 - keep)),
            Mistake("it starts at 0 and creeps up; the first batch is the start", _from_zero),
            Mistake("that is the record of all batches; one outlier would widen it forever",
                    _record),
            Mistake("all batches weigh the same; the old range keeps its share at each step",
                    _plain_mean),
        ),
        hints=(
            "x[mask.bool()] has the shape (real positions, width); amin(0) and amax(0) give one "
            "number per feature.",
            "None before the first batch. Then low = momentum * low + (1 - momentum) * new_low, "
            "and high alike.",
        ),
    ),
    # Passes, too: t with the other sign: rounding is odd, so p changes its sign as well; r and top
    # exchanged: the same grid, walked from its upper end, p counts down.
    Exercise(
        id="13.3", title="a range per feature after all",
        difficulty="hard", minutes=15, answer=folded_product, cases=_features,
        atol=1e-3,  # the parts cancel: right answers in float32 are off by up to a sixth of it all
        mistakes=(
            Mistake("W is rounded before it is scaled, so its rows are no integers any more",
                    _scaled_afterwards),
            Mistake("the scales never arrive: fold s into the columns of W first",
                    lambda q, s, low, W, b: _folded(q, s, low, W, b, scaled=W)),
            Mistake("W divided by s; x = s q + low, so its columns are to be multiplied by s",
                    lambda q, s, low, W, b: _folded(q, s, low, W, b, scaled=W / s)),
            Mistake("codes up to 255 overflow in eight bits: go to int32 before you multiply",
                    lambda q, s, low, W, b: _folded(q, s, low, W, b, kind=torch.uint8)),
            Mistake("the rows' lower ends are lost: r times the sum of q's codes is missing",
                    lambda q, s, low, W, b: _folded(q, s, low, W, b, parts="l")),
            Mistake("the features' lower ends are lost: W times low is missing",
                    lambda q, s, low, W, b: _folded(q, s, low, W, b, parts="r")),
            Mistake("one range for the whole of W'; each row is to have its own",
                    lambda q, s, low, W, b: _folded(q, s, low, W, b, rows=False)),
        ),
        hints=(
            "s_k w_jk is a number of the weights alone. Scale the columns of W first, then put "
            "every row of W' on a grid from its smallest to its largest entry.",
            "W' = t p + r gives t * (q @ p.T) + r * q.sum(1, keepdim=True), with q and p as int32; "
            "what low adds to each output is W @ low.",
        ),
    ),
)  # fmt: skip
