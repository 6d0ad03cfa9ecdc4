"""Device maps of accelerate: layers in memory and on a disk give what they give together."""

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM
from two_processes import batch, student_of

import tqlearn as tq

MEMORY = ["model.embed_tokens", "lm_head", "model.norm", "model.rotary_emb"]
PLACES = dict.fromkeys(MEMORY, "cpu") | {"model.layers.0": "disk", "model.layers.1": "disk"}
NAMES = ["LSQ", "PACT", "inputs PACT", "inputs Uniform", "TTM", "Kronecker", "2:4", "BlockPrune"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_layers_on_a_disk(name, packed, tmp_path):
    """Masks ask other masks for their scores, and codes their grid: without a call of those."""
    student = student_of(name).eval()
    student = tq.pack(student) if packed else student
    inputs = {k: v for k, v in batch(name).items() if k != "labels"}
    student.save_pretrained(tmp_path / "whole")
    with torch.no_grad():
        wanted = student(**inputs).logits
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path / "whole", device_map=dict(PLACES), offload_folder=tmp_path / "a"
        )
        assert any(tensor.is_meta for tensor in loaded.model.layers[1].parameters())
        assert torch.equal(loaded(**inputs).logits, wanted)
        spread = dispatch_model(
            student, dict(PLACES), main_device="cpu", offload_dir=tmp_path / "b"
        )
        assert any(tensor.is_meta for tensor in spread.model.layers[1].parameters())
        assert torch.equal(spread(**inputs).logits, wanted)


@pytest.mark.parametrize("verb", ["pack", "report", "save"])
def test_verbs_want_all_numbers(verb, tmp_path):
    student = student_of("LSQ")
    dispatch_model(student, dict(PLACES), main_device="cpu", offload_dir=tmp_path)
    words = f"{verb} needs numbers, but accelerate keeps model.layers.0.* without a device_map"
    with pytest.raises(ValueError, match=words):
        getattr(tq, verb)(student, *([tmp_path / "file"] if verb == "save" else []))
    with pytest.warns(UserWarning, match="save a model with offloaded modules"):
        student.save_pretrained(tmp_path / "folder")  # brings each by itself
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").state_dict()
    wanted = student_of("LSQ").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in wanted.items())
