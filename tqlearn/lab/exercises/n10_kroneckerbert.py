"""Exercises of notebook 10: sums that pay, hidden words, their loss, and gain or luck."""

import torch
import torch.nn.functional as F

from .base import Cost, Exercise, Gradient, Mistake


def most_products(rows, columns, n1, m1, times):
    """How many products a sum may have if it holds at least ``times`` fewer numbers than W."""
    one = m1 * n1 + (rows // m1) * (columns // n1)
    return int(rows * columns / times // one)


def _paid(rows, columns, n1, m1, times, one=None, end=lambda share: share // 1):
    one = m1 * n1 + (rows // m1) * (columns // n1) if one is None else one
    return int(end(rows * columns / times / one))


def _sums(generator):
    """The paper's KB5 row, and random shapes whose answer is not on the edge of a whole number."""
    yield 768, 768, 384, 384, 1.0
    for width, inner in ((96, 384), (240, 960), (144, 576), (120, 480)):
        pick = torch.tensor([n for n in range(4, width // 2) if width % n == 0])
        n1, m1 = pick[torch.randperm(len(pick), generator=generator)[:2]].tolist()
        share = inner * width / (m1 * n1 + (inner // m1) * (width // n1))
        wanted = int(torch.randint(0, max(2, int(share)), (), generator=generator))
        yield inner, width, n1, m1, share / (wanted + 0.55)


def hide(ids, real, draw, fate, others, mask_id):
    """Inputs with hidden words, and labels: the true word where it is asked for, else -100."""
    asked = real & (draw < 0.15)
    labels = ids.masked_fill(~asked, -100)
    hidden = ids.masked_fill(asked & (fate < 0.8), mask_id)
    swapped = asked & (fate >= 0.8) & (fate < 0.9)
    return torch.where(swapped, others, hidden), labels


def _hidden(ids, real, draw, fate, others, mask_id, borders=(0.8, 0.9), special=False):
    asked = (draw < 0.15) & (real | special)
    inputs = ids.masked_fill(asked & (fate < borders[0]), mask_id)
    swapped = asked & (fate >= borders[0]) & (fate < borders[1])
    return torch.where(swapped, others, inputs), ids.masked_fill(~asked, -100)


def _answers_everywhere(ids, real, *rest):
    return hide(ids, real, *rest)[0], ids.clone()


def _answers_hidden(ids, real, draw, *rest):
    inputs, _ = hide(ids, real, draw, *rest)
    return inputs, inputs.masked_fill(~(real & (draw < 0.15)), -100)


def _kept_not_asked(ids, real, draw, fate, *rest):
    inputs, labels = hide(ids, real, draw, fate, *rest)
    return inputs, labels.masked_fill(fate >= 0.9, -100)


def _hidden_alone(ids, real, draw, fate, *rest):
    inputs, labels = hide(ids, real, draw, fate, *rest)
    return inputs, labels.masked_fill(fate >= 0.8, -100)


def _swapped_and_kept(ids, real, draw, fate, *rest):
    turned = torch.where(fate < 0.8, fate, torch.where(fate < 0.9, 0.95, 0.85))
    return hide(ids, real, draw, turned, *rest)


def _batches(generator):
    for batch, tokens in ((6, 30), (8, 24), (10, 25)):
        ids, others = torch.randint(4, 500, (2, batch, tokens), generator=generator)
        lengths = torch.randint(tokens // 2, tokens, (batch, 1), generator=generator)
        place = torch.arange(tokens)
        real = (place > 0) & (place < lengths)  # neither the first token nor padding
        draw, fate = torch.rand(2, batch, tokens, generator=generator, dtype=torch.float64)
        draw[:3, 0], fate[:3, 0] = 0.01, 0.3  # a special token that would be hidden
        draw[:6, 3] = draw.new_tensor([0.02] * 5 + [0.15])  # borders, too
        fate[:6, 3] = fate.new_tensor([0.1, 0.8, 0.87, 0.9, 0.97, 0.1])
        yield ids, real, draw, fate, others, 3


def word_loss(h, labels, A, B, bias):
    """Mean cross-entropy over the asked tokens, with the logits of the table kron(A, B)."""
    import torch.nn.functional as F

    asked = labels != -100
    grid = h[asked].reshape(-1, A.shape[1], B.shape[1])  # (asked tokens, d / n, n)
    logits = (grid @ B.T).squeeze(-1) @ A.T + bias
    return F.cross_entropy(logits, labels[asked])


def _everyone(h, labels, A, B, bias):
    grid = h.reshape(len(h), A.shape[1], B.shape[1])
    return F.cross_entropy((grid @ B.T).squeeze(-1) @ A.T + bias, labels)


def _built(h, labels, A, B, bias):
    asked = labels != -100
    table = (A[:, :, None] * B[0]).reshape(len(A), -1)
    return F.cross_entropy(h[asked] @ table.T + bias, labels[asked])


def _other_grid(h, labels, A, B, bias):
    grid = h.reshape(len(h), B.shape[1], A.shape[1]).transpose(1, 2)
    return word_loss(grid.reshape(len(h), -1), labels, A, B, bias)


def _over_all_tokens(h, labels, A, B, bias):
    return word_loss(h, labels, A, B, bias) * (labels != -100).sum() / len(labels)


def _asked(generator):
    for tokens, words, high, wide in ((12, 30, 6, 4), (20, 40, 3, 8), (15, 25, 8, 3)):
        sizes = (tokens, high * wide), (words, high), (1, wide), (words,)
        h, A, B, bias = (torch.randn(size, generator=generator) for size in sizes)
        labels = torch.randint(0, words, (tokens,), generator=generator)
        quiet = torch.randperm(tokens, generator=generator)[3:]
        labels[quiet] = -100
        yield h, labels, A, B, bias


def gain_and_doubt(before, after):
    """Points that ``after`` gains over ``before``, and the standard error of that gain."""
    change = after.double() - before.double()  # 1 won, 0 as before, -1 lost
    doubt = change.std(correction=0) / len(change) ** 0.5
    return 100 * change.mean().item(), 100 * doubt.item()


def _unpaired(before, after):
    shares = [right.double().mean().item() for right in (before, after)]
    squares = sum(p * (1 - p) for p in shares) / len(before)
    return 100 * (shares[1] - shares[0]), 100 * squares**0.5


def _scaled(gain=1.0, doubt=lambda d, n: d):
    def answer(before, after):
        points, error = gain_and_doubt(before, after)
        return gain * points, doubt(error, len(before))

    return answer


def _verdicts(generator):
    """Two models that are often right together, as two students of one teacher are."""
    for sentences, share, lost, won in ((200, 0.8, 0.05, 0.4), (872, 0.9, 0.02, 0.3)):
        before = torch.rand(sentences, generator=generator) < share
        flip = torch.rand(sentences, generator=generator)
        yield before, torch.where(before, flip > lost, flip < won)


EXERCISES = (
    # Passes, too: a float without a fraction; int() without //, as it rounds down; / where m1 and
    # n1 divide.
    Exercise(
        id="10.1", title="how many products pay?",
        difficulty="easy", minutes=8, answer=most_products, cases=_sums,
        mistakes=(
            Mistake("only A is counted; every product brings a B as well",
                    lambda *a: _paid(*a, one=a[2] * a[3])),
            Mistake("rounded up: that sum is already too large",
                    lambda *a: _paid(*a, end=lambda share: -(-share // 1))),
            Mistake("`times` is left out: this many products break even with W",
                    lambda *a: _paid(*a[:4], 1)),
            Mistake("the sides of A and B are added up; a matrix holds their product",
                    lambda *a: _paid(*a, one=a[2] + a[3] + a[0] // a[3] + a[1] // a[2])),
        ),
        hints=(
            "One product holds the numbers of A and those of B. B has rows / m1 rows and "
            "columns / n1 columns.",
            "R products hold R times as many, and that must not be more than rows * columns / "
            "times. Divide, and round down.",
        ),
    ),
    # Passes, too: <= 0.8 or < 0.88 where words are hidden: those are swapped, and that overwrites
    # it.
    Exercise(
        id="10.2", title="hide the words",
        difficulty="medium", minutes=12, answer=hide, cases=_batches,
        mistakes=(
            Mistake("every word has a label: -100 wherever none is asked for", _answers_everywhere),
            Mistake("the labels hold the hidden words: take them from ids", _answers_hidden),
            Mistake("words that are asked for but stay have lost their label", _kept_not_asked),
            Mistake("only hidden words have a label here: swapped and kept ones are asked for, too",
                    _hidden_alone),
            Mistake("every asked word is hidden: fate swaps a tenth and lets a tenth stay",
                    lambda *a: _hidden(*a, borders=(1.0, 1.0))),
            Mistake("special tokens or padding are asked for: only where real is True",
                    lambda *a: _hidden(*a, special=True)),
            Mistake("swapped and kept have changed places: from 0.9 on a word stays as it is",
                    _swapped_and_kept),
        ),
        hints=(
            "First make one tensor of True and False: which tokens are asked for? Labels and "
            "inputs both start from it.",
            "ids.masked_fill(where, value) is a copy with value where it is True; torch.where("
            "condition, this, that) chooses entry by entry. ~asked is its opposite.",
        ),
    ),
    Exercise(
        id="10.3", title="the loss of the words that were asked for",
        difficulty="medium", minutes=12, answer=word_loss, cases=_asked,
        checks=(
            Gradient(),
            Cost("right, but {ratio} times the work: choose the asked tokens, then B, then A"),
        ),
        mistakes=(
            Mistake("right, but all tokens get logits: choose the asked ones before any product",
                    _everyone),
            Mistake("right, but the table is built: the tokens should meet B first, then A",
                    _built),
            Mistake("this is the table kron(B, A): entry (a, b) of a token stands at a * n + b",
                    _other_grid),
            Mistake("the bias of the words is missing",
                    lambda h, y, A, B, bias: word_loss(h, y, A, B, 0 * bias)),
            Mistake("the sum is divided by all tokens, not by those that were asked for",
                    _over_all_tokens),
        ),
        hints=(
            "h[labels != -100] holds the asked tokens alone. From there on nobody else matters.",
            "Read each as a grid (d / n, n), multiply by B.T, squeeze the last axis, multiply by "
            "A.T, add the bias; F.cross_entropy(logits, labels) is the mean.",
        ),
    ),
    # Passes, too: numbers that stay tensors; the length of before or after.
    Exercise(
        id="10.4", title="gain or luck?",
        difficulty="medium", minutes=10, answer=gain_and_doubt, cases=_verdicts,
        mistakes=(
            Mistake("part 2 treats the models as strangers: take the spread of the differences",
                    _unpaired),
            Mistake("part 2 is the spread of one sentence: divide it by the root of their number",
                    _scaled(doubt=lambda d, n: d * n**0.5)),
            Mistake("part 2 is divided by the number of sentences, not by its root",
                    _scaled(doubt=lambda d, n: d / n**0.5)),
            Mistake("part 2 divides by n - 1, as torch's std does unasked; the formula has n",
                    _scaled(doubt=lambda d, n: d * (n / (n - 1)) ** 0.5)),
            Mistake("these are fractions; both numbers are meant in points, out of 100",
                    _scaled(0.01, lambda d, n: d / 100)),
            Mistake("the gain has the wrong sign: after minus before", _scaled(-1.0)),
        ),
        hints=(
            "Per sentence the change is 1, 0 or -1. The gain is its mean.",
            "after.double() - before.double(); .std(correction=0) is its spread. The mean of n "
            "of them spreads less, by the root of n.",
        ),
    ),
)  # fmt: skip
