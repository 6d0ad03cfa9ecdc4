"""Exercises of notebook 08: distances, Hinton's loss, attention scores, and very hot softmaxes."""

from functools import partial

import torch
import torch.nn.functional as F

from .base import Exercise, Gradient, Mistake


def relative_distance(student, teacher, mask):
    """How far apart two hidden states are, measured in the teacher's norm, over real tokens."""
    real = mask[..., None].to(student.dtype)
    gap = ((student - teacher) * real).norm()
    return gap / (teacher * real).norm()


def _padding_counted_below(student, teacher, mask):
    return ((student - teacher) * mask[..., None]).norm() / teacher.norm()


def _squared(student, teacher, mask):
    return relative_distance(student, teacher, mask) ** 2


def _mean_of_ratios(student, teacher, mask):
    ratios = (student - teacher).norm(dim=-1) / teacher.norm(dim=-1)
    return (ratios * mask).sum() / mask.sum()


def _in_students_norm(student, teacher, mask):
    return relative_distance(teacher, student, mask)


def _hidden(generator):
    for batch, tokens, width in ((2, 4, 3), (3, 6, 8), (1, 5, 2)):
        lengths = torch.randint(1, tokens, (batch, 1), generator=generator)
        mask = (torch.arange(tokens) < lengths).long()
        student, teacher = torch.randn(2, batch, tokens, width, generator=generator)
        yield student + 2 * (1 - mask[..., None]), teacher - 3 * (1 - mask[..., None]), mask


def hinton_loss(student, teacher, labels, temperature, share):
    """(1 - share) * cross-entropy + share * T^2 * KL(teacher || student), label -100 left out."""
    import torch.nn.functional as F

    counts = labels != -100
    student, teacher = student[counts], teacher[counts].detach()
    hard = F.cross_entropy(student, labels[counts])
    log_s = F.log_softmax(student / temperature, -1)
    log_t = F.log_softmax(teacher / temperature, -1)
    soft = (log_t.exp() * (log_t - log_s)).sum(-1).mean()
    return (1 - share) * hard + share * temperature**2 * soft


def _hinton(student, teacher, labels, temperature, share, **change):
    """The reference with one thing changed."""
    counts = labels != -100
    everyone = torch.ones_like(counts) if change.get("all_rows") else counts
    teacher = teacher if change.get("taught") else teacher.detach()
    log_s = F.log_softmax(student[everyone] / temperature, -1)
    log_t = F.log_softmax(teacher[everyone] / (1.0 if change.get("cold") else temperature), -1)
    if change.get("reversed"):
        log_s, log_t = log_t, log_s
    soft = (log_t.exp() * (log_t - log_s)).sum(-1).mean()
    soft = soft / student.shape[-1] if change.get("all_elements") else soft
    soft = soft if change.get("no_square") else soft * temperature**2
    return (1 - share) * F.cross_entropy(student[counts], labels[counts]) + share * soft


def _logits(generator):
    for rows, classes, temperature, share in ((7, 4, 2.0, 0.7), (8, 7, 4.0, 0.5), (6, 3, 0.5, 0.2)):
        student, teacher = 2 * torch.randn(2, rows, classes, generator=generator)
        labels = torch.randint(0, classes, (rows,), generator=generator)
        labels[torch.randperm(rows, generator=generator)[:2]] = -100
        yield student, teacher, labels, temperature, share


def score_distance(student, teacher, mask):
    """Mean squared difference of attention scores over pairs of real tokens, and over heads."""
    pairs = mask[:, None, :, None] * mask[:, None, None, :]  # query real and key real
    pairs = pairs.to(student.dtype).expand_as(student)
    return ((student - teacher).square() * pairs).sum() / pairs.sum()


def _over(pairs, student, teacher):
    pairs = pairs.to(student.dtype).expand_as(student)
    return ((student - teacher).square() * pairs).sum() / pairs.sum()


def _keys_only(student, teacher, mask):
    return _over(mask[:, None, None, :], student, teacher)


def _queries_only(student, teacher, mask):
    return _over(mask[:, None, :, None], student, teacher)


def _either(student, teacher, mask):
    return _over((mask[:, None, :, None] + mask[:, None, None, :]) > 0, student, teacher)


def _all_pairs_below(student, teacher, mask):
    pairs = mask[:, None, :, None] * mask[:, None, None, :]
    return ((student - teacher).square() * pairs).mean()


def _after_softmax(student, teacher, mask):
    return score_distance(student.softmax(-1), teacher.softmax(-1), mask)


def _scores(generator):
    for batch, heads, tokens in ((2, 2, 4), (3, 3, 5)):
        lengths = torch.randint(2, tokens, (batch, 1), generator=generator)
        mask = (torch.arange(tokens) < lengths).long()
        student, teacher = torch.randn(2, batch, heads, tokens, tokens, generator=generator)
        yield student, teacher, mask


