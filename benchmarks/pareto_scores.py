"""What a test sentence is worth: counts per sentence, scores of many, and a paired bootstrap.

A finished run keeps its counts as strings (``coded``), so that every comparison can be made later,
when its model is gone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset
from seqeval.metrics.sequence_labeling import get_entities
from torch import nn

from tqlearn.hf.metrics import predict_joint
from tqlearn.hf.sentences import predict_sentences

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
BITS = {"intents", "correct"}  # 0 or 1 per sentence: four of them are a hex digit
DRAWS = 2000

Counts = Mapping[str, Sequence[int]]


def counted(model: nn.Module, tokenizer: object, rows: Dataset, max_length: int) -> dict:
    """Return counts per sentence of a raw split.

    Of joint data "intents" (1: right), and "right", "found" and "gold", the spans that are right,
    that the model finds and that there are; of classes "correct".

    >>> rows = Dataset.from_dict({"tokens": [["to", "rome"]], "slots": [["O", "B-city"]]})
    >>> spans(rows["slots"][0]), spans(["B-city", "O"])
    ({('city', 1, 1)}, {('city', 0, 0)})
    """
    if "slots" not in rows.column_names:
        said = predict_sentences(model, tokenizer, list(rows["sentence"]), 64, max_length)
        pairs = zip(said, rows["label"], strict=True)
        return {"correct": [int(one == label) for one, label in pairs]}
    intents, slots = predict_joint(model, tokenizer, list(rows["tokens"]), 64, max_length)
    gold, said = [[spans(tags) for tags in column] for column in (rows["slots"], slots)]
    return {
        "intents": [int(a == b) for a, b in zip(intents, rows["intent"], strict=True)],
        "right": [len(a & b) for a, b in zip(gold, said, strict=True)],
        "found": [len(one) for one in said],
        "gold": [len(one) for one in gold],
    }


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (slot, first word, last word) of a sentence's tags, as CoNLL's measure counts them."""
    return set(get_entities(["B-UNK" if tag == "UNK" else tag for tag in tags]))


def metrics(counts: Mapping[str, np.ndarray], draws: np.ndarray | None = None) -> dict:
    """Return percentages, and "score": their mean, which rates, epochs and comparisons go by.

    Args:
        counts: arrays (..., sentences) of ``counted``.
        draws: (sentences, draws), how often each sentence counts in each draw; None: once.

    >>> counts = {"intents": [1, 0], "right": [1, 1], "found": [1, 2], "gold": [2, 1]}
    >>> {name: round(float(value), 2) for name, value in metrics(counts).items()}
    {'intent_accuracy': 50.0, 'slot_f1': 66.67, 'score': 58.33}
    """
    plain = draws is None
    draws = np.ones((np.shape(next(iter(counts.values())))[-1], 1)) if plain else draws
    sums = {name: np.asarray(values, float) @ draws for name, values in counts.items()}
    sentences = draws.sum(0)
    if "right" in sums:
        spans_in = np.maximum(sums["found"] + sums["gold"], 1)
        found = {"intent_accuracy": 100 * sums["intents"] / sentences,
                 "slot_f1": 200 * sums["right"] / spans_in}  # fmt: skip
    else:
        found = {"accuracy": 100 * sums["correct"] / sentences}
    found["score"] = sum(found.values()) / len(found)
    return {name: value[..., 0] for name, value in found.items()} if plain else found


def percent(counts: Counts) -> dict[str, float]:
    """Return ``metrics`` of one run, rounded as the JSON holds them."""
    return {name: round(float(value), 4) for name, value in metrics(counts).items()}


def coded(counts: Counts) -> dict[str, str]:
    """Return the counts as strings: hex digits of bits, or a digit (to base 36) per sentence.

    Raises:
        ValueError: a sentence has more spans than a digit can say.

    >>> coded({"intents": [1, 0, 1, 1, 1], "right": [0, 10, 1, 2, 3]})
    {'intents': 'b8', 'right': '0a123'}
    """
    words = {}
    for name, values in counts.items():
        if max(values) >= len(DIGITS):
            raise ValueError(f"a sentence has at most {len(DIGITS) - 1} spans, got {max(values)}")
        if name in BITS:
            bits = "".join(map(str, values)) + "0" * (-len(values) % 4)
            words[name] = f"{int(bits, 2):0{len(bits) // 4}x}"
        else:
            words[name] = "".join(DIGITS[value] for value in values)
    return words


def decoded(words: Mapping[str, str], sentences: int) -> dict[str, np.ndarray]:
    """Return the counts of ``coded``.

    >>> decoded({"intents": "b8", "right": "0a123"}, 5)["intents"].tolist()
    [1, 0, 1, 1, 1]
    """
    found = {}
    for name, text in words.items():
        values = [int(digit, 36) for digit in text]
        if name in BITS:
            values = [int(bit) for value in values for bit in f"{value:04b}"][:sentences]
        found[name] = np.array(values)
    return found


def difference(one: Counts, other: Counts, draws: int = DRAWS, seed: int = 0) -> dict:
    """Return the difference of two arms' mean scores, with the middle 95 % of a bootstrap.

    Every draw takes as many sentences as there are, with replacement and the same for both arms,
    and of each arm as many of its runs as it has.

    Args:
        one, other: counts (runs, sentences) of two arms; the sentences are the same.
    """
    chance = np.random.default_rng(seed)
    sentences = np.asarray(one[next(iter(one))]).shape[-1]
    drawn = chance.multinomial(sentences, np.full(sentences, 1 / sentences), size=draws).T
    means, there = [], []
    for counts in (one, other):
        there.append(float(metrics(counts)["score"].mean()))
        scores = metrics(counts, drawn)["score"]  # (runs, draws)
        runs = chance.integers(len(scores), size=scores.shape)
        means.append(np.take_along_axis(scores, runs, 0).mean(0))
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    found = {"difference": there[0] - there[1], "low": low, "high": high}
    return {name: round(float(value), 3) for name, value in found.items()}
