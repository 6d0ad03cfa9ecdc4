"""Exercises of notebook 02: count a train, choose its ranks, run it cheaply, weave its digits."""

from itertools import pairwise
from math import prod

import torch

from .base import Cost, Exercise, Mistake


def train_numbers(modes, rank):
    """How many numbers a train over ``modes`` holds whose inner ranks are at most ``rank``."""
    from math import prod

    limits = [min(prod(modes[:k]), prod(modes[k:])) for k in range(len(modes) + 1)]
    ranks = [min(rank, limit) for limit in limits]  # the outer limits are 1: empty products
    return sum(ranks[k] * mode * ranks[k + 1] for k, mode in enumerate(modes))


def _count(modes, ranks):
    return sum(ranks[k] * mode * ranks[k + 1] for k, mode in enumerate(modes))


def _limits(modes):
    """For each inner rank: the product of the modes to its left, and to its right."""
    return [(prod(modes[:k]), prod(modes[k:])) for k in range(1, len(modes))]


def _trains(generator):
    yield (24, 32, 32, 24), 30
    yield (12, 8, 8, 8, 8, 12), 30
    yield (2,) * 12, 10
    for cores in (2, 3, 5):
        modes = torch.randint(2, 9, (cores,), generator=generator).tolist()
        yield tuple(modes), int(torch.randint(1, 12, (), generator=generator))


def ranks_within(box, tolerance):
    """All ranks of the train, outer ones included, that TT-SVD needs for a relative tolerance."""
    ranks, rest = [1], box
    budget = tolerance * box.norm() / (box.dim() - 1) ** 0.5  # an equal share for every cut
    for mode in box.shape[:-1]:
        U, S, V = torch.linalg.svd(rest.reshape(ranks[-1] * mode, -1), full_matrices=False)
        tails = S.flip(0).square().cumsum(0).flip(0).sqrt()  # tails[k] is the norm of S[k:]
        ranks.append(max(1, int((tails > budget).sum())))
        rest = S[: ranks[-1], None] * V[: ranks[-1]]
    return [*ranks, 1]


def _ranks(box, needed):
    """As ``ranks_within``, with ``needed``: singular values -> which of them have to stay."""
    ranks, rest = [1], box
    for mode in box.shape[:-1]:
        U, S, V = torch.linalg.svd(rest.reshape(ranks[-1] * mode, -1), full_matrices=False)
        ranks.append(max(1, int(needed(S).sum())))
        rest = S[: ranks[-1], None] * V[: ranks[-1]]
    return [*ranks, 1]


def _tails(S):
    return S.flip(0).square().cumsum(0).flip(0).sqrt()


def _boxes(generator):
    """Boxes whose entries fall off along every axis, so that every cut has small directions."""
    for shape in ((4, 5, 6), (4, 6, 6, 4), (3, 3, 4, 3, 3)):
        box = 10 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for axis, mode in enumerate(shape):
            fade = 0.45 ** torch.arange(mode, dtype=torch.float64)
            box = box * fade.reshape([-1 if k == axis else 1 for k in range(len(shape))])
        for tolerance in (0.5, 0.1, 0.03, 2.0):  # the last is met by nothing at all
            yield box, tolerance


def train_layer(x, cores, p):
    """x @ W.T for tokens ``x``; the first ``p`` cores spell the rows of W, the rest its columns."""
    left = cores[0].flatten(0, 1)  # (m1, r1)
    for core in cores[1:p]:
        left = (left @ core.flatten(1)).reshape(-1, core.shape[2])  # (m1 .. mk, rk)
    right = cores[-1].flatten(1)  # (r, nq)
    for core in cores[p:-1][::-1]:
        right = (core.flatten(0, 1) @ right).reshape(core.shape[0], -1)  # (r, nk .. nq)
    return x @ right.T @ left.T


def _halves(cores, p):
    """The two halves of ``train_layer``."""
    left = cores[0].flatten(0, 1)
    for core in cores[1:p]:
        left = (left @ core.flatten(1)).reshape(-1, core.shape[2])
    right = cores[-1].flatten(1)
    for core in cores[p:-1][::-1]:
        right = (core.flatten(0, 1) @ right).reshape(core.shape[0], -1)
    return left, right


