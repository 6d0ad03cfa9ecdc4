"""Exercises without a right answer: what counts is the result, bytes and a score on held-out data.

The reference is one way to get there. A case carries what the answer does not see, and the goal
says in words what is still missing.
"""

import torch

from .base import Exercise, Mistake
from .plans import Case, alike, budgets, reaches, slots


def slimmer(W1, b1, W2, b2, X, keep):
    """A feed-forward part with ``keep`` dimensions in place of all: its W1, b1, W2 and b2."""
    H = torch.nn.functional.gelu(X @ W1.T + b1)  # (tokens, dimensions)
    loud = (H.std(0) * W2.norm(dim=0)).argsort(descending=True)[:keep]
    seen = torch.cat([H[:, loud], torch.ones_like(H[:, :1])], 1)  # the last one for the bias
    fit = torch.linalg.lstsq(seen, H @ W2.T + b2).solution  # (keep + 1, outputs)
    return W1[loud], b1[loud], fit[:-1].T, fit[-1]


def _largest(W1, b1, W2, b2, X, keep):
    """Keep what is large, as magnitude pruning does."""
    best = (W1.norm(dim=1) * W2.norm(dim=0)).argsort(descending=True)[:keep]
    return W1[best], b1[best], W2[:, best], b2


def _feed_forward(X, W1, b1, W2, b2):
    return torch.nn.functional.gelu(X @ W1.T + b1) @ W2.T + b2


