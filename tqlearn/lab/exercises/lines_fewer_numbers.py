"""Lines to fill in on the way through the lessons on fewer numbers: 01, 02, 03, 06, 07, 12."""

import torch

from .base import Exercise, Mistake


def _sizes(generator, count, low, high):
    """Some whole numbers from ``low`` up to ``high`` - 1."""
    return torch.randint(low, high, (count,), generator=generator).tolist()


def missing(S, r):
    """The norm of all terms behind the first ``r``, from the singular values ``S``: one number."""
    return S[r:].square().sum().sqrt()


def _spectra(generator):
    for size, r in ((6, 2), (9, 1), (12, 11), (5, 5)):
        values = torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
        yield values.sort(descending=True).values, r


def unfold(rest, before, mode):
    """What is left to cut, as a matrix: rank before and next digit down its side."""
    return rest.reshape(before * mode, -1)


def _rests(generator):
    """A box at the first cut, and matrices with a row for each term at the later ones."""
    yield torch.randn(2, 3, 4, 2, generator=generator), 1, 2
    for before, mode, others in ((2, 3, 8), (5, 4, 6), (3, 6, 1)):
        yield torch.randn(before, mode * others, generator=generator), before, mode


def together(lost):
    """How far the train is off, from what each of its cuts loses: one number."""
    return lost.square().sum().sqrt()


def _losses(generator):
    for cuts in (1, 3, 5):
        yield (torch.rand(cuts, generator=generator, dtype=torch.float64) + 0.2,)


def every_with_every(A, B):
    """Every entry of A times every entry of B, on four axes: i1, i2, j1, j2."""
    return A[:, None, :, None] * B[None, :, None, :]


def _factors(generator):
    for shape_a, shape_b in (((2, 3), (5, 4)), ((4, 4), (4, 4)), ((1, 6), (3, 1))):
        yield tuple(torch.randn(s, generator=generator) for s in (shape_a, shape_b))


def place_bits(group):
    """How many bits tell ``group`` places apart: a whole number, log2 rounded up."""
    return (group - 1).bit_length()


def _groups(generator):
    for group in (2, 4, 8, 16, *_sizes(generator, 4, 5, 60)):
        yield (group,)


def score_by_input(w, gram):
    """The size of each weight times the norm of its input; the shape of w (outputs, inputs)."""
    return w.abs() * gram.diag().sqrt()


def _layers(generator):
    for rows, columns in ((6, 6), (4, 12), (9, 8)):
        X = torch.randn(20, columns, generator=generator, dtype=torch.float64)
        X = X * torch.rand(columns, generator=generator, dtype=torch.float64)
        w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        yield w, X.T @ X / 20


