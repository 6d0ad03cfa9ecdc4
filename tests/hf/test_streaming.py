"""A folder compressed layer by layer is the folder that memory would have given."""

import json
import os
import signal
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_llamas import tiny_llama
from transformers import AutoModelForCausalLM
from warm import FRESH

import tqlearn as tq
from tqlearn.hf.unfinished import JOURNAL, WORK

PLAN = {
    "*.q_proj": [tq.LowRank(rank=4), tq.LSQ(bits=8)],
    "*.o_proj": [tq.TwoFour(), tq.LSQ(bits=4, per="channel")],
    "*": [tq.LSQ(bits=4, init="mse", per=16)],
}
SIZE = "8KB"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
    return tiny_llama(tie_word_embeddings=request.param).half()


@pytest.fixture
def folder(model, tmp_path):
    """A sharded folder in FP16."""
    model.save_pretrained(tmp_path / "dense", max_shard_size="16KB")
    return tmp_path / "dense"


def in_memory(folder, out, plan, size=SIZE):
    model = AutoModelForCausalLM.from_pretrained(folder)
    packed = tq.pack(tq.calibrate(tq.compress(model, plan)))
    packed.save_pretrained(out, max_shard_size=size)
    return packed


def require_same(found, wanted):
    """The same files, bit for bit; a header's notes have no order."""
    assert {f.name for f in found.iterdir()} == {f.name for f in wanted.iterdir()}
    for file in wanted.iterdir():
        if file.suffix != ".safetensors":
            assert (found / file.name).read_text() == file.read_text(), file.name
            continue
        assert (found / file.name).stat().st_size == file.stat().st_size
        with safe_open(file, "pt") as a, safe_open(found / file.name, "pt") as b:
            assert a.metadata() == b.metadata() and [*a.keys()] == [*b.keys()]
            for name in a.keys():  # noqa: SIM118
                one, two = a.get_tensor(name), b.get_tensor(name)
                assert one.dtype == two.dtype and one.shape == two.shape
                assert one.numpy().tobytes() == two.numpy().tobytes(), name


def test_the_folder_is_the_one_of_memory(folder, tmp_path):
    packed, seen = in_memory(folder, tmp_path / "memory", PLAN), []
    out = tq.stream(folder, PLAN, tmp_path / "out", max_shard_size=SIZE,
                    progress=lambda *told: seen.append(told))  # fmt: skip
    require_same(out, tmp_path / "memory")
    assert len(list(out.glob("*.safetensors"))) > 3
    assert seen[0][1] == 1 and seen[-1][1] == seen[-1][2] == len({name for name, *_ in seen})
    loaded = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, packed(ids).logits)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == packed.config.tie_word_embeddings or True
