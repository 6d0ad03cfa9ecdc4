"""W-E-A settings as KDLSQ means them: weights, embeddings, and all that is multiplied."""

import copy
import subprocess

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from warm import FRESH

import tqlearn as tq
from tqlearn.hf import QUANTIZED, SCORES, DistillTrainer, quantize_attention
from tqlearn.hf.attention import attention_modules
from tqlearn.quantizers.inputs import ATTENTION

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
    "vocab_size": 100,
    "max_position_embeddings": 40,
    "attention_probs_dropout_prob": 0.0,  # in training it lifts probabilities above their clip
}
CLIP2, CLIP8 = tq.LearnedClip(bits=2), tq.LearnedClip(bits=8)
PLAN = {  # 2-2-8
    "*.word_embeddings": [CLIP2],
    "*.encoder.layer.*": [CLIP2, tq.Inputs(CLIP8)],
    "*pooler.dense": [CLIP2, tq.Inputs(CLIP8)],
}


def teacher():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL)).eval()


def batch(padding=3):
    ids = torch.randint(5, 90, (4, 9))
    mask = torch.ones_like(ids)
    mask[:2, 9 - padding :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def student(inputs):
    model = quantize_attention(tq.compress(teacher(), PLAN), CLIP8)
    return tq.calibrate(model, [inputs])


def test_every_product_is_quantized():
    """10 activation quantizers a layer and one for the pooler, 6 weights a layer and two more."""
    model = student(batch())
    names = [n for n, m in model.named_modules() if tq.stages.is_quantizer(m)]
    on_weights = [n for n in names if ".parametrizations." in n]
    assert len(on_weights) == 6 * 2 + 2 and len(names) - len(on_weights) == 10 * 2 + 1
    q = model.bert.encoder.layer[0].attention.self.quant_query
    assert (q.bits, q.straight, q.qmax) == (8, False, 127)


def test_it_is_eager_attention_where_nothing_is_quantized():
    model, inputs = teacher(), batch()
    expected = copy.deepcopy(model)
    expected.set_attn_implementation("eager")
    want = expected(**inputs, output_attentions=True)
    model.set_attn_implementation(QUANTIZED)
    got = model(**inputs, output_attentions=True)
    assert_close(got.logits, want.logits)
    assert_close(got.attentions, want.attentions)
    model.set_attn_implementation(SCORES)
    scores = model(**inputs, output_attentions=True).attentions[0]
    mask = (1 - inputs["attention_mask"])[:, None, None] * torch.finfo(scores.dtype).min
    assert_close((scores + mask).softmax(-1), want.attentions[0])


def test_what_meets_in_the_products_lies_on_the_grid():
    inputs = batch()
    model = student(inputs)
    own, seen = model.bert.encoder.layer[1].attention.self, {}
    for name in ATTENTION:
        quantizer = getattr(own, name)
        quantizer.register_forward_hook(lambda m, i, o, n=name: seen.update({n: (m, i[0], o)}))
    maps = model(**inputs, output_attentions=True).attentions
    for quantizer, before, after in seen.values():
        codes = after / quantizer.scale
        assert_close(codes, codes.round(), atol=1e-4, rtol=0)
        assert (after - before).abs().max() > 0
    assert torch.equal(maps[1], seen["quant_probabilities"][2])
    q, k, v = (seen[name][2].transpose(1, 2) for name in ATTENTION[:3])
    scores = q @ k.transpose(2, 3) / 8**0.5
    scores = scores.masked_fill(inputs["attention_mask"][:, None, None] == 0, -torch.inf)
    assert_close(seen["quant_probabilities"][1], scores.softmax(-1))
    assert v.shape == (4, 4, 9, 8)


def test_padding_does_not_move_a_clip():
    """The same tokens with and without padded positions give the same start values."""
    inputs = batch(padding=3)
    short = {k: v[:2, :6] for k, v in inputs.items()}
    long = {k: v[:2].clone() for k, v in inputs.items()}
    long["input_ids"][:, 6:] = 77
    one, two = student(short), student(long)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)
    blind = {"input_ids": long["input_ids"]}
    three = student(blind)
    moved = [not torch.allclose(a, b, rtol=1e-3) for a, b in
             zip(one.parameters(), three.parameters(), strict=True)]  # fmt: skip
    assert sum(moved) > 5


