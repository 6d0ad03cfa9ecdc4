"""Sentence classification: data for an ordinary transformers classifier, and its accuracy."""

import numpy as np
import torch


def encode_sentences(dd, tokenizer, max_length=128):
    """Columns sentence, label -> ids and ``labels``: ready for a Trainer, which pads by itself.

    Longer sentences are cut at ``max_length`` pieces.

    Raises:
        ValueError: a split has no columns sentence and label.
    """
    from datasets import Dataset, DatasetDict

    def encode(split):
        if not {"sentence", "label"} <= set(split.column_names):
            raise ValueError(f"needs columns sentence and label, got {split.column_names}")
        pieces = tokenizer(list(split["sentence"]), truncation=True, max_length=max_length)
        ids = pieces["input_ids"]
        columns = {key: pieces[key] for key in pieces}
        lengths = [len(row) for row in ids]
        return Dataset.from_dict(columns | {"labels": list(split["label"]), "length": lengths})

    return DatasetDict({name: encode(split) for name, split in dd.items()})


@torch.no_grad()
def predict_sentences(model, tokenizer, sentences, batch_size=64, max_length=128):
    """A list of texts -> a list of class numbers.

    The model is put into eval mode for the call and left as it was.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))  # little padding
    classes = [0] * len(sentences)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer(
            [sentences[i] for i in chosen],
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        for i, best in zip(chosen, model(**batch).logits.argmax(-1).tolist(), strict=True):
            classes[i] = best
    model.train(training)
    return classes


def evaluate_sentences(model, tokenizer, split, batch_size=64, max_length=128):
    """Percent right on a raw split (columns sentence, label): {"accuracy": ...}.

    Raises:
        ValueError: the split is empty.
    """
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    found = predict_sentences(model, tokenizer, list(split["sentence"]), batch_size, max_length)
    return {"accuracy": 100 * float(np.mean(np.array(found) == np.array(split["label"])))}


def sentence_metrics(prediction):
    """``compute_metrics`` for a Trainer: accuracy in percent, and ``score``, to choose the best."""
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    accuracy = 100 * float(np.mean(logits.argmax(-1) == prediction.label_ids))
    return {"accuracy": accuracy, "score": accuracy}
