"""Intent accuracy, token accuracy and span F1, on strings."""

import warnings

import numpy as np
import torch

from .joint import first_pieces, split_words


def joint_metrics(gold_intents, pred_intents, gold_slots, pred_slots):
    """Percent: ``intent_accuracy``, ``token_accuracy`` (tags, O included), ``slot_f1`` (spans).

    Span F1 is the CoNLL measure by seqeval: a span counts when its borders and its type are right.
    Gold labels stay the original strings, so a label that training never saw is always wrong.

    Raises:
        ValueError: nothing to score, or lists of different length.

    >>> joint_metrics(["a"], ["a"], [["O", "B-x"]], [["O", "O"]])["token_accuracy"]
    50.0
    """
    from seqeval.metrics import f1_score

    if not gold_intents or len(gold_intents) != len(pred_intents):
        raise ValueError(
            f"need equally many gold and predicted rows, at least one; got {len(gold_intents)} "
            f"and {len(pred_intents)}"
        )
    lengths = [len(row) for row in gold_slots], [len(row) for row in pred_slots]
    if lengths[0] != lengths[1]:
        raise ValueError("gold and predicted slots must have one tag per word in every row")
    hits = [g == p for g, p in zip(gold_intents, pred_intents, strict=True)]
    tags = [
        g == p
        for gold, pred in zip(gold_slots, pred_slots, strict=True)
        for g, p in zip(gold, pred, strict=True)
    ]
    # an "UNK" prediction is a wrong span, not a hole; seqeval wants it in IOB form
    spans = [["B-UNK" if tag == "UNK" else tag for tag in row] for row in pred_slots]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*", module="seqeval"
        )  # no spans at all: F1 is 0
        f1 = f1_score([list(row) for row in gold_slots], spans, zero_division=0)
    return {
        "intent_accuracy": 100 * float(np.mean(hits)),
        "token_accuracy": 100 * float(np.mean(tags)),
        "slot_f1": 100 * float(f1),
    }


@torch.no_grad()
def predict_joint(model, tokenizer, sentences, batch_size=32, max_length=128):
    """Lists of words -> (intents, slots): one intent and one tag per word, as strings.

    The model is put into eval mode for the call and left as it was. Words beyond ``max_length``
    pieces, and words the tokenizer drops, get the tag "O".
    """
    intents, slots = [], []
    training = model.training
    model.eval()
    sentences = sentences[:]  # a column of a Dataset decodes each row anew, each time it is asked
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))  # little padding
    for start in range(0, len(order), batch_size):
        words = [list(sentences[i]) for i in order[start : start + batch_size]]
        pieces = split_words(tokenizer, words, max_length)
        batch = tokenizer.pad(
            {key: pieces[key] for key in ("input_ids", "attention_mask")}, return_tensors="pt"
        ).to(model.device)
        output = model(**batch)
        intents += [model.config.intent_labels[i] for i in output.intent_logits.argmax(-1).tolist()]
        slots += [
            _tags(encoding, row, len(sentence), model.config.slot_labels)
            for encoding, row, sentence in zip(
                pieces.encodings, output.slot_logits.argmax(-1).tolist(), words, strict=True
            )
        ]
    model.train(training)
    back = sorted(range(len(order)), key=order.__getitem__)
    return [intents[i] for i in back], [slots[i] for i in back]


def _tags(encoding, row, words, names):
    tags = ["O"] * words
    for position, word in enumerate(first_pieces(encoding)):
        if word is not None:
            tags[word] = names[row[position]]
    return tags


def evaluate_joint(model, tokenizer, split, batch_size=32, max_length=128):
    """``joint_metrics`` of a model on a raw split (columns tokens, slots, intent)."""
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    intents, slots = predict_joint(model, tokenizer, split["tokens"], batch_size, max_length)
    return joint_metrics(split["intent"][:], intents, split["slots"][:], slots)


def trainer_metrics(intents, slots):
    """``compute_metrics`` for a Trainer on ``encode_joint`` rows; gold "UNK" counts as wrong.

    Adds ``score``, the mean of intent accuracy and span F1, to choose the best epoch by.
    """

    def compute(prediction):
        intent_logits, slot_logits = prediction.predictions[:2]
        gold_intents, gold_slots = prediction.label_ids
        slot_ids = slot_logits.argmax(-1)
        kept = gold_slots != -100
        metrics = joint_metrics(
            [_gold(intents[i]) for i in gold_intents],
            [intents[i] for i in intent_logits.argmax(-1)],
            [[_gold(slots[i]) for i in row[k]] for row, k in zip(gold_slots, kept, strict=True)],
            [[slots[i] for i in row[k]] for row, k in zip(slot_ids, kept, strict=True)],
        )
        return metrics | {"score": (metrics["intent_accuracy"] + metrics["slot_f1"]) / 2}

    return compute


def _gold(label):
    return "B-unseen" if label == "UNK" else label
