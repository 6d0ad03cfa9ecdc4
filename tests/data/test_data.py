import gzip
import hashlib
import json
import re
import time

import datasets
import pytest

import tqlearn.data
from tqlearn.data import flights, flights_words


@pytest.fixture(scope="module")
def corpus():
    return tqlearn.data.load("flights")


def rows(split):
    return list(zip(split["tokens"], split["slots"], split["intent"], strict=True))


def values_of(split):
    """{(slot, value)} of a split."""
    found = set()
    for tokens, slots, _ in rows(split):
        for i, tag in enumerate(slots):
            if tag.startswith("B-"):
                end = i + 1
                while end < len(slots) and slots[end] == "I-" + tag[2:]:
                    end += 1
                found.add((tag[2:], " ".join(tokens[i:end])))
    return found


def frames_of(split):
    """Sentences with every value replaced by its slot name."""
    return [
        " ".join(
            tag[2:] if tag != "O" else token
            for token, tag in zip(tokens, slots, strict=True)
            if not tag.startswith("I-")
        )
        for tokens, slots, _ in rows(split)
    ]


def test_flights_size_and_labels(corpus):
    assert {name: len(split) for name, split in corpus.items()} == flights.SIZES
    intents, slots = tqlearn.data.labels(corpus)
    assert len(intents) - 1 >= 8 and intents[-1] == "UNK"
    assert len(slots) - 1 >= 30 and slots[0] == "O" and slots[-1] == "UNK"
    assert intents[:-1] == sorted(intents[:-1]) and slots[1:-1] == sorted(slots[1:-1])
    for split in corpus.values():
        assert set(split["intent"]) == set(intents) - {"UNK"}
        assert {tag for tags in split["slots"] for tag in tags} <= set(slots)


def test_flights_is_well_formed(corpus):
    for split in corpus.values():
        for tokens, slots, _ in rows(split):
            assert len(tokens) == len(slots) and len(tokens) < 60
            assert not re.search(r"[<>{}|()!]", " ".join(tokens)), tokens
            for before, tag in zip(["O", *slots], slots, strict=False):
                assert not tag.startswith("I-") or before[2:] == tag[2:], slots


def test_flights_test_split_shows_what_training_never_does(corpus):
    sentences = [" ".join(tokens) for split in corpus.values() for tokens in split["tokens"]]
    assert len(sentences) == len(set(sentences)), "a sentence occurs twice"
    seen_frames, seen_values = set(frames_of(corpus["train"])), values_of(corpus["train"])
    new = [frame not in seen_frames for frame in frames_of(corpus["test"])]
    assert sum(new) > 0.4 * len(new)
    held_out = {
        value for lists in vars(flights_words).values() if isinstance(lists, tuple)
        for value in lists[1]
    }  # fmt: skip
    shown = {value for _, value in values_of(corpus["test"])} & held_out
    assert len(shown) > 0.8 * len(held_out)
    for split in ("train", "validation"):
        assert not {value for _, value in values_of(corpus[split])} & held_out
    assert len(values_of(corpus["test"]) - seen_values) > 200


def test_flights_every_test_sentence_is_new_somewhere(corpus):
    seen_frames, seen_values = set(frames_of(corpus["train"])), values_of(corpus["train"])
    for i, frame in enumerate(frames_of(corpus["test"])):
        one = corpus["test"].select([i])
        assert frame not in seen_frames or values_of(one) - seen_values, one["tokens"]


def test_flights_is_the_same_everywhere_and_quick():
    start = time.process_time()
    corpus = flights.generate()
    assert time.process_time() - start < 1
    digest = hashlib.sha256(json.dumps(corpus, sort_keys=True).encode()).hexdigest()
    assert digest == "be8640b94fd44886d314979f5f25d6546cd27fc0e5bc37ba2aa3e66b79161112", (
        "the corpus changed: train the embedded teacher again"
    )
    assert flights.generate({"train": 50}, seed=1) != flights.generate({"train": 50}, seed=2)


def test_flights_refuses():
    with pytest.raises(ValueError, match="sizes must map"):
        flights.generate({"dev": 3})
    with pytest.raises(ValueError, match="1 or more"):
        flights.generate({"train": 0})


