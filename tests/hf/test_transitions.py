"""LayerNorm to NoNorm, GELU to ReLU: both ends exact, the way there, and folders.

Spec sheet Block Pruning, acceptance check 12.
"""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, Trainer, TrainingArguments
from transformers import BertForSequenceClassification as Bert

import tqlearn as tq
from tqlearn.hf import NoNormTransition, ReLUTransition
from tqlearn.sparsity.transitions import FadingNorm, FadingReLU, NoNorm

SMALL = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 16, "num_labels": 2,
}  # fmt: skip


def norm():
    """A LayerNorm that has learned something."""
    torch.manual_seed(0)
    made = nn.LayerNorm(16, eps=1e-12)
    made.weight.data.normal_(1, 0.3)
    made.bias.data.normal_(0, 0.3)
    return made


def tokens(seed=0):
    torch.manual_seed(seed)
    return 0.5 + 2 * torch.randn(6, 5, 16)


def test_it_starts_as_a_layer_norm():
    fading, x = FadingNorm.of(norm()), tokens()
    for training in (False, True, False):
        assert (fading.train(training)(x) - norm()(x)).abs().max() < 1e-6
    assert fading.statistics[2] > 0


def test_running_statistics_are_weighted_means():
    """Three batches by hand; the division by the sum of weights corrects the start."""
    fading, sums = FadingNorm.of(norm()).train(), torch.zeros(3)
    for seed in range(3):
        x = tokens(seed)
        fading(x)
        new = torch.tensor([x.mean(-1).mean(), x.var(-1, unbiased=False).mean(), 1.0])
        sums = 0.99 * sums + 0.01 * new
    torch.testing.assert_close(fading.running, sums[:2] / sums[2])
    assert sums[2] < 0.03 and abs(fading.running[0] - 0.5) < 0.2


def test_frozen_it_is_an_affine_map():
    fading = FadingNorm.of(norm()).train()
    for seed in range(5):
        fading(tokens(seed))
    fading.mix.fill_(0)
    frozen, x = fading.eval().freeze(), tokens(9)
    assert (frozen(x) - fading(x)).abs().max() < 1e-6
    assert (frozen(x) - norm()(x)).abs().max() > 0.1  # no LayerNorm any more
    assert type(frozen) is NoNorm and len([*frozen.buffers()]) == 0
    with pytest.raises(ValueError, match="no running statistics yet"):
        FadingNorm(16).freeze()


def test_half_way_statistics_are_half_mixed():
    fading, x = FadingNorm.of(norm()).train(), tokens()
    fading(x)
    fading.eval().mix.fill_(0.5)
    mean, variance = fading.running
    half = (x.mean(-1, keepdim=True) + mean) / 2
    spread = (x.var(-1, unbiased=False, keepdim=True) + variance) / 2
    wanted = (x - half) / spread.sqrt() * fading.weight + fading.bias
    torch.testing.assert_close(fading(x), wanted)


def test_relu_at_both_ends():
    fading, x = FadingReLU(), torch.linspace(-3, 3, 50)
    assert (fading(x) - nn.functional.gelu(x)).abs().max() < 1e-6
    fading.mix.fill_(0)
    assert torch.equal(fading(x), x.relu())
    fading.mix.fill_(0.25)
    torch.testing.assert_close(fading(x), 0.75 * x.relu() + 0.25 * nn.functional.gelu(x))


