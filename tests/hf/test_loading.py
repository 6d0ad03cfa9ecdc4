"""What a folder says and what a model has: prefixes, heads of other sizes, tensors left over."""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.hf import SCORES, quantize_attention
from tqlearn.hf.attention import attention_of

SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
IDS = torch.arange(3, 12)[None]
PIXELS = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
VISION = {"image_size": 16, "patch_size": 8, **{k: v for k, v in SMALL.items() if k[0] != "v"}}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 99}


def bert(cls=tf.BertForSequenceClassification, **options):
    torch.manual_seed(0)
    return cls(tf.BertConfig(**SMALL, **options)).eval()


def bare_models():
    """Models without the child that their prefix names, their inputs, and a pattern of layers."""
    torch.manual_seed(0)
    clip = tf.CLIPConfig(text_config=SMALL, vision_config=VISION, projection_dim=16)
    t5 = {"input_ids": IDS, "decoder_input_ids": IDS}
    return {
        "bert": (bert(tf.BertModel), {"input_ids": IDS}, "*.query"),
        "vit": (tf.ViTModel(tf.ViTConfig(**VISION)), {"pixel_values": PIXELS}, "*.fc1"),
        "llama": (tf.LlamaModel(tf.LlamaConfig(**SMALL)), {"input_ids": IDS}, "*.q_proj"),
        "t5": (tf.T5Model(tf.T5Config(**T5)), t5, "*.q"),
        "t5 with a head": (tf.T5ForConditionalGeneration(tf.T5Config(**T5)), t5, "*.q"),
        "clip": (tf.CLIPModel(clip), {"input_ids": IDS, "pixel_values": PIXELS}, "*.q_proj"),
    }


INPUTS = [tq.LSQ(4), tq.Inputs(tq.PACT(4))]
INSIDE = [tq.TT(rank=4, order=2), tq.LSQ(4, activations=8)]  # quantizers inside a new layer


@pytest.mark.parametrize(
    ("kind", "edits"),
    [(kind, INPUTS) for kind in bare_models()] + [(k, INSIDE) for k in ("bert", "vit", "llama")],
    ids=str,
)
def test_a_model_without_the_child_of_its_prefix(kind, edits, tmp_path):
    model, inputs, pattern = bare_models()[kind]
    student = tq.calibrate(tq.compress(model.eval(), {pattern: edits}), [inputs])
    tq.pack(student).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert tq.describe(again) == tq.describe(tq.pack(student))
    with torch.no_grad():
        assert torch.equal(again(**inputs)[0], tq.pack(student)(**inputs)[0])


HEADS = [[tq.TT(rank=2)], [tq.LSQ(4)], [tq.TwoFour()], INPUTS, [tq.TT(2), tq.LSQ(4, activations=8)]]


@pytest.mark.parametrize("verb", [tq.pack, lambda model: model], ids=["packed", "fake"])
@pytest.mark.parametrize("edits", HEADS, ids=repr)
def test_a_head_of_another_size_is_fresh(edits, verb, tmp_path):
    student = tq.compress(bert(num_labels=2), {"classifier": edits, "*query": [tq.LSQ(4)]})
    student = verb(tq.calibrate(student, [{"input_ids": IDS}]))
    student.save_pretrained(tmp_path / "a")
    other = {"num_labels": 5, "ignore_mismatched_sizes": True}
    cls = type(student)
    fresh = cls.from_pretrained(tmp_path / "a", **other)
    assert type(fresh.classifier) is torch.nn.Linear and fresh(IDS).logits.shape == (1, 5)
    assert 0.01 < fresh.classifier.weight.std() < 0.03  # as BERT starts a head, with 0.02
    assert_close(fresh.bert(IDS)[0], student.bert(IDS)[0])
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # as for any other layer
        cls.from_pretrained(tmp_path / "a", num_labels=5)
    fresh.save_pretrained(tmp_path / "b")  # and the layout knows of it
    assert_close(cls.from_pretrained(tmp_path / "b")(IDS).logits, fresh(IDS).logits)


def test_a_table_of_another_size_is_fresh_too(tmp_path):
    student = tq.calibrate(tq.compress(bert(), {"*word_embeddings": [tq.LSQ(4)]}))
    tq.pack(student).save_pretrained(tmp_path)
    other = type(student).from_pretrained(tmp_path, vocab_size=120, ignore_mismatched_sizes=True)
    assert len(other.get_input_embeddings().weight) == 120
    assert not hasattr(other.config, "quantization_config")  # nothing else was compressed