def _from_the_middle(x, cores, p):
    left, right = _halves(cores, p)[0], cores[p]
    for core in cores[p + 1 :]:
        right = torch.tensordot(right, core, dims=1)
    return x @ right.flatten(1).T @ left.T


def _layers(generator):
    """Square matrices, so that a transposed one runs too; outer ranks that make the order count.

    In float64: sums of large terms cancel, and a right answer in float32 differs by processors.
    """
    for rows, columns, ranks, tokens in (
        ((3, 4, 2), (2, 4, 3), (1, 3, 5, 6, 5, 3, 1), 7),
        ((4, 3, 2), (6, 4), (1, 2, 4, 3, 4, 1), 1),
        ((6,), (2, 3), (1, 4, 2, 1), 3),
        ((6, 6), (3, 4, 3), (1, 5, 6, 4, 3, 1), 16),
        ((2, 3, 2, 3), (3, 2, 3, 2), (1, 2, 4, 5, 7, 5, 4, 2, 1), 5),
    ):
        modes = rows + columns
        shapes = zip(ranks, modes, ranks[1:], strict=False)
        cores = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        size = torch.Size(columns).numel()
        x = torch.randn(tokens, size, generator=generator, dtype=torch.float64)
        yield x, cores, len(rows)


def weave(table, row_modes, col_modes):
    """The table as a box with one axis per digit pair: (v1 * e1, v2 * e2, ...)."""
    d = len(row_modes)
    box = table.reshape(*row_modes, *col_modes)  # v1 .. vd, then e1 .. ed
    box = box.permute([axis for k in range(d) for axis in (k, d + k)])  # v1 e1 v2 e2 ..
    return box.reshape([v * e for v, e in zip(row_modes, col_modes, strict=True)])


def _woven(table, row_modes, col_modes, axes):
    """As ``weave``, with another order of the 2 d axes."""
    joint = [v * e for v, e in zip(row_modes, col_modes, strict=True)]
    return table.reshape(*row_modes, *col_modes).permute(axes).reshape(joint)


def _read_as_woven(table, row_modes, col_modes):
    pairs = [mode for pair in zip(row_modes, col_modes, strict=True) for mode in pair]
    return table.reshape(pairs).movedim([*range(0, len(pairs), 2)], [*range(len(row_modes))])


def _tables(generator):
    for row_modes, col_modes in (
        ((2, 3), (4, 2)),
        ((3, 2, 4), (2, 4, 3)),
        ((2, 3, 2, 5), (3, 2, 4, 2)),
    ):
        sizes = (torch.Size(row_modes).numel(), torch.Size(col_modes).numel())
        yield torch.randn(sizes, generator=generator), row_modes, col_modes