RELOAD = """
import sys, torch
from transformers import AutoModelForSequenceClassification
import tqlearn.hf
for folder in sys.argv[1:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs, logits = torch.load(folder + "/expected.pt")
    assert torch.equal(model(**inputs).logits, logits), folder
    print("bit-equal")
"""


@pytest.mark.slow  # test_bridge.py has one for every run
def test_a_new_process_gives_bit_equal_logits(tmp_path):
    inputs = batch()
    model = student(inputs)
    for name, saved in (("packed", tq.pack(model)), ("fake", model)):
        saved.save_pretrained(tmp_path / name)
        torch.save((inputs, model(**inputs).logits.detach()), tmp_path / name / "expected.pt")
    packed = tmp_path / "packed"
    assert (packed / "model.safetensors").stat().st_size == tq.report(tq.pack(model)).file
    run = [*FRESH, "-c", RELOAD, str(packed), str(tmp_path / "fake")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("bit-equal") == 2, done.stderr[-2000:]


@pytest.mark.parametrize(
    "edit",
    [tq.LSQ(bits=8), tq.LSQPlus(bits=8), tq.PACT(bits=4), tq.Uniform(bits=8)],
    ids=repr,
)
def test_other_quantizers_of_activations_reload(edit, tmp_path):
    inputs = batch()
    one_sided = tq.PACT(bits=4, form="one-sided", init="max")
    model = tq.compress(teacher(), {"*.dense": [tq.SAWB(bits=4), tq.Inputs(edit)]})
    model = tq.calibrate(quantize_attention(model, edit, probabilities=one_sided), [inputs])
    own = model.bert.encoder.layer[0].attention.self
    assert own.quant_probabilities.form == "one-sided"
    assert 0 < own.quant_probabilities.high.item() <= 1
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    again.train()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert torch.isfinite(again.bert.pooler.dense.parametrizations.weight.original.grad).all()


def test_the_bare_encoder_and_the_dense_copy(tmp_path):
    inputs = batch()
    model = student(inputs)
    model.save_pretrained(tmp_path)
    encoder = BertModel.from_pretrained(tmp_path)
    assert torch.equal(encoder(**inputs).last_hidden_state, model.bert(**inputs).last_hidden_state)
    dense = tq.bake(model, dense=True)
    assert tq.describe(dense)["modules"] == {}
    dense.set_attn_implementation("sdpa")  # nothing left that would refuse it
    assert torch.isfinite(dense(**inputs).logits).all()


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_another_attention_would_pass_the_quantizers_by(kind):
    inputs = batch()
    model = student(inputs)
    model.set_attn_implementation(kind)
    with pytest.raises(ValueError, match=f"has quantizers that '{kind}' attention would not use"):
        model(**inputs)


@pytest.mark.parametrize("attention", ["eager", SCORES])
def test_distillation_keeps_the_quantizers(attention, tmp_path):
    data = [{k: v[0] for k, v in batch().items()} | {"labels": 1} for _ in range(8)]
    model = student(batch())
    before = {n: p.clone() for n, p in model.named_parameters()}
    kinds = []

    def losses(mine, theirs, inputs):
        kinds.append(model.config._attn_implementation)
        pairs = zip(mine.attentions, theirs.attentions, strict=True)
        return {"maps": sum((a - b).square().mean() for a, b in pairs), "task": mine.loss}

    args = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = DistillTrainer(model, args, teacher=teacher(), losses=losses, attention=attention,
                             train_dataset=data, scale_learning_rate=1e-2)  # fmt: skip
    trainer.train()
    assert set(kinds) == {QUANTIZED if attention == "eager" else SCORES}
    assert model.config._attn_implementation == QUANTIZED
    groups = [g for g in trainer.optimizer.param_groups if g.get("scales")]
    clips = [n for n, _ in model.named_parameters() if n.endswith(".clip")]
    assert [len(g["params"]) for g in groups] == [14, 21] and len(clips) == 14 + 21
    assert all(g["weight_decay"] == 0 and g["initial_lr"] == 1e-2 for g in groups)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert set(clips) <= set(moved)


def test_other_families():
    torch.manual_seed(0)
    text = {"input_ids": torch.randint(5, 90, (2, 7))}
    distil = DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=100, max_position_embeddings=40
    )
    image = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                      intermediate_size=64, image_size=16, patch_size=8)  # fmt: skip
    llama = LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, intermediate_size=64, vocab_size=100)  # fmt: skip
    for model, inputs in (
        (DistilBertForSequenceClassification(distil), text),
        (ViTForImageClassification(image), {"pixel_values": torch.randn(2, 3, 16, 16)}),
        (LlamaForCausalLM(llama), text),
    ):
        model.eval()
        got = tq.calibrate(quantize_attention(model, tq.LSQ(bits=8, init="max")), [inputs])
        assert len(attention_modules(got)) == 2
        want, have = model(**inputs).logits, got(**inputs).logits
        assert not torch.equal(have, want)
        assert_close(have, want, atol=0.02, rtol=0.05)