def test_load_says_where_from(capsys):
    tqlearn.data.load("flights")
    line = "flights: embedded (grammar, seed 0), train 2000, validation 300, test 500\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "atis"}, "source must be one of .* got None for 'atis'; three ways"),
        ({"name": "atis", "source": "web"}, "source must be one of .* got 'web'"),
        ({"name": "atis", "source": "embedded"}, r"embedded data sets are .* got 'atis'"),
        ({"name": "mnli", "source": "local"}, r"local data sets are \['atis', .* got 'mnli'"),
        ({"name": "mnli", "source": "hub"}, r"hub data sets are .* got 'mnli'"),
        ({"name": "atis", "source": "hub"}, "no verified commit of .* pass revision="),
        ({"name": "flights", "folder": "x"}, 'folder= goes with source="local" only'),
        ({"name": "flights", "revision": "x"}, 'revision= goes with source="hub" only'),
        ({"name": "atis", "source": "local", "folder": "nowhere"}, "'nowhere' does not exist"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        tqlearn.data.load(**arguments)


def test_local_needs_a_folder(monkeypatch):
    monkeypatch.delenv("TQLEARN_DATA", raising=False)
    with pytest.raises(ValueError, match="TQLEARN_DATA is not set; three ways to data"):
        tqlearn.data.load("atis", source="local")


def write_atis(root, words="fly to new york", tags="O O B-to I-to", labels=1):
    for split in ("train", "valid", "test"):
        folder = root / "atis" / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "seq.in").write_text(words + "\n")
        (folder / "seq.out").write_text(tags + "\n")
        (folder / "label").write_text("go\n" * labels)
    return root


def test_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TQLEARN_DATA", str(write_atis(tmp_path, "fly  to new york ")))
    dd = tqlearn.data.load("atis", source="local")
    assert list(dd) == ["train", "validation", "test"]
    row = {"tokens": ["fly", "to", "new", "york"], "slots": ["O", "O", "B-to", "I-to"]}
    assert dd["validation"][0] == {**row, "intent": "go"}
    assert tqlearn.data.labels(dd) == (["go", "UNK"], ["O", "B-to", "I-to", "UNK"])


def test_local_refuses_damaged_files(tmp_path):
    load = lambda: tqlearn.data.load("atis", source="local", folder=tmp_path)  # noqa: E731
    write_atis(tmp_path, tags="O O")
    with pytest.raises(
        ValueError, match="seq.in line 1 has 4 words, but seq.out line 1 has 2 tags"
    ):
        load()
    write_atis(tmp_path, labels=2)
    with pytest.raises(ValueError, match="equally many lines, got 1, 1, 2"):
        load()
    write_atis(tmp_path)
    for name in ("seq.in", "seq.out", "label"):
        (tmp_path / "atis" / "valid" / name).write_text("")
    with pytest.raises(ValueError, match="valid/seq.in is empty; get it again"):
        load()
    write_atis(tmp_path)
    (tmp_path / "atis" / "test" / "label").unlink()
    with pytest.raises(ValueError, match="label is missing"):
        load()


def test_local_sentiment(tmp_path):
    (tmp_path / "sst2_sentences").mkdir()
    for name in ("train", "dev"):
        with gzip.open(tmp_path / "sst2_sentences" / f"{name}.txt.gz", "wt") as file:
            file.write('1 a " fine film .\n0 dull\n')
    dd = tqlearn.data.load("sst2", source="local", folder=tmp_path)
    assert dd["train"][:] == {"sentence": ['a " fine film .', "dull"], "label": [1, 0]}
    with pytest.raises(ValueError, match="need columns intent and slots"):
        tqlearn.data.labels(dd)
    with gzip.open(tmp_path / "sst2_sentences" / "dev.txt.gz", "wt") as file:
        file.write("2 what\n")
    with pytest.raises(ValueError, match="dev.txt.gz line 1: expected sentence and 0 or 1"):
        tqlearn.data.load("sst2", source="local", folder=tmp_path)


def test_labels_need_a_train_split(corpus):
    empty = datasets.DatasetDict(train=corpus["train"].select([]))
    for dd in (empty, datasets.DatasetDict(test=corpus["test"])):
        with pytest.raises(ValueError, match="labels come from a non-empty train split"):
            tqlearn.data.labels(dd)


def test_hub_without_network():
    """The whole test run is off-line, see conftest."""
    with pytest.raises(OSError, match="cannot get stanfordnlp/sst2 at 8d51e7e.*three ways to data"):
        tqlearn.data.load("sst2_phrases", source="hub")


