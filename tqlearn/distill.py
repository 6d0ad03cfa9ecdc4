"""Losses between a student and its teacher, and the layer-by-layer schedule that mixes them.

All of them take plain tensors. ``mask`` is the attention mask, 1 for real tokens: padding never
counts. One convention for every divergence: it is summed over the distribution and averaged over
the rows (torch's "batchmean").

What has no value gets a fixed one, in the loss and in its gradient:

- a class that the teacher rules out (a logit of minus infinity) adds nothing; one that the student
  alone rules out makes the loss infinite;
- two scores that are both minus infinity are equal;
- a mask, or a batch, without a row that counts gives 0;
- what a mask leaves out may be anything, NaN included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from .arguments import settle
from .averages import hard_labels, masked_mean, mean_of, real_rows, wide  # noqa: F401

EPS = 1e-8  # inside the logarithms of attention probabilities


def soft_labels(
    student: Float[Tensor, "... classes"],
    teacher: Float[Tensor, "... classes"],
    temperature: float | int = 1.0,
    mask: Shaped[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """Return KL(teacher || student) of two logit tensors, times temperature squared.

    Args:
        mask: 1 for the rows that count, such as the word positions of a tagger; None for all.

    Raises:
        ValueError: a temperature that is not above 0.

    The factor temperature^2 keeps the gradient's size about constant (Hinton et al. 2015, section
    2).

    Source: Hinton et al. 2015. QTC's code averages over all elements instead of over rows, which is
    this value divided by the number of classes (spec sheet QTC, 5.2).

    >>> import torch
    >>> logits = torch.randn(4, 7)
    >>> soft_labels(logits, logits).item()
    0.0
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, got {temperature}")
    student, teacher = (real_rows(x, mask) for x in wide(student, teacher))
    log_s = F.log_softmax(student / temperature, -1)
    log_t = F.log_softmax(teacher / temperature, -1)
    p = log_t.exp()
    rows = (p * (log_t - log_s).masked_fill(p == 0, 0)).sum(-1)
    return mean_of(rows, mask) * temperature**2


