"""Distillation on the Trainer: schedule, losses, scales; spec sheet QTC, checks 8 and 9."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Trainer,
    TrainingArguments,
)

import tqlearn as tq
from tqlearn.distill import hidden_states, layer_by_layer
from tqlearn.hf import BertForJointIntentSlot, DistillTrainer, LayerByLayer, joint_config
from tqlearn.hf.running import without_dropout
from tqlearn.recipes import qtc

TINY = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
}
ENDS = {"output_hidden_states": True, "output_attentions": True}


def joint_model():
    torch.manual_seed(0)
    return BertForJointIntentSlot(joint_config(["a", "b", "UNK"], ["O", "B-x", "UNK"], **TINY))


def rows(n=64):
    ids = torch.randint(3, 60, (n, 7), generator=torch.Generator().manual_seed(1))
    return [
        {
            "input_ids": row,
            "attention_mask": torch.ones(7, dtype=torch.long),
            "intent_labels": row[0] % 2,
            "slot_labels": row % 2,
        }
        for row in ids
    ]


def trainer_for(tmp_path, student, teacher, callback, losses=None, data=None, **options):
    options = {"max_steps": 12, "per_device_train_batch_size": 8} | options
    training = TrainingArguments(
        tmp_path,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        lr_scheduler_type="constant",
        dataloader_pin_memory=False,
        **options,
    )
    return DistillTrainer(
        student,
        training,
        train_dataset=data or rows(),
        teacher=teacher,
        losses=losses or qtc.losses(callback),
        callbacks=[callback],
    )


def test_stages_terms_and_learning_rate_of_a_real_run(tmp_path):
    teacher = joint_model()
    student = tq.calibrate(tq.compress(teacher, {"*.query": [tq.TT(rank=8), tq.LSQ(bits=4)]}))
    callback = LayerByLayer(3, final_learning_rate=1e-4)
    seen = []

    def spy(student_out, teacher_out, inputs):
        terms = qtc.losses(callback)(student_out, teacher_out, inputs)
        rates = [g["lr"] for g in trainer.optimizer.param_groups if not g.get("scales")]
        seen.append((callback.stage, sorted(terms), rates[0]))
        return terms

    trainer = trainer_for(tmp_path, student, teacher, callback, spy, learning_rate=1e-3)
    trainer.train()
    assert [stage for stage, _, _ in seen] == [1, 1, 2, 2, 3, 3] + [4] * 6
    assert all(terms == ["layers"] for _, terms, _ in seen[:6])
    assert all(len(terms) == 4 for _, terms, _ in seen[6:])
    assert [rate for _, _, rate in seen] == pytest.approx([1e-3] * 6 + [1e-4] * 6)
    logged = [entry for entry in trainer.state.log_history if "soft_slots" in entry]
    assert len(logged) == 6 and {"layers", "task", "soft_intents"} <= set(logged[0])


def test_a_student_equal_to_its_teacher_starts_at_zero(tmp_path):
    teacher = without_dropout(joint_model())
    callback = LayerByLayer(3)
    trainer = trainer_for(tmp_path, tq.compress(teacher, {"*": []}), teacher, callback)
    trainer.train()
    assert abs(trainer.state.log_history[0]["layers"]) < 1e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_the_teacher_answers_in_the_precision_of_training(tmp_path, bf16):
    """Under bf16 both multiply alike, so equal models give equal logits, to the bit, in FP32."""
    seen = []

    def losses(student, teacher, inputs):
        seen.append((student.logits.detach(), teacher.logits))
        return {"none": 0 * student.logits.sum()}

    torch.manual_seed(0)
    teacher = without_dropout(BertForSequenceClassification(BertConfig(**TINY)))
    student = tq.compress(teacher, {"*": []})
    data = [{"input_ids": row["input_ids"], "labels": row["intent_labels"]} for row in rows()]
    options = {"bf16": bf16, "use_cpu": True, "max_steps": 1}
    trainer_for(tmp_path, student, teacher, LayerByLayer(3), losses, data, **options).train()
    ((ours, theirs),) = seen
    assert theirs.dtype == torch.float32 and not theirs.requires_grad
    assert torch.equal(ours, theirs)
    assert torch.equal(theirs, theirs.bfloat16().float()) == bf16  # or autocast did nothing


def test_scales_have_a_group_of_their_own(tmp_path):
    teacher = joint_model()
    student = tq.calibrate(tq.compress(teacher, {"*.query": [tq.LSQ(bits=8)]}))
    trainer = trainer_for(tmp_path, student, teacher, LayerByLayer(3), weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    scales = [g for g in groups if g.get("scales")]
    assert len(scales) == 1 and len(scales[0]["params"]) == 3
    assert scales[0]["lr"] == 1e-5 and scales[0]["weight_decay"] == 0
    assert sum(len(g["params"]) for g in groups) == len(list(student.parameters()))


def test_a_norms_scale_is_no_quantizers_scale(tmp_path):
    class Norm(nn.LayerNorm):
        def __init__(self):
            super().__init__(32)
            self.scale = nn.Parameter(torch.ones(32))

    teacher = joint_model()
    student = tq.calibrate(tq.compress(teacher, {"*.query": [tq.LSQ(bits=8)]}))
    student.bert.embeddings.LayerNorm = Norm()
    groups = trainer_for(tmp_path, student, teacher, LayerByLayer(3)).create_optimizer()
    (scales,) = [g for g in groups.param_groups if g.get("scales")]
    assert [tuple(p.shape) for p in scales["params"]] == [(1,)] * 3


def test_the_joint_rate_does_not_multiply_up(tmp_path):
    """A plateau scheduler sets no rate anew after each step, as the other kinds do."""
    teacher, callback, rates = joint_model(), LayerByLayer(3, 1, final_learning_rate=1e-4), []

    def spy(*outputs):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return qtc.losses(callback)(*outputs)

    trainer = trainer_for(tmp_path, joint_model(), teacher, callback, spy, learning_rate=1e-3)
    trainer.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.create_optimizer())
    trainer.train()
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 9)


def test_the_teacher_learns_nothing_and_stays_trainable(tmp_path):
    teacher = joint_model()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = tq.calibrate(tq.compress(teacher, {"*.dense": [tq.LSQ(bits=4)]}))
    trainer_for(tmp_path, student, teacher, LayerByLayer(3), learning_rate=1e-2).train()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not teacher.training and all(p.requires_grad for p in teacher.parameters())
    kinds = {model.config._attn_implementation for model in (teacher, student)}
    assert kinds == {"sdpa"}  # eager in training only


def test_forgotten_calibration_and_wrong_depth(tmp_path):
    teacher = joint_model()
    student = tq.compress(teacher, {"*.query": [tq.LSQ(bits=4)]})
    with pytest.raises(ValueError, match="no scale yet"):
        trainer_for(tmp_path, student, teacher, LayerByLayer(3))
    torch.manual_seed(0)
    labels = (["a", "b", "UNK"], ["O", "B-x", "UNK"])
    shallow = BertForJointIntentSlot(joint_config(*labels, **TINY | {"num_hidden_layers": 2}))
    trainer = trainer_for(tmp_path, shallow, teacher, LayerByLayer(3))
    with pytest.raises(ValueError, match="student has 2 layers and the teacher 3"):
        trainer.train()
    with pytest.raises(ValueError, match="starts with the training"):
        LayerByLayer(3).stage  # noqa: B018


def test_evaluation_uses_the_student_alone(tmp_path):
    teacher = joint_model()
    trainer = trainer_for(tmp_path, joint_model(), teacher, LayerByLayer(3))
    trainer.args.label_names = ["intent_labels", "slot_labels"]
    result = Trainer.evaluate(trainer, rows(8))
    assert result["eval_loss"] > 0


def smoke_teacher():
    """Check 9, smaller: 2 layers, 32 wide, FFN 64, 2 heads, 100 words; Linear weights times 2.5."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    teacher = BertModel(config, add_pooling_layer=False).eval()
    for module in teacher.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()  # torch's own start; BERT's 0.02 would be nearly linear
            module.weight.data *= 2.5
    return teacher