def test_a_pattern_and_refusals():
    one = quantize_attention(teacher(), CLIP8, pattern="*.layer.1.*")
    assert [hasattr(m, "quant_key") for m in attention_modules(one).values()] == [False, True]
    with pytest.raises(ValueError, match="'nowhere' matches no attention of BertFor.*layer.0"):
        quantize_attention(teacher(), CLIP8, pattern="nowhere")
    with pytest.raises(TypeError, match="an edit that quantizes is needed"):
        quantize_attention(teacher(), tq.TT(rank=4))
    with pytest.raises(ValueError, match="quant_query has a quantizer already"):
        quantize_attention(one, CLIP8)
    with pytest.raises(ValueError, match="activations need batches"):
        tq.calibrate(one)
    assert torch.isnan(one(**batch()).logits).all()


SIZES = [  # spec sheet KDLSQ, section 7: what is quantized -> bytes, ratio
    ((2, 2, 32, 2), 29_308_800, 14.94),
    ((2, 2, 32, 32), 31_520_640, 13.89),
    ((2, 2, 2, 2), 27_834_240, 15.73),
    ((2, 2, 8, 2), 28_129_152, 15.57),
    ((2, 8, 32, 2), 46_889_472, 9.34),
    ((3, 3, 32, 3), 42_929_472, 10.20),
    ((4, 4, 32, 4), 56_550_144, 7.74),
    ((8, 8, 32, 8), 111_032_832, 3.94),
]


@pytest.mark.parametrize(("bits", "size", "ratio"), SIZES)
def test_check_11_sizes_to_the_byte(bits, size, ratio):
    """The real BERT-base under a plan, counted as the table counts: 32 bits for all the rest."""
    from tqlearn.storage.report import _row

    with torch.device("meta"):
        bert = BertModel(BertConfig())
    linears, words, positions, pooler = bits
    plan = {
        "encoder.*": [tq.LearnedClip(bits=linears)],
        "embeddings.word_embeddings": [tq.LearnedClip(bits=words)],
        "embeddings.position_embeddings": [] if positions == 32 else [tq.LearnedClip(positions)],
        "pooler.dense": [] if pooler == 32 else [tq.LearnedClip(bits=pooler)],
    }
    rows = {}
    for name, module in tq.compress(bert, plan).named_modules():
        if ".parametrizations" not in f".{name}" and (row := _row(name, module, set())):
            rows[name] = row
    assert sum(row["nominal"] for row in rows.values()) == size
    assert sum(row["parameters"] for row in rows.values()) == 109_482_240
    assert 437_928_960 / size == pytest.approx(ratio, abs=0.005)
    if bits == (2, 2, 32, 2):
        assert rows["embeddings.word_embeddings"]["nominal"] == 5_860_224
        assert rows["pooler.dense"]["nominal"] - 4 * 768 == 147_456
        dense = [r for n, r in rows.items() if n.startswith("encoder") and r["bits"] == [2, 32]]
        biases = 12 * (4 * 768 + 3072 + 768)
        assert sum(r["nominal"] for r in dense) - 4 * biases == 21_233_664
        per_row = tq.LearnedClip(bits=2, per="channel")
        with torch.device("meta"):
            table = per_row(BertModel(BertConfig()).embeddings.word_embeddings)
        extra = _row("words", table, set())["bytes"] - 5_860_224
        assert size + extra == 29_430_888  # one scale per vocabulary row, as TernaryBERT has
