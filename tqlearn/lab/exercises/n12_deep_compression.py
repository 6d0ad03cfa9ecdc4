"""Exercises of notebook 12: six patterns, a mask before a grid, a product of integers."""

import torch

from .base import Exercise, Gradient, Invariant, Mistake


def pattern_ids(mask):
    """0 to 5 for every group of a 2:4 mask: (rows, in) Booleans -> (rows, in / 4) integers."""
    import torch

    first = mask.reshape(len(mask), -1, 4).int().argmax(-1)  # the earlier kept place
    last = 3 - mask.reshape(len(mask), -1, 4).flip(-1).int().argmax(-1)
    begins = torch.tensor([0, 3, 5])  # ids of the first pair that begins at 0, 1, 2
    return begins[first] + last - first - 1


def _pairs(mask, pairs):
    pairs = torch.tensor(pairs)
    bits = torch.zeros(len(pairs), 4).scatter(1, pairs, 1.0).bool()
    return (mask.reshape(len(mask), -1, 1, 4) == bits).all(-1).int().argmax(-1)


def _by_the_second(mask):
    return _pairs(mask, [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])


def _bitmap(mask):
    return (mask.reshape(len(mask), -1, 4) * torch.tensor([1, 2, 4, 8])).sum(-1)


def _places(mask):
    places = mask.reshape(len(mask), -1, 4).nonzero()[:, -1].reshape(len(mask), -1, 2)
    return places[..., 0] + 4 * places[..., 1]


def _masks(generator):
    for rows, groups in ((3, 10), (8, 4), (1, 24)):
        scores = torch.rand(rows * groups, 4, generator=generator)
        kept = scores.argsort(1)[:, :2]
        mask = torch.zeros_like(scores).scatter(1, kept, 1.0).bool()
        yield (mask.reshape(rows, 4 * groups),)


def mask_then_grid(w, mask, clip, plus):
    """Masked w on the 15 places up to clip, shape of w; backward() gives the two rules."""
    step = clip / 7
    masked = w * mask
    held = masked.clamp(-clip, clip)
    rounded = (held / step).round() * step
    moves = masked if plus else held
    return moves + (rounded - moves).detach()


def _deaf(w, mask, clip, plus):
    step = clip / 7
    return ((w * mask / step).round().clamp(-7, 7) * step).detach() + 0 * w


def _grid_then_mask(w, mask, clip, plus):
    return w + (mask_then_grid(w, mask, clip, True) - w).detach()


def _always(w, mask, clip, plus):
    return mask_then_grid(w, mask, clip, True)


def _never(w, mask, clip, plus):
    return mask_then_grid(w, mask, clip, False)


def _no_zero(w, mask, clip, plus):
    m = w * mask
    held = m.clamp(-clip, clip)
    places = clip * (((held / clip + 1) / 2 * 15).round() * 2 / 15 - 1)
    moves = m if plus else held
    return moves + (places - moves).detach()


def _sixteen(w, mask, clip, plus):
    step, m = clip / 8, w * mask
    held = m.clamp(-clip, clip)
    moves = m if plus else held
    return moves + ((m / step).round().clamp(-8, 7) * step - moves).detach()


def _dropped_are_zero(value, w, mask, clip, plus):
    return not value[~mask].any()


