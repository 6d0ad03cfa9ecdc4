"""Spec sheet QTC, acceptance check 8, and the meaning of each loss."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tqlearn.distill import (
    EPS,
    LayerSchedule,
    attentions,
    hard_labels,
    hidden_mse,
    hidden_states,
    layer_by_layer,
    masked_mean,
    score_mse,
    soft_cross_entropy,
    soft_labels,
)

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def outputs(layers=3, seed=0):
    torch.manual_seed(seed)
    hidden = [torch.randn(2, 4, 8) for _ in range(layers + 1)]
    maps = [torch.randn(2, 2, 4, 4).softmax(-1) for _ in range(layers)]
    return hidden, maps


def test_hidden_states_is_mse_plus_one_minus_cosine():
    (s, *_), _ = outputs(seed=1)
    (t, *_), _ = outputs(seed=2)
    rows = [(b, i) for b in range(2) for i in range(4) if MASK[b, i]]
    mse = torch.stack([(s[r] - t[r]).square().mean() for r in rows]).mean()
    cosine = torch.stack([F.cosine_similarity(s[r], t[r], dim=0) for r in rows]).mean()
    assert_close(hidden_states(s, t, MASK), mse + 1 - cosine)


def test_attentions_is_a_row_divergence():
    _, (s, *_) = outputs(seed=1)
    _, (t, *_) = outputs(seed=2)
    rows = []
    for b in range(2):
        for i in range(4):
            if MASK[b, i]:
                log_ratio = (t[b, :, i] + EPS).log() - (s[b, :, i] + EPS).log()
                rows.append((t[b, :, i] * log_ratio).sum(-1).mean())
    assert_close(attentions(s, t, MASK), torch.stack(rows).mean())
    assert attentions(s, t, MASK) > 0.01


def test_soft_labels_is_torch_kl_with_temperature():
    s, t = torch.randn(6, 5), torch.randn(6, 5)
    expected = F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="batchmean") * 4
    assert_close(soft_labels(s, t, temperature=2.0), expected)
    mask = torch.tensor([1, 0, 1, 0, 0, 0])
    assert_close(soft_labels(s, t, mask=mask), soft_labels(s[[0, 2]], t[[0, 2]]))


def test_padding_never_counts():
    hidden, maps = outputs()
    other, other_maps = outputs(seed=5)
    before = layer_by_layer(hidden, other, maps, other_maps, MASK, stage=4)
    for tensor in (*hidden, *other):
        tensor[MASK == 0] = 99.0
    for tensor in (*maps, *other_maps):
        tensor.transpose(1, 2)[MASK == 0] = 0.25
    assert_close(layer_by_layer(hidden, other, maps, other_maps, MASK, stage=4), before)


def test_student_equal_to_teacher_has_no_loss():
    hidden, maps = outputs()
    for stage in (1, 2, 3, 4):
        loss = layer_by_layer(hidden, hidden, maps, maps, MASK, stage)
        assert abs(float(loss)) < 1e-6


def test_terms_and_divisor_of_each_stage():
    hidden, maps = outputs(seed=1)
    other, other_maps = outputs(seed=2)
    d = [hidden_states(s, t, MASK) for s, t in zip(hidden, other, strict=True)]
    a = [attentions(s, t, MASK) for s, t in zip(maps, other_maps, strict=True)]
    for stage in (1, 2, 3, 4):
        active = min(stage, 3)
        expected = d[0] + sum(d[1 : active + 1], 0) / stage + sum(a[:active], 0) / stage
        assert_close(layer_by_layer(hidden, other, maps, other_maps, MASK, stage), expected)


def test_schedule_of_a_three_layer_teacher():
    schedule = LayerSchedule(layers=3, total_steps=61)
    assert schedule.stage_length == 10  # floor(floor(61 / 3) / 2)
    stages = [schedule.stage(step) for step in range(61)]
    assert stages == [1] * 10 + [2] * 10 + [3] * 10 + [4] * 31
    assert [schedule.is_joint(step) for step in (29, 30)] == [False, True]
    assert LayerSchedule(12, 6).stage_length == 1  # never zero steps
    assert LayerSchedule(3, 60, steps_per_stage=4).stage(8) == 3


def test_refusals():
    hidden, maps = outputs()
    with pytest.raises(ValueError, match="student has 2 layers and the teacher 3"):
        layer_by_layer(hidden[:3], hidden, maps[:2], maps, MASK, 1)
    with pytest.raises(ValueError, match="3 layers need 3 attention maps.*eager"):
        layer_by_layer(hidden, hidden, [], maps, MASK, 1)
    with pytest.raises(ValueError, match="at least one layer and one step"):
        LayerSchedule(3, 0)


def test_masked_mean():
    assert masked_mean(torch.tensor([[2.0, 4.0, 9.0]]), torch.tensor([[1, 1, 0]])).item() == 3.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_floats_are_compared_in_float32(dtype):
    """A masked position has probability 0, and float16 rounds EPS to 0: log(0) - log(0) is NaN."""
    _, (s, t, _) = outputs()
    s, t = (m.masked_fill(MASK[:, None, None] == 0, 0.0).to(dtype) for m in (s, t))
    assert_close(attentions(s, t, MASK), attentions(s.float(), t.float(), MASK))
    large, zero = torch.full((2, 4, 8), 300.0, dtype=dtype), torch.zeros(2, 4, 8, dtype=dtype)
    assert hidden_states(large, zero, MASK).item() == 300.0**2 + 1
    logits = torch.randn(2, 5).to(dtype)
    assert soft_labels(logits, logits.flip(0)).dtype == torch.float32


INF = float("inf")
LOSSES = [hidden_states, hidden_mse, score_mse, attentions, soft_labels, soft_cross_entropy]


def pair_for(loss):
    """Student and teacher in the shape that a loss takes, and whether its rows are scores."""
    torch.manual_seed(0)
    maps = loss in (score_mse, attentions)
    s, t = torch.randn(2, *((2, 2, 4, 4) if maps else (2, 4, 8)))
    return (s.softmax(-1), t.softmax(-1)) if loss is attentions else (s, t)


def test_a_class_that_the_teacher_rules_out():
    s, t = torch.tensor([[1.0, 2.0, -5.0]]), torch.tensor([[1.0, 2.0, -INF]])
    s.requires_grad_()
    value = soft_labels(s, t)
    kl = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")
    assert_close(value, kl)
    (gradient,) = torch.autograd.grad(value, s)
    assert_close(gradient, s.softmax(-1) - t.softmax(-1))
    both = torch.tensor([[1.0, 2.0, -INF]], requires_grad=True)
    assert soft_labels(both, t).item() == 0
    entropy = -(t[:, :2].softmax(-1) * t[:, :2].log_softmax(-1)).sum() / 3
    cross = soft_cross_entropy(both, t)
    assert_close(cross, entropy)
    assert torch.autograd.grad(cross, both)[0].abs().max() < 1e-7  # least where both agree
    assert soft_labels(t, s).item() == INF  # the student rules out what the teacher does not


def test_scores_that_are_both_ruled_out_are_equal():
    s = torch.tensor([[[[1.0, -INF], [3.0, 4.0]]]], requires_grad=True)
    t = torch.tensor([[[[2.0, -INF], [3.0, 6.0]]]])
    value = score_mse(s, t, torch.ones(1, 2))
    assert value.item() == (1 + 4) / 4
    (gradient,) = torch.autograd.grad(value, s)
    assert gradient.flatten().tolist() == [-0.5, 0.0, 0.0, -1.0]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_mask_without_a_row_gives_zero(loss):
    s, t = pair_for(loss)
    s.requires_grad_()
    value = loss(s, t, mask=torch.zeros(2, 4))
    assert value.item() == 0
    assert torch.autograd.grad(value, s)[0].abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("junk", [float("nan"), INF])
def test_what_does_not_count_may_be_anything(loss, junk):
    s, t = pair_for(loss)
    bad = (MASK == 0)[:, None].expand(s.shape[:-1]) if s.dim() == 4 else MASK == 0
    dirty_s, dirty_t = s.clone(), t.clone()
    dirty_s[bad], dirty_t[bad] = junk, junk
    found = []
    for student, teacher in ((s, t), (dirty_s, dirty_t)):
        student.requires_grad_()
        value = loss(student, teacher, mask=MASK)
        found.append((value.detach(), torch.autograd.grad(value, student)[0][~bad]))
    assert_close(*found)


def test_hard_labels():
    logits, labels = torch.randn(6, 5), torch.tensor([1, -100, 4, 0, -100, 2])
    for smoothing in (0.0, 0.1):
        want = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert_close(hard_labels(logits, labels, smoothing), want)
    logits.requires_grad_()
    nothing = hard_labels(logits, torch.full((6,), -100))
    assert nothing.item() == 0 and torch.autograd.grad(nothing, logits)[0].abs().max() == 0
    many = torch.zeros(9000, 2000, dtype=torch.float16)  # the sum of their losses is above 65,504
    assert hard_labels(many, torch.zeros(9000, dtype=torch.long)).isfinite()


def test_an_empty_batch_and_a_temperature_of_zero():
    assert soft_labels(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0
    with pytest.raises(ValueError, match="a temperature is above 0, got 0"):
        soft_labels(torch.zeros(1, 3), torch.zeros(1, 3), temperature=0)