def fake_hub(monkeypatch, **splits):
    asked = []

    def load_dataset(path, revision):
        asked.append((path, revision))
        made = {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
        return datasets.DatasetDict(made)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hub_phrases(monkeypatch):
    some = {"sentence": ["good "], "label": [1], "idx": [0]}
    asked = fake_hub(monkeypatch, train=some, validation=some, test=some | {"label": [-1]})
    dd = tqlearn.data.load("sst2_phrases", source="hub")
    assert asked[0][0] == "stanfordnlp/sst2" and re.fullmatch("[0-9a-f]{40}", asked[0][1])
    assert list(dd) == ["train", "validation"]
    assert dd["train"][0] == {"sentence": "good", "label": 1}


def test_hub_atis(monkeypatch):
    some = {"text": ["to rome"] * 502, "slots": ["O B-to"] * 502, "intent": ["go"] * 502}
    asked = fake_hub(monkeypatch, train=some, test=some)
    dd = tqlearn.data.load("atis", source="hub", revision="abc")
    assert asked == [("tuetschek/atis", "abc")]
    assert [len(split) for split in dd.values()] == [2, 500, 502]
    assert dd["train"][0] == {"tokens": ["to", "rome"], "slots": ["O", "B-to"], "intent": "go"}
    fake_hub(monkeypatch, train={"words": ["a"]})
    with pytest.raises(ValueError, match="expected splits .* got {'train': .'words'.}"):
        tqlearn.data.load("atis", source="hub", revision="abc")


def test_real_atis(data_folder):
    dd = tqlearn.data.load("atis", source="local", folder=data_folder)
    assert [len(split) for split in dd.values()] == [4478, 500, 893]
    intents, slots = tqlearn.data.labels(dd)
    assert (len(intents), len(slots)) == (22, 121)  # 21 and 120 of Goo et al., and UNK
    assert len(set(dd["test"]["intent"]) - set(intents)) == 4
    tags = {tag for tags in dd["test"]["slots"] for tag in tags}
    assert len(tags - set(slots)) == 6


def test_real_snips(data_folder):
    dd = tqlearn.data.load("snips", source="local", folder=data_folder)
    assert {name: len(split) for name, split in dd.items()} == {"train": 13084, "validation": 700}
    intents, slots = tqlearn.data.labels(dd)
    assert (len(intents), len(slots)) == (8, 73)


@pytest.mark.parametrize(("name", "train"), [("sst2", 6920), ("sst2_phrases", 67349)])
def test_real_sst2(data_folder, name, train):
    dd = tqlearn.data.load(name, source="local", folder=data_folder)
    assert {split: len(dd[split]) for split in dd} == {"train": train, "validation": 872}
    assert sum(dd["validation"]["label"]) == 444


def test_other_peoples_reviews(tmp_path):
    folder = tmp_path / "robustness" / "uci_sentences"
    folder.mkdir(parents=True)
    for site in ("imdb", "yelp", "amazon_cells"):
        with gzip.open(folder / f"{site}_labelled.txt.gz", "wt") as file:
            file.write(f"on {site}, fine\t1\nno\t0\n")
    dd = tqlearn.data.load("uci", source="local", folder=tmp_path)
    assert list(dd) == ["imdb", "yelp", "amazon_cells"]
    assert dd["yelp"][:] == {"sentence": ["on yelp, fine", "no"], "label": [1, 0]}
    folder = tmp_path / "robustness" / "imdb_counterfactual" / "new"
    folder.mkdir(parents=True)
    for label, number in (("Negative", 0), ("Positive", 1), ("Good", None)):
        with gzip.open(folder / "test.tsv.gz", "wt") as file:
            file.write(f"Sentiment\tText\n{label}\tso<br /><br />it  goes\n")
        if number is None:
            with pytest.raises(ValueError, match="line 2: expected sentence and 0 or 1"):
                tqlearn.data.load("imdb_counterfactual", source="local", folder=tmp_path)
        else:
            dd = tqlearn.data.load("imdb_counterfactual", source="local", folder=tmp_path)
            assert dd["test"][:] == {"sentence": ["so it goes"], "label": [number]}


def test_real_reviews_and_text(data_folder):
    """Sizes from the folder's own README; all labels balanced as it says."""
    imdb = tqlearn.data.load("imdb", source="local", folder=data_folder)["test"]
    assert len(imdb) == 488 and sum(imdb["label"]) == 245
    new = tqlearn.data.load("imdb_counterfactual", source="local", folder=data_folder)["test"]
    assert len(new) == 488 and sum(new["label"]) == 243, "every label is flipped"
    uci = tqlearn.data.load("uci", source="local", folder=data_folder)
    assert {split: (len(uci[split]), sum(uci[split]["label"])) for split in uci} == {
        "imdb": (1000, 500), "yelp": (1000, 500), "amazon_cells": (1000, 500)}  # fmt: skip
    text = tqlearn.data.load("text", source="local", folder=data_folder)["train"]["text"]
    assert len(text) == 6920 + 13084 + 1707 + 800 + 29000 and all(text)
    assert not any("<br" in line for line in text)


def write_questions(root, context="It rains in Oslo .", file="squad/dev-v1.1", start=12, **answer):
    (root / file).parent.mkdir(exist_ok=True)
    asked = {"id": "q", "question": "Where ?"}
    asked["answers"] = [{"text": "Oslo", "answer_start": start} | answer]
    article = {"title": "", "paragraphs": [{"context": context, "qas": [asked]}]}
    with gzip.open(root / f"{file}.json.gz", "wt") as to:
        json.dump({"data": [article], "version": "1.1"}, to)


def test_local_questions(tmp_path):
    for file in ("squad/train-sample", "squad/dev-v1.1", "tydiqa_goldp_en/tydiqa.goldp.en.train"):
        write_questions(tmp_path, file=file)
    load = lambda name: tqlearn.data.load(name, source="local", folder=tmp_path)  # noqa: E731
    dd = load("squad")
    row = {"id": "q", "context": "It rains in Oslo .", "question": "Where ?"}
    assert dd["validation"][0] == row | {"answers": {"text": ["Oslo"], "answer_start": [12]}}
    assert {split: len(rows) for split, rows in dd.items()} == {"train": 1, "validation": 1}
    assert {split: len(rows) for split, rows in load("tydiqa").items()} == {"train": 1}
    both = load("squad_tydiqa")
    assert {split: len(rows) for split, rows in both.items()} == {"train": 2, "validation": 1}
    for wrong in ({"start": 11}, {"start": -6}, {"context": "Oslo"}, {"text": ""}):
        write_questions(tmp_path, **wrong)
        with pytest.raises(ValueError, match="'q': the context must go on with the answer .* but"):
            load("squad")
    file = tmp_path / "squad" / "dev-v1.1.json.gz"
    write_questions(tmp_path)
    whole = file.read_bytes()
    foreign = [{"data": [{"paragraphs": [{"qas": [{}]}]}]}, {"version": 1}, [], {"data": 3}]
    foreign = [gzip.compress(json.dumps(content).encode()) for content in foreign]
    for content in (whole[:-20], b"text"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="dev-v1.1.json.gz is no whole gzip file .* line 1;"):
            load("squad")
    for content in (gzip.compress(b'{"data": ['), *foreign):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match="dev-v1.1.json.gz must be JSON of SQuAD's layout, but"
        ):
            load("squad")
    file.unlink()
    with pytest.raises(ValueError, match="dev-v1.1.json.gz is missing"):
        load("squad")


