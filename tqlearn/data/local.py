"""Data sets in a local folder: ATIS and SNIPS (seq.in / seq.out / label), reviews, SQuAD, text."""

import gzip
import json
import os
import zlib
from pathlib import Path

from . import pictures, recordings

JOINT = {
    "atis": {"train": "train", "validation": "valid", "test": "test"},
    "snips": {"train": "train", "validation": "valid"},
}
SENTIMENT = {
    "sst2": ("sst2_sentences", {"train": "train.txt.gz", "validation": "dev.txt.gz"}),
    "sst2_phrases": ("glue/SST-2", {"train": "train.tsv.gz", "validation": "dev.tsv.gz"}),
}
SQUAD, TYDIQA = "squad/train-sample.json.gz", "tydiqa_goldp_en/tydiqa.goldp.en.train.json.gz"
SQUAD_DEV = "squad/dev-v1.1.json.gz"
QUESTIONS = {  # TyDiQA's dev file has questions only: its answers are empty
    "squad": {"train": [SQUAD], "validation": [SQUAD_DEV]},
    "tydiqa": {"train": [TYDIQA]},
    "squad_tydiqa": {"train": [SQUAD, TYDIQA], "validation": [SQUAD_DEV]},
}
TRANSLATION = {  # English to German; the test split is test_2016_flickr
    "multi30k": {"train": "train", "validation": "val", "test": "test_2016_flickr"},
}
ARRAYS = {"cifar10": pictures.cifar10, "fsdd": recordings.fsdd}
DAMAGE = (json.JSONDecodeError, UnicodeError, LookupError, TypeError, AttributeError, EOFError,
          OSError, zlib.error)  # fmt: skip
# other people's reviews, to see whether a model of SST-2 holds up; test splits only
ELSEWHERE = {
    "imdb": {"test": "robustness/imdb_counterfactual/orig/test.tsv.gz"},
    "imdb_counterfactual": {"test": "robustness/imdb_counterfactual/new/test.tsv.gz"},
    "uci": {
        site: f"robustness/uci_sentences/{site}_labelled.txt.gz"
        for site in ("imdb", "yelp", "amazon_cells")
    },
}


def read(name, folder, ways):
    """Read ``name`` below ``folder``: ({split: {column: list}}, where it came from).

    Raises:
        ValueError: unknown name, no folder named, folder or file missing, rows that do not match.
    """
    known = [*JOINT, *SENTIMENT, *ELSEWHERE, *QUESTIONS, *ARRAYS, *TRANSLATION, "text"]
    if name not in known:
        raise ValueError(f"local data sets are {known}, got {name!r}; {ways}")
    if folder is None:
        folder = os.environ.get("TQLEARN_DATA")
    if not folder:
        raise ValueError(f"{name}: no folder given and TQLEARN_DATA is not set; {ways}")
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{name}: folder {str(root)!r} does not exist; {ways}")
    if name in JOINT:
        splits = {split: _joint(root / name / sub) for split, sub in JOINT[name].items()}
    elif name in ELSEWHERE:
        rows = _website if name == "uci" else _review
        splits = {split: rows(root / file) for split, file in ELSEWHERE[name].items()}
    elif name in QUESTIONS:
        splits = {
            split: _questions([root / file for file in files])
            for split, files in QUESTIONS[name].items()
        }
    elif name in TRANSLATION:
        splits = {
            split: _parallel(root / name / f"{stem}.en.gz", root / name / f"{stem}.de.gz")
            for split, stem in TRANSLATION[name].items()
        }
    elif name in ARRAYS:
        splits = ARRAYS[name](root)
    elif name == "text":
        splits = {"train": {"text": _text(root)}}
    else:
        sub, files = SENTIMENT[name]
        rows = _sentence if name == "sst2" else _phrase
        splits = {split: rows(root / sub / file) for split, file in files.items()}
    return splits, f"local ({root})"


def _joint(folder):
    """One split of the ATIS / SNIPS layout; words are separated by any white space."""
    tokens = [line.split() for line in _lines(folder / "seq.in")]
    slots = [line.split() for line in _lines(folder / "seq.out")]
    intent = [line.strip() for line in _lines(folder / "label")]
    if not len(tokens) == len(slots) == len(intent):
        raise ValueError(
            f"{folder}: seq.in, seq.out and label must have equally many lines, "
            f"got {len(tokens)}, {len(slots)}, {len(intent)}"
        )
    for row, (words, tags) in enumerate(zip(tokens, slots, strict=True)):
        if len(words) != len(tags):
            raise ValueError(f"{folder} line {row + 1}: {len(words)} words but {len(tags)} tags")
    return {"tokens": tokens, "slots": slots, "intent": intent}


