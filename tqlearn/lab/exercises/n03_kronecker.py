"""Exercises of notebook 03: blocks back in place, logits without a table, FLOPs, a cheap layer."""

import torch

from .base import Cost, Exercise, Gradient, Mistake


def blocks_back(T, out_modes, in_modes):
    """The matrix whose blocks are the rows of T; blocks are m2 x n2, on a grid of m1 x n1."""
    (m1, m2), (n1, n2) = out_modes, in_modes
    grid = T.reshape(m1, n1, m2, n2)  # block row, block column, row and column in the block
    return grid.transpose(1, 2).reshape(m1 * m2, n1 * n2)


def _back(T, out_modes, in_modes, split, axes):
    """As ``blocks_back``, with T split into four other axes and these put into another order."""
    sizes = {"m1": out_modes[0], "m2": out_modes[1], "n1": in_modes[0], "n2": in_modes[1]}
    box = T.reshape([sizes[name] for name in split.split()])
    shape = out_modes[0] * out_modes[1], in_modes[0] * in_modes[1]
    return box.permute(axes).reshape(shape)


def _flattened(generator):
    """All four sizes differ, so that no two axes can be mixed up without a trace."""
    for out_modes, in_modes in (((2, 4), (3, 5)), ((5, 2), (3, 4)), ((3, 6), (7, 2))):
        shape = out_modes[0] * in_modes[0], out_modes[1] * in_modes[1]
        yield torch.randn(shape, generator=generator), out_modes, in_modes


def tied_logits(h, A, B, bias):
    """h @ E.T + bias for the table E = kron(A, B), which is never built."""
    grid = h.reshape(len(h), A.shape[1], B.shape[1])  # (tokens, d / n, n)
    return (grid @ B.T).squeeze(-1) @ A.T + bias


def _words(generator):
    """The numbers of the table are far more than those of its factors."""
    for tokens, words, high, wide in ((1, 30, 6, 4), (5, 40, 3, 8), (9, 25, 8, 3)):
        sizes = (tokens, high * wide), (words, high), (1, wide), (words,)
        yield tuple(torch.randn(size, generator=generator) for size in sizes)


def layer_flops(attention, ffn, width, inner):
    """FLOPs per token of one encoder layer's six matrices as Kronecker products."""

    def flops(rows, columns, n1, m1):
        m2, n2 = rows // m1, columns // n1
        b_first = (2 * n2 - 1) * m2 * n1 + (2 * n1 - 1) * m2 * m1
        a_first = (2 * n1 - 1) * n2 * m1 + (2 * n2 - 1) * m2 * m1
        return min(b_first, a_first)

    n1, m1 = ffn
    up, down = flops(inner, width, n1, m1), flops(width, inner, m1, n1)
    return 4 * flops(width, width, *attention) + up + down


def _counted(attention, ffn, width, inner, down=None, term=lambda n: 2 * n - 1, choose=min):
    """As ``layer_flops``, with the pair for W_2, the cost of a sum, and the choice of an order."""

    def flops(rows, columns, n1, m1):
        m2, n2 = rows // m1, columns // n1
        b_first = term(n2) * m2 * n1 + term(n1) * m2 * m1
        a_first = term(n1) * n2 * m1 + term(n2) * m2 * m1
        return choose(b_first, a_first)

    down = flops(width, inner, *(down or ffn[::-1]))
    return 4 * flops(width, width, *attention) + flops(inner, width, *ffn) + down


def _configurations(generator):
    """The two that the paper prints, and random ones; every number divides the width."""
    yield (384, 384), (2, 8), 768, 3072
    yield (48, 384), (2, 16), 768, 3072
    for width, inner in ((96, 384), (240, 960), (144, 576)):
        pick = torch.tensor([n for n in range(2, width) if width % n == 0])
        order = torch.randperm(len(pick), generator=generator)
        n1, m1, f1, g1 = pick[order[:4]].tolist()
        yield (n1, m1), (min(f1, g1), max(f1, g1)), width, inner