def smoke_plan(full, bits, init="svd"):
    """Modes 4,8 / 8,8; maximal ranks or half of them."""
    k = 1 if full else 2
    quantizer = [tq.LSQ(bits=bits, init="mse")] if bits else []
    attention = tq.TT((1, 4 // k, 32 // k, 8 // k, 1), (4, 8), (4, 8), init=init)
    down = tq.TT((1, 4 // k, 32 // k, 8 // k, 1), (4, 8), (8, 8), init=init)
    up = tq.TT((1, 8 // k, 32 // k, 8 // k, 1), (8, 8), (4, 8), init=init)
    return {
        "*.attention.*": [attention, *quantizer],
        "*.intermediate.*": [up, *quantizer],
        "*.output.*": [down, *quantizer],
    }


@torch.no_grad()
def lessons(teacher, steps=75):
    """What the teacher says to each batch, for all its students: the first one is held out."""
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randint(100, (n, 8), generator=generator) for n in (64, *steps * [16])]
    return [(ids, teacher(ids, **ENDS)) for ids in batches]


def distill(teacher, plan, taught):
    """Train on the cumulative loss over all layers; return the last-layer loss before and after.

    The rate falls to a twentieth: at a constant one the end of 4 bits depends on the processor's
    last rounding.
    """
    torch.manual_seed(1)
    student = tq.calibrate(tq.compress(teacher, plan))
    scales = [p for n, p in student.named_parameters() if n.endswith("scale")]
    others = [p for n, p in student.named_parameters() if not n.endswith("scale")]
    optimizer = torch.optim.Adam([{"params": others}, {"params": scales, "lr": 1e-5}], lr=3e-3)

    def losses(ids, t):
        s = student(ids, **ENDS)
        mask = torch.ones_like(ids)
        total = layer_by_layer(
            s.hidden_states, t.hidden_states, s.attentions, t.attentions, mask, stage=2
        )
        return total, (s.hidden_states[-1] - t.hidden_states[-1]).square().mean()

    held_out, *batches = taught
    first = [float(x.detach()) for x in losses(*held_out)]
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, max(len(batches), 1))
    for batch in batches:
        total, _ = losses(*batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        decay.step()
    return first, [float(x.detach()) for x in losses(*held_out)]


def test_maximal_ranks_need_no_training():
    teacher = smoke_teacher()
    first, _ = distill(teacher, smoke_plan(True, None), lessons(teacher, steps=0))
    assert first[0] < 1e-5


@pytest.mark.slow
def test_distillation_recovers_a_tiny_encoder():
    """Check 9, smaller, and its order; the sheet's 3 % at 8 bits.

    The order is asserted with room: 2 bits lie above FP32 and 4 bits, a random start above all.
    """
    teacher = smoke_teacher()
    taught = lessons(teacher)
    start, fp32 = distill(teacher, smoke_plan(False, None), taught)
    ends = {b: distill(teacher, smoke_plan(False, b), taught)[1][1] for b in (8, 4, 2)}
    random = distill(teacher, smoke_plan(False, None, init="random"), taught)[1][1]
    print(f"start {start[1]:.5f} fp32 {fp32[1]:.5f} {ends} random {random:.5f}")
    assert fp32[1] < 0.35 * start[1]
    assert abs(ends[8] / fp32[1] - 1) < 0.03 and abs(ends[4] / fp32[1] - 1) < 0.06
    assert 1.02 * max(fp32[1], ends[4]) < ends[2] < random


def test_losses_see_the_mask():
    h = torch.randn(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    other = h.clone()
    other[0, 2] += 5
    assert float(hidden_states(h, other, mask)) < 1e-6