def test_a_head_without_a_bias_is_not_replaced_unasked(tmp_path):
    model = tf.LlamaForSequenceClassification(tf.LlamaConfig(**SMALL, num_labels=2, pad_token_id=0))
    tq.compress(model, {"score": [tq.TT(rank=2)]}).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(model).from_pretrained(tmp_path, num_labels=5)


def test_another_kind_of_head(tmp_path):
    """RoBERTa's classifier is two layers for sentences and one for tokens."""
    torch.manual_seed(0)
    teacher = tf.RobertaForSequenceClassification(tf.RobertaConfig(**SMALL)).eval()
    student = tq.calibrate(
        tq.compress(teacher, {"classifier.*": [tq.LSQ(4)], "*.key": [tq.LSQ(4)]})
    )
    student.save_pretrained(tmp_path)
    other = tf.RobertaForTokenClassification.from_pretrained(tmp_path)
    assert list(tq.describe(other)["modules"]) == ["roberta.encoder.layer.0.attention.self.key"]
    assert_close(other.roberta(IDS)[0], student.roberta(IDS)[0])


@pytest.mark.parametrize("verb", [tq.pack, lambda model: model], ids=["packed", "fake"])
def test_a_tensor_left_over_is_refused(verb, tmp_path):
    """A layout that does not name a layer of the file would load it with random weights."""
    student = tq.compress(bert(), {"*.query": [tq.LSQ(4)], "*.key": [tq.TT(4), tq.LSQ(4)]})
    verb(tq.calibrate(student)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    layout = json.loads(config["quantization_config"]["layout"])
    layout["modules"] = {k: v for k, v in layout["modules"].items() if k.endswith("key")}
    config["quantization_config"]["layout"] = json.dumps(layout)
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"holds 2 tensors .* does not name, .*query\.param"):
        type(student).from_pretrained(tmp_path)


def test_a_layer_that_found_no_place_is_refused(tmp_path):
    """A folder whose names lost their prefix: the encoder must not come out random."""
    student = tq.calibrate(tq.compress(bert(), {"*.query": [tq.LSQ(4)]}))
    student.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        file = tmp_path / name
        if name == "config.json":
            file.write_text(file.read_text().replace("bert.encoder", "tower.stack"))
        else:
            tensors = load_file(file)
            renamed = {k.replace("bert.encoder", "tower.stack"): t for k, t in tensors.items()}
            save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="'tower.stack.layer.0.attention.self.query'.*no place"):
        type(student).from_pretrained(tmp_path)


def test_baked_after_loading_it_is_an_ordinary_model(tmp_path):
    plan = {"*query": [tq.TT(rank=8), tq.LSQ(4)]}
    tq.pack(tq.calibrate(tq.compress(bert(), plan))).save_pretrained(tmp_path)
    loaded = tf.BertForSequenceClassification.from_pretrained(tmp_path)
    dense = tq.bake(loaded, dense=True)
    assert loaded.is_quantized and not hasattr(dense, "is_quantized")
    assert not hasattr(dense, "hf_quantizer") and not hasattr(dense.config, "_is_quantized")
    assert dense.half().float()(IDS).logits.isfinite().all()
    dense.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in (tmp_path / "dense" / "config.json").read_text()
    assert loaded.config._is_quantized and tq.describe(loaded)["modules"]  # it stays as it was


class OneKind(tf.BertForSequenceClassification):
    """A model that knows eager attention alone, as DETR with a backbone of another library."""

    def set_attn_implementation(self, *args, **kwargs):
        raise AssertionError("there is nothing to set")


def test_a_model_with_one_attention_kind(tmp_path):
    student = tq.calibrate(tq.compress(bert(OneKind), {"*.query": [tq.LSQ(4)]}))
    student.save_pretrained(tmp_path)
    assert_close(OneKind.from_pretrained(tmp_path)(IDS).logits, student(IDS).logits)