def _parallel(source, target):
    """Two files whose lines belong together."""
    columns = {
        side: [" ".join(line.split()) for line in _lines(path)]
        for side, path in (("source", source), ("target", target))
    }
    if len(columns["source"]) != len(columns["target"]):
        raise ValueError(
            f"{source} and {target} must have equally many lines, got {len(columns['source'])} "
            f"and {len(columns['target'])}; get them again"
        )
    return columns


def _sentence(path):
    """``label``, one blank, sentence; no header."""
    rows = [line.split(" ", 1) for line in _lines(path)]
    return _labeled(path, [(row[-1], row[0]) for row in rows])


def _phrase(path):
    """Header, then sentence, tab, label; no quoting."""
    return _labeled(path, [tuple(line.split("\t")) for line in _lines(path)[1:]])


def _review(path):
    """Header, then Positive or Negative, tab, text with line breaks as <br />."""
    rows = [line.split("\t", 1) for line in _lines(path)[1:]]
    number = {"Positive": "1", "Negative": "0"}
    return _labeled(path, [(_plain(row[-1]), number.get(row[0], row[0])) for row in rows])


def _website(path):
    """Sentence, tab, label; no header."""
    return _labeled(path, [tuple(line.rsplit("\t", 1)) for line in _lines(path)])


def _plain(text):
    return " ".join(text.replace("<br />", " ").split())


def _text(root):
    """Sentences and paragraphs without labels: SST-2, SNIPS, IMDB, SQuAD, Multi30k in English."""
    found = [line.split(" ", 1)[-1] for line in _lines(root / "sst2_sentences/train.txt.gz")]
    found += [" ".join(line.split()) for line in _lines(root / "snips/train/seq.in")]
    reviews = _lines(root / "robustness/imdb_counterfactual/orig/train.tsv.gz")[1:]
    found += [_plain(line.split("\t", 1)[-1]) for line in reviews]
    found += [paragraph["context"] for paragraph in _paragraphs(root / SQUAD)]
    found += _lines(root / "multi30k/train.en.gz")
    return [text.strip() for text in found if text.strip()]


def _questions(paths):
    """SQuAD's JSON, one file after the other; every answer must stand where its offset says."""
    columns = {"id": [], "context": [], "question": [], "answers": []}
    for path in paths:
        try:
            for paragraph in _paragraphs(path):
                for asked in paragraph["qas"]:
                    texts = [answer["text"] for answer in asked["answers"]]
                    starts = [answer["answer_start"] for answer in asked["answers"]]
                    _check_answers(path, asked["id"], paragraph["context"], texts, starts)
                    columns["id"].append(asked["id"])
                    columns["context"].append(paragraph["context"])
                    columns["question"].append(asked["question"])
                    columns["answers"].append({"text": texts, "answer_start": starts})
        except DAMAGE as error:
            raise ValueError(
                f"{path} must be JSON of SQuAD's layout, but reading it gave {error!r}; "
                "get it again"
            ) from error
    return columns


def _check_answers(path, key, context, texts, starts):
    if not texts:
        raise ValueError(f"{path} question {key!r} must have an answer, got none; leave it out")
    for text, start in zip(texts, starts, strict=True):
        if not text.strip() or start < 0 or not context.startswith(text, start):
            raise ValueError(
                f"{path} question {key!r}: the context must go on with the answer {text!r} at "
                f"character {start}, but has {context[max(start, 0) :][: len(text) + 9]!r}; the "
                "file is damaged, get it again"
            )


def _paragraphs(path):
    """All {context, qas} of a file of SQuAD's layout."""
    articles = json.loads("\n".join(_lines(path)))["data"]
    return [paragraph for article in articles for paragraph in article["paragraphs"]]


def _labeled(path, rows):
    for number, row in enumerate(rows):
        if len(row) != 2 or row[1] not in ("0", "1"):
            raise ValueError(f"{path} row {number + 1}: expected sentence and 0 or 1, got {row}")
    return {
        "sentence": [sentence.strip() for sentence, _ in rows],
        "label": [int(label) for _, label in rows],
    }


def _lines(path):
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder must hold the benchmark's raw files")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        return file.read().removesuffix("\n").split("\n") if path.stat().st_size else []
