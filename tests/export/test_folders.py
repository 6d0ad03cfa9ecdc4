"""tq.export to folders that plain transformers reads: the same logits, or a refusal by name."""

import importlib.util
import json
import os
import subprocess

import pytest
import torch
from conftest import require
from safetensors import safe_open
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel
from warm import FRESH

import tqlearn as tq

IDS = torch.tensor([[3, 5, 7, 9], [2, 4, 6, 8]])
PLANS = {
    "tensor": [tq.LSQ(4)],
    "channel": [tq.LSQ(3, per="channel")],
    "groups": [tq.LSQ(8, per=8)],
    "short scales": [tq.LSQ(4, per=8, scale_dtype="float16")],
    "2:4": [tq.TwoFour(), tq.SAWB(4)],
    "ternary": [tq.Ternary()],
}
PLAIN = """
import sys, torch
from transformers import BertForMaskedLM
kept = torch.load(sys.argv[1] + "/want.pt")
model, said = BertForMaskedLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(said.values()), said
with torch.no_grad():
    assert torch.equal(model.eval()(kept["ids"]).logits, kept["logits"])
assert "tqlearn" not in sys.modules
"""


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


def student(edits, plan="*.layer.*"):
    return tq.calibrate(tq.compress(bert(), {plan: edits}), [{"input_ids": IDS}]).eval()


@pytest.fixture
def ship():
    found = importlib.util.find_spec("compressed_tensors")
    require(found, "compressed-tensors is missing: pip install 'tqlearn[ship]'")


@pytest.mark.parametrize("name", PLANS)
def test_compressed_tensors_loads_with_equal_logits(ship, tmp_path, name):
    """By the package's own quantizer, not ours: the folder says so, and no tensor is left over."""
    small = student(PLANS[name])
    tq.export(small, tmp_path, target="compressed-tensors")
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors" and "tqlearn" not in json.dumps(config)
    model, said = BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values())
    assert type(model.hf_quantizer).__name__ == "CompressedTensorsHfQuantizer"
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, small(IDS).logits, rtol=0, atol=0)


def test_compressed_tensors_are_as_small_as_their_bits(ship, tmp_path):
    tq.export(student([tq.LSQ(3)]), tmp_path, target="compressed-tensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        query = "bert.encoder.layer.0.attention.self.query"
        codes = file.get_tensor(f"{query}.weight_packed")
        assert codes.shape == (16, 2) and codes.dtype == torch.int32  # 16 codes of 3 bits: 48
        assert f"{query}.weight" not in file.keys() and f"{query}.bias" in file.keys()
        assert "cls.predictions.decoder.weight" not in file.keys()  # tied, and plain


def test_dense_is_what_bake_gives(tmp_path):
    small = student([tq.TT(rank=4, order=2), tq.LSQ(8)])
    tq.export(small, tmp_path, target="dense")
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    model, said = BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values())
    with torch.no_grad():
        want = tq.bake(small, dense=True)(IDS).logits
        torch.testing.assert_close(model(IDS).logits, want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("target", "edits", "plan", "words"),
    [
        ("compressed-tensors", [tq.TT(rank=4, order=2)], "*.query", "query is a TTLinear"),
        ("compressed-tensors", [tq.LSQ(8)], "*.word_embeddings", "word_embeddings.weight belongs"),
        ("compressed-tensors", [tq.Uniform(8)], "*.key", "key.weight has a zero that is not in"),
        ("compressed-tensors", [tq.LSQ(8), tq.Inputs(tq.LSQ(8))], "*.key", "key.quant_input quant"),
        ("dense", [tq.LSQ(8), tq.Inputs(tq.LSQ(8))], "*.key", "key.quant_input quantizes activ"),
    ],
)
def test_refused_by_name_before_anything_is_written(ship, tmp_path, target, edits, plan, words):
    with pytest.raises(ValueError, match=words):
        tq.export(student(edits, plan), tmp_path / "x", target=target)
    assert not [*tmp_path.iterdir()]


def test_other_refusals(ship, tmp_path):
    with pytest.raises(TypeError, match="'dense' is a folder of transformers, and a Linear has no"):
        tq.export(nn.Linear(4, 4), tmp_path / "x", target="dense")
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    plan = {"*.c_attn": [tq.LSQ(4)]}
    net = tq.calibrate(tq.compress(GPT2LMHeadModel(config), plan))
    with pytest.raises(ValueError, match="c_attn.weight belongs to a Conv1D.*Linear alone"):
        tq.export(net, tmp_path / "x", target="compressed-tensors")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file, and 'dense' is a folder"):
        tq.export(net, tmp_path / "file", target="dense")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["compressed-tensors", "dense"])
def test_in_a_process_that_never_heard_of_tqlearn(ship, tmp_path, target):
    small = student([tq.LSQ(4, per=8)])
    tq.export(small, tmp_path, target=target)
    with torch.no_grad():
        torch.save({"ids": IDS, "logits": small(IDS).logits}, tmp_path / "want.pt")
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [*FRESH, "-c", PLAIN, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