def _parts(generator):
    """Feed-forward parts whose rows are much alike, and tokens that fill few directions."""

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for width, inner, keep in ((12, 60, 20), (16, 80, 24)):
        W1 = randn(inner, keep // 2) @ randn(keep // 2, width) / 6 + 0.1 * randn(inner, width)
        part = W1, 0.3 * randn(inner), randn(width, inner) / 6, 0.1 * randn(width)
        X = randn(800, width) * (0.2 + torch.linspace(1, 0, width, dtype=torch.float64))
        yield Case.of((*part, X[:400], keep), X[400:])


def _slim_enough(value, case):
    *part, _, keep = case
    if not isinstance(value, tuple | list) or len(value) != 4:
        return "return four tensors: W1, b1, W2 and b2"
    if not all(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in value):
        return "the four have to be tensors of the kind that came in, torch.float64"
    width, most = part[0].shape[1], keep * (2 * part[0].shape[1] + 1) + part[3].numel()
    inner = len(value[1]) if value[1].dim() == 1 else -1
    if [tuple(t.shape) for t in value] != [(inner, width), (inner,), (width, inner), (width,)]:
        return f"the shapes {[tuple(t.shape) for t in value]} do not fit together"
    if 4 * sum(t.numel() for t in value) > 4 * most:
        return f"{4 * sum(t.numel() for t in value):,} bytes, and {4 * most:,} are allowed"
    right = _feed_forward(case.held, *part)
    wrong, usual = (
        ((_feed_forward(case.held, *found) - right).norm() / right.norm()).item()
        for found in (value, _largest(*case))
    )
    if not wrong <= 0.5 * usual:
        return f"off by {wrong:.3f} on held-out tokens, {0.5 * usual:.3f} are wanted"


def own_plan(budget):
    """A plan for the teacher whose file has at most ``budget`` bytes; nothing is trained."""
    from tqlearn import LSQ

    small, other = LSQ(bits=3, init="mse"), LSQ(bits=4, init="mse")
    return {"*.layer.?.intermediate.dense": [small], "*.layer.?.output.dense": [small],
            "*": [other]}  # fmt: skip


def sparse_and_small(w, X):
    """w as codes from -7 to 7, two of each four in a row zero, and their scale: (codes, scale)."""
    gram = X.T @ X / len(X)
    size = (w.abs() * gram.diag().sqrt()).reshape(-1, 4)
    stays = torch.ones_like(size).scatter(1, size.argsort(dim=1)[:, :2], 0).reshape(w.shape).bool()
    w_hat = torch.zeros_like(w)
    for row, kept in enumerate(stays):  # the kept ones step in for the others
        w_hat[row, kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ w[row])
    tried = w_hat.abs().max() / 7 * torch.linspace(0.3, 1, 40, dtype=w.dtype)
    D = [s * (w_hat / s).round().clamp(-7, 7) - w for s in tried]
    scale = tried[torch.stack([(d @ gram * d).sum() for d in D]).argmin()]
    return (w_hat / scale).round().clamp(-7, 7), scale


def _by_size(w, X):
    """The smallest go, and the clip is the best one for the weights that are left."""
    groups = w.abs().reshape(-1, 4)
    stays = torch.ones_like(groups).scatter(1, groups.argsort(dim=1)[:, :2], 0).reshape(w.shape)
    tried = w.abs().max() / 7 * torch.linspace(0.3, 1, 40, dtype=w.dtype)
    lost = [(s * (w * stays / s).round().clamp(-7, 7) - w * stays).norm() for s in tried]
    scale = tried[torch.stack(lost).argmin()]
    return (w * stays / scale).round().clamp(-7, 7), scale


def _layers(generator):
    """Layers whose inputs are loud and quiet, and depend on each other."""
    for rows, columns in ((12, 32), (20, 48)):
        w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        mix = torch.randn(columns // 2, columns, generator=generator, dtype=torch.float64)
        loud = 0.1 + torch.rand(columns, generator=generator, dtype=torch.float64) ** 2
        X = torch.randn(1600, columns // 2, generator=generator, dtype=torch.float64) @ mix
        X = X + torch.randn(X.shape, generator=generator, dtype=torch.float64)
        yield Case.of((w, X[:800] * loud), X[800:] * loud)


def _near_enough(value, case):
    w, _ = case
    if not isinstance(value, tuple | list) or len(value) != 2:
        return "return the codes and their scale"
    codes, scale = (torch.as_tensor(part) for part in value)
    if codes.shape != w.shape or scale.numel() != 1:
        return f"codes of shape {tuple(w.shape)} and one scale are wanted"
    if not ((codes == codes.round()) & (codes.abs() <= 7)).all():
        return "the codes have to be whole numbers from -7 to 7: four bits each"
    if int((codes != 0).reshape(-1, 4).sum(1).max()) > 2:
        return "in some group of four more than two stay: the bytes are for two"
    errors = [
        (case.held @ (s.double() * q.double() - w).T).norm() / (case.held @ w.T).norm()
        for q, s in ((codes, scale), _by_size(*case))
    ]
    if not errors[0] <= 0.7 * errors[1]:
        return f"off by {errors[0]:.3f} on held-out tokens, {0.7 * errors[1]:.3f} are wanted"


EXERCISES = (
    # Passes, too: what still halves the error, such as a bias that least squares does not see.
    Exercise(
        id="07.4", title="fewer dimensions, your way",
        difficulty="hard", minutes=20, answer=slimmer, cases=_parts, goal=_slim_enough,
        mistakes=(Mistake("the largest stay, the others are gone: halve this error", _largest),),
        hints=(
            "Which dimensions say something of their own? And what can they do for those that go?",
            "Choose by what the tokens make of a dimension, and find W2 and b2 anew by least "
            "squares: torch.linalg.lstsq(kept, outputs).",
        ),
    ),
    # Passes, too: other starts of the scales, and two bits for the feed-forward matrices.
    Exercise(
        id="11.4", title="a file of your own",
        difficulty="medium", minutes=15, answer=own_plan, cases=budgets(279_000, 200),
        goal=reaches(lambda held: slots(None, held) - 1.5),
        mistakes=(
            Mistake("four bits everywhere is a little too large: who can live on three?",
                    alike(4)),
            Mistake("two bits everywhere is small, and has forgotten most of it: mix",
                    alike(2)),
        ),
        hints=(
            "Four bits for everything are 310 kB. Which matrices hold most of the numbers?",
            "LSQ(bits=3, init='mse') for the feed-forward matrices, 4 bits for the rest.",
        ),
    ),
    # Passes, too: what still beats the goal: other scales to try, a mask by size alone (the kept
    # weights step in all the same), a scale of the second moments, which nothing notices.
    Exercise(
        id="12.4", title="two of four on fifteen places, your way",
        difficulty="hard", minutes=20, answer=sparse_and_small, cases=_layers, goal=_near_enough,
        mistakes=(Mistake("by size, then the best clip: beat this by three tenths", _by_size),),
        hints=(
            "Three things can look at the inputs: the mask, the weights that stay, the scale.",
            "Mask by size times the norm of the input; solve for the kept weights of each row, "
            "gram[kept][:, kept] against gram[kept] @ w; try forty scales by the outputs' error.",
        ),
    ),
)  # fmt: skip
