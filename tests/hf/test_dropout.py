"""Spec sheet Deep Compression, acceptance check 13: the schedule, and real Trainers under it."""

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from tqlearn.hf import DropoutSchedule, ScheduledDropout
from tqlearn.hf.dropout import dropouts, set_attention_dropout

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONVOLUTIONS = {"conv_dim": (8,), "conv_kernel": (3,), "conv_stride": (2,)}
WAVE = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=50, num_labels=2))


@pytest.mark.parametrize("ends", [(0.1, 0.0), (0.0, 0.1), (0.3, 0.7)])
@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_ends_and_direction(ends, shape):
    schedule = DropoutSchedule(*ends, shape)
    values = [schedule(i / 50) for i in range(51)]
    assert (values[0], values[-1]) == ends
    assert all(0 <= p < 1 for p in values)
    assert values == sorted(values, reverse=ends[0] > ends[1])
    assert (schedule(-1), schedule(2)) == ends


def test_shapes_by_hand():
    assert [DropoutSchedule(0.2, 0.2, "constant")(t) for t in (0, 0.3, 1)] == [0.2] * 3
    assert DropoutSchedule(0.4, 0.0)(0.25) == pytest.approx(0.3)
    cosine = DropoutSchedule(0.4, 0.0, "cosine")
    assert cosine(0.5) == pytest.approx(0.2) and cosine(0.25) == pytest.approx(0.2 + 0.2 * 0.5**0.5)
    step = DropoutSchedule(0.4, 0.1, "step", switch=0.75)
    assert [step(t) for t in (0, 0.74, 0.75, 1)] == [0.4, 0.4, 0.1, 0.1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "sine"}, "shape is 'constant', .* got 'sine'"),
        ({"start": 1.0}, "at least 0 and below 1, got 1.0, 0.0"),
        ({"end": -0.1}, "at least 0 and below 1"),
        ({"shape": "constant"}, "ends where it starts, got start=0.1, end=0.0"),
        ({"shape": "step", "switch": 0}, "the switch lies above 0"),
    ],
)
def test_refused_schedules(arguments, message):
    with pytest.raises(ValueError, match=message):
        DropoutSchedule(**arguments)


class Watch(TrainerCallback):
    """What the model holds while it computes, and what functional.dropout gets."""

    def __init__(self, model):
        self.seen, self.model = [], model
        model.register_forward_pre_hook(self.look)

    def look(self, module, inputs):
        if module.training:
            self.seen.append({value for _, _, value in dropouts(self.model)})


def run(model, folder, *callbacks, **options):
    rows = [{"input_ids": torch.arange(3, 10), "labels": i % 2} for i in range(32)]
    options = {"max_steps": 8, "per_device_train_batch_size": 4} | options
    arguments = TrainingArguments(
        folder, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, **options
    )
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=list(callbacks))
    return trainer


