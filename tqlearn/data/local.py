"""Data sets in a local folder: ATIS and SNIPS (seq.in / seq.out / label), reviews, SQuAD, text."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from . import pictures, recordings
from .lines import lines, require_full

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
PARAGRAPHS = {  # SQuAD's paragraphs are from Wikipedia; no paragraph is in both files
    "squad_paragraphs": {"train": SQUAD, "validation": SQUAD_DEV},
}
TRANSLATION = {  # English to German; the test split is test_2016_flickr
    "multi30k": {"train": "train", "validation": "val", "test": "test_2016_flickr"},
}
ARRAYS = {"cifar10": pictures.cifar10, "fsdd": recordings.fsdd}
REVIEWS = "Sentiment\tText"  # header of a file of reviews
DAMAGE = json.JSONDecodeError, LookupError, TypeError, AttributeError
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
    known = [*JOINT, *SENTIMENT, *ELSEWHERE, *QUESTIONS, *PARAGRAPHS, *ARRAYS, *TRANSLATION, "text"]
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
    elif name in PARAGRAPHS:
        splits = {
            split: {"text": _contexts(root / file)} for split, file in PARAGRAPHS[name].items()
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
    names = "seq.in", "seq.out", "label"
    tokens, slots = ([line.split() for line in lines(folder / name)] for name in names[:2])
    intent = [line.strip() for line in lines(folder / "label")]
    if not len(tokens) == len(slots) == len(intent):
        apart = _apart(tokens, slots)
        raise ValueError(
            f"{folder}: seq.in, seq.out and label must have equally many lines, "
            f"got {len(tokens)}, {len(slots)}, {len(intent)}"
            + (f"; {apart}" if apart and len(tokens) != len(slots) else "")
        )
    for name, column in zip(names, (tokens, slots, intent), strict=True):
        require_full(folder / name, column)
    if apart := _apart(tokens, slots):
        raise ValueError(f"{folder}: {apart}; they belong together word by word, get them again")
    for number, tags in enumerate(slots, 1):
        if wrong := [tag for tag in tags if tag != "O" and not re.fullmatch(r"[BI]-.+", tag)]:
            path = folder / "seq.out"
            raise ValueError(f"{path} line {number}: tags are O, B-NAME, I-NAME, got {wrong[0]!r}")
    return {"tokens": tokens, "slots": slots, "intent": intent}


def _apart(tokens, slots):
    """Say where words and tags part, and whether one file is shifted against the other."""
    sizes = [[len(row) for row in rows] for rows in (tokens, slots)]
    pairs = enumerate(zip(*sizes, strict=False), 1)
    found = next(((number, *pair) for number, pair in pairs if pair[0] != pair[1]), None)
    if found is None:
        return ""
    number, words, tags = found
    text = f"seq.in line {number} has {words} words, but seq.out line {number} has {tags} tags"
    ahead, behind = sizes[0][number - 1 :], sizes[1][number - 1 :]
    for late, here, there in (("seq.in", ahead, behind), ("seq.out", behind, ahead)):
        same = [a == b for a, b in zip(here[1:], there, strict=False)]
        if len(same) > 1 and all(same):
            other = "seq.out" if late == "seq.in" else "seq.in"
            text += f"; from there on {other} is a line ahead: it lacks this line or one before"
            break
    return text


def _parallel(source, target):
    """Two files whose lines belong together."""
    columns = {
        side: [" ".join(line.split()) for line in lines(path)]
        for side, path in (("source", source), ("target", target))
    }
    if len(columns["source"]) != len(columns["target"]):
        raise ValueError(
            f"{source} and {target} must have equally many lines, got {len(columns['source'])} "
            f"and {len(columns['target'])}; get them again"
        )
    for side, path in (("source", source), ("target", target)):
        require_full(path, columns[side])
    return columns


def _sentence(path):
    """``label``, one blank, sentence; no header."""
    rows = [line.partition(" ") for line in lines(path)]
    return _labeled(path, [(sentence, label) for label, _, sentence in rows])


def _phrase(path):
    """Header, then sentence, tab, label; no quoting."""
    found = [tuple(line.split("\t")) for line in lines(path, "sentence\tlabel")]
    return _labeled(path, found, first=2)


def _review(path):
    """Header, then Positive or Negative, tab, text with line breaks as <br />."""
    rows = [line.partition("\t") for line in lines(path, REVIEWS)]
    number = {"Positive": "1", "Negative": "0"}
    found = [(_plain(text), number.get(label, label)) for label, _, text in rows]
    return _labeled(path, found, first=2)


def _website(path):
    """Sentence, tab, label; no header."""
    return _labeled(path, [tuple(line.rsplit("\t", 1)) for line in lines(path)])


def _plain(text):
    return " ".join(text.replace("<br />", " ").split())


def _text(root):
    """Sentences and paragraphs without labels: SST-2, SNIPS, IMDB, SQuAD, Multi30k in English."""
    found = [line.split(" ", 1)[-1] for line in lines(root / "sst2_sentences/train.txt.gz")]
    found += [" ".join(line.split()) for line in lines(root / "snips/train/seq.in")]
    reviews = lines(root / "robustness/imdb_counterfactual/orig/train.tsv.gz", REVIEWS)
    found += [_plain(line.split("\t", 1)[-1]) for line in reviews]
    found += [paragraph["context"] for paragraph in _paragraphs(root / SQUAD)]
    found += lines(root / "multi30k/train.en.gz")
    return [text.strip() for text in found if text.strip()]


def _questions(paths):
    """SQuAD's JSON, one file after the other; every answer must stand where its offset says."""
    columns = {"id": [], "context": [], "question": [], "answers": []}
    for path in paths:
        with _squads_layout(path):
            for paragraph in _paragraphs(path):
                for asked in paragraph["qas"]:
                    texts = [answer["text"] for answer in asked["answers"]]
                    starts = [answer["answer_start"] for answer in asked["answers"]]
                    _check_answers(path, asked["id"], paragraph["context"], texts, starts)
                    columns["id"].append(asked["id"])
                    columns["context"].append(paragraph["context"])
                    columns["question"].append(asked["question"])
                    columns["answers"].append({"text": texts, "answer_start": starts})
    return columns


def _contexts(path):
    """The paragraphs of SQuAD's articles in their order, each once."""
    with _squads_layout(path):
        found = [paragraph["context"].strip() for paragraph in _paragraphs(path)]
    return [text for text in dict.fromkeys(found) if text]


@contextmanager
def _squads_layout(path):
    try:
        yield
    except DAMAGE as error:
        raise ValueError(
            f"{path} must be JSON of SQuAD's layout, but reading it gave {error!r}; get it again"
        ) from error


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
    articles = json.loads("\n".join(lines(path)))["data"]
    return [paragraph for article in articles for paragraph in article["paragraphs"]]


def _labeled(path, rows, first=1):
    for number, row in enumerate(rows, first):
        if len(row) != 2 or row[1].strip() not in ("0", "1"):
            raise ValueError(f"{path} line {number}: expected sentence and 0 or 1, got {row}")
    sentences = [sentence.strip() for sentence, _ in rows]
    require_full(path, sentences, first)
    return {"sentence": sentences, "label": [int(label) for _, label in rows]}
