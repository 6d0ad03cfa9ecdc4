"""Exercises of notebook 01: an even pair, ranks for an error, errors of outputs, a budget."""

import torch

from .base import Exercise, Invariant, Mistake


def even_pair(matrix, rank):
    """The factors (left, right) of the nearest matrix of a rank, both of the same size."""
    U, S, V = torch.linalg.svd(matrix, full_matrices=False)
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * V[:rank]


def _pair(matrix, rank, on_left, on_right, turned=False):
    """A pair with functions of the singular values on either side."""
    U, S, V = torch.linalg.svd(matrix, full_matrices=False)
    rows = V.T[:rank] if turned else V[:rank]
    return U[:, :rank] * on_left(S[:rank]), on_right(S[:rank])[:, None] * rows


def _last(matrix, rank):
    """A pair of the smallest singular values."""
    U, S, V = torch.linalg.svd(matrix, full_matrices=False)
    root = S[-rank:].sqrt()
    return U[:, -rank:] * root, root[:, None] * V[-rank:]


def _seen_pair(pair, matrix, rank):
    """What does not depend on the signs: the product, and how long columns and rows are."""
    left, right = pair
    return left @ right, left.norm(dim=0), right.norm(dim=1)


def _matrices(generator):
    """Square and tall: there, V turned by mistake has a shape that fits."""
    for rows, cols, rank in ((6, 6, 2), (9, 4, 3), (12, 8, 1), (20, 20, 7)):
        yield 3 * torch.randn(rows, cols, generator=generator, dtype=torch.float64), rank


def rank_within(values, error):
    """The smallest rank whose relative error is at most ``error``."""
    squares = values.square()
    for rank in range(1, len(values)):
        if squares[rank:].sum() <= error**2 * squares.sum():
            return rank
    return len(values)


def _first(values, enough):
    """The smallest rank that is ``enough``, a function of how many terms are kept."""
    return next((r for r in range(1, len(values)) if enough(r)), len(values))


def _spectra(generator):
    """Spectra that fall slowly and fast, and errors that several wrong rules miss."""
    for size, fall in ((40, 0.98), (60, 0.93), (30, 0.8)):
        noise = 1 + 0.1 * torch.rand(size, generator=generator, dtype=torch.float64)
        values = 5 * noise * fall ** torch.arange(size, dtype=torch.float64)
        for error in (0.6, 0.35, 0.1):
            yield values.sort(descending=True).values, error
    for values, error in (([3.0, 1.0], 0.5), ([1.0] * 4, 0.5), ([1.0] * 4, 0.1)):
        yield torch.tensor(values).double(), error  # one is enough; just at the limit; all


def output_error(weight, near, moments):
    """The relative error of the outputs x W^T if ``near`` stands in for ``weight``."""
    off = weight - near
    wrong = (off @ moments * off).sum()  # the trace of off C off^T, without building it
    right = (weight @ moments * weight).sum()
    return float(wrong / right) ** 0.5


def _ratio(weight, near, moments, size):
    return (size(weight - near, moments) / size(weight, moments)).sqrt()


def _layers(generator):
    """Square layers, so that the moments fit on the wrong side too."""
    for width, tokens in ((5, 30), (8, 50), (12, 40)):
        mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
        x = torch.randn(tokens, width, generator=generator, dtype=torch.float64) @ mix + 1
        weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
        near = weight + 0.5 * torch.randn(width, width, generator=generator, dtype=torch.float64)
        yield weight, near, x.T @ x / tokens


def spend(spectra, shapes, budget):
    """The rank of each matrix if ``budget`` numbers are spent on the best terms of all."""
    offers = []
    for which, (values, (rows, cols)) in enumerate(zip(spectra, shapes, strict=True)):
        price = rows + cols
        offers += [(value**2 / price, which, price) for value in values.tolist()]
    offers.sort(reverse=True)  # within one matrix the values fall, so its terms stay in order
    ranks = [0] * len(spectra)
    for _, which, price in offers:
        if price > budget:
            break
        ranks[which] += 1
        budget -= price
    return ranks


def _spent(spectra, shapes, budget, worth):
    """As ``spend``, with ``worth(value, rows, cols, all values)`` deciding the order."""
    offers = [
        (worth(float(value), *shape, values), which, sum(shape))
        for which, (values, shape) in enumerate(zip(spectra, shapes, strict=True))
        for value in values
    ]
    ranks = [0] * len(spectra)
    for _, which, price in sorted(offers, reverse=True):
        if price > budget:
            break
        ranks[which] += 1
        budget -= price
    return ranks


def _models(generator):
    """Matrices of several shapes and sizes, and budgets that fall between two terms."""
    for shapes in (((8, 8), (32, 8)), ((16, 16), (64, 16), (16, 24)), ((12, 40), (12, 12))):
        spectra = []
        for k, (rows, cols) in enumerate(shapes):
            scale = 1 + 0.6 * k
            matrix = scale * torch.randn(rows, cols, generator=generator, dtype=torch.float64)
            spectra.append(torch.linalg.svdvals(matrix))
        whole = sum(sum(shape) * min(shape) for shape in shapes)
        for share in (0.3, 0.55):
            yield spectra, shapes, int(share * whole)
    yield spectra[1:], shapes[1:], 3 * sum(shapes[1])  # three terms, and nothing is left over