def hidden_states(
    student: Float[Tensor, "batch tokens width"],
    teacher: Float[Tensor, "batch tokens width"],
    mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """Return D = mean squared error + 1 - mean cosine, over the real tokens.

    Source: spec sheet QTC, 5.2 (the released code, which does not mask padding; we do).

    >>> import torch
    >>> h = torch.randn(2, 3, 8)
    >>> hidden_states(h, h, torch.ones(2, 3, dtype=torch.long)).abs().item() < 1e-6
    True
    """
    student, teacher = (real_rows(x, mask) for x in wide(student, teacher))
    squared = masked_mean((student - teacher).square().mean(-1), mask)
    return squared + masked_mean(1 - F.cosine_similarity(student, teacher, dim=-1), mask)


def attentions(
    student: Float[Tensor, "batch heads tokens tokens"],
    teacher: Float[Tensor, "batch heads tokens tokens"],
    mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """Return A = KL(teacher || student) of attention maps, a mean over heads and real query rows.

    Source: spec sheet QTC, 5.2, with its recommended row sum in place of the mean over all elements
    (which would shrink the term by the sequence length), and padding masked.
    """
    queries = mask[:, None].expand(student.shape[:-1])
    student, teacher = (real_rows(x, queries) for x in wide(student, teacher))
    ratio = (teacher + EPS).log() - (student + EPS).log()
    rows = (teacher * ratio).sum(-1).mean(1)  # (batch, tokens)
    return masked_mean(rows, mask)


def hidden_mse(
    student: Float[Tensor, "batch tokens width"],
    teacher: Float[Tensor, "batch tokens width"],
    mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """Return the mean squared error of hidden states over the real tokens and the width.

    Source: spec sheet KroneckerBERT, 2.1 (L_emb, L_ffn), with its recommended mean over valid
    elements.
    """
    student, teacher = (real_rows(x, mask) for x in wide(student, teacher))
    return masked_mean((student - teacher).square().mean(-1), mask)


def score_mse(
    student: Float[Tensor, "batch heads tokens tokens"],
    teacher: Float[Tensor, "batch heads tokens tokens"],
    mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """Return the mean squared error of attention scores (before the softmax) over real pairs.

    A pair counts if both its query and its key are real tokens; padded ones hold no lesson, and
    where a model adds its mask to the scores they would drown all others.

    Source: spec sheet KroneckerBERT, 2.1 (L_att), with its recommended mask.

    >>> import torch
    >>> scores = torch.randn(2, 4, 3, 3)
    >>> score_mse(scores, scores, torch.tensor([[1, 1, 0], [1, 1, 1]])).item()
    0.0
    """
    student, teacher = wide(student, teacher)
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None, :])[:, None].expand_as(student)
    unlike = pairs & (student != teacher)  # minus infinity less itself would be NaN
    return masked_mean((student - teacher).masked_fill(~unlike, 0.0).square(), pairs)


def soft_cross_entropy(
    student: Float[Tensor, "... classes"],
    teacher: Float[Tensor, "... classes"],
    mask: Shaped[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy with the teacher's probabilities, a mean over rows AND classes.

    Source: spec sheet KDLSQ, section 5 (L_pred). Its gradient is that of ``soft_labels`` at
    temperature 1 over the number of classes; its value is not zero where both agree.

    >>> import torch
    >>> z = torch.tensor([[1.0, 0.0]])
    >>> round(soft_cross_entropy(z, z.flip(-1)).item(), 5)
    0.52216
    """
    student, teacher = (real_rows(x, mask) for x in wide(student, teacher))
    p = teacher.softmax(-1)
    rows = -(p * F.log_softmax(student, -1).masked_fill(p == 0, 0)).mean(-1)
    return mean_of(rows, mask)


@dataclass(frozen=True)
class LayerSchedule:
    """The cumulative layer-by-layer schedule: half of training adds a layer at a time.

    Stage s = min(1 + step // steps_per_stage, layers + 1); stage s matches the embedding output and
    the first s layers, the last stage all layers plus the task.

    Args:
        layers: depth of teacher and student.
        total_steps: optimizer steps of the whole training.
        steps_per_stage: None for the released rule, (total_steps // layers) // 2, at least 1.

    Source: spec sheet QTC, 5.2.

    >>> schedule = LayerSchedule(layers=3, total_steps=60)
    >>> [schedule.stage(step) for step in (0, 9, 10, 29, 30, 59)]
    [1, 1, 2, 3, 4, 4]
    """

    layers: int
    total_steps: int
    steps_per_stage: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        if self.layers < 1 or self.total_steps < 1:
            raise ValueError(
                f"a schedule needs at least one layer and one step, got {self.layers} layers and "
                f"{self.total_steps} steps"
            )
        if self.steps_per_stage is not None and self.steps_per_stage < 1:
            raise ValueError(f"a stage has at least one step, got {self.steps_per_stage}")

    @property
    def stage_length(self) -> int:
        """Steps in each layer stage."""
        return self.steps_per_stage or max(1, self.total_steps // self.layers // 2)

    def stage(self, step: int) -> int:
        """Return the stage, from 1 to layers + 1."""
        return min(1 + step // self.stage_length, self.layers + 1)

    def is_joint(self, step: int) -> bool:
        """Say whether the step belongs to the last stage, where the task's losses join in."""
        return self.stage(step) == self.layers + 1


def layer_by_layer(
    student_hidden: Sequence[Tensor],
    teacher_hidden: Sequence[Tensor],
    student_attentions: Sequence[Tensor],
    teacher_attentions: Sequence[Tensor],
    mask: Shaped[Tensor, "batch tokens"],
    stage: int,
) -> Float[Tensor, ""]:
    """Return D(0) + 1/stage * the sum of D(i) + A(i) over the first ``stage`` layers.

    Args:
        student_hidden, teacher_hidden: the embedding output and then one tensor per layer.
        student_attentions, teacher_attentions: one map per layer.
        stage: 1 to layers + 1; at layers + 1 all layers count and the divisor is layers + 1.

    Raises:
        ValueError: teacher and student differ in depth, or a model returned no attention maps
            (transformers returns them only with ``attn_implementation="eager"``).

    Source: spec sheet QTC, 5.2.
    """
    layers = len(teacher_hidden) - 1
    if len(student_hidden) != len(teacher_hidden):
        raise ValueError(
            f"layer by layer needs one depth, but the student has {len(student_hidden) - 1} layers "
            f"and the teacher {layers}"
        )
    maps = (len(student_attentions), len(teacher_attentions))
    if maps != (layers, layers) or any(
        a is None for a in (*student_attentions, *teacher_attentions)
    ):
        raise ValueError(
            f"{layers} layers need {layers} attention maps from each model, got {maps[0]} "
            f"(student) and {maps[1]} (teacher); load both with attn_implementation='eager'"
        )
    total = hidden_states(student_hidden[0], teacher_hidden[0], mask)
    for i in range(min(stage, layers)):
        here = hidden_states(student_hidden[i + 1], teacher_hidden[i + 1], mask)
        here = here + attentions(student_attentions[i], teacher_attentions[i], mask)
        total = total + here / stage
    return total
