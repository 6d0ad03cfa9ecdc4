"""Losses of a decoder in pieces: those of whole logits, through the Trainer, and after a stop."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_llamas import tiny_llama
from transformers import Gemma2Config, Gemma2ForCausalLM, TrainingArguments

import tqlearn as tq
from tqlearn.distill import soft_labels
from tqlearn.hf import CausalLosses, DistillTrainer, evaluate_language
from tqlearn.hf.causal import next_tokens
from tqlearn.hf.delayed import StopAfter

WORDS = tiny_llama().config.vocab_size


def student_of(teacher, **edit):
    edit = {"bits": 2, "init": "mse", "per": 16} | edit
    return tq.calibrate(tq.compress(teacher, {"*.layers.*": [tq.LSQ(**edit)]})).train()


def batch(padded=True):
    ids = torch.randint(0, WORDS, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 5:] = mask[2, :2] = 0  # on the right, and on the left
    return {"input_ids": ids, "attention_mask": mask}


def asked(losses, student, teacher, inputs):
    with losses.watch(student, teacher):
        with torch.no_grad():
            taught = None if teacher is None else teacher(**inputs)
        output = student(**inputs)
    return losses(output, taught, inputs)


def whole(student, teacher, inputs, temperature=1.0):
    """(soft, task) from all logits, row by row."""
    with torch.no_grad():
        theirs = teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    ours = student(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    real[:, 1:] &= real[:, :-1].clone()  # nothing is predicted from padding
    labels = inputs.get("labels", inputs["input_ids"].masked_fill(~real, -100))
    soft, task = [], []
    for row in range(len(labels)):
        for place in range(labels.shape[1] - 1):
            if (label := labels[row, place + 1]) != -100:
                z, t = ours.logits[row, place], theirs.logits[row, place]
                soft.append(soft_labels(z[None], t[None], temperature))
                task.append(-z.log_softmax(-1)[label])
    return torch.stack(soft).mean(), torch.stack(task).mean()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("piece", [1, 4 * WORDS, 2**24])
def test_pieces_are_the_whole_in_values_and_gradients(piece, tied):
    teacher = tiny_llama(tie_word_embeddings=tied)
    students = [student_of(teacher) for _ in range(2)]
    losses = CausalLosses(soft=0.7, task=0.3, temperature=2.0, piece=piece)
    found = asked(losses, students[0], teacher, batch())
    soft, task = whole(students[1], teacher, batch(), 2.0)
    wanted = {"soft": 0.7 * soft, "task": 0.3 * task}
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for terms in (found, wanted):
        sum(terms.values()).backward()
    ours, theirs = ({n: p.grad for n, p in s.named_parameters()} for s in students)
    assert ours.keys() == theirs.keys() and all(g is not None and g.any() for g in ours.values())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_no_tensor_is_as_large_as_all_logits(monkeypatch):
    """The largest that the output layers ever give is a piece, in both directions."""
    teacher, sizes = tiny_llama(), []
    student = student_of(teacher)
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda m, x, y: sizes.append(y.numel() // WORDS))
    losses = CausalLosses(piece=5 * WORDS)
    terms = asked(losses, student, teacher, batch(padded=False))
    before = len(sizes)
    terms["soft"].backward()
    assert max(sizes) == 5 and sum(sizes[:before]) == 2 * (24 + 3 + 3), "24 count, 3 rows twice"
    assert sum(sizes[before:]) == 2 * 24, "once more, backward"


def test_the_soft_term_is_the_kl_that_evaluation_tells():
    teacher, inputs = tiny_llama(), {"input_ids": batch()["input_ids"][:1]}
    student = student_of(teacher).eval()
    found = asked(CausalLosses(task=1), student, teacher, inputs)
    wanted = evaluate_language(student, inputs["input_ids"][0], window=8, reference=teacher)
    assert found["soft"].item() == pytest.approx(wanted["kl"], rel=1e-4) and wanted["kl"] > 0.01
    assert found["task"].item() == pytest.approx(wanted["nll"], rel=1e-5)


def test_labels_say_what_counts_and_reach_no_model():
    teacher, inputs = tiny_llama(), batch()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[1, 4] = 7
    inputs["labels"] = labels
    student = student_of(teacher)
    found = asked(CausalLosses(task=1), student, teacher, inputs)
    soft, task = whole(student, teacher, inputs)
    torch.testing.assert_close(found, {"soft": soft, "task": task}, rtol=1e-5, atol=1e-6)
    inputs["labels"] = torch.full_like(labels, -100)
    found = asked(CausalLosses(task=1), student, teacher, inputs)
    sum(found.values()).backward()
    assert [term.item() for term in found.values()] == [0, 0]
    assert not any(p.grad.any() for p in student.parameters() if p.grad is not None)
    assert next_tokens({"input_ids": labels}).shape == (3, 8)


def test_padding_predicts_nothing():
    ids = torch.tensor([[0, 0, 7, 8, 9], [7, 8, 9, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = next_tokens({"input_ids": ids, "attention_mask": mask})
    assert found.tolist() == [[-100, -100, 8, 9], [8, 9, -100, -100]]


def test_a_cap_is_refused_while_logits_are_too_small_to_meet_it():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    sizes |= {"num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 32}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, initializer_range=1e-4))
    with pytest.raises(ValueError, match="Gemma2ForCausalLM does more to its logits"):
        asked(CausalLosses(soft=0.0, task=1.0), model, None, {"input_ids": torch.ones(1, 4).long()})


def test_equal_models_have_no_soft_loss_and_hooks_go_again():
    teacher = tiny_llama()
    copy = tiny_llama()
    assert asked(CausalLosses(), copy, teacher, batch())["soft"].abs() < 1e-6
    assert copy(**batch()).logits.shape == teacher(**batch()).logits.shape == (3, 9, WORDS)
    assert not copy._forward_pre_hooks and not copy.lm_head._forward_pre_hooks


class Rows(torch.utils.data.Dataset):
    def __init__(self, labels=False):
        self.ids = torch.randint(0, WORDS, (16, 12), generator=torch.Generator().manual_seed(2))
        self.labels = labels

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i]} | ({"labels": self.ids[i]} if self.labels else {})


def trainer(folder, student, teacher, losses, *, labels=False, callbacks=(), **options):
    options = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 3e-3} | options
    training = TrainingArguments(
        str(folder), report_to="none", disable_tqdm=True, use_cpu=True, logging_steps=1,
        dataloader_pin_memory=False, save_strategy="no", **options,
    )  # fmt: skip
    return DistillTrainer(student, training, train_dataset=Rows(labels), teacher=teacher,
                          losses=losses, attention=None, callbacks=[*callbacks])  # fmt: skip


def test_a_two_bit_student_learns(tmp_path):
    teacher = tiny_llama()
    student = student_of(teacher)
    run = trainer(tmp_path, student, teacher, CausalLosses(), max_steps=24)
    before = evaluate_language(student, Rows().ids[0], window=11, reference=teacher)["kl"]
    run.train()
    kl = [entry["soft"] for entry in run.state.log_history if "soft" in entry]
    assert len(kl) == 24 and sum(kl[-4:]) < 0.8 * sum(kl[:4])
    after = evaluate_language(student, Rows().ids[0], window=11, reference=teacher)["kl"]
    assert after < 0.9 * before


def test_a_task_alone_needs_no_teacher_and_evaluation_sees_all_logits(tmp_path):
    student = tiny_llama()
    run = trainer(tmp_path, student, None, CausalLosses(soft=0, task=1), labels=True, max_steps=2)
    first = float(student(input_ids=Rows().ids, labels=Rows().ids).loss.detach())
    assert run.evaluate(Rows(labels=True))["eval_loss"] == pytest.approx(first, rel=1e-5)
    run.train()
    assert set(run.state.log_history[0]) >= {"task"} and "soft" not in run.state.log_history[0]
    run.model.eval()
    assert run.evaluate(Rows(labels=True))["eval_loss"] < first


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Rows of one length: the mean of means is the mean."""
    grads = []
    for size, times in ((8, 1), (2, 4)):
        teacher = tiny_llama()
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times}
        student = student_of(teacher)
        trainer(tmp_path, student, teacher, CausalLosses(), labels=True, max_steps=1, seed=3,
                optim="sgd", max_grad_norm=0.0, **options).train()  # fmt: skip
        grads.append({n: p.detach() for n, p in student.named_parameters()})
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