def kronecker_layer(x, pairs):
    """x @ W.T for tokens ``x``, with W the sum of kron(A, B) over ``pairs``; W is never built."""
    total = 0
    for A, B in pairs:
        (m1, n1), (m2, n2) = A.shape, B.shape
        X = x.reshape(len(x), n1, n2)
        if n1 * m2 * (n2 + m1) <= m1 * n2 * (n1 + m2):
            Y = A @ (X @ B.T)
        else:
            Y = (A @ X) @ B.T
        total = total + Y.reshape(len(x), m1 * m2)
    return total


def _summed(x, pairs, product):
    """As ``kronecker_layer``, with ``product``: (tokens as grids, A, B) -> new grids."""
    grids = [product(x.reshape(len(x), A.shape[1], B.shape[1]), A, B) for A, B in pairs]
    return sum(grid.reshape(len(x), -1) for grid in grids)


def _columns_first(x, pairs):
    total = 0
    for A, B in pairs:
        X = x.reshape(len(x), B.shape[1], A.shape[1]).transpose(1, 2)
        total = total + (A @ X @ B.T).transpose(1, 2).reshape(len(x), -1)
    return total


def _layers(generator):
    """Shapes that tell a wrong rule for the order from the right one; no factor is square."""
    for shapes, products in (
        (((12, 2), (5, 7)), 1),
        (((3, 2), (7, 5)), 2),
        (((4, 2), (7, 2)), 3),
        (((2, 3), (6, 7)), 2),
    ):
        (_, n1), (_, n2) = shapes
        pairs = [
            tuple(torch.randn(shape, generator=generator) for shape in shapes)
            for _ in range(products)
        ]
        yield torch.randn(6, n1 * n2, generator=generator), pairs


