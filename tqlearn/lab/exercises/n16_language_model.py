"""Exercises of notebook 16: a cache, a rotation without a matrix, grown columns, another order."""

import torch

from .base import Cost, Exercise, Mistake


def words_until(weight_bytes, layers, heads, kv_heads, hidden, bits):
    """From how many words on the cache of keys and values moves as many bytes as the weights."""
    each = 2 * layers * kv_heads * (hidden // heads) * bits  # bits for one word
    return -(-8 * weight_bytes // each)


def _until(weight_bytes, layers, heads, kv_heads, hidden, bits, both=2, byte=8, up=True):
    """A wrong answer to 16.1: keys alone, bytes for bits, rounded down."""
    each = both * layers * kv_heads * (hidden // heads) * bits
    return -(-byte * weight_bytes // each) if up else byte * weight_bytes // each


def _decoders(generator):
    for layers, heads, kv_heads, hidden, bits in (
        *((30, 9, 3, 576, 16), (32, 32, 8, 4096, 8), (2, 4, 2, 128, 4)),
    ):
        some = int(torch.randint(10**6, 10**9, (), generator=generator))
        yield some, layers, heads, kv_heads, hidden, bits


def spread_fast(x):
    """x (rows, width) times H / sqrt(width), by sums and differences; the width is a power of 2."""
    rows, width = x.shape
    half = 1
    while half < width:
        pairs = x.reshape(rows, -1, 2, half)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        x = torch.stack([first + second, first - second], dim=2).reshape(rows, width)
        half = 2 * half
    return x / width**0.5


def _hadamard(width):
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < width:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def _only_once(x):
    """Neighbors alone: one step of log2(width)."""
    pairs = x.reshape(len(x), -1, 2)
    both = [pairs.sum(-1), pairs[..., 0] - pairs[..., 1]]
    return torch.stack(both, dim=2).reshape(x.shape) / x.shape[1] ** 0.5


def _rows(generator):
    for rows, width in ((3, 8), (5, 16), (2, 2), (2, 64)):
        yield (torch.randn(rows, width, generator=generator, dtype=torch.float64),)


def grown(w, X, powers):
    """The power whose columns lose least in four bits, and those weights (out, in), shrunk back."""
    size, best = X.abs().mean(0), None
    for power in powers:
        s = size**power  # (in,)
        large = w * s
        scale = large.abs().amax(1, keepdim=True) / 7
        w_hat = scale * (large / scale).round().clamp(-8, 7) / s
        error = (X @ (w_hat - w).T).square().sum()
        if best is None or error < best[0]:
            best = error, power, w_hat
    return best[1:]


def _grown(w, X, powers, scaled=None, judged=None, back=True, size=None):
    """A wrong answer to 16.3: scaled the other way, judged by weights, not shrunk back."""
    size, found = X.abs().mean(0) if size is None else size(X), []
    for power in powers:
        s = size**power if scaled is None else scaled(size, power)
        scale = (w * s).abs().amax(1, keepdim=True) / 7
        w_hat = scale * (w * s / scale).round().clamp(-8, 7) / (s if back else 1)
        error = (X @ (w_hat - w).T).square().sum() if judged is None else judged(w_hat - w)
        found.append((error.item(), power, w_hat))
    return min(found, key=lambda one: one[0])[1:]


def _loud(generator):
    for rows, columns in ((8, 24), (12, 32), (10, 20)):
        w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        loud = 10 ** torch.randn(columns, generator=generator, dtype=torch.float64).clamp(-1, 1)
        X = torch.randn(200, columns, generator=generator, dtype=torch.float64) * loud
        yield w, X, [k / 10 for k in range(1, 10)]


def large_first(W, H, scale):
    """W (out, in) on three bits by GPTQ, columns by H's diagonal, the largest first."""
    order = H.diagonal().argsort(descending=True)
    W, H = W[:, order], H[order][:, order]
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    Q = torch.empty_like(W)
    for k in range(len(H)):
        Q[:, k] = scale * (W[:, k] / scale).round().clamp(-4, 3)
        error = (W[:, k] - Q[:, k]) / U[k, k]
        W[:, k + 1 :] -= torch.outer(error, U[k, k + 1 :])
    return Q[:, order.argsort()]


def _in_order(W, H, scale, order=None, back=None, turn=True, passes=True):
    """A wrong answer to 16.4: another order, not undone, H left as it was, or nothing passed on."""
    order = H.diagonal().argsort(descending=True) if order is None else order(H)
    W, H = W[:, order], H[order][:, order] if turn else H
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    Q = torch.empty_like(W)
    for k in range(len(H)):
        Q[:, k] = scale * (W[:, k] / scale).round().clamp(-4, 3)
        error = (W[:, k] - Q[:, k]) / U[k, k]
        if passes:
            W[:, k + 1 :] -= torch.outer(error, U[k, k + 1 :])
    return Q[:, order.argsort() if back is None else back(order)]


def _hessians(generator):
    for out, width in ((5, 12), (8, 20)):
        W = torch.randn(out, width, generator=generator, dtype=torch.float64)
        mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
        loud = 0.3 + 2 * torch.rand(width, generator=generator, dtype=torch.float64)
        X = torch.randn(100, width, generator=generator, dtype=torch.float64) @ mix * loud
        H = X.T @ X / len(X)
        H = H + 0.01 * H.diagonal().mean() * torch.eye(width, dtype=torch.float64)
        yield W, H, W.abs().amax(1) / 3


EXERCISES = (
    # Passes, too: a division with a fraction: heads divide the width, and a whole float
    # counts.
    Exercise(
        id="16.1", title="when does the cache outweigh the weights?",
        difficulty="easy", minutes=8, answer=words_until, cases=_decoders,
        mistakes=(
            Mistake("keys and values: two numbers are kept where you count one",
                    lambda *a: _until(*a, both=1)),
            Mistake("heads that ask share their keys and values: count kv_heads, not heads",
                    lambda w, n, h, k, d, b: _until(w, n, h, h, d, b)),
            Mistake("a head is hidden / heads wide, and not as wide as the model",
                    lambda w, n, h, k, d, b: _until(w, n, 1, k, d, b)),
            Mistake("the weights are given in bytes, a number of the cache in bits",
                    lambda *a: _until(*a, byte=1)),
            Mistake("one word too few: round up", lambda *a: _until(*a, up=False)),
        ),
        hints=(
            "One word leaves a key and a value in each layer, for each of the kv_heads, and each "
            "of them is hidden / heads numbers wide.",
            "each = 2 * layers * kv_heads * (hidden // heads) * bits; 8 * weight_bytes / each, "
            "rounded up: math.ceil, or -(-a // b).",
        ),
    ),
    # Passes, too: blocks of rows in another order, put back by the same reshape; half, which
    # is the width by then.
    Exercise(
        id="16.2", title="a rotation without a matrix",
        difficulty="medium", minutes=12, answer=spread_fast, cases=_rows,
        checks=(Cost("the values are right, but that multiplies with a matrix: sums and "
                     "differences are enough"),),
        mistakes=(
            Mistake("the length of a row changes: divide by the root of the width, once",
                    lambda x: x @ _hadamard(x.shape[1])),
            Mistake("divided by the width; a rotation takes its root",
                    lambda x: x @ _hadamard(x.shape[1]) / x.shape[1]),
            Mistake("one step mixes neighbors alone; go on with pairs of two, of four, and so on",
                    _only_once),
        ),
        hints=(
            "H of twice the width is [[H, H], [H, -H]]: so a pair of blocks (a, b) becomes "
            "(a + b, a - b). Begin with blocks of one number, then of two, of four ...",
            "pairs = x.reshape(rows, -1, 2, half); torch.stack([pairs[:, :, 0] + pairs[:, :, 1], "
            "their difference], dim=2).reshape(rows, width); twice the half; / width**0.5 at last.",
        ),
    ),
    # Passes, too: a sum for the mean, which the scale of each row cancels, and for the error's;
    # <=, for no two powers err alike; other clips, for the scale lets no code beyond 7; the sign of
    # what is squared.
    Exercise(
        id="16.3", title="columns that grow",
        difficulty="medium", minutes=14, answer=grown, cases=_loud,
        mistakes=(
            Mistake("loud inputs ask for a finer grid: their columns grow, yours shrink",
                    lambda *a: _grown(*a, scaled=lambda size, power: size**-power)),
            Mistake("the columns have to shrink back after rounding: divide by s",
                    lambda *a: _grown(*a, back=False)),
            Mistake("judged by the weights; what counts is the outputs, X @ (w_hat - w).T",
                    lambda *a: _grown(*a, judged=lambda d: d.square().sum())),
            Mistake("the size of an input is the mean of |x|, not its largest",
                    lambda *a: _grown(*a, size=lambda X: X.abs().amax(0))),
        ),
        hints=(
            "s = X.abs().mean(0) ** power. Round w * s, a scale for each row, and divide by s. "
            "Then the outputs' error says which power is best.",
            "scale = (w * s).abs().amax(1, keepdim=True) / 7; codes from -8 to 7; keep the error, "
            "the power and the weights of the best so far.",
        ),
    ),
    # Passes, too: other things of the same length.
    Exercise(
        id="16.4", title="large inputs first",
        difficulty="hard", minutes=15, answer=large_first, cases=_hessians,
        mistakes=(
            Mistake("the smallest inputs come first here; descending=True",
                    lambda *a: _in_order(*a, order=lambda H: H.diagonal().argsort())),
            Mistake("the columns come back in another order: undo it with order.argsort()",
                    lambda *a: _in_order(*a, back=lambda order: order)),
            Mistake("the columns are still sorted: undo the order at the end",
                    lambda *a: _in_order(*a, back=lambda order: slice(None))),
            Mistake("H has to be sorted as W is, rows and columns",
                    lambda *a: _in_order(*a, turn=False)),
            Mistake("in the order of the page: sort first",
                    lambda *a: _in_order(*a, order=lambda H: torch.arange(len(H)))),
            Mistake("that is round to nearest: what one column errs, the later ones make up for",
                    lambda *a: _in_order(*a, passes=False)),
        ),
        hints=(
            "order = H.diagonal().argsort(descending=True). Sort the columns of W and both sides "
            "of H, do what gptq_by_hand does, and put the columns back.",
            "H[order][:, order] sorts both sides; Q[:, order.argsort()] undoes the order.",
        ),
    ),
)  # fmt: skip
