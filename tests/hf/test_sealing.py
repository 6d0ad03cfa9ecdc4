"""A folder that is not exactly what was saved does not load; a config that is not, says so."""

import json
import subprocess

import pytest
import torch
import transformers as tf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from warm import FRESH

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (teaches from_pretrained)
from tqlearn.storage.digests import KEY

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
         "num_attention_heads": 4}  # fmt: skip
IDS = torch.arange(3, 12)[None]
BERT = tf.BertForSequenceClassification


def student(verb=tq.pack):
    torch.manual_seed(0)
    teacher = BERT(tf.BertConfig(**SMALL)).eval()
    plan = {"*.query": [tq.LSQ(4)], "*.key": [tq.TT(rank=4), tq.LSQ(4)]}
    return verb(tq.calibrate(tq.compress(teacher, plan)))


@pytest.fixture
def folder(tmp_path):
    student().save_pretrained(tmp_path)
    return tmp_path


def change(file, edit):
    with safe_open(file, "pt") as opened:
        notes = opened.metadata()
    tensors = load_file(file)
    edit(tensors)
    save_file({k: t.contiguous() for k, t in tensors.items()}, file, metadata=notes)


PLAIN = "bert.encoder.layer.0.output.dense.weight"
DAMAGE = {
    "a bit of a plain weight": lambda t: t[PLAIN].view(torch.int32)[3, 4].bitwise_xor_(1),
    "zeroed": lambda t: t[PLAIN].zero_(),
    "NaN": lambda t: t[PLAIN][0, 0].fill_(torch.nan),
    "half floats": lambda t: t.update({PLAIN: t[PLAIN].half()}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(damage, folder):
    change(folder / "model.safetensors", DAMAGE[damage])
    with pytest.raises(ValueError, match=f"1 of .* not what was saved, the first is '{PLAIN}'"):
        BERT.from_pretrained(folder)


def test_a_tensor_that_nobody_takes(folder):
    change(folder / "model.safetensors", lambda t: t.update({PLAIN[1:]: t.pop(PLAIN)}))
    with pytest.raises(ValueError, match="tensors are not what was saved"):
        BERT.from_pretrained(folder)


def test_nor_without_digests(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["brt" + PLAIN[4:]] = tensors.pop(PLAIN)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="has 'brt.enc.*no place, and 'bert.encoder.*be random"):
        BERT.from_pretrained(folder)


def test_an_older_folder_loads_with_one_warning(folder):
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="model.safetensors has no digests") as said:
        model = BERT.from_pretrained(folder)
    assert len(said) == 1 and torch.equal(model(IDS).logits, student()(IDS).logits)


def edit_config(folder, edit):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    edit(config)
    file.write_text(json.dumps(config))


def test_a_changed_config_is_told(folder):
    edit_config(folder, lambda c: c.update(hidden_act="relu"))
    with pytest.warns(UserWarning, match="config.json is not the one that was saved with these"):
        BERT.from_pretrained(folder)


def test_names_of_labels_may_change(folder):
    edit_config(folder, lambda c: c.update(id2label={"0": "no", "1": "yes"}))
    assert BERT.from_pretrained(folder).config.id2label[1] == "yes"


def test_a_layout_of_another_save(folder):
    def melt(config):
        method = config["quantization_config"]
        layout = json.loads(method["layout"])
        name = next(name for name in layout["modules"] if name.endswith("query"))
        args = layout["modules"][name]["parametrizations"]["weight"][0]["args"]
        args["frozen"] = True
        method["layout"] = json.dumps(layout)

    edit_config(folder, melt)
    with pytest.raises(ValueError, match="layout is not the one that was saved with the tensors"):
        BERT.from_pretrained(folder)


def test_a_layout_without_layers(folder):
    edit_config(folder, lambda c: c["quantization_config"].update(
        layout='{"version": 1, "modules": {}}'))  # fmt: skip
    with pytest.raises(ValueError, match="names no layer"):
        BERT.from_pretrained(folder)


def test_shards_of_two_saves(tmp_path):
    student().save_pretrained(tmp_path / "a", max_shard_size="10KB")
    again = tq.pack(tq.unpack(student()))
    with torch.no_grad():
        again.bert.pooler.dense.bias += 1
    again.save_pretrained(tmp_path / "b", max_shard_size="10KB")
    shard = min((tmp_path / "a").glob("*.safetensors"))
    shard.write_bytes((tmp_path / "b" / shard.name).read_bytes())
    with pytest.raises(ValueError, match="not from one and the same save"):
        BERT.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("original", [True, False])
def test_names_of_older_versions(original, tmp_path):
    """transformers saves a ViT under the names that it had before, unless it is asked not to."""
    torch.manual_seed(0)
    sizes = {k: v for k, v in SMALL.items() if k != "vocab_size"}
    vit = tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
    model = tq.pack(tq.calibrate(tq.compress(vit, {"*.attention.*": [tq.LSQ(4)]})))
    model.save_pretrained(tmp_path, save_original_format=original)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(type(vit).from_pretrained(tmp_path)(x).logits, model(x).logits)


def test_a_given_state_is_what_is_written(tmp_path):
    model = student(lambda model: model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["classifier.bias"] += 1
    model.save_pretrained(tmp_path, state_dict=state)
    assert torch.equal(
        BERT.from_pretrained(tmp_path).classifier.bias, model.classifier.bias.detach() + 1
    )


def test_a_dense_model_has_no_digests(tmp_path):
    tq.bake(student(), dense=True).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert KEY not in file.metadata()


WITHOUT = """
import sys, torch
import tqlearn as tq
from transformers import BertConfig, BertForSequenceClassification as Bert
student = tq.compress(Bert(BertConfig(**eval(sys.argv[2]))), {"*.query": [tq.TT(rank=4)]})
student.save_pretrained(sys.argv[1])
again = Bert.from_pretrained(sys.argv[1])
print(type(again.bert.encoder.layer[0].attention.self.query).__name__)
"""


def test_compress_brings_the_bridge(tmp_path):
    """Without ``import tqlearn.hf``: what is saved has digests, and is read in this process."""
    run = subprocess.run([*FRESH, "-c", WITHOUT, str(tmp_path), str(SMALL)],
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0 and run.stdout.split() == ["TTLinear"], run.stderr
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert KEY in file.metadata()