EXERCISES = (
    # Passes, too: transpose(2, 1).
    Exercise(
        id="03.1", title="put the blocks back",
        difficulty="easy", minutes=8, answer=blocks_back, cases=_flattened,
        mistakes=(
            Mistake("no block is put back: reshape alone cannot move them, two axes change places",
                    lambda T, outs, ins: _back(T, outs, ins, "m1 n1 m2 n2", (0, 1, 2, 3))),
            Mistake("T is split as if it were the matrix: its four axes are m1, n1, m2, n2",
                    lambda T, outs, ins: _back(T, outs, ins, "m1 m2 n1 n2", (0, 2, 1, 3))),
            Mistake("the blocks run down the columns: row k of T is block k counted row by row",
                    lambda T, outs, ins: _back(T, outs, ins, "n1 m1 m2 n2", (1, 2, 0, 3))),
            Mistake("every block is read column by column: inside a block, too, rows come first",
                    lambda T, outs, ins: _back(T, outs, ins, "m1 n1 n2 m2", (0, 3, 1, 2))),
        ),
        hints=(
            "A row of T is one block, flattened. So T has four axes in disguise: block row, block "
            "column, row in the block, column in the block.",
            "A row number of the matrix is (block row, row in the block), so these two axes must "
            "stand next to each other before the last reshape: transpose(1, 2).",
        ),
    ),
    Exercise(
        id="03.2", title="logits without the table",
        difficulty="medium", minutes=10, answer=tied_logits, cases=_words,
        checks=(
            Gradient(),
            Cost("right, but {ratio} times the work: shrink every token to d / n numbers first"),
        ),
        mistakes=(
            Mistake("right, but the table is built: the tokens should meet B first, then A",
                    lambda h, A, B, bias: h @ (
                        A[:, :, None] * B[0]).reshape(len(A), -1).T + bias),
            Mistake("this is the table kron(B, A): entry (a, b) of a token stands at a * n + b",
                    lambda h, A, B, bias: tied_logits(h.reshape(
                        len(h), B.shape[1], A.shape[1]).transpose(1, 2).flatten(1), A, B, bias)),
            Mistake("the bias of the words is missing",
                    lambda h, A, B, bias: tied_logits(h, A, B, torch.zeros_like(bias)) + 0 * bias),
            Mistake("B must weigh the columns of a token's grid; here they are only added up",
                    lambda h, A, B, bias: tied_logits(h, A, torch.ones_like(B), bias)),
        ),
        hints=(
            "Row i of E is kron(A[i], B[0]). Write its inner product with a token as a double sum "
            "over a and b. Which of the two sums does not depend on i?",
            "h.reshape(len(h), A.shape[1], B.shape[1]) @ B.T has the shape (tokens, d / n, 1). "
            "Squeeze the 1 away; what is left is an ordinary product with A.T, and the bias.",
        ),
    ),
    # Passes, too: the sum and the min in the other order; / where a mode divides its size.
    Exercise(
        id="03.3", title="count FLOPs as the paper does",
        difficulty="medium", minutes=12, answer=layer_flops, cases=_configurations,
        mistakes=(
            Mistake("the pairs are read output first; the paper lists n1 (input) before m1",
                    lambda attention, ffn, width, inner: _counted(
                        attention[::-1], ffn[::-1], width, inner)),
            Mistake("the pair for W_2 is not swapped: there n1 is the second number, m1 the first",
                    lambda attention, ffn, width, inner: _counted(
                        attention, ffn, width, inner, down=ffn)),
            Mistake("always B first: every matrix takes the order that is cheaper for it",
                    lambda attention, ffn, width, inner: _counted(
                        attention, ffn, width, inner, choose=lambda b, a: b)),
            Mistake("these are twice the MACs; a sum of n products has n - 1 additions",
                    lambda attention, ffn, width, inner: _counted(
                        attention, ffn, width, inner, term=lambda n: 2 * n)),
        ),
        hints=(
            "Write an inner function flops(rows, columns, n1, m1) for one matrix: m2 and n2 follow "
            "by division, then the min of the two lines above.",
            "Four times flops(width, width, *attention), then flops(inner, width, n1, m1) for W_1 "
            "and flops(width, inner, m1, n1) for W_2, with n1, m1 = ffn.",
        ),
    ),
    # Passes, too: < for <=, as either order will do where both cost the same; len(X) or len(Y) for
    # len(x).
    Exercise(
        id="03.4", title="a sum of products, each in its cheaper order",
        difficulty="hard", minutes=15, answer=kronecker_layer, cases=_layers,
        checks=(
            Gradient(),
            Cost("right, but {ratio} times the work: never build W, and choose the cheaper order "
                 "for each product"),
        ),
        mistakes=(
            Mistake("this is the sum of kron(B, A): a token is a grid of n1 rows and n2 columns",
                    lambda x, pairs: kronecker_layer(x, [(B, A) for A, B in pairs])),
            Mistake("the grid is filled column by column; ours is row-major, as reshape is",
                    _columns_first),
            Mistake("B is reshaped where it should be transposed",
                    lambda x, pairs: kronecker_layer(
                        x, [(A, B.reshape(B.shape[::-1]).T) for A, B in pairs])),
            Mistake("only the first product is there: add up all pairs",
                    lambda x, pairs: kronecker_layer(x, pairs[:1]) + 0 * sum(
                        A.sum() * B.sum() for A, B in pairs)),
            Mistake("right, but W is built: send the tokens through the factors",
                    lambda x, pairs: x @ sum(torch.kron(A, B) for A, B in pairs).T),
            Mistake("right, but always B first: for some of these shapes A first costs less",
                    lambda x, pairs: _summed(x, pairs, lambda X, A, B: A @ (X @ B.T))),
            Mistake("right, but always A first: for some of these shapes B first costs less",
                    lambda x, pairs: _summed(x, pairs, lambda X, A, B: (A @ X) @ B.T)),
        ),
        hints=(
            "For one pair: X = x.reshape(len(x), n1, n2), then b_first or a_first from above. What "
            "they cost stands above, too; compare the two for each pair.",
            "B first costs n1 * m2 * (n2 + m1), A first m1 * n2 * (n1 + m2). A @ (X @ B.T) or "
            "(A @ X) @ B.T, reshaped to (tokens, m1 * m2); start from total = 0 and add.",
        ),
    ),
)  # fmt: skip