def test_real_questions(data_folder):
    """Counts of Rajpurkar et al. 2016 and Clark et al. 2020; loading checks every offset."""
    dd = tqlearn.data.load("squad_tydiqa", source="local", folder=data_folder)
    train, dev = dd["train"], dd["validation"]
    assert (len(train), len(dev)) == (3547 + 3696, 10570)
    assert len(set(dev["id"])) == 10570 and len(set(dev["context"])) == 2067
    assert sum(len(answers["text"]) for answers in dev["answers"]) == 34726
    for split in (train, dev):
        for context, answers in zip(split["context"], split["answers"], strict=True):
            for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                assert context[start : start + len(text)] == text != ""
    assert not set(train["context"]) & set(dev["context"])
    alone = tqlearn.data.load("tydiqa", source="local", folder=data_folder)
    assert {split: len(rows) for split, rows in alone.items()} == {"train": 3696}


def test_local_paragraphs(tmp_path):
    """Each once, in their order; damage is told as for questions."""
    contexts = ["Oslo .", "Rome .", "Oslo .", " ", "Bern ."]
    for file in ("train-sample", "dev-v1.1"):
        (tmp_path / "squad").mkdir(exist_ok=True)
        paragraphs = [{"context": text, "qas": []} for text in contexts]
        whole = json.dumps(
            {"data": [{"paragraphs": paragraphs[:2]}, {"paragraphs": paragraphs[2:]}]}
        )
        (tmp_path / "squad" / f"{file}.json.gz").write_bytes(gzip.compress(whole.encode()))
        contexts = contexts[1:]
    load = lambda: tqlearn.data.load("squad_paragraphs", source="local", folder=tmp_path)  # noqa: E731
    dd = load()
    assert dd["train"]["text"] == ["Oslo .", "Rome .", "Bern ."]
    assert dd["validation"]["text"] == ["Rome .", "Oslo .", "Bern ."]
    (tmp_path / "squad" / "dev-v1.1.json.gz").write_bytes(gzip.compress(b'{"data": [{}]}'))
    with pytest.raises(ValueError, match="dev-v1.1.json.gz must be JSON of SQuAD's layout, but"):
        load()


def test_real_paragraphs(data_folder):
    dd = tqlearn.data.load("squad_paragraphs", source="local", folder=data_folder)
    train, dev = dd["train"]["text"], dd["validation"]["text"]
    assert (len(train), len(dev)) == (800, 2067)
    assert len({*train, *dev}) == 2867, "each once, and what is looked at is not what judges"
    assert sum(len(text.split()) for text in dev) > 200_000


def test_flight_text_is_the_sentences_alone(corpus):
    text = tqlearn.data.load("flight_text")
    for split, rows in corpus.items():
        assert text[split]["text"] == [" ".join(tokens) for tokens in rows["tokens"]]
