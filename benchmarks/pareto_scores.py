"""What a test sentence is worth: counts per sentence, and the strings that a run keeps of them.

Scores of many and the paired bootstrap are those of lesson 15, ``tqlearn.lab.pareto``.
"""

from collections.abc import Sequence

from datasets import Dataset
from seqeval.metrics.sequence_labeling import get_entities
from torch import nn

from tqlearn.hf.metrics import predict_joint
from tqlearn.hf.sentences import predict_sentences
from tqlearn.lab.pareto import BITS, Counts, decoded, difference, metrics

__all__ = ["coded", "counted", "decoded", "difference", "metrics", "percent", "spans"]

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


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
