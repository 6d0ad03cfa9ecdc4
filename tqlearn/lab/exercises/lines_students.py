"""Lines to fill in on the way through the lessons on distilled students: 08 and 10."""

import torch

from .base import Exercise, Mistake


def kl_by_hand(p, q):
    """KL(p || q) for each row: p is the teacher's, q the student's; both (rows, classes)."""
    return (p * (p / q).log()).sum(-1)


def _answers(generator):
    for shape in ((4, 5), (3, 3), (2, 3, 6)):
        z = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        yield tuple(z.softmax(-1))


def mean_over_tokens(values, mask):
    """The mean of ``values`` over real tokens; both (batch, tokens), mask 1 for real and 0 else."""
    return (values * mask).sum() / mask.sum()


def _padded(generator):
    for batch, tokens in ((3, 6), (2, 9)):
        lengths = torch.randint(1, tokens, (batch, 1), generator=generator)
        values = torch.rand(batch, tokens, generator=generator, dtype=torch.float64)
        yield values, (torch.arange(tokens) < lengths).long()


def numbers_of_product(rows, columns, m1, n1):
    """How many numbers a product holds that stands for rows x columns, with A of m1 x n1."""
    return m1 * n1 + (rows // m1) * (columns // n1)


def _products(generator):
    for _ in range(4):
        m1, n1, m2, n2 = torch.randint(2, 9, (4,), generator=generator).tolist()
        yield m1 * m2, n1 * (n2 + 9), m1, n1


def real_pairs(mask):
    """1 where query and key are both real, else 0: (batch, 1, queries, keys), from (batch, n)."""
    return mask[:, None, :, None] * mask[:, None, None, :]


def _masks(generator):
    for batch, tokens in ((3, 5), (2, 7)):
        lengths = torch.randint(1, tokens, (batch, 1), generator=generator)
        yield ((torch.arange(tokens) < lengths).long(),)


EXERCISES = (
    Exercise(
        id="08.a", title="how far an answer is off",
        difficulty="easy", minutes=3, answer=kl_by_hand, cases=_answers,
        mistakes=(
            Mistake("that is KL(q || p): the teacher, p, does the weighing",
                    lambda p, q: (q * (q / p).log()).sum(-1)),
            Mistake("the sign is turned: the logarithm is that of p over q",
                    lambda p, q: (p * (q / p).log()).sum(-1)),
            Mistake("that is the cross-entropy, which is not zero where both agree",
                    lambda p, q: -(p * q.log()).sum(-1)),
            Mistake("that is a mean over the classes: the formula adds up",
                    lambda p, q: (p * (p / q).log()).mean(-1)),
        ),
        hints=(
            "Write down one term of the sum, with p and q in place of one class of them.",
            "(p / q).log() is the logarithm; sum(-1) adds up over the last axis, the classes.",
        ),
    ),
    Exercise(
        id="08.b", title="a mean that leaves padding out",
        difficulty="easy", minutes=2, answer=mean_over_tokens, cases=_padded,
        mistakes=(
            Mistake("that counts padding like words", lambda values, mask: values.mean()),
            Mistake("the sum leaves padding out, and it is divided by all tokens",
                    lambda values, mask: (values * mask).mean()),
            Mistake("that is the sum: divide it by the number of real tokens",
                    lambda values, mask: (values * mask).sum()),
        ),
        hints=(
            "values * mask is 0 where the padding is.",
            "The sum of the mask is the number of real tokens.",
        ),
    ),
    # Passes, too: divisions that give the same whole numbers as floats.
    Exercise(
        id="10.a", title="the numbers of a product",
        difficulty="easy", minutes=2, answer=numbers_of_product, cases=_products,
        mistakes=(
            Mistake("that is A alone: the stamp B has numbers of its own",
                    lambda rows, columns, m1, n1: m1 * n1),
            Mistake("the two factors are stored one beside the other: add their numbers",
                    lambda rows, columns, m1, n1: m1 * n1 * (rows // m1) * (columns // n1)),
        ),
        hints=(
            "B has as many rows as fit m1 times into rows.",
            "A holds m1 * n1 numbers, B rows // m1 times columns // n1.",
        ),
    ),
    Exercise(
        id="10.b", title="pairs of real tokens",
        difficulty="easy", minutes=3, answer=real_pairs, cases=_masks,
        mistakes=(
            Mistake("the keys are real, the queries may be padding: nobody reads their scores",
                    lambda mask: torch.ones_like(mask)[:, None, :, None] * mask[:, None, None, :]),
            Mistake("that is 1 where either is real: both have to be",
                    lambda mask: mask[:, None, :, None] | mask[:, None, None, :]),
            Mistake("the queries are real, the keys may be padding",
                    lambda mask: mask[:, None, :, None] * torch.ones_like(mask)[:, None, None, :]),
        ),
        hints=(
            "Both conditions hold where the product of two masks is 1.",
            "mask[:, None, :, None] says whether the query is real. And the key?",
        ),
    ),
)  # fmt: skip