def test_a_real_run_follows_the_schedule_and_puts_back_what_was(tmp_path):
    model = bert()
    model.dropout.p = 0.25
    watch, callback = Watch(model), ScheduledDropout(DropoutSchedule(0.4, 0.0))
    run(model, tmp_path, callback, save_strategy="no").train()
    assert [len(seen) for seen in watch.seen] == [1] * 8
    assert [max(seen) for seen in watch.seen] == pytest.approx(
        [0.4 * (1 - t / 8) for t in range(8)]
    )
    assert callback.p == pytest.approx(0.05)
    assert sorted({value for _, _, value in dropouts(model)}) == [0.1, 0.25]


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path):
    """Stopped after 4 of 8 steps, with two batches to a step; the schedule counts steps."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    def schedule():
        return ScheduledDropout(DropoutSchedule(0.0, 0.4))

    options = {"save_steps": 4, "gradient_accumulation_steps": 2}
    run(bert(), tmp_path, schedule(), Stop(), **options).train()
    model = bert()
    watch = Watch(model)
    run(model, tmp_path, schedule(), **options).train(str(tmp_path / "checkpoint-4"))
    steps = [0.4 * t / 8 for t in range(4, 8) for _ in range(2)]
    assert [max(seen) for seen in watch.seen] == pytest.approx(steps)


def test_a_pattern_leaves_the_head_alone(tmp_path):
    model = bert()
    watch = Watch(model)
    callback = ScheduledDropout(DropoutSchedule(0.3, 0.3, "constant"), "bert.encoder.*")
    run(model, tmp_path, callback, save_strategy="no", max_steps=1).train()
    assert watch.seen == [{0.1, 0.3}]


def test_a_pattern_that_reaches_nothing(tmp_path):
    callback = ScheduledDropout(DropoutSchedule(), "vit.*")
    with pytest.raises(ValueError, match=r"'vit.\*' reaches no dropout of BertForSequenceC"):
        run(bert(), tmp_path, callback, save_strategy="no").train()


FAMILIES = {
    "bert": (bert, {"input_ids": torch.arange(3, 12)[None]}),
    "vit": (
        lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8)),
        {"pixel_values": torch.randn(1, 3, 16, 16)},
    ),
    "wav2vec2": (
        lambda: Wav2Vec2ForSequenceClassification(
            Wav2Vec2Config(**SMALL, **CONVOLUTIONS, **WAVE, layerdrop=0.0, mask_time_prob=0.0)
        ),
        {"input_values": torch.randn(1, 400)},
    ),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_hidden_and_attention_dropout_of_three_families(kind, monkeypatch):
    """Every dropout that runs in training has the value that was set; evaluation has none."""
    make, inputs = FAMILIES[kind]
    model = make()
    model.set_attn_implementation("eager")
    plain = model.eval()(**inputs).logits
    for module, name, _ in dropouts(model):
        setattr(module, name, 0.375)
    assert torch.equal(model.eval()(**inputs).logits, plain)
    ran = []
    real = torch.nn.functional.dropout

    def spy(x, p=0.5, training=True, inplace=False):
        ran.append(p if training else None)
        return real(x, p, training, inplace)

    monkeypatch.setattr(torch.nn.functional, "dropout", spy)
    model.train()(**inputs)
    assert len(ran) >= 2 * 2 + 1 and set(ran) == {0.375}


def test_attention_dropout_leaves_what_comes_after_the_output_projection():
    """ALBERT's output_dropout and GPT-2's resid_dropout stand inside the attention module."""
    albert = AlbertModel(AlbertConfig(**SMALL, embedding_size=8, vocab_size=30))
    gpt2 = GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30))
    for model, name in ((albert, "output_dropout"), (gpt2, "resid_dropout")):
        after = [m for n, m in model.named_modules() if n.endswith(f".{name}")]
        before = [m.p for m in after]
        set_attention_dropout(model, 0.25)
        assert after and [m.p for m in after] == before
        assert 0.25 in [value for _, _, value in dropouts(model)]


DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50}
ENCODERS = {
    "bert": bert,
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL, vocab_size=50)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTIL)),
    "vit": lambda: ViTForImageClassification(
        ViTConfig(
            **SMALL, image_size=8, patch_size=4, hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", ENCODERS)
def test_attention_dropout_alone(family, monkeypatch):
    """What torch's attention is called with, layer by layer; all other dropout stays."""
    model, called = ENCODERS[family]().train(), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args, dropout_p=0.0, **kwargs):
        called.append(dropout_p)
        return attend(*args, dropout_p=dropout_p, **kwargs)

    def run():
        rows = torch.rand(2, 3, 8, 8) if family == "vit" else torch.randint(2, 50, (2, 5))
        called.clear()
        model(rows)
        return called

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    before = [value for *_, value in dropouts(model)]
    assert run() == [0.1, 0.1]
    assert set_attention_dropout(model, 0.25) is model and run() == [0.25, 0.25]
    set_attention_dropout(model, 0.0)
    assert run() == [0.0, 0.0]
    after = [value for *_, value in dropouts(model)]
    assert [b for b, a in zip(before, after, strict=True) if a != b] == [0.1, 0.1]
    assert after.count(0.1) == before.count(0.1) - 2 > 0


def test_attention_dropout_in_vain():
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1.0"):
        set_attention_dropout(bert(), 1.0)
    with pytest.raises(ValueError, match="no layer that the table of anat"):
        set_attention_dropout(torch.nn.Linear(2, 2), 0.0)
    model = bert()
    del model.bert.encoder.layer[1].attention.self.dropout
    with pytest.raises(ValueError, match="no dropout of attention in bert.encoder.layer.1"):
        set_attention_dropout(model, 0.0)
