"""transformers models: compressed by a two-line plan, saved, and reloaded in a new process."""

import copy
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)
from warm import FRESH

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (teaches from_pretrained)
from tqlearn.recipes import qtc

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "num_labels": 3}
TEXT = {"vocab_size": 100, "max_position_embeddings": 40}
PLAN = {
    "*.word_embeddings": [tq.TTM(rank=6), tq.LSQ(bits=4)],
    "*": [tq.LSQ(bits=8)],
}
VIT_PLAN = {"*.attention.*": [tq.TT(rank=8), tq.LSQ(bits=4)], "*": [tq.LSQ(bits=8)]}
FAMILIES = {
    "bert": (BertForSequenceClassification, BertConfig(**SMALL, **TEXT), PLAN),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SMALL, **TEXT), PLAN),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig(**DISTIL, **TEXT), PLAN),
    "vit": (
        ViTForImageClassification,
        ViTConfig(**SMALL, image_size=16, patch_size=8),
        VIT_PLAN,
    ),
}
RELOAD = """
import sys, torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
import tqlearn.hf
for folder in sys.argv[1:]:
    vit = folder.endswith("vit")
    auto = AutoModelForImageClassification if vit else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder)
    inputs = torch.load(folder + "/inputs.pt")
    assert not model.training
    assert torch.equal(model(**inputs).logits, torch.load(folder + "/logits.pt")), folder
    print("bit-equal", type(model).__name__)
"""


def inputs_of(kind):
    if kind == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16)}
    return {"input_ids": torch.randint(5, 90, (2, 9))}


def student_of(kind):
    cls, config, plan = FAMILIES[kind]
    torch.manual_seed(0)
    return tq.calibrate(tq.compress(cls(config).eval(), plan))


@pytest.mark.slow
def test_a_new_process_gives_bit_equal_logits(tmp_path):
    for kind in FAMILIES:
        student, inputs, folder = student_of(kind), inputs_of(kind), tmp_path / kind
        tq.pack(student).save_pretrained(folder)
        torch.save(inputs, folder / "inputs.pt")
        torch.save(student(**inputs).logits.detach(), folder / "logits.pt")
        assert (folder / "model.safetensors").stat().st_size == tq.report(student).file
    folders = [str(tmp_path / kind) for kind in FAMILIES]
    done = subprocess.run([*FRESH, "-c", RELOAD, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bit-equal") == len(FAMILIES)


def test_an_unpacked_student_reloads_and_trains_on(tmp_path):
    student, inputs = student_of("bert"), inputs_of("bert")
    student.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, student(**inputs).logits)
    again(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    quantizer = again.bert.encoder.layer[0].attention.self.query.parametrizations.weight
    assert quantizer.original.grad.abs().sum() > 0 and quantizer[0].scale.grad is not None


def test_packed_then_unpacked_then_saved_again(tmp_path):
    student, inputs = student_of("vit"), inputs_of("vit")
    tq.pack(student).save_pretrained(tmp_path / "a")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "a")
    tq.unpack(loaded).save_pretrained(tmp_path / "b")
    third = AutoModelForImageClassification.from_pretrained(tmp_path / "b")
    assert torch.equal(third(**inputs).logits, student(**inputs).logits)


def test_baked_dense_loads_without_tqlearn(tmp_path):
    student, inputs = student_of("bert"), inputs_of("bert")
    tq.bake(student, dense=True).save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(**inputs).logits, student(**inputs).logits)


def test_the_bare_encoder_loads_from_a_folder_with_a_head(tmp_path):
    student, inputs = student_of("bert"), inputs_of("bert")
    tq.pack(student).save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    mine, theirs = encoder(**inputs), student.bert(**inputs)
    assert torch.equal(mine.last_hidden_state, theirs.last_hidden_state)