EXERCISES = (
    # Passes, too: full_matrices=True: the slices cut off what it adds.
    Exercise(
        id="01.1", title="an even pair",
        difficulty="easy", minutes=7, answer=even_pair, cases=_matrices,
        view=_seen_pair,
        mistakes=(
            Mistake("the singular values are on both sides, so the product holds their squares",
                    lambda m, r: _pair(m, r, lambda s: s, lambda s: s)),
            Mistake("the singular values are on neither side, so every term counts alike",
                    lambda m, r: _pair(m, r, torch.ones_like, torch.ones_like)),
            Mistake("the product is right, but all of s is on the left: give each side its root",
                    lambda m, r: _pair(m, r, lambda s: s, torch.ones_like)),
            Mistake("the product is right, but all of s is on the right: give each side its root",
                    lambda m, r: _pair(m, r, torch.ones_like, lambda s: s)),
            Mistake("torch.linalg.svd has turned V already, its rows are the v: drop your .T",
                    lambda m, r: _pair(m, r, torch.sqrt, torch.sqrt, turned=True)),
            Mistake("these are the smallest terms: S begins with the largest",
                    _last),
        ),
        hints=(
            "S[:rank].sqrt() on the columns of U and on the rows of V: multiply by it once on each "
            "side, and s is in the product.",
            "root = S[:rank].sqrt(); left = U[:, :rank] * root scales columns; root[:, None] * "
            "V[:rank] scales rows.",
        ),
    ),
    # Passes, too: ranks from 0 on, as no error that is asked for reaches 1; len(squares) for
    # len(values).
    Exercise(
        id="01.2", title="the smallest rank for an error",
        difficulty="easy", minutes=8, answer=rank_within, cases=_spectra,
        mistakes=(
            Mistake("the values are added, but it is their squares that add up",
                    lambda s, e: _first(s, lambda r: s[r:].sum() <= e * s.sum())),
            Mistake("the share of the squares is compared with the error: square the error too",
                    lambda s, e: _first(
                        s, lambda r: s[r:].square().sum() <= e * s.square().sum())),
            Mistake("you measure the terms that are kept; the error is made of the others",
                    lambda s, e: _first(s, lambda r: s[:r].norm() >= e * s.norm())),
            Mistake("one too many: with r terms kept, the first dropped value is s[r]",
                    lambda s, e: min(rank_within(s, e) + 1, len(s))),
            Mistake("one too few: with r terms kept, the first dropped value is s[r]",
                    lambda s, e: rank_within(s, e) - 1),
            Mistake("each value is compared by itself: all the dropped ones count together",
                    lambda s, e: _first(s, lambda r: s[r] <= e * s.norm())),
        ),
        hints=(
            "A rank r leaves out values[r:]. Its relative error is values[r:].norm() / "
            "values.norm().",
            "Try r = 1, 2, 3 and so on, and return the first whose error is small enough. If none "
            "is, all of them have to stay.",
        ),
    ),
    # Passes, too: near - weight, as it is squared; one number that stays a tensor.
    Exercise(
        id="01.3", title="the error of outputs nobody computed",
        difficulty="medium", minutes=10, answer=output_error, cases=_layers,
        mistakes=(
            Mistake("this is the squared error: a root is missing",
                    lambda w, n, c: output_error(w, n, c) ** 2),
            Mistake("this is the error of the weight: C does not come into it",
                    lambda w, n, c: _ratio(w, n, c, lambda m, c: m.square().sum())),
            Mistake("only the diagonal of C counts here, but inputs rise and fall together",
                    lambda w, n, c: _ratio(
                        w, n, c, lambda m, c: (m.square() * c.diagonal()).sum())),
            Mistake("C stands on the side of the outputs: columns of W meet the inputs, W C W^T",
                    lambda w, n, c: _ratio(w, n, c, lambda m, c: (m.T @ c * m.T).sum())),
            Mistake("the error is divided by the norm of the weight, not by that of the outputs",
                    lambda w, n, c: ((w - n) @ c * (w - n)).sum().sqrt() / w.norm()),
        ),
        hints=(
            "The squared length of all outputs is tokens * trace(W C W^T). The tokens cancel.",
            "trace(M @ C @ M.T) is ((M @ C) * M).sum(). Once for M = weight - near, once for M = "
            "weight; divide, take the root.",
        ),
    ),
    # Passes, too: zip without strict; (cols, rows), whose sum counts; len(shapes), as long as
    # spectra; values that stay tensors, which sort as numbers do.
    Exercise(
        id="01.4", title="spend a budget",
        difficulty="hard", minutes=15, answer=spend, cases=_models,
        checks=(
            Invariant("this costs more than the budget",
                      lambda ranks, spectra, shapes, budget: sum(
                          r * sum(shape) for r, shape in zip(ranks, shapes, strict=False)
                      ) <= budget),
        ),
        mistakes=(
            Mistake("terms are bought by their value alone; ask what they give per number",
                    lambda s, shapes, b: _spent(s, shapes, b, lambda v, m, n, _: v)),
            Mistake("a term removes the square of its value from the squared error, not the value",
                    lambda s, shapes, b: _spent(s, shapes, b, lambda v, m, n, _: v / (m + n))),
            Mistake("a term costs rows + columns numbers, not rows * columns",
                    lambda s, shapes, b: _spent(s, shapes, b, lambda v, m, n, _: v * v / (m * n))),
            Mistake("each value is divided by its matrix's norm: the errors to add are absolute",
                    lambda s, shapes, b: _spent(
                        s, shapes, b, lambda v, m, n, all: (v / float(all.norm())) ** 2 / (m + n))),
        ),
        hints=(
            "One list of all terms of all matrices: what each removes from the squared error, s^2, "
            "per number that it costs, rows + columns. Best first.",
            "Sort tuples (s ** 2 / price, which matrix, price) in reverse; walk along, raise that "
            "matrix's rank and lower the budget; stop at the first term that you cannot pay for.",
        ),
    ),
)  # fmt: skip