def detr():
    """Attention of several kinds over a backbone that knows eager alone."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    each = {"layers": 1, "attention_heads": 4, "ffn_dim": 48}
    numbers = {f"{part}_{k}": n for part in ("encoder", "decoder") for k, n in each.items()}
    torch.manual_seed(0)
    backbone = tf.ResNetConfig(**sizes, out_features=["stage2"])
    config = tf.DetrConfig(backbone_config=backbone, d_model=32, num_queries=5, **numbers)
    return tf.DetrForObjectDetection(config).eval(), {"pixel_values": torch.randn(1, 3, 64, 64)}


@pytest.mark.parametrize("attention", [False, True], ids=["layers", "attention"])
def test_detr(attention, tmp_path):
    model, inputs = detr()
    by = tq.LSQ(8, init="max")
    plan = {"*q_proj": [tq.LSQ(8), tq.Inputs(by)]}
    student = quantize_attention(model, by) if attention else tq.compress(model, plan)
    student = tq.pack(tq.calibrate(student, [inputs]))
    student.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert tq.describe(again) == tq.describe(student) != {"version": 1, "modules": {}}
    assert_close(again(**inputs).logits, student(**inputs).logits)
    assert_close(student(**inputs).logits, model(**inputs).logits, atol=0.02, rtol=0.05)


def test_every_part_gets_its_attention_back():
    model, _ = detr()
    parts = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    assert set(parts) == {"sdpa", "eager"}
    with attention_of(model, SCORES):
        assert model.config._attn_implementation == SCORES
    assert parts == [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]


def test_loaded_floats_lie_where_torch_would_put_them(tmp_path):
    """Some kernels round otherwise at an odd place of a mapped file: outputs would not be equal."""
    student = tq.calibrate(tq.compress(bert(), {"*.query": [tq.LSQ(4)]})).eval()
    student.save_pretrained(tmp_path)
    bert().save_pretrained(tmp_path / "plain")
    plain = tf.BertForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert any(p.data_ptr() % 64 for p in plain.parameters()), "what this is about"
    again = tf.BertForSequenceClassification.from_pretrained(tmp_path)
    assert not any(p.data_ptr() % 64 for p in again.parameters())
    assert torch.equal(again(IDS).logits, student(IDS).logits)


@pytest.mark.parametrize("edits", [[tq.PACT(4)], INPUTS], ids=str)
def test_a_half_model_is_one_whatever_its_scales_are_in(edits, tmp_path):
    model = bert().to(torch.bfloat16)
    plan = {"*embeddings": edits[:1], "*": edits}
    student = tq.pack(tq.calibrate(tq.compress(model, plan), [{"input_ids": IDS}])).eval()
    assert student.dtype == student.bert.dtype == torch.bfloat16
    student.save_pretrained(tmp_path)
    again = tf.BertForSequenceClassification.from_pretrained(tmp_path, dtype="auto")
    assert again.dtype == again(IDS).logits.dtype == torch.bfloat16
    assert torch.equal(again(IDS).logits, student(IDS).logits)
    assert student.float().dtype == torch.float32


@pytest.mark.parametrize("pattern", ["*.q_proj", "text_model.*.q_proj"])
def test_a_part_of_a_compressed_model_is_not_loaded_alone(pattern, tmp_path):
    """Its config knew of no layout: the compressed layers came out random."""
    model, inputs, _ = bare_models()["clip"]
    student = tq.pack(tq.calibrate(tq.compress(model.eval(), {pattern: [tq.LSQ(4)]})))
    assert not hasattr(model.config.text_config, "quantization_config"), "the teacher's"
    student.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="text_config is a part; load the whole model"):
        tf.CLIPTextModel.from_pretrained(tmp_path / "whole")
    if pattern == "*.q_proj":
        with pytest.raises(ValueError, match="vision_config is a part"):
            tf.CLIPVisionModel.from_pretrained(tmp_path / "whole")
    else:  # in floats, as it was
        eyes = tf.CLIPVisionModel.from_pretrained(tmp_path / "whole")
        for name, tensor in eyes.named_parameters():
            assert torch.equal(tensor, model.get_parameter(f"vision_model.{name}"))
    again = tf.CLIPModel.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        assert torch.equal(again(**inputs)[0], student(**inputs)[0])
    tq.bake(again).save_pretrained(tmp_path / "plain")
    assert "tqlearn" not in (tmp_path / "plain" / "config.json").read_text()
    words = tf.CLIPTextModel.from_pretrained(tmp_path / "plain")
    wanted = student.text_model.encoder.layers[0].self_attn.q_proj.weight
    assert torch.equal(words.encoder.layers[0].self_attn.q_proj.weight, wanted)