def test_no_svd_at_load(tmp_path, monkeypatch):
    tq.pack(student_of("bert")).save_pretrained(tmp_path)

    def forbidden(*args, **kwargs):
        raise AssertionError("an SVD ran while loading")

    monkeypatch.setattr(torch.linalg, "svd", forbidden)
    AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_layout_for_another_model_is_refused(tmp_path):
    tq.pack(student_of("bert")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"layout names .*layer.1.* which .* does not have"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_quantizer_of_ones_own(tmp_path):
    """README's second example as it stands there: compressed, trained, saved and reloaded."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    _, code = re.findall(r"```python\n(.*?)```", readme, re.S)
    cls, config, _ = FAMILIES["bert"]
    names = {"tq": tq, "torch": torch, "teacher": cls(config).eval()}
    exec(code, names)
    student = names["student"]
    weight = student.bert.encoder.layer[0].attention.self.query.weight
    assert torch.equal(weight.abs().log2().round(), weight.abs().log2())
    inputs = inputs_of("bert")
    student(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    chain = student.bert.encoder.layer[0].attention.self.query.parametrizations.weight
    assert chain.original.grad.abs().sum() > 0
    student.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, student(**inputs).logits)
    assert tq.report(student).parameters == sum(p.numel() for p in names["teacher"].parameters())


RELOAD_JOINT = """
import sys, torch
from tqlearn.hf import BertForJointIntentSlot
folder = sys.argv[1]
model = BertForJointIntentSlot.from_pretrained(folder)
inputs, intents, slots = torch.load(folder + "/expected.pt")
with torch.no_grad():
    out = model(**inputs)
assert torch.equal(out.intent_logits, intents) and torch.equal(out.slot_logits, slots)
print("bit-equal")
"""


@pytest.mark.slow
def test_the_minilm_student_reloads_in_a_new_process(minilm, tmp_path):
    """The real encoder under QTC's plan: 22.7 M parameters to a file over 63 times smaller."""
    encoder, tokenizer = tq.teachers.load("minilm")
    labels = [[f"l{i}" for i in range(n)] + ["UNK"] for n in (21, 120)]
    teacher = tq.teachers.joint_from_encoder(encoder, tokenizer, *labels)
    plan = qtc.plan(384, qtc.QTCArguments(bits=4, rest_bits=8))
    student = tq.calibrate(tq.compress(teacher, plan)).eval()
    inputs = dict(tokenizer(["show me flights from boston to denver"], return_tensors="pt"))
    with torch.no_grad():
        out = student(**inputs)
    tq.pack(student).save_pretrained(tmp_path)
    torch.save((inputs, out.intent_logits, out.slot_logits), tmp_path / "expected.pt")
    done = subprocess.run(
        [*FRESH, "-c", RELOAD_JOINT, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "bit-equal" in done.stdout, done.stderr
    sizes = tq.report(student, reference=teacher)
    assert sizes.file == (tmp_path / "model.safetensors").stat().st_size
    assert sizes.ratios["file"] > 63


@pytest.mark.parametrize("lost", ["query.parametrizations.weight.original", "core_1.0.scale"])
@pytest.mark.parametrize("verb", [tq.pack, lambda model: model])
def test_a_file_that_lost_a_tensor_is_refused(tmp_path, lost, verb):
    """transformers would fill codes and scales with whatever lies in memory, and only warn."""
    verb(student_of("bert")).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    kept = {name: t for name, t in tensors.items() if not name.endswith(lost)}
    assert len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"the file lacks . tensors .*{lost}'; it is damaged"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda entry: entry.pop("layout"), lambda e: e.update(layout="{")]
)
def test_a_damaged_layout_is_refused(tmp_path, damage):
    tq.pack(student_of("bert")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    damage(config["quantization_config"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="layout in config.json is missing or damaged.*save"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_floats_end_to_end(tmp_path, dtype):
    """A checkpoint in bfloat16 is compressed, packed and loaded as it is."""
    cls, config, _ = FAMILIES["bert"]
    plan = PLAN | {"*": [tq.TT(rank=8), tq.LSQ(bits=8)], "*embeddings": [tq.LSQ(bits=8)]}
    plan = {k: plan[k] for k in ("*.word_embeddings", "*embeddings", "*")}
    student = tq.calibrate(tq.compress(cls(config).eval().to(dtype), plan))
    inputs = inputs_of("bert")
    tq.pack(student).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.dtype == dtype and torch.equal(again(**inputs).logits, student(**inputs).logits)


def test_shards_are_counted_and_loaded(tmp_path):
    student, inputs = student_of("bert"), inputs_of("bert")
    tq.pack(student).save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, student(**inputs).logits)


def test_wav2vec2_and_its_weight_norm(tmp_path):
    torch.manual_seed(0)
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (3, 3), "conv_stride": (2, 2)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = Wav2Vec2Config(**SMALL | convolutions | positions, num_feat_extract_layers=2)
    teacher = Wav2Vec2ForSequenceClassification(config).eval()
    student = tq.calibrate(tq.compress(teacher, {"*.attention.*": [tq.TT(8), tq.LSQ(bits=4)]}))
    tq.pack(student).save_pretrained(tmp_path)
    again = Wav2Vec2ForSequenceClassification.from_pretrained(tmp_path)
    wave = torch.randn(2, 400)
    assert torch.equal(again(wave).logits, student(wave).logits)


@pytest.mark.parametrize("verb", [tq.pack, lambda model: model])
def test_layers_offloaded_to_disk_are_not_lost(tmp_path, verb):
    student, inputs = student_of("bert"), inputs_of("bert")
    verb(student).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, device_map={"bert": "cpu", "classifier": "disk"}, offload_folder=tmp_path / "off"
    )
    assert again.classifier.bias.is_meta
    assert torch.equal(again(**inputs).logits, student(**inputs).logits)


def test_another_methods_config_is_not_overwritten():
    cls, config, _ = FAMILIES["bert"]
    model = cls(copy.deepcopy(config))
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ValueError, match="quantized by 'gptq' already"):
        tq.compress(model, {"*.query": [tq.LSQ(bits=4)]})


def test_a_folder_loads_under_another_head(tmp_path):
    """A part that is not there (the pooler) is left out, the encoder is the same."""
    student, inputs = student_of("bert"), inputs_of("bert")
    tq.pack(student).save_pretrained(tmp_path)
    other = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(
        other.bert(**inputs).last_hidden_state, student.bert(**inputs).last_hidden_state
    )
    tq.pack(tq.calibrate(tq.compress(student_of("bert").bert.eval(), {}))).save_pretrained(
        tmp_path / "bare"
    )
    headed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bare")
    assert torch.equal(
        headed.bert(**inputs).last_hidden_state, student.bert(**inputs).last_hidden_state
    )


FACTORED = {
    "*.word_embeddings": [tq.Kronecker(ratio=4), tq.LSQ(bits=4)],
    "*.attention.*": [tq.Kronecker(rank=2, out_modes=(8, 4), in_modes=(4, 8)), tq.LSQ(bits=4)],
    "*.dense": [tq.LowRank(ratio=2), tq.LSQ(bits=8)],
    "*": [],
}


def test_products_and_low_rank_reload_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(FAMILIES["bert"][1]).eval()
    student = tq.calibrate(tq.compress(teacher, FACTORED))
    inputs = inputs_of("bert")
    kinds = {type(m).__name__.removeprefix("Parametrized") for m in student.modules()}
    assert {"KroneckerEmbedding", "KroneckerLinear", "LowRankLinear"} <= kinds
    for made in (student, tq.pack(student)):
        made.save_pretrained(tmp_path)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert torch.equal(again(**inputs).logits, student(**inputs).logits)
    again = tq.unpack(again)
    again(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    factor = again.bert.encoder.layer[0].attention.self.query.parametrizations.core_3
    assert factor.original.grad.abs().sum() > 0 and factor[0].scale.grad is not None