EXERCISES = (
    # Passes, too: the arguments of min in the other order; one limit more at the end, which nobody
    # reads.
    Exercise(
        id="02.1", title="count any train",
        difficulty="easy", minutes=6, answer=train_numbers, cases=_trains,
        mistakes=(
            Mistake("the outer ranks are 1: the first core has one row, the last one one column",
                    lambda modes, rank: _count(modes, [rank] * (len(modes) + 1))),
            Mistake("no rank is clipped: each is at most the product of the modes on either side",
                    lambda modes, rank: _count(modes, [1, *[rank] * (len(modes) - 1), 1])),
            Mistake("ranks are clipped from the left only: the modes to the right limit them too",
                    lambda modes, rank: _count(
                        modes, [1, *[min(rank, left) for left, _ in _limits(modes)], 1])),
            Mistake("ranks are clipped by the two modes beside them, not by all modes on a side",
                    lambda modes, rank: _count(
                        modes, [1, *[min(rank, *pair) for pair in pairwise(modes)], 1])),
        ),
        hints=(
            "Make the list of d + 1 ranks first; then it is the sum of the formula above.",
            "min(rank, prod(modes[:k]), prod(modes[k:])) is rank k, for k = 0 .. d, the outer ones "
            "included: the product of no modes is 1.",
        ),
    ),
    # Passes, too: full_matrices=True, which the line after next cuts off; rest in place of box
    # while they are the same; max with its arguments swapped; tails in any order, as they are only
    # counted; >= where no tail equals the budget; a count that stays a tensor.
    Exercise(
        id="02.2", title="ranks for a tolerance",
        difficulty="medium", minutes=12, answer=ranks_within, cases=_boxes,
        mistakes=(
            Mistake("every cut spends the whole tolerance, so all of them together exceed it",
                    lambda box, tol: _ranks(box, lambda S: _tails(S) > tol * box.norm())),
            Mistake("the budget is divided by the number of cuts; squares add up, so take its root",
                    lambda box, tol: _ranks(
                        box, lambda S: _tails(S) > tol * box.norm() / (box.dim() - 1))),
            Mistake("the budget is split over the modes; there is one cut fewer than modes",
                    lambda box, tol: _ranks(
                        box, lambda S: _tails(S) > tol * box.norm() / box.dim() ** 0.5)),
            Mistake("single values are compared with the budget: it is for the norm of all dropped",
                    lambda box, tol: _ranks(
                        box, lambda S: S > tol * box.norm() / (box.dim() - 1) ** 0.5)),
            Mistake("the tolerance is relative: multiply it by the norm of the box",
                    lambda box, tol: ranks_within(box, tol / box.norm())),
        ),
        hints=(
            "If each of the d - 1 cuts drops a norm of at most e, the error is at most "
            "e * sqrt(d - 1). Which e gives tolerance * norm?",
            "S.flip(0).square().cumsum(0).flip(0).sqrt() holds at place k the norm of S[k:]. How "
            "many of its entries are above e? That many values have to stay.",
        ),
    ),
    # Passes, too: cores of the right half without their flatten: matmul takes a box, the reshape is
    # the same.
    Exercise(
        id="02.3", title="a layer of any length, in the cheapest order",
        difficulty="hard", minutes=15, answer=train_layer, cases=_layers,
        checks=(Cost("right, but {ratio} times the work: merge each half from its open end"),),
        mistakes=(
            Mistake("this is x @ W, the transposed layer: the tokens must meet the columns first",
                    lambda x, cores, p: x @ _halves(cores, p)[0] @ _halves(cores, p)[1]),
            Mistake("right, but the right half is merged from the middle: begin with the last core",
                    _from_the_middle),
            Mistake("right, but the halves are multiplied into W: send the tokens through them",
                    lambda x, cores, p: x @ torch.mm(*_halves(cores, p)).T),
        ),
        hints=(
            "Merge cores[:p] into L (rows x middle rank) and cores[p:] into R (middle rank x "
            "columns), then x @ R.T @ L.T, as above.",
            "L: begin with cores[0].flatten(0, 1); then left @ core.flatten(1), reshaped to "
            "(-1, rank after). R: begin with cores[-1].flatten(1) and walk left: "
            "core.flatten(0, 1) @ right, reshaped to (rank before, -1).",
        ),
    ),
    # Passes, too: the other list, of the same length; e * v; zip without strict.
    Exercise(
        id="02.4", title="weave the digits of a table",
        difficulty="medium", minutes=8, answer=weave, cases=_tables,
        mistakes=(
            Mistake("the digits are not woven: all row digits still come before all column digits",
                    lambda t, rows, cols: _woven(t, rows, cols, [*range(2 * len(rows))])),
            Mistake("in each pair the row digit comes first, yours begins with the column digit",
                    lambda t, rows, cols: _woven(
                        t, rows, cols, [a for k in range(len(rows)) for a in (len(rows) + k, k)])),
            Mistake("reshape alone cannot weave: split into row and column digits, then permute",
                    lambda t, rows, cols: _read_as_woven(t, rows, cols).reshape(
                        weave(t, rows, cols).shape)),
        ),
        hints=(
            "Three steps: reshape to 2 d axes, permute, reshape to d axes. For d = 2 the "
            "permutation stands in the text above.",
            "The permutation for any d: [axis for k in range(d) for axis in (k, d + k)].",
        ),
    ),
)  # fmt: skip