def rows():
    ids = torch.randint(3, 40, (32, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": i, "labels": (i[0] > 20).long()} for i in ids]


def run(model, folder, *callbacks, steps=8, **options):
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, report_to="none",
        use_cpu=True, disable_tqdm=True, **{"save_strategy": "no"} | options,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=rows(), callbacks=list(callbacks))


def test_a_real_run_ends_in_plain_layers_that_load_anywhere(tmp_path):
    torch.manual_seed(0)
    model = Bert(BertConfig(**SMALL))
    callbacks = NoNormTransition(model, steps=4), ReLUTransition(model, steps=6)
    assert (len(callbacks[0].names), len(callbacks[1].names)) == (4, 2)
    before = copy.deepcopy(model)
    run(model, tmp_path, *callbacks).train()
    norms = [m for m in model.bert.encoder.modules() if isinstance(m, NoNorm)]
    assert len(norms) == 4 and not any(isinstance(m, FadingNorm) for m in model.modules())
    assert isinstance(model.bert.embeddings.LayerNorm, nn.LayerNorm)
    assert isinstance(model.bert.encoder.layer[1].intermediate.intermediate_act_fn, nn.ReLU)
    assert model.config.hidden_act == "relu" and before.config.hidden_act == "gelu"
    batch = {"input_ids": torch.stack([row["input_ids"] for row in rows()])}
    model.eval().save_pretrained(tmp_path / "done")
    before.eval().save_pretrained(tmp_path / "begun")  # on its way: saved as it is, too
    for made, name in ((model, "done"), (before, "begun")):
        again = Bert.from_pretrained(tmp_path / name)
        with torch.no_grad():
            assert torch.equal(again(**batch).logits, made(**batch).logits)


def test_mix_and_decay_follow_the_steps(tmp_path):
    model = Bert(BertConfig(**SMALL))
    transition, seen = NoNormTransition(model, steps=4), []
    fading = model.get_submodule(transition.names[0])
    fading.register_forward_hook(lambda m, *_: seen.append((m.mix.item(), round(m.decay, 4))))
    run(model, tmp_path, transition, steps=6).train()
    ways = [(1, 0.99), (0.75, 0.9925), (0.5, 0.995), (0.25, 0.9975), (0, 1), (0, 1)]
    assert seen == ways


def test_compaction_reads_whatever_activation_stands_there():
    """A dead row with a live bias: relu(-1) = 0, gelu(-1) is not."""
    for steps, wanted in ((0, 0.0), (1, -0.1587)):
        model = Bert(BertConfig(**SMALL)).eval()
        if steps == 0:
            for layer in model.bert.encoder.layer:
                layer.intermediate.intermediate_act_fn = nn.ReLU()
        layer = model.bert.encoder.layer[0]
        layer.intermediate.dense.weight.data[5] = 0
        layer.intermediate.dense.bias.data[5] = -1
        layer.output.dense.weight.data[:, 5] = 1
        small = tq.compact(model).bert.encoder.layer[0].output.dense
        assert torch.allclose(small.bias - layer.output.dense.bias, torch.tensor(wanted), atol=1e-4)


def test_refusals(tmp_path):
    model = Bert(BertConfig(**SMALL))
    with pytest.raises(ValueError, match="at least one step"):
        NoNormTransition(model, 0)
    with pytest.raises(ValueError, match="takes 50 steps, the training has 8"):
        run(model, tmp_path, NoNormTransition(model, 50)).train()
    with pytest.raises(ValueError, match="starts from 'gelu', not relu"):
        ReLUTransition(Bert(BertConfig(**SMALL, hidden_act="relu")), 4)


def test_models_without_such_norms_or_words_for_an_activation_are_refused():
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 16, "vocab_size": 20}
    llama = AutoModel.from_config(AutoConfig.for_model("llama", **small))
    with pytest.raises(ValueError, match="layers of LlamaModel have no LayerNorm"):
        NoNormTransition(llama, 2)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    t5 = AutoModel.from_config(AutoConfig.for_model("t5", **sizes, vocab_size=20))
    with pytest.raises(ValueError, match="config of T5Model names no activation under hidden_act"):
        ReLUTransition(t5, 2)


def test_both_layers_of_an_encoder_decoder():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = AutoModel.from_config(AutoConfig.for_model("bart", **sizes))
    assert ReLUTransition(model, 2).names == [
        "encoder.layers.0.activation_fn",
        "decoder.layers.0.activation_fn",
    ]
