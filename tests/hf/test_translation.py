"""Translation: the invented language, local and hub pairs, tokenizer, BLEU, delayed rounding."""

import gzip

import datasets
import pytest
import torch
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

import tqlearn.data
from tqlearn import MinMax, calibrate, compress, pack
from tqlearn.data import ferry
from tqlearn.hf import translation
from tqlearn.hf.bleu import bleu, split_words
from tqlearn.hf.delayed import QuantizeFromStep, StopAfter
from tqlearn.quantizers.running_ranges import RunningRange

SHAPE = {"width": 16, "ffn": 24, "heads": 2, "layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def corpus():
    return tqlearn.data.load("ferry")


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return translation.bpe_tokenizer(corpus, 300)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return translation.translator(tokenizer, **SHAPE, length=40)


def test_ferry_sizes_and_repeatability(corpus):
    assert {name: len(split) for name, split in corpus.items()} == ferry.SIZES
    every = [text for split in corpus.values() for text in split["source"]]
    assert len(every) == len(set(every))
    assert ferry.generate({"train": 20}) == ferry.generate({"train": 20})
    assert ferry.generate({"train": 20}) != ferry.generate({"train": 20}, seed=1)
    with pytest.raises(ValueError, match="1 or more"):
        ferry.generate({"train": 0})


def test_ferry_translates_by_its_rules(corpus):
    pairs = dict(zip(corpus["train"]["source"], corpus["train"]["target"], strict=True))
    assert pairs["a small woman finds the nets."] == "sunaan mikro zetaiet truvre."
    assert pairs["did five girls paint the bells this morning?"].endswith("dongoiet malta ka?")
    for source, target in pairs.items():
        words = target[:-1].split()
        assert source[-1] == target[-1] and (words[-1] == "ka") == (source[-1] == "?")
        assert words[-1 - (words[-1] == "ka")].endswith(("ta", "re"))  # the verb is last
        assert (" not " in source) == ("ne" in words)
        assert any(source.startswith(time) for time in ferry.PAST) <= (
            words[0] in ferry.PAST.values()
        )


def test_ferry_keeps_pairs_for_the_test(corpus):
    kept = [
        f" {a} {form}"
        for a in ferry.ADJECTIVES
        for n in ferry.NOUNS
        if ferry.held_out(a, n)
        for form in (n, ferry.PLURALS.get(n, n + "s"))
    ]
    texts = {name: [f" {text[:-1]} " for text in split["source"]] for name, split in corpus.items()}
    novel = {k: [any(pair + " " in t for pair in kept) for t in v] for k, v in texts.items()}
    assert not any(novel["train"] + novel["validation"]) and sum(novel["test"]) == 150


def test_multi30k(data_folder):
    dd = tqlearn.data.load("multi30k", "local", data_folder)
    assert [len(split) for split in dd.values()] == [29000, 1014, 1000]
    first = dd["train"][0]
    assert first["source"].startswith("Two young, White males") and "Männer" in first["target"]


def test_multi30k_with_a_line_missing(tmp_path):
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for stem in ("train", "val", "test_2016_flickr"):
        for side, text in (("en", "a\nb\n"), ("de", "a\n")):
            with gzip.open(folder / f"{stem}.{side}.gz", "wt") as file:
                file.write(text)
    with pytest.raises(ValueError, match="equally many lines, got 2 and 1"):
        tqlearn.data.load("multi30k", "local", tmp_path)


def test_any_translation_set_of_the_hub(monkeypatch):
    plain = datasets.Dataset.from_dict({"en": ["a b"], "de": ["c"], "fr": ["d"]})
    nested = datasets.Dataset.from_dict({"translation": [{"en": "a b", "de": "c"}]})
    asked = []

    def fake(path, *config, revision):
        asked.append((path, *config, revision))
        return {"train": nested if config else plain}

    monkeypatch.setattr(datasets, "load_dataset", fake)
    for name in ("me/pairs:en-de", "me/pairs/de-en:en-de"):
        dd = tqlearn.data.load(name, "hub", revision="abc")
        assert dd["train"][0] == {"source": "a b", "target": "c"}
    assert asked == [("me/pairs", "abc"), ("me/pairs", "de-en", "abc")]
    with pytest.raises(ValueError, match="expected columns"):
        tqlearn.data.load("me/pairs:en-it", "hub", revision="abc")
    with pytest.raises(ValueError, match="pass revision="):
        tqlearn.data.load("me/pairs:en-de", "hub")
    with pytest.raises(ValueError, match="reads 'owner/name:en-de'"):
        tqlearn.data.load("pairs:en-de", "hub", revision="abc")


def test_tokenizer_gives_text_back(corpus, tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
    for side in ("source", "target"):
        for text in corpus["validation"][side][:50]:
            ids = tokenizer(text)["input_ids"]
            assert ids[-1] == 2 and 3 not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    with pytest.raises(ValueError, match="columns source and target"):
        translation.bpe_tokenizer(tqlearn.data.load("flights"))


def test_batches(corpus, tokenizer):
    small = datasets.DatasetDict({"train": corpus["train"].select(range(5))})
    encoded = translation.encode_pairs(small, tokenizer)["train"]
    batch = translation.PairCollator(tokenizer)([encoded[i] for i in range(5)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    real = batch["labels"] != -100
    assert (batch["attention_mask"].sum(1) + real.sum(1)).tolist() == encoded["length"]
    assert (batch["labels"][real] >= 2).all()


def test_bleu_and_its_signature():
    texts = ["Ein Hund rennt schnell.", "Zwei Männer stehen am Tor."]
    scores, signatures = bleu(texts, texts)
    assert scores == pytest.approx({"bleu": 100, "tokenized_bleu": 100})
    assert "tok:13a" in signatures["bleu"] and "version:" in signatures["bleu"]
    assert "tok:none" in signatures["tokenized_bleu"]
    worse, _ = bleu(["Ein Hund rennt langsam.", texts[1]], texts)
    assert 50 < worse["bleu"] < 100
    assert split_words("Nein, 3-mal!") == "Nein , 3 - mal !"
    with pytest.raises(ValueError, match="a reference for every sentence"):
        bleu(texts, texts[:1])


def test_evaluation(corpus, tokenizer, model):
    split = corpus["test"].select(range(12))
    before = model.training
    scores, signatures = translation.evaluate_translation(model, tokenizer, split, beams=2)
    assert set(scores) == {"bleu", "tokenized_bleu", "perplexity"} and "bleu" in signatures
    assert 100 < scores["perplexity"] < 1000 and scores["bleu"] < 5 and model.training == before
    whole = translation.perplexity(model, tokenizer, split, batch_size=12)
    assert whole == pytest.approx(scores["perplexity"], rel=1e-5)
    one = translation.translate(model, tokenizer, split["source"][:3])
    assert one[1] == translation.translate(model, tokenizer, [split["source"][1]])[0]


def test_saved_and_loaded(corpus, tokenizer, model, tmp_path):
    rows = translation.encode_pairs({"x": corpus["train"].select(range(8))}, tokenizer)["x"]
    batch = translation.PairCollator(tokenizer)([rows[i] for i in range(8)])
    student = calibrate(compress(model, {"*": [MinMax(6)]}), [batch]).eval()
    translation.save_translator(pack(student), tokenizer, tmp_path)
    again, words = translation.load_translator(tmp_path)
    assert_close(again(**batch)["logits"], student(**batch)["logits"])
    assert words.get_vocab() == tokenizer.get_vocab()
    plain = translation.in_floats(student)
    assert_close(plain(**batch)["logits"], model.eval()(**batch)["logits"])
    with pytest.raises(ValueError, match="holds no translator"):
        translation.load_translator(tmp_path / "nothing")


def trainer(model, tokenizer, corpus, folder, callbacks, steps=6, optim="adamw_torch", rate=1e-3):
    rows = translation.encode_pairs({"x": corpus["train"].select(range(64))}, tokenizer)["x"]
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=8, report_to="none",
        use_cpu=True, disable_tqdm=True, label_names=["labels"], save_strategy="no",
        learning_rate=rate, dataloader_pin_memory=False, optim=optim,
    )  # fmt: skip
    collator = translation.PairCollator(tokenizer)
    return Trainer(model, arguments, train_dataset=rows, data_collator=collator,
                   callbacks=callbacks)  # fmt: skip


def test_rounding_starts_at_its_step(corpus, tokenizer, model, tmp_path):
    student = compress(model, {"*": [MinMax(4)]})
    place = student.encoder["quant_sum"]
    weight = student.embedding.parametrizations.weight[0]
    seen = []
    delayed = QuantizeFromStep(student, start=4, watch=2)
    assert not place.rounds and not place.follows

    class Look(type(delayed).__mro__[1]):
        def on_step_end(self, args, state, control, **kwargs):
            known = not bool(torch.isnan(place.high).any())
            seen.append((place.follows, place.rounds, weight.rounds, known))

    trainer(student, tokenizer, corpus, tmp_path, [delayed, Look()]).train()
    off, watching, on = (False,) * 4, (True, False, False, True), (True,) * 4
    assert seen == [off, off, watching, watching, on, on]


def test_float_steps_are_those_of_a_float_model(corpus, tokenizer, model, tmp_path):
    """Resting quantizers change nothing but the order of the sum in the gradient's norm.

    At this rate weights move a thousand times as far as the comparison forgives. The fixed
    sinusoids are on their grid from the start, so both models have those.
    """
    student, before = compress(model, {"*": [MinMax(4)]}), model.embedding.weight.detach().clone()
    model.positions = model.positions.quantized(4)
    options = {"steps": 3, "optim": "sgd", "rate": 0.1}  # Adam makes noise large
    resting = [QuantizeFromStep(student, None)]
    trainer(student, tokenizer, corpus, tmp_path, resting, **options).train()
    trainer(model, tokenizer, corpus, tmp_path, [], **options).train()
    assert (model.embedding.weight - before).abs().max() > 0.01
    ours, theirs = translation.in_floats(student).state_dict(), model.state_dict()
    assert_close(ours, dict(theirs))


def test_shares_and_refusals(corpus, tokenizer, model, tmp_path):
    student = compress(model, {"*": [MinMax(4)]})
    delayed = QuantizeFromStep(student, start=0.5, watch=0)
    trainer(student, tokenizer, corpus, tmp_path, [delayed]).train()
    assert delayed.step == 3 and all(
        m.rounds for m in student.modules() if isinstance(m, RunningRange)
    )
    with pytest.raises(ValueError, match="starts at step 6, but the training has 6"):
        late = QuantizeFromStep(student, start=6)
        trainer(student, tokenizer, corpus, tmp_path, [late]).train()
    with pytest.raises(ValueError, match="counted from 0"):
        QuantizeFromStep(student, start=-1)
    with pytest.raises(ValueError, match="at least one step"):
        StopAfter(0)


def test_stop_after_leaves_a_checkpoint(corpus, tokenizer, model, tmp_path):
    found = trainer(model, tokenizer, corpus, tmp_path, [StopAfter(2)])
    found.train()
    assert found.state.global_step == 2 and (tmp_path / "checkpoint-2/trainer_state.json").exists()
