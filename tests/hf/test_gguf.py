"""GGUF files: what is read is what the blocks hold, and the model is one like any other."""

import hashlib

import gguf
import pytest
import torch
from tiny_llamas import MERGES, TOKENS, file_tensors, in_pairs, tiny_llama, write_gguf
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GgufConfig

import tqlearn as tq
from tqlearn import teachers
from tqlearn.hf import evaluate_language, read_gguf
from tqlearn.hf import smollm2 as smollm2_module
from tqlearn.hf.gguf import in_halves

IDS = torch.tensor([[5, 60, 7, 200, 31, 2]])
LAYERS = "*.layers.*"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llama())


@pytest.fixture(scope="module")
def tiny(file):
    return read_gguf(file)


def by_transformers(file):
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)


def decoded(weight):
    kind = gguf.GGMLQuantizationType.Q4_1
    return torch.tensor(gguf.dequantize(gguf.quantize(weight.detach().numpy(), kind), kind))


def test_weights_are_those_of_the_blocks(tiny):
    """Q4_1 of each matrix on its own; a row of queries lies in one block as before."""
    model, source = tiny[0], tiny_llama()
    assert not model.training and model.dtype == torch.float32
    for (name, found), wanted in zip(
        model.state_dict().items(), source.state_dict().values(), strict=True
    ):
        assert torch.equal(found, decoded(wanted) if wanted.dim() == 2 else wanted), name
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rows_of_queries_come_back_in_order():
    rows = torch.arange(24.0)[:, None].repeat(1, 3)
    assert not torch.equal(in_pairs(rows, 2), rows)
    assert torch.equal(in_halves(in_pairs(rows, 2), 2), rows)
    assert torch.equal(in_halves(in_pairs(rows, 3), 3), rows)


def test_transformers_reads_the_same_from_it(file, tiny):
    theirs = by_transformers(file).eval()
    for (name, ours), other in zip(
        tiny[0].state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, other), name
    assert_close(tiny[0](IDS).logits, theirs(IDS).logits)
    keys = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim"
    keys += " num_key_value_heads max_position_embeddings rms_norm_eps tie_word_embeddings"
    for key in f"{keys} bos_token_id eos_token_id".split():
        assert getattr(tiny[0].config, key) == getattr(theirs.config, key), key


def test_an_output_layer_of_its_own(tmp_path):
    model = tiny_llama(tie_word_embeddings=False)
    found, _ = read_gguf(write_gguf(tmp_path / "a.gguf", model))
    assert not found.config.tie_word_embeddings
    assert torch.equal(found.lm_head.weight, decoded(model.lm_head.weight))
    assert not torch.equal(found.lm_head.weight, found.model.embed_tokens.weight)


def test_the_tokenizer_cuts_between_digits(tiny):
    tokenizer = tiny[1]
    assert len(tokenizer) == len(TOKENS) and tokenizer.model_max_length == 64
    assert tokenizer.tokenize("the 1212 the") == ["the", "Ġ", "1", "2", "1", "2", "Ġthe"]
    assert MERGES[-1] == "1 2", "a merge that would be taken without the cut"
    text = "Ærø: naïve 37 °C, <|endoftext|> the end"
    ids = tokenizer(text)["input_ids"]
    assert ids.count(0) == 1 and tokenizer.decode(ids) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "hi"


def test_gpt2s_cut_leaves_numbers_whole(tmp_path):
    _, tokenizer = read_gguf(write_gguf(tmp_path / "a.gguf", tiny_llama(), pre="gpt-2"))
    assert tokenizer.tokenize("1212") == ["12", "12"]


def test_compress_takes_it_and_the_folder_reloads(tiny, tmp_path):
    model, tokenizer = tiny
    assert getattr(model.config, "quantization_config", None) is None
    plan = {LAYERS: [tq.LSQ(bits=4, per=32)], "*embed_tokens": [tq.LSQ(bits=8, per="channel")]}
    student = tq.calibrate(tq.compress(model, plan)).eval()
    tq.pack(student).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(IDS).logits, student(IDS).logits)
    text = "the end of the 12 flights"
    assert evaluate_language(again, tokenizer, text, window=8) == evaluate_language(
        student, tokenizer, text, window=8
    )


def test_compress_takes_what_transformers_has_read(file, tmp_path):
    """It is marked as quantized, and holds floats; the teacher stays as it was."""
    teacher = by_transformers(file).eval()
    assert teacher.is_quantized and teacher.config.quantization_config.quant_method == "gguf"
    student = tq.calibrate(tq.compress(teacher, {LAYERS: [tq.LSQ(bits=4, per=32)]})).eval()
    assert student.config.quantization_config["quant_method"] == "tqlearn"
    assert student.hf_quantizer.is_trainable and not hasattr(student, "quantization_method")
    tq.pack(student).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(IDS).logits, student(IDS).logits)
    assert teacher.is_quantized and teacher.config.quantization_config.quant_method == "gguf"
    plain = tq.bake(student)
    assert not hasattr(plain.config, "quantization_config")


