"""One ``load()`` for the embedded corpus, local folders and hub datasets.

The source is always named and always said out loud; nothing falls back silently.

>>> import tqlearn.data
>>> dd = tqlearn.data.load("flights")
flights: embedded (grammar, seed 0), train 2000, validation 300, test 500
>>> sorted(dd["train"].column_names)
['intent', 'slots', 'tokens']
"""

from collections.abc import Mapping
from os import PathLike

from ..arguments import require
from . import ferry, flights, hub, local, pictures, tones

WAYS = (
    'three ways to data: "flights", "flight_intents", "flight_text", "digits", "tones" and "ferry" '
    'need nothing; source="local" reads the folder named by folder= or $TQLEARN_DATA; '
    'source="hub" downloads (needs a network and the datasets package)'
)
SOURCES = ("embedded", "local", "hub")
EMBEDDED = {  # name -> (rows, where they come from)
    "flights": (lambda: flights.generate(), f"grammar, seed {flights.SEED}"),
    "flight_intents": (lambda: flights.sentences(), f"grammar, seed {flights.SEED}"),
    "flight_text": (lambda: flights.text(), f"grammar, seed {flights.SEED}"),
    "digits": (lambda: pictures.digits(), f"scikit-learn's digits, split by seed {pictures.SEED}"),
    "tones": (lambda: tones.generate(), f"synthesised, seed {tones.SEED}"),
    "ferry": (lambda: ferry.generate(), f"grammar of an invented language, seed {ferry.SEED}"),
}


def load(name, source=None, folder=None, revision=None):
    """Load a data set as a ``datasets.DatasetDict``, and print one line on where it came from.

    Args:
        name: "flights" (intents and slots), "flight_intents" (its sentences, to classify),
            "flight_text" (its sentences alone), "digits" (8 x 8 handwritten digits) and "tones"
            (synthesised words of two or three sounds, no speech) are embedded; "atis", "snips",
            "sst2", "sst2_phrases" (GLUE's SST-2) come from a folder, and there too "imdb",
            "imdb_counterfactual" and "uci" (sentiment, to test on), "text" (unlabelled English) and
            "squad_paragraphs" (from Wikipedia, each once and in their order, so that a language
            model can be measured on them); also "squad" (v1.1, 3547
            training questions and the whole dev set), "tydiqa" (English gold passages, train only)
            and "squad_tydiqa" (both to train on, SQuAD to validate), "cifar10" (12,000 pictures of
            it, JPEG) and "fsdd" (spoken digits); "sst2_phrases" and "atis" from the hub. To
            translate: "ferry" (English and an invented language) is embedded, "multi30k" (English
            to German) local, "owner/name:en-de" or "owner/name/config:en-de" any set of the hub
            with these two languages.
        source: "embedded", "local" or "hub". May be left out for embedded data.
        folder: root of the local data, for ``source="local"``; default is $TQLEARN_DATA.
        revision: commit of the hub data set, for ``source="hub"``; a verified one is built in
            where we know one.

    Returns:
        Joint sets have the columns ``tokens`` (list of str), ``slots`` (list of str, IOB) and
        ``intent`` (str); sentiment has ``sentence`` (str) and ``label`` (0 negative, 1 positive);
        plain text has ``text`` (str); questions have ``id``, ``context``, ``question`` and
        ``answers`` ({"text": list of str, "answer_start": list of int}); TyDiQA's ids repeat;
        pictures have ``image`` (uint8 array, (height, width, channels)) and ``label`` (int);
        sounds have ``audio`` (float32 array of samples at 8 kHz, -1 to 1) and ``label`` (int);
        translations have ``source`` and ``target`` (str).

    Raises:
        ValueError: unknown name or source, source not given, missing folder or file, empty split.
        TypeError: a name, folder or revision that is none.
        ImportError: scikit-learn ("digits") or Pillow ("cifar10") is not installed.
        OSError: the hub cannot be reached.
    """
    require("data.load: name", name, str)
    require("data.load: folder", folder, str | PathLike | None)
    require("data.load: revision", revision, str | None)
    if source is None and name in EMBEDDED:
        source = "embedded"
    if source not in SOURCES:
        raise ValueError(f"source must be one of {SOURCES}, got {source!r} for {name!r}; {WAYS}")
    if folder is not None and source != "local":
        raise ValueError(f'folder= goes with source="local" only, got source={source!r}')
    if revision is not None and source != "hub":
        raise ValueError(f'revision= goes with source="hub" only, got source={source!r}')
    if source == "embedded":
        splits, origin = _embedded(name)
    elif source == "local":
        splits, origin = local.read(name, folder, WAYS)
    else:
        splits, origin = hub.read(name, revision, WAYS)
    dd = _dataset_dict(name, splits)
    print(f"{name}: {origin}, " + ", ".join(f"{split} {len(dd[split])}" for split in dd))
    return dd


def labels(dd):
    """The label lists of a joint data set: (intents, slots), sorted, from the train split alone.

    "UNK" is last in both and stands for labels that training never shows; "O" is first in slots.

    Raises:
        ValueError: the train split is missing or empty, or has no intents and slots.
        TypeError: no mapping of splits.
    """
    if not isinstance(dd, Mapping):
        raise TypeError(f"labels come from what data.load returns, got a {type(dd).__name__}")
    if "train" not in dd or len(dd["train"]) == 0:
        raise ValueError(f"labels come from a non-empty train split, got splits {list(dd)}")
    train = dd["train"]
    if not {"intent", "slots"} <= set(train.column_names):
        raise ValueError(f"labels need columns intent and slots, got {train.column_names}")
    intents = sorted(set(train["intent"]) - {"UNK"})
    slots = sorted({tag for tags in train["slots"] for tag in tags} - {"O", "UNK"})
    return [*intents, "UNK"], ["O", *slots, "UNK"]


def _embedded(name):
    if name not in EMBEDDED:
        raise ValueError(f"embedded data sets are {[*EMBEDDED]}, got {name!r}; {WAYS}")
    rows, origin = EMBEDDED[name]
    return rows(), f"embedded ({origin})"


def _dataset_dict(name, splits):
    from datasets import Array3D, Dataset, DatasetDict, Features, Value  # heavy: only when asked

    for split, columns in splits.items():
        if len(next(iter(columns.values()))) == 0:
            raise ValueError(f"{name}: split {split!r} is empty; check the file it was read from")

    def rows(columns):
        if "image" in columns:  # both kinds of rows come back as arrays, not as lists of numbers
            picture = Array3D(columns["image"][0].shape, "uint8")
            features = Features({"image": picture, "label": Value("int64")})
            made = Dataset.from_dict(columns, features=features)
            return made.with_format("numpy", ["image"], True, dtype="uint8")
        made = Dataset.from_dict(columns)
        return made.with_format("numpy", ["audio"], True) if "audio" in columns else made

    return DatasetDict({split: rows(columns) for split, columns in splits.items()})
