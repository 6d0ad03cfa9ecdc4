"""The script behind the packaged language model, and its table at 2 to 8 bits."""

import hashlib
import json
import re
from itertools import product

import pytest
import torch
from conftest import BENCHMARKS, result
from transformers import AutoTokenizer, LlamaForCausalLM

import tqlearn as tq
from tqlearn import teachers
from tqlearn.hf import evaluate_language
from tqlearn.lab.explorers import language_model as settings


@pytest.fixture(scope="module")
def decoder():
    return teachers.load("decoder")


@pytest.fixture
def train(script):
    return script("embedded_decoder")


def test_the_vocabulary_is_the_one_in_the_package(train, decoder):
    """The same sentences give the same vocabulary; the held-out ones have no part in it."""
    rows = tq.data.load("flights")["train"].select(range(2000 - train.HELD))
    made, stored = train.wordpieces(rows["tokens"]), decoder[1]
    assert made.get_vocab() == stored.get_vocab() and len(stored) == train.VOCAB
    assert stored.convert_ids_to_tokens([0, 1]) == ["[UNK]", "\n"]
    ids = stored("i need\n\na flight")["input_ids"]
    assert ids.count(1) == 2 and stored.decode(ids) == "i need \n \n a flight"


def test_batches_hold_each_sentence_in_another_order(train, decoder):
    rows = tq.data.load("flights")["train"].select(range(60))
    one, two = (torch.cat([*train.batches(rows, decoder[1], seed)]) for seed in (1, 2))
    assert one.shape == two.shape and one.shape[1] == train.POSITIONS
    assert not torch.equal(one, two)
    ids = train.encoded(decoder[1], rows["tokens"])
    assert len(ids) - train.POSITIONS < one.numel() <= len(ids)


def test_the_record_is_that_of_the_package():
    """The folder's metrics, the result file and the weights belong together."""
    found = result("embedded_decoder")
    stored = json.loads((teachers.decoder_folder() / "metrics.json").read_text())
    (row,) = found["rows"]
    assert row["metrics"] == stored["metrics"]["test"] and not found["quick"]
    file = teachers.decoder_folder() / "model.safetensors"
    assert row["bytes"]["file"] == file.stat().st_size
    assert stored["sha256"]["model.safetensors"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def bench(script):
    return script("decoder_bits")


def test_the_committed_table_is_whole(bench):
    """Every setting is there; fewer bits cost more; a rotation mends what an outlier ruins."""
    found = result("decoder_bits")
    rows = {row["model"]: row["metrics"]["perplexity"] for row in found["rows"]}
    grid = product(settings.METHODS, settings.BITS, settings.GROUPS.values(), (False, True))
    short = {bench.of_short_scales(*one) for one in bench.SHORT}
    assert set(rows) == {"float", *short, *(settings.setting(*one) for one in grid)}
    assert not found["quick"]
    for per, planted in product(settings.GROUPS.values(), (False, True)):
        for method in settings.METHODS:
            at = [rows[settings.setting(method, bits, per, planted)] for bits in (2, 3, 4, 8)]
            assert at == sorted(at, reverse=True), (method, per, planted)
        nearest, gptq, turned = (
            rows[settings.setting(method, 3, per, planted)] for method in settings.METHODS
        )
        assert gptq < nearest and turned < nearest
    loud = [rows[settings.setting(m, 4, "channel", True)] for m in settings.METHODS]
    plain = [rows[settings.setting(m, 4, "channel", False)] for m in settings.METHODS]
    assert loud[0] > 1.5 * plain[0] and loud[2] < 1.05 * plain[2]


def test_scales_of_16_bits_save_half_of_their_bytes(bench, decoder):
    """And cost less than two hundredths; the headers of the files differ by some letters."""
    rows = {row["model"]: row for row in result("decoder_bits")["rows"]}
    layers = [m for n, m in decoder[0].named_modules() if ".layers." in n and hasattr(m, "weight")]
    numbers = sum(m.weight.numel() for m in layers if m.weight.dim() == 2)
    for bits, per, kind in bench.SHORT:
        long = rows[settings.setting("to nearest", bits, per, False)]
        short = rows[bench.of_short_scales(bits, per, kind)]
        saved = long["bytes"]["file"] - short["bytes"]["file"]
        assert abs(saved - 2 * numbers // per) < 1024
        assert abs(short["metrics"]["perplexity"] - long["metrics"]["perplexity"]) < 0.02


def test_the_page_tells_what_was_measured(bench):
    rows = {row["model"]: row for row in result("decoder_bits")["rows"]}
    page = (BENCHMARKS.parent / "docs" / "language_models.md").read_text()
    (told,) = [part for part in page.split("\n\n") if part.startswith("**Scales of 16 bits.**")]
    told, wanted = " ".join(told.split()), []
    for per in (64, 32):
        long = rows[settings.setting("to nearest", 4, per, False)]
        both = long, rows[bench.of_short_scales(4, per, "float16")]
        wanted += [f"{row['metrics']['perplexity']:.3f}" for row in both]
        wanted += [f"{row['bytes']['file'] / 1e3:.1f}" for row in both]
    assert re.findall(r"\b(?:\d\.\d{3}|\d{3}\.\d)\b", told) == wanted


def test_a_setting_gives_the_committed_number_again(bench, decoder):
    model, tokenizer = decoder
    batches, ids = bench.texts(tokenizer)
    student = settings.rounded(settings.plant(model), batches, 3, 32, "to nearest")
    rows = {row["model"]: row["metrics"]["perplexity"] for row in result("decoder_bits")["rows"]}
    found = bench.perplexity(student, ids)
    assert found == pytest.approx(rows["to nearest, 3 bits per 32, planted"], rel=0.01)


@pytest.mark.slow
def test_the_training_runs(quick, tmp_path):
    """What it wrote scores what it says, and its last norm has a gain of one."""
    folder = tmp_path / "decoder"
    (row,) = quick("embedded_decoder", "--folder", str(folder))["rows"]
    again = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "\n".join(tq.data.load("flight_text")["test"]["text"]) + "\n"
    found = evaluate_language(again, tokenizer, text, window=128)
    assert row["metrics"] == {key: round(value, 4) for key, value in found.items()}
    assert torch.equal(again.model.norm.weight, torch.ones(128))
    assert row["bytes"]["file"] == (folder / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_the_table_runs(quick):
    found = quick("decoder_bits")
    names = [row["model"] for row in found["rows"]]
    there = (settings.setting(m, 3, 64, True) for m in settings.METHODS)
    assert names == ["float", *there, "to nearest, 4 bits per 64, scales in float16"]
    assert len({row["metrics"]["perplexity"] for row in found["rows"]}) == 5
    assert found["settings"]["looked at"] == 13 * 128, "of the few rows here"