def block_sums(GW, p, q):
    """The sum over each block of p rows and q columns, shaped (rows / p, columns / q)."""
    return GW.reshape(GW.shape[0] // p, p, GW.shape[1] // q, q).sum((1, 3))


def _blocked(generator):
    for high, wide, p, q in ((2, 3, 4, 2), (3, 3, 3, 3), (4, 1, 2, 5)):
        yield torch.randn(high * p, wide * q, generator=generator, dtype=torch.float64), p, q


def stays_with(F):
    """The probability that at most one of three neighbors is larger; F: that one is smaller."""
    return F**3 + 3 * F**2 * (1 - F)


def _chances(generator):
    for count in (4, 9):
        yield (torch.rand(count, generator=generator, dtype=torch.float64),)


EXERCISES = (
    Exercise(
        id="01.a", title="what is missing behind r terms",
        difficulty="easy", minutes=2, answer=missing, cases=_spectra,
        mistakes=(
            Mistake("lengths at right angles do not add up, their squares do",
                    lambda S, r: S[r:].sum()),
            Mistake("that is the square of the length: the root is still to come",
                    lambda S, r: S[r:].square().sum()),
            Mistake("that is the length of the terms that stay",
                    lambda S, r: S[:r].square().sum().sqrt()),
        ),
        hints=(
            "S counts from 0: the values behind the first r terms are S[r:].",
            "Square them, add them up, take the root: three methods of a tensor in a row.",
        ),
    ),
    Exercise(
        id="02.a", title="lay the rest flat",
        difficulty="easy", minutes=2, answer=unfold, cases=_rests,
        mistakes=(
            Mistake("the rank before belongs to the side as well, not the next digit alone",
                    lambda rest, before, mode: rest.reshape(mode, -1)),
            Mistake("the next digit has to move to the side, too: so many times more rows",
                    lambda rest, before, mode: rest.reshape(before, -1)),
            Mistake("side and top are exchanged: the digits to come run along the top",
                    lambda rest, before, mode: rest.reshape(-1, before * mode)),
        ),
        hints=(
            "reshape only renames addresses, and -1 stands for the size that is left over.",
            "So many rows: one for each pair of a term and a value of the digit.",
        ),
    ),
    Exercise(
        id="02.b", title="the error of all cuts together",
        difficulty="easy", minutes=2, answer=together, cases=_losses,
        mistakes=(
            Mistake("right angles: the squares add up, not the losses", lambda lost: lost.sum()),
            Mistake("that is the square of the error: the root is still to come",
                    lambda lost: lost.square().sum()),
            Mistake("a mean is smaller than what it is the mean of: add the squares up",
                    lambda lost: lost.square().mean().sqrt()),
        ),
        hints=(
            "It is the length of an arrow whose parts are the losses.",
            "lost.square() squares each; sum them, and take the root.",
        ),
    ),
    Exercise(
        id="03.a", title="every entry with every entry",
        difficulty="easy", minutes=3, answer=every_with_every, cases=_factors,
        mistakes=(
            Mistake("the axes are i1 j1 i2 j2: both rows have to come first, then both columns",
                    lambda A, B: A[:, :, None, None] * B[None, None]),
            Mistake("A and B have changed places: the axes are i2 i1 j2 j1",
                    lambda A, B: B[:, None, :, None] * A[None, :, None, :]),
            Mistake("the rows are in order, the columns are j2 j1",
                    lambda A, B: A[:, None, None, :] * B[None, :, :, None]),
        ),
        hints=(
            "An index of None makes a new axis of size 1, along which the other factor repeats.",
            "A has to get the axes 1 and 3 of size 1 (i2, j2), B the axes 0 and 2 (i1, j1).",
        ),
    ),
    # Passes, too: 1 - group, which has as many binary digits as group - 1.
    Exercise(
        id="06.a", title="bits for a place",
        difficulty="easy", minutes=2, answer=place_bits, cases=_groups,
        mistakes=(
            Mistake("the places begin at 0, so the largest number to write is group - 1",
                    lambda group: group.bit_length()),
            Mistake("rounded down there are fewer numbers than places: round up",
                    lambda group: group.bit_length() - 1),
        ),
        hints=(
            "The places of a group of four are 0, 1, 2, 3. What is the largest in binary?",
            "A whole number knows how long it is in binary: (5).bit_length() is 3.",
        ),
    ),
    Exercise(
        id="06.b", title="size times the norm of the input",
        difficulty="easy", minutes=3, answer=score_by_input, cases=_layers,
        mistakes=(
            Mistake("the diagonal holds squared norms: take their root",
                    lambda w, gram: w.abs() * gram.diag()),
            Mistake("a weight below zero counts by its size: take the absolute value",
                    lambda w, gram: w * gram.diag().sqrt()),
            Mistake("that is the size alone, as before: every input is as loud as the others",
                    lambda w, gram: w.abs()),
        ),
        hints=(
            "The squared norm of input i, over the number of tokens, stands on C's diagonal.",
            "gram.diag() has one number for each column of w, so it multiplies every row of it.",
        ),
    ),
    # Passes, too: the two axes of the sum in the other order.
    Exercise(
        id="07.a", title="add up over a block",
        difficulty="easy", minutes=3, answer=block_sums, cases=_blocked,
        mistakes=(
            Mistake("four axes are block row, row, block column, column: in this order",
                    lambda x, p, q: x.reshape(len(x) // p, x.shape[1] // q, p, q).sum((2, 3))),
            Mistake("block and place in it have changed places: a row's first digit is its block",
                    lambda x, p, q: x.reshape(p, len(x) // p, q, x.shape[1] // q).sum((0, 2))),
            Mistake("that is the mean of a block: the rule adds up",
                    lambda x, p, q: x.reshape(len(x) // p, p, x.shape[1] // q, q).mean((1, 3))),
            Mistake("summed over the blocks: what is left are the places inside a block",
                    lambda x, p, q: x.reshape(len(x) // p, p, x.shape[1] // q, q).sum((0, 2))),
        ),
        hints=(
            "Give the rows two digits, which block and where in it, and the columns as well.",
            "Then there are four axes; sum over the second and the last: .sum((1, 3)).",
        ),
    ),
    Exercise(
        id="12.a", title="at most one larger neighbor",
        difficulty="easy", minutes=3, answer=stays_with, cases=_chances,
        mistakes=(
            Mistake("that is the case that all three are smaller: one may be larger",
                    lambda F: F**3),
            Mistake("the larger one may be the first, the second or the third: three ways",
                    lambda F: F**3 + F**2 * (1 - F)),
            Mistake("that lets two be larger: of four weights two stay, so one may be",
                    lambda F: 1 - (1 - F) ** 3),
        ),
        hints=(
            "Either all three are smaller, or exactly one is larger. Add the probabilities.",
            "One certain neighbor is larger, two are smaller: F * F * (1 - F). In how many ways?",
        ),
    ),
)  # fmt: skip
