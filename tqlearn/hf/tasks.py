"""What a recipe must know of its task: encoded data, collator, metrics, and which logits to match.

Two tasks so far: sentences into classes (``BertForSequenceClassification``) and joint intents and
slots (``BertForJointIntentSlot``). The columns of the data decide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..distill import hidden_mse, score_mse
from . import joint, metrics, sentences


@dataclass(frozen=True)
class Task:
    """Everything that a ``Trainer`` takes for a task, and how its models are evaluated.

    Args:
        trainer: keyword arguments for a ``Trainer``: data sets, collator, metrics, tokenizer.
        label_names: for ``TrainingArguments``.
        evaluate: called as evaluate(model, tokenizer, raw_split); returns percentages.
        split: name of the split to report, "test" or, without one, "validation".
    """

    trainer: dict[str, Any]
    label_names: list[str]
    evaluate: Callable
    split: str


def prepare(dd, tokenizer, config, max_length=64):
    """``Task`` of a ``DatasetDict`` for models with this config.

    Args:
        config: a joint model's carries ``intent_labels`` and ``slot_labels``.
        max_length: longest sentence, in pieces; longer ones are cut.

    Raises:
        ValueError: joint data, but a config without the two lists of labels.
    """
    if "label" in dd["train"].column_names:
        encoded = sentences.encode_sentences(dd, tokenizer, max_length)
        collator, compute = None, sentences.sentence_metrics
        evaluate, names = sentences.evaluate_sentences, ["labels"]
    else:
        labels = getattr(config, "intent_labels", None), getattr(config, "slot_labels", None)
        if None in labels:
            raise ValueError(
                "intents and slots need a model that was fine-tuned on them: "
                "python -m tqlearn.recipes.finetune makes one"
            )
        encoded = joint.encode_joint(dd, tokenizer, *labels, max_length)
        collator, compute = joint.JointCollator(tokenizer), metrics.trainer_metrics(*labels)
        evaluate, names = metrics.evaluate_joint, ["intent_labels", "slot_labels"]
    shared = {
        "train_dataset": encoded["train"],
        "eval_dataset": encoded["validation"],
        "data_collator": collator,
        "compute_metrics": compute,
        "processing_class": tokenizer,
    }
    return Task(shared, names, evaluate, "test" if "test" in dd else "validation")


def logit_pairs(student, teacher, inputs):
    """List of (name, student's logits, teacher's logits, mask of rows or None) of two outputs.

    Slots count at the first piece of each word, where they have a label.
    """
    if "slot_labels" not in inputs:
        return [("classes", student.logits, teacher.logits, None)]
    first_pieces = inputs["slot_labels"] != -100
    return [
        ("intents", student.intent_logits, teacher.intent_logits, None),
        ("slots", student.slot_logits, teacher.slot_logits, first_pieces),
    ]


def every_layer(student, teacher, mask):
    """The mean squared errors that KroneckerBERT and KDLSQ-BERT sum, as three named terms.

    Args:
        student, teacher: outputs of two models with ``hidden_states`` (embedding output, then each
            layer's) and ``attentions`` that hold scores before the softmax, see
            ``hf.attention.SCORES``.

        mask: (batch, tokens), 1 for real tokens.

    Raises:
        ValueError: teacher and student differ in depth.

    Source: spec sheets KroneckerBERT, 2.1, and KDLSQ, section 5 (L_rep is embeddings + layers).
    """
    hidden = [*zip(student.hidden_states, teacher.hidden_states, strict=True)]
    maps = zip(student.attentions, teacher.attentions, strict=True)
    return {
        "embeddings": hidden_mse(*hidden[0], mask),
        "scores": torch.stack([score_mse(*pair, mask) for pair in maps]).sum(),
        "layers": torch.stack([hidden_mse(*pair, mask) for pair in hidden[1:]]).sum(),
    }