def test_codes_of_gguf_in_memory_are_refused():
    model = tiny_llama()
    model.config.quantization_config = GgufConfig("x.gguf")
    codes = torch.zeros(32, 20, dtype=torch.uint8)
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(codes, requires_grad=False)
    with pytest.raises(ValueError, match="quantized by 'gguf' already, and a config.json holds"):
        tq.compress(model, {"*.layers.1.*": [tq.LSQ(bits=4)]})


def lost(edit, weight):
    layer = torch.nn.Linear(*weight.shape[::-1], bias=False)
    layer.weight.data = weight.clone()
    student = tq.calibrate(tq.compress(torch.nn.Sequential(layer), {"0": [edit]}))
    return float((student[0].weight.detach() - weight).norm() / weight.norm())


def matrices(model):
    return [p.detach() for name, p in model.named_parameters() if "proj" in name]


def test_four_bits_on_its_own_blocks_lose_nothing(tiny):
    """What the page says of comparisons: LSQ+'s grid is that of the blocks, LSQ's is another."""
    for weight in matrices(tiny[0]):
        assert lost(tq.LSQPlus(bits=4, init="max", per=32), weight) < 1e-6
        assert lost(tq.LSQ(bits=4, init="mse", per=32), weight) > 0.02
        assert lost(tq.LSQPlus(bits=3, init="max", per=32), weight) > 0.05
        if weight.shape[1] == 64:  # two blocks in a group
            assert lost(tq.LSQPlus(bits=4, init="max", per=64), weight) > 0.02


def test_what_is_no_gguf_file(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"not a GGUF file, but long enough to be looked at")
    (tmp_path / "b.gguf").write_bytes(b"")
    for file in (tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path / "c.gguf"):
        with pytest.raises(ValueError, match="cannot be read as GGUF .* get it again"):
            read_gguf(file)
    with pytest.raises(TypeError, match="read_gguf: path must be"):
        read_gguf(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "mamba"}, "holds a 'mamba', and only 'llama' is read here; transformers reads"),
        ({"pre": "llama-bpe"}, "tokenizer 'gpt2' with the cut 'llama-bpe'; read here .*'smollm'"),
        ({"scaling": "yarn"}, "scales its rotation"),
        ({"merges": False}, "does not say 'tokenizer.ggml.merges'"),
    ],
)
def test_other_files_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        read_gguf(write_gguf(tmp_path / "a.gguf", tiny_llama(), **settings))


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight"]
)
def test_a_tensor_without_a_place(tmp_path, name):
    tensors = file_tensors(model := tiny_llama()) | {name: torch.ones(4)}
    with pytest.raises(ValueError, match=f"'{name}' has no place in a Llama"):
        read_gguf(write_gguf(tmp_path / "a.gguf", model, tensors=tensors))


def test_a_tensor_that_is_not_there(tmp_path):
    tensors = file_tensors(model := tiny_llama())
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(ValueError, match="lacks 1 tensors, the first is 'model.layers.1.mlp.up"):
        read_gguf(write_gguf(tmp_path / "a.gguf", model, tensors=tensors))


def test_smollm2_by_path_and_what_is_said(file, capsys):
    model, _ = teachers.load("smollm2", path=file)
    assert model.config.hidden_size == 32
    assert capsys.readouterr().out == f"teacher smollm2: path {file}\n"


def test_smollm2_nowhere(monkeypatch):
    monkeypatch.setattr(smollm2_module, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="SmolLM2 not found .* two ways .*--no-deps.*path=FILE"):
        teachers.load("smollm2")


def test_smollm2_wrong_digest(tmp_path, monkeypatch):
    (tmp_path / "fake_smollm2").mkdir()
    (tmp_path / "fake_smollm2" / "__init__.py").write_text("raise RuntimeError('was run')")
    (tmp_path / "fake_smollm2" / smollm2_module.FILE).write_bytes(b"not the weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(smollm2_module, "PACKAGE", "fake_smollm2")
    found = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(ValueError, match=f"sha256 {found}, expected {smollm2_module.SHA256}"):
        teachers.load("smollm2")


def test_smollm2_from_the_package(smollm2, capsys):
    """Sizes, words, what it says of France, and the claim about its blocks."""
    model, tokenizer = teachers.load("smollm2")
    assert "sha256 verified" in capsys.readouterr().out
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert len(tokenizer) == model.config.vocab_size == 49152
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0, ids["input_ids"].shape[1] :])
    for weight in matrices(model.model.layers[0]):
        assert lost(tq.LSQPlus(bits=4, init="max", per=32), weight) < 1e-6
        assert lost(tq.LSQ(bits=4, per=32), weight) > 0.02
    table = model.model.embed_tokens.weight.detach()[:512]
    assert lost(tq.LSQ(bits=8, init="max", per=32), table) < 1e-6
    assert lost(tq.LSQ(bits=8, init="max", per=64), table) > 1e-3
