import hashlib
import json
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel, TrainingArguments

import tqlearn.data
from tqlearn import teachers
from tqlearn.hf import (
    BertForJointIntentSlot,
    evaluate_joint,
    evaluate_language,
    predict_joint,
    running,
)
from tqlearn.recipes import finetune


@pytest.fixture(scope="module")
def embedded():
    return teachers.load("embedded")


@pytest.fixture(scope="module")
def corpus():
    return tqlearn.data.load("flights")


def record():
    return json.loads((teachers.embedded_folder() / "metrics.json").read_text())


def test_embedded_teacher_is_small():
    files = list(teachers.embedded_folder().glob("*.*"))
    assert (teachers.embedded_folder() / "model.safetensors").stat().st_size <= 2_000_000
    named = set(record()["sha256"]) | {"metrics.json"}
    assert {file.name for file in files} == named, "every file is under a checksum"


def test_embedded_teacher_does_what_its_record_says(embedded, corpus, capsys):
    model, tokenizer = embedded
    assert not model.training and model.dtype == torch.float32
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 128)
    assert [model.config.intent_labels, model.config.slot_labels] == list(
        map(list, tqlearn.data.labels(corpus))
    )
    metrics = evaluate_joint(model, tokenizer, corpus["test"])
    for name, value in record()["metrics"]["test"].items():
        assert metrics[name] == pytest.approx(value, abs=0.2), name  # another CPU rounds otherwise
    assert metrics["intent_accuracy"] >= 95
    teachers.load("embedded")
    assert capsys.readouterr().out.startswith("teacher embedded: ")


def test_embedded_teacher_reads_values_it_never_saw(embedded):
    words = "Book me a flight from Wellington to Tallinn on Friday".split()
    intents, slots = predict_joint(*embedded, [words])
    assert intents == ["book_flight"]
    tags = {word: tag for word, tag in zip(words, slots[0], strict=True) if tag != "O"}
    assert tags["Wellington"] == "B-from_city" and tags["Tallinn"] == "B-to_city"


def test_tampered_file_is_refused(tmp_path, monkeypatch):
    folder = shutil.copytree(teachers.embedded_folder(), tmp_path / "embedded")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr(teachers, "embedded_folder", lambda: folder)
    expected = record()["sha256"]["model.safetensors"]
    with pytest.raises(ValueError, match=rf"has sha256 [0-9a-f]{{64}}, expected {expected}"):
        teachers.load("embedded")


@pytest.fixture(scope="module")
def decoder():
    return teachers.load("decoder")


def test_decoder_is_small_and_every_file_is_under_a_checksum():
    folder = teachers.decoder_folder()
    stored = json.loads((folder / "metrics.json").read_text())
    assert sum(file.stat().st_size for file in folder.glob("*.*")) <= 2_000_000
    assert {file.name for file in folder.glob("*.*")} == {*stored["sha256"], "metrics.json"}


def test_decoder_does_what_its_record_says(decoder, capsys):
    model, tokenizer = decoder
    config, text = model.config, "\n".join(tqlearn.data.load("flight_text")["test"]["text"]) + "\n"
    assert not model.training and model.dtype == torch.float32
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (2, 128, 2)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    found = evaluate_language(model, tokenizer, text, window=128, batch=8)
    stored = json.loads((teachers.decoder_folder() / "metrics.json").read_text())
    for name, value in stored["metrics"]["test"].items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
    teachers.load("decoder")
    assert "teacher decoder: 2-layer Llama" in capsys.readouterr().out


def test_tampered_decoder_is_refused(tmp_path, monkeypatch):
    folder = shutil.copytree(teachers.decoder_folder(), tmp_path / "decoder")
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(teachers, "decoder_folder", lambda: folder)
    with pytest.raises(ValueError, match="tokenizer.json has sha256"):
        teachers.load("decoder")


@pytest.mark.parametrize("name", ["minlm", "embeded", "no/such/folder"])
def test_unknown_teacher(name):
    with pytest.raises(ValueError, match='a teacher is "embedded", "decoder", "minilm", "smollm2"'):
        teachers.load(name)