def high_temperature_limit(student, teacher):
    """What T^2 * KL(teacher || student) tends to when T grows; a mean over the rows."""
    gap = student - teacher
    gap = gap - gap.mean(-1, keepdim=True)  # softmax never sees what all classes share
    return gap.square().mean() / 2


def _not_centered(student, teacher):
    return (student - teacher).square().mean() / 2


def _without_half(student, teacher):
    return 2 * high_temperature_limit(student, teacher)


def _added_over_classes(student, teacher):
    return high_temperature_limit(student, teacher) * student.shape[-1]


def _centered_over_rows(student, teacher):
    gap = student - teacher
    return (gap - gap.mean(0)).square().mean() / 2


def _pairs_of_logits(generator):
    for rows, classes in ((4, 5), (7, 3), (2, 12)):
        student, teacher = torch.randn(2, rows, classes, generator=generator)
        yield student + 1.5, teacher


EXERCISES = (
    # Passes, too: teacher - student under a norm; real without .to(), as * makes floats; the type
    # of teacher.
    Exercise(
        id="08.1", title="a distance that layers can share",
        difficulty="easy", minutes=6, answer=relative_distance, cases=_hidden,
        mistakes=(
            Mistake("padding counts: leave it out above and below the line",
                    lambda s, t, mask: relative_distance(s, t, torch.ones_like(mask))),
            Mistake("padding is left out above the line but counts below it",
                    _padding_counted_below),
            Mistake("this is the square of the distance: the root is missing", _squared),
            Mistake("this is a mean of ratios, one per token; the norms run over all real tokens",
                    _mean_of_ratios),
            Mistake("the distance is measured in the student's norm, not in the teacher's",
                    _in_students_norm),
        ),
        hints=(
            "Set the padding of both tensors to zero first; then plain norms are enough.",
            "mask[..., None] has the shape (batch, tokens, 1) and multiplies every hidden state.",
        ),
    ),
    # Passes, too: dim=1, which is the last; no dim for log_softmax, which takes it with a warning.
    Exercise(
        id="08.2", title="two teachers at once: labels and soft labels",
        difficulty="medium", minutes=12, answer=hinton_loss, cases=_logits,
        checks=(Gradient(),),
        mistakes=(
            Mistake("T squared is missing: at this temperature the soft part whispers",
                    partial(_hinton, no_square=True)),
            Mistake("the divergence runs the wrong way: the teacher weighs the logarithms",
                    partial(_hinton, reversed=True)),
            Mistake("the divergence is averaged over classes too: sum it over each row",
                    partial(_hinton, all_elements=True)),
            Mistake("the teacher's softmax has no temperature, the student's has",
                    partial(_hinton, cold=True)),
            Mistake("rows with label -100 still count in the soft part",
                    partial(_hinton, all_rows=True)),
            Mistake("the value is right, but the gradient reaches the teacher: detach its logits",
                    partial(_hinton, taught=True)),
        ),
        hints=(
            "Drop the rows that do not count from all three tensors, and everything gets easier.",
            "The hard part sees no temperature. The soft one divides both logits by it.",
            "teacher.detach() is a tensor with the same values that gradients do not enter.",
        ),
    ),
    # Passes, too: teacher - student, as it is squared; pairs without .to(), as * makes floats; type
    # and shape of teacher.
    Exercise(
        id="08.3", title="scores before the softmax",
        difficulty="medium", minutes=10, answer=score_distance, cases=_scores,
        checks=(Gradient(),),
        mistakes=(
            Mistake("both of a pair must be real, and only the keys are looked at here",
                    _keys_only),
            Mistake("both of a pair must be real, and only the queries are looked at here",
                    _queries_only),
            Mistake("a pair counts if query AND key are real, not if one of them is", _either),
            Mistake("the sum is divided by all pairs, padded ones included", _all_pairs_below),
            Mistake("these are attention maps: the distance is meant before the softmax",
                    _after_softmax),
        ),
        hints=(
            "Which entries (query, key) count? Build a tensor of ones and zeros of that shape.",
            "mask[:, None, :, None] knows the queries, mask[:, None, None, :] the keys.",
        ),
    ),
    # Passes, too: the gap with the other sign, as it is squared; dim=1, which is the last.
    Exercise(
        id="08.4", title="what is left when T grows",
        difficulty="hard", minutes=20, answer=high_temperature_limit, cases=_pairs_of_logits,
        checks=(Gradient(),),
        mistakes=(
            Mistake("add 1 to all logits of a student: no softmax changes, but your limit does",
                    _not_centered),
            Mistake("it is off by a factor of two: the second-order term carries one half",
                    _without_half),
            Mistake("it is summed over classes; each has the probability 1 / classes",
                    _added_over_classes),
            Mistake("the mean is taken over the rows; what drops out is each row's own mean",
                    _centered_over_rows),
        ),
        hints=(
            "For small x, exp(x) is about 1 + x + x²/2: both softmaxes are almost uniform.",
            "KL of two close distributions is half the variance of the log-ratio.",
            "With d = student - teacher, the log-ratio is -(d - mean of d over classes) / T.",
        ),
    ),
)  # fmt: skip
