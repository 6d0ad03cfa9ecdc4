"""Exercises of notebook 06: adjacent pairs, the packed product, a decay as a loss, a refit."""

import torch

from .base import Exercise, Gradient, Invariant, Mistake


def pair_mask(w):
    """True where 4:8 in pairs keeps a weight; w (rows, in) -> the same shape, Booleans."""
    pairs = w.reshape(-1, 4, 2).norm(dim=2)  # (groups of eight, four pairs)
    kept = torch.ones_like(pairs, dtype=torch.bool)
    kept.scatter_(1, pairs.argsort(dim=1)[:, :2], False)
    return kept.repeat_interleave(2, dim=1).reshape(w.shape)


def _pairs_by(score, best=True):
    """A wrong answer to 06.1: pairs by another score, or the worst two in place of the best."""

    def answer(w):
        kept = torch.zeros(w.numel() // 8, 4, dtype=torch.bool)
        kept.scatter_(1, score(w.reshape(-1, 4, 2)).topk(2, dim=1, largest=best).indices, True)
        return kept.repeat_interleave(2, dim=1).reshape(w.shape)

    return answer


def _singles(w):
    groups = w.abs().reshape(-1, 8)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter_(1, groups.topk(4, dim=1).indices, True).reshape(w.shape)


def _one_of_two(w):
    pairs = w.reshape(-1, 2, 2).norm(dim=2)
    kept = pairs == pairs.amax(1, keepdim=True)
    return kept.repeat_interleave(2, dim=1).reshape(w.shape)


def _matrices(generator):
    for shape in ((5, 16), (7, 48), (1, 8 * 30)):
        yield (torch.randn(shape, generator=generator),)


def _in_pairs(value, w):
    pairs = value.reshape(-1, 2)
    return value.dtype != torch.bool or bool((pairs[:, 0] == pairs[:, 1]).all())


def packed_product(x, values, places):
    """Every token's outputs: x (tokens, in) -> (tokens, out), from numbers and places alone."""
    groups = torch.arange(places.shape[1])
    columns = 4 * groups[:, None] + places  # (out, groups, 2): which inputs each output needs
    return (x[:, columns] * values).sum(dim=(2, 3))


def _columns_at(columns):
    """A wrong answer to 06.2: ``columns`` takes the places and the groups' numbers (groups, 1)."""

    def answer(x, values, places):
        groups = torch.arange(places.shape[1])[:, None]
        return (x[:, columns(places, groups)] * values).sum(dim=(2, 3))

    return answer


def _packed(generator):
    for tokens, out, groups in ((3, 5, 6), (7, 2, 10), (4, 4, 4)):
        scores = torch.rand(out, groups, 4, generator=generator)
        places = scores.topk(2, dim=2).indices.sort(dim=2).values
        values = torch.randn(out, groups, 2, generator=generator)
        yield torch.randn(tokens, 4 * groups, generator=generator), values, places


def decay_loss(w, decay):
    """A number whose gradient is decay * w on what 2:4 drops, and zero on what it keeps."""
    groups = w.reshape(-1, 4)
    order = groups.detach().abs().argsort(dim=1, stable=True)
    dropped = groups.gather(1, order[:, :2])
    return decay / 2 * dropped.square().sum()


def _parts(w):
    """Two smaller and two larger weights of every group."""
    groups = w.reshape(-1, 4)
    order = groups.detach().abs().argsort(dim=1, stable=True)
    return groups.gather(1, order[:, :2]), groups.gather(1, order[:, 2:])


def _weights_to_pull(generator):
    for shape, decay in (((3, 8), 0.5), ((6, 20), 0.02), ((2, 5, 12), 3.0)):
        yield torch.randn(shape, generator=generator), decay


def refit(w, mask, gram):
    """The kept weights, chosen anew for the outputs; w, mask (out, in) -> (out, in), zeros kept."""
    fitted = torch.zeros_like(w)
    for row, kept, new in zip(w, mask, fitted, strict=True):
        new[kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ row)
    return fitted


def _row_by_row(fit):
    """A wrong answer to 06.4: ``fit`` takes a row, which of it is kept, and the gram."""

    def answer(w, mask, gram):
        fitted = torch.zeros_like(w)
        for row, kept, new in zip(w, mask, fitted, strict=True):
            new[kept] = fit(row, kept, gram)
        return fitted

    return answer


def _lost(row, kept, gram):
    """What the dropped weights did, as the kept inputs feel it."""
    return gram[kept] @ row.masked_fill(kept, 0)


def _layers_to_fit(generator):
    for out, width, tokens in ((3, 8, 40), (6, 12, 30), (4, 16, 64)):
        w = torch.randn(out, width, generator=generator, dtype=torch.float64)
        order = w.abs().reshape(-1, 4).argsort(dim=1)
        mask = torch.ones(len(order), 4, dtype=torch.bool).scatter(1, order[:, :2], False)
        mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
        x = torch.randn(tokens, width, generator=generator, dtype=torch.float64) @ mix
        yield w, mask.reshape(w.shape), x.T @ x / tokens


def _no_worse(value, w, mask, gram):
    before, after = (((h - w) @ gram * (h - w)).sum() for h in (w * mask, value))
    return bool(after <= before * (1 + 1e-9))


EXERCISES = (
    # Passes, too: no dim for argsort, whose default is the last; no dim for repeat_interleave, as
    # the reshape cuts the long row again.
    Exercise(
        id="06.1", title="two pairs of four",
        difficulty="easy", minutes=8, answer=pair_mask, cases=_matrices,
        checks=(
            Invariant("a pair stays or goes as a whole, but some are split", _in_pairs),
            Invariant("four of every eight should stay",
                      lambda value, w: bool((value.reshape(-1, 8).sum(1) == 4).all())),
        ),
        mistakes=(
            Mistake("single weights are chosen; the choice is between adjacent pairs", _singles),
            Mistake("one pair of two is kept; it should be two of four, wherever they stand",
                    _one_of_two),
            Mistake("the two smallest pairs stay: it should be the two largest",
                    _pairs_by(lambda pairs: pairs.norm(dim=2), best=False)),
            Mistake("pairs are added with their signs, so that 5 and -5 count as nothing",
                    _pairs_by(lambda pairs: pairs.sum(2))),
            Mistake("a pair counts by the root of its squares, not by its larger weight",
                    _pairs_by(lambda pairs: pairs.abs().amax(2))),
            Mistake("a pair counts by the root of its squares, not by the sum of sizes",
                    _pairs_by(lambda pairs: pairs.abs().sum(2))),
        ),
        hints=(
            "w.reshape(-1, 4, 2) has the groups of eight, their four pairs, and the two of a pair.",
            "norm(dim=2) scores the pairs; repeat_interleave(2, dim=1) makes pairs of them again.",
        ),
    ),
    # Passes, too: the two axes of the sum in the other order; groups counted in values.
    Exercise(
        id="06.2", title="multiply without unpacking",
        difficulty="medium", minutes=12, answer=packed_product, cases=_packed,
        mistakes=(
            Mistake("a place counts from the start of its group: add 4 for every group before",
                    _columns_at(lambda places, groups: places)),
            Mistake("a group has four inputs, not two: the offset is 4 times its number",
                    _columns_at(lambda places, groups: places + 2 * groups)),
            Mistake("the two numbers of a group have changed places",
                    _columns_at(lambda places, groups: places.flip(2) + 4 * groups)),
            Mistake("these are the inputs that are needed; multiply each by its number",
                    lambda x, values, places: packed_product(x, torch.ones_like(values), places)),
            Mistake("rows are outputs and columns tokens here; it should be the other way round",
                    lambda x, values, places: packed_product(x, values, places).T),
        ),
        hints=(
            "First find, for every output, the numbers of the inputs that it needs.",
            "columns = 4 * group + place; x[:, columns] has the shape (tokens, out, groups, 2).",
        ),
    ),
    # Passes, too: no dim for argsort, whose default is the last; no stable order, as no two sizes
    # are equal; no detach, as places carry no gradient.
    Exercise(
        id="06.3", title="a decay as a loss",
        difficulty="medium", minutes=10, answer=decay_loss, cases=_weights_to_pull,
        checks=(Gradient(),),
        mistakes=(
            Mistake("the gradient is twice too large: the square's 2 has to go somewhere",
                    lambda w, decay: decay * _parts(w)[0].square().sum()),
            Mistake("this pulls the kept weights; it should pull the dropped ones",
                    lambda w, decay: decay / 2 * _parts(w)[1].square().sum()),
            Mistake("this pulls all weights: it is plain weight decay",
                    lambda w, decay: decay / 2 * w.square().sum()),
            Mistake("a mean makes the pull weaker the larger the matrix is: take the sum",
                    lambda w, decay: decay / 2 * _parts(w)[0].square().mean()),
            Mistake("the norm without its square pulls all with the same force, however large",
                    lambda w, decay: decay * _parts(w)[0].norm()),
        ),
        hints=(
            "Which function of one number has the derivative decay * w?",
            "decay / 2 times the sum of squares, over the dropped weights alone.",
            "Choose by the sizes of w.detach(): which ones are dropped is held fixed.",
        ),
    ),
    # Passes, too: zip without strict.
    Exercise(
        id="06.4", title="let the kept ones step in",
        difficulty="hard", minutes=18, answer=refit, cases=_layers_to_fit,
        checks=(
            Invariant("dropped weights have to stay exactly zero",
                      lambda value, w, mask, gram: not value[~mask].any()),
            Invariant("the outputs are further off than without a refit", _no_worse),
        ),
        mistakes=(
            Mistake("the kept weights are the old ones; they should make up for the dropped",
                    lambda w, mask, gram: w * mask),
            Mistake("what the dropped ones did has to be added to the kept, not taken away",
                    _row_by_row(lambda row, kept, gram: row[kept] - torch.linalg.solve(
                        gram[kept][:, kept], _lost(row, kept, gram)))),
            Mistake("this is the correction alone: add the old weights to it",
                    _row_by_row(lambda row, kept, gram: torch.linalg.solve(
                        gram[kept][:, kept], _lost(row, kept, gram)))),
            Mistake("each weight is fitted as if the other kept ones were not there",
                    _row_by_row(lambda row, kept, gram: gram[kept] @ row / gram.diag()[kept])),
            Mistake("every row has its own mask; this fits all of them with the first one's",
                    lambda w, mask, gram: refit(w, mask[:1].expand_as(mask), gram) * mask),
        ),
        hints=(
            "One row at a time. Let k be its kept inputs: only h[k] is free, and h is 0 elsewhere.",
            "Set the slope of (h - w) C (h - w) for h[k] to zero: rows k of C (h - w) vanish.",
            "C[k][:, k] h[k] = C[k] w: torch.linalg.solve(gram[kept][:, kept], gram[kept] @ row).",
        ),
    ),
)  # fmt: skip