@pytest.fixture
def nothing_anywhere(tmp_path, monkeypatch):
    """No cache, no network (see conftest), no package."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(teachers, "MINILM_PACKAGE", "no_such_package")


def test_minilm_nowhere(nothing_anywhere):
    with pytest.raises(ValueError, match="MiniLM not found .* three ways .* load.*cache.*pip"):
        teachers.load("minilm")


def test_minilm_wrong_digest(nothing_anywhere, tmp_path, monkeypatch):
    (tmp_path / "fake_minilm" / "model").mkdir(parents=True)
    (tmp_path / "fake_minilm" / "__init__.py").write_text("raise RuntimeError('was run')")
    (tmp_path / "fake_minilm" / "model" / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(teachers, "MINILM_PACKAGE", "fake_minilm")
    found = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(ValueError, match=f"has sha256 {found}, expected {teachers.MINILM_SHA256}"):
        teachers.load("minilm")


def test_minilm_path(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json; three ways to MiniLM"):
        teachers.load("minilm", path=tmp_path)


def test_minilm_from_the_package(minilm, capsys):
    model, tokenizer = teachers.load("minilm")
    assert isinstance(model, BertModel) and not model.training
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
    assert len(tokenizer) == model.config.vocab_size == 30522
    assert "sha256 verified" in capsys.readouterr().out


def small_encoder(vocab):
    config = BertConfig(
        vocab_size=vocab,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return BertModel(config)


def test_joint_from_encoder(embedded, corpus):
    tokenizer = embedded[1]
    encoder = small_encoder(len(tokenizer)).eval()
    model = teachers.joint_from_encoder(encoder, tokenizer, *tqlearn.data.labels(corpus)).eval()
    assert isinstance(model, BertForJointIntentSlot) and model.bert.pooler is None
    ids = torch.arange(6)[None]
    torch.testing.assert_close(model.bert(ids).last_hidden_state, encoder(ids).last_hidden_state)
    assert not hasattr(encoder.config, "intent_labels"), "the encoder stays as it was"
    with pytest.raises(TypeError, match="must be a BertModel, got BertForJointIntentSlot"):
        teachers.joint_from_encoder(model, tokenizer, ["a", "UNK"], ["O", "UNK"])
    with pytest.raises(ValueError, match="ids, the encoder 5 rows"):
        teachers.joint_from_encoder(small_encoder(5), tokenizer, ["a", "UNK"], ["O", "UNK"])


def test_path_gives_back_what_was_saved(embedded, tmp_path):
    model, tokenizer = embedded
    model.save_pretrained(tmp_path / "joint")
    tokenizer.save_pretrained(tmp_path / "joint")
    again, _ = teachers.load(str(tmp_path / "joint"))
    ids = torch.arange(6)[None]
    assert torch.equal(again(ids).slot_logits, model(ids).slot_logits)
    small_encoder(len(tokenizer)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    assert isinstance(teachers.load(str(tmp_path / "encoder"))[0], BertModel)


def test_finetune_runs_and_resumes(tmp_path, monkeypatch, capsys):
    """Two epochs on a few rows; a run that stops after one and resumes ends in the same place."""
    full = tqlearn.data.flights.generate({"train": 64, "validation": 16, "test": 16})
    monkeypatch.setattr(tqlearn.data.flights, "generate", lambda: full)
    common = ["--teacher", "scratch", "--hidden_size", "24", "--num_layers", "1", "--use_cpu"]
    common += ["--num_train_epochs", "2", "--learning_rate", "1e-2", "--disable_tqdm", "True"]
    whole = finetune.main([*common, "--output_dir", str(tmp_path / "whole")])
    written = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert written["metrics"] == whole and written["split"] == "test" and written["epochs"] == 2
    folder = shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for part in ("model.safetensors", "metrics.json"):
        (folder / part).unlink()
    shutil.rmtree(folder / "checkpoint-4")  # 2 steps an epoch: checkpoint-2 is what is left
    resumed = finetune.main(
        [*common, "--output_dir", str(folder), "--resume_from_checkpoint", "last"]
    )
    assert resumed == whole
    trained, _ = teachers.load(str(tmp_path / "whole"))
    again, _ = teachers.load(str(folder))
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, msg=name)


def test_finetune_takes_an_encoder(tmp_path, embedded, corpus):
    arguments = finetune.FinetuneArguments(teacher="embedded", label_smoothing=0.0)
    model, tokenizer = finetune.build(arguments, corpus, ["a", "UNK"], ["O", "UNK"])
    torch.testing.assert_close(
        model.bert.embeddings.word_embeddings.weight,
        embedded[0].bert.embeddings.word_embeddings.weight,
    )
    assert model.intent_classifier.out_features == 2 and model.config.label_smoothing == 0.0
    assert TrainingArguments(str(tmp_path), **running.DEFAULTS).load_best_model_at_end


def test_repeat_rare():
    rows = Dataset.from_dict({"intent": ["a"] * 5 + ["b"] * 2 + ["c"], "row": list(range(8))})
    more = finetune.repeat_rare(rows, 4, most=3)
    assert more["row"] == [0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 7]  # b twice: 4 rows; c no more than 3
    assert finetune.repeat_rare(rows, 1)["row"] == list(range(8))