def test_mixed_precision_reaches_the_pieces(tmp_path):
    """Equal models stay equal in bfloat16: pieces compute as the models do."""
    teacher, kinds = tiny_llama(), set()
    student = tq.compress(teacher, {"*": []})
    student.lm_head.register_forward_hook(lambda m, x, y: kinds.add(y.dtype))
    run = trainer(tmp_path, student, teacher, CausalLosses(), bf16=True, max_steps=1)
    run.train()
    assert kinds == {torch.bfloat16} and abs(run.state.log_history[0]["soft"]) < 1e-4


def test_a_stopped_run_goes_on_to_the_bit(tmp_path):
    ends = {}
    for name, stops in (("whole", []), ("stopped", [StopAfter(2)]), ("stopped", [])):
        teacher, folder = tiny_llama(), tmp_path / name
        student = student_of(teacher)
        run = trainer(folder, student, teacher, CausalLosses(task=0.1), callbacks=stops,
                      lr_scheduler_type="cosine", max_steps=5)  # fmt: skip
        resume = sorted(map(str, folder.glob("checkpoint-*")))
        run.train(resume_from_checkpoint=resume[-1] if resume else None)
        ends[name] = run.state.global_step, student.state_dict(), run.state.log_history
    assert ends["stopped"][0] == ends["whole"][0] == 5
    saved = load_file(tmp_path / "stopped" / "checkpoint-2" / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.parametrizations.weight.original"
    assert not torch.equal(saved[key], ends["whole"][1][key]), "the stop was in the middle"
    for name, tensor in ends["whole"][1].items():
        assert torch.equal(tensor, ends["stopped"][1][name]), name
    ours, theirs = ([e["loss"] for e in ends[n][2] if "loss" in e] for n in ends)
    assert ours == theirs and len(ours) == 5


def test_refusals():
    teacher = tiny_llama()
    for wrong in ({"soft": 0}, {"soft": -1}, {"task": -0.1}):
        with pytest.raises(ValueError, match="weights of losses are at least 0"):
            CausalLosses(**wrong)
    with pytest.raises(ValueError, match="a temperature is above 0, got 0"):
        CausalLosses(temperature=0)
    with pytest.raises(ValueError, match="a piece has at least one logit, got 0"):
        CausalLosses(piece=0)
    with pytest.raises(TypeError, match="soft"):
        CausalLosses(soft="much")
    with pytest.raises(ValueError, match="soft labels come from a teacher"):
        asked(CausalLosses(), student_of(teacher), None, batch())
    with pytest.raises(ValueError, match="within CausalLosses.watch"):
        CausalLosses()(None, None, batch())
    other = tiny_llama(vocab_size=WORDS + 8)
    with pytest.raises(ValueError, match=f"student's {WORDS} words, got {WORDS + 8}"):
        asked(CausalLosses(), student_of(teacher), other, batch())
    with pytest.raises(ValueError, match="input_ids or labels, got"):
        next_tokens({"tokens": torch.ones(1, 2)})
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 16) | {"vocab_size": WORDS}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(**sizes, final_logit_softcapping=1.0)
    capped, other = (Gemma2ForCausalLM(config) for _ in range(2))
    with pytest.raises(ValueError, match="Gemma2ForCausalLM does more to its logits"):
        asked(CausalLosses(), capped, other, batch())
    with pytest.raises(ValueError, match="calls its output layer 2 times"):
        asked(CausalLosses(), teacher, teacher, batch())


def test_a_prediction_of_the_wrong_token_would_show():
    """The loss of a model that knows the next token is near 0; of one that repeats, it is not."""
    model = tiny_llama(vocab_size=8)
    ids = torch.arange(6)[None] % 8
    logits = F.one_hot((ids + 1) % 8, 8).float() * 50
    states = {"input_ids": ids}

    class Knows(torch.nn.Module):
        def get_output_embeddings(self):
            return self.head

        def forward(self, **inputs):
            return type("Output", (), {"logits": self.head(logits)})()

    knows = Knows()
    knows.head = torch.nn.Linear(8, 8, bias=False)
    knows.head.weight.data.copy_(torch.eye(8))
    assert asked(CausalLosses(soft=0, task=1), knows, None, states)["task"] < 1e-6
    assert model.config.vocab_size == 8
