"""What tqlearn 0.1 wrote before its files moved into packages loads to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (registers the bridge)

FOLDER = Path(__file__).with_name("written_by_0_1")


@pytest.fixture(scope="module")
def expected() -> dict:
    """Inputs, outputs, and every tensor that the packed codes stood for, as they were then."""
    return load_file(FOLDER / "expected.safetensors")


def check_tensors(model: nn.Module, expected: dict, prefix: str) -> None:
    """Codes times scales are exact on every processor; products of matrices are only close."""
    wanted = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    assert wanted
    for name, values in wanted.items():
        layer, _, key = name.rpartition(".")
        assert torch.equal(getattr(model.get_submodule(layer), key), values), name


def test_folder_of_a_transformers_model(expected):
    """Trains, Kronecker tables, low-rank pairs, masks, quantized inputs, a smaller layer."""
    with pytest.warns(UserWarning, match="model.safetensors has no digests") as said:
        model = BertForSequenceClassification.from_pretrained(FOLDER).eval()
    assert len(said) == 1
    kinds = {type(module).__name__.removeprefix("Parametrized") for module in model.modules()}
    assert {"TTLinear", "TTMEmbedding", "KroneckerEmbedding", "LowRankLinear"} <= kinds
    assert {"KroneckerLinear", "PackedNM", "Packed", "PACT", "Uniform"} <= kinds
    assert model.bert.encoder.layer[2].intermediate.dense.out_features == 16  # of 32
    check_tensors(model, expected, "decoded.")
    with torch.no_grad():
        logits = model(input_ids=expected["ids"]).logits
    torch.testing.assert_close(logits, expected["logits"])


def test_layout_given_to_a_dense_model(expected):
    """``rebuild`` reads the old layout too, without from_pretrained."""
    dense = BertForSequenceClassification(BertConfig.from_pretrained(FOLDER / "dense"))
    layout = BertConfig.from_pretrained(FOLDER).quantization_config["layout"]
    model = tq.rebuild(dense, json.loads(layout))
    model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    check_tensors(model, expected, "decoded.")


def test_file_of_save(expected):
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    with pytest.warns(UserWarning, match="sequential.safetensors has no digests") as said:
        tq.load(model, FOLDER / "sequential.safetensors")
    assert len(said) == 1
    check_tensors(model, expected, "sequential.")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(expected["x"]), expected["y"])