def _weights(generator):
    for shape, plus in (((4, 8), True), ((6, 12), False), ((3, 16), True), ((5, 8), False)):
        w = torch.randn(shape, generator=generator)
        kept = w.abs().reshape(-1, 4).argsort(1)[:, 2:]
        mask = torch.zeros(w.numel() // 4, 4).scatter(1, kept, 1.0).bool().reshape(shape)
        yield w, mask, 0.9 + 0.3 * torch.rand((), generator=generator).item(), plus


def integer_product(codes, values, places, w_scale, x_scale, zero):
    """Outputs (tokens, out) from integer inputs (tokens, in) and a packed 2:4 matrix."""
    import torch

    out, groups, _ = values.shape
    columns = places + 4 * torch.arange(groups)[:, None]  # from places in a group to inputs
    fetched = codes[:, columns.reshape(out, -1)]  # (tokens, out, kept)
    numbers = values.reshape(out, -1)
    total = (fetched * numbers).sum(-1) - zero * numbers.sum(-1)
    return total * w_scale * x_scale


def _raw(codes, values, places, w_scale, x_scale, zero):
    return integer_product(codes, values, places, w_scale, x_scale, 0)


def _once(codes, values, places, w_scale, x_scale, zero):
    return (integer_product(codes, values, places, 1.0, 1.0, 0) - zero) * w_scale * x_scale


def _per_kept(codes, values, places, w_scale, x_scale, zero):
    raw = integer_product(codes, values, places, 1.0, 1.0, 0)
    return (raw - zero * values[0].numel()) * w_scale * x_scale


def _one_scale(codes, values, places, w_scale, x_scale, zero):
    return integer_product(codes, values, places, w_scale, 1.0, zero)


def _first_group(codes, values, places, w_scale, x_scale, zero):
    out = len(values)
    fetched, numbers = codes[:, places.reshape(out, -1)], values.reshape(out, -1)
    return ((fetched - zero) * numbers).sum(-1) * w_scale * x_scale


def _packed(generator):
    for tokens, out, groups in ((5, 4, 6), (3, 7, 4), (8, 2, 12)):
        codes = torch.randint(0, 16, (tokens, 4 * groups), generator=generator)
        values = torch.randint(-7, 8, (out, groups, 2), generator=generator)
        order = torch.rand(out, groups, 4, generator=generator).argsort(-1)
        places = order[..., :2].sort(-1).values
        scales = (0.01 + 0.1 * torch.rand(2, generator=generator)).tolist()
        yield codes, values, places, *scales, int(torch.randint(3, 12, (), generator=generator))


EXERCISES = (
    # Passes, too: .long() for .int(); len(first), which has the same rows.
    Exercise(
        id="12.1", title="six patterns",
        difficulty="easy", minutes=10, answer=pattern_ids, cases=_masks,
        mistakes=(
            Mistake("sorted by the later place; let the earlier one count first: "
                    "01, 02, 03, 12, 13, 23", _by_the_second),
            Mistake("these are the patterns of what is dropped; number the kept places",
                    lambda mask: pattern_ids(~mask)),
            Mistake("that is a bitmap of four bits, 0 to 15; there are only six patterns, 0 to 5",
                    _bitmap),
            Mistake("both places side by side take four bits; count the six pairs instead",
                    _places),
        ),
        hints=(
            "mask.reshape(len(mask), -1, 4) has the groups on its last axis. Its .int().argmax(-1) "
            "is the earlier kept place; on the .flip(-1), argmax finds the later one from the end.",
            "Pairs that begin at 0 have ids 0 to 2, at 1 ids 3 and 4, at 2 id 5. So id = "
            "torch.tensor([0, 3, 5])[first] + (last - first - 1).",
        ),
    ),
    Exercise(
        id="12.2", title="a mask before a grid",
        difficulty="medium", minutes=14, answer=mask_then_grid, cases=_weights,
        checks=(
            Invariant("a dropped weight is not exactly zero", _dropped_are_zero),
            Gradient(),
        ),
        mistakes=(
            Mistake("no gradient comes back: rounding has none, so pass it straight through",
                    _deaf),
            Mistake("the values are right, but dropped weights hear the gradient: the mask must "
                    "stand in its way, too", _grid_then_mask),
            Mistake("right with plus=True; with plus=False a weight beyond the clip hears nothing",
                    _always),
            Mistake("right with plus=False; with plus=True weights beyond the clip hear g as well",
                    _never),
            Mistake("16 places and none at zero: dropped weights are lifted to clip / 15",
                    _no_zero),
            Mistake("codes run from -7 to 7 with a step of clip / 7; yours have eight below zero",
                    _sixteen),
        ),
        hints=(
            "Mask first: w * mask. By the product rule, autograd multiplies the gradient by the "
            "mask all by itself. Then what() + (rounded - what()).detach() has the value of "
            "rounded and the slope of what().",
            "With plus=True, what() is the masked weight; with plus=False, the masked weight after "
            ".clamp(-clip, clip), whose slope is zero beyond the clip.",
        ),
    ),
    # Passes, too: groups counted in places; dim 1, which is the last.
    Exercise(
        id="12.3", title="nothing but integers",
        difficulty="hard", minutes=15, answer=integer_product, cases=_packed,
        mistakes=(
            Mistake("the zero point is missing: an input of 0.0 has the code zero, not the code 0",
                    _raw),
            Mistake("the zero point goes off every product, so it counts as often as the sum of "
                    "the output's weight codes, not once", _once),
            Mistake("the zero point was counted once for every kept weight; it has to be "
                    "multiplied by the codes of the weights", _per_kept),
            Mistake("only the scale of the weights is there; the inputs have one of their own",
                    _one_scale),
            Mistake("places count within a group of four: group number g begins at input 4 g",
                    _first_group),
        ),
        hints=(
            "columns = places + 4 * torch.arange(groups)[:, None], then codes[:, columns] has the "
            "shape (tokens, out, groups, 2). What does (c - zero) * q add up to?",
            "The sum of (c - zero) * q is the sum of c * q, minus zero times the sum of q, one "
            "number per output. Multiply by w_scale * x_scale at the very end.",
        ),
    ),
)  # fmt: skip
