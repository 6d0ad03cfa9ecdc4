"""What a recipe must know of its task: encoded data, collator, metrics, and which logits to match.

Five tasks so far: sentences into classes (``BertForSequenceClassification``), answers cut out of a
context (``BertForQuestionAnswering``), joint intents and slots (``BertForJointIntentSlot``),
pictures into classes (``ViTForImageClassification``) and sounds into classes
(``Wav2Vec2ForSequenceClassification``). The columns of the data decide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..distill import hidden_mse, score_mse
from . import joint, metrics, pictures, questions, sentences, sounds


@dataclass(frozen=True)
class Task:
    """Everything that a ``Trainer`` takes for a task, and how its models are evaluated.

    Args:
        trainer: keyword arguments for a ``Trainer``: data sets, collator, metrics, tokenizer.
        label_names: for ``TrainingArguments``.
        evaluate: called as evaluate(model, tokenizer, raw_split); returns percentages.
        split: name of the split to report, "test" or, without one, "validation".
        max_length: longest row, in pieces; None for pictures and sounds, which are not cut.
    """

    trainer: dict[str, Any]
    label_names: list[str]
    evaluate: Callable
    split: str
    max_length: int | None


def require_joint(dd, model):
    """Refuse a model of intents and slots for other data, by a ValueError."""
    columns = dd["train"].column_names
    if isinstance(model, joint.BertForJointIntentSlot) and "intent" not in columns:
        raise ValueError(
            f"the model tells intents and slots, the data has columns {columns}; take a model for "
            "it: python -m tqlearn.recipes.finetune makes one"
        )


def prepare(dd, tokenizer, config, max_length=None, stride=128, augment="none"):
    """``Task`` of a ``DatasetDict`` for models with this config.

    Args:
        tokenizer: for pictures the model's image processor, for sounds its feature extractor.
        config: a joint model's carries ``intent_labels`` and ``slot_labels``.
        max_length: longest row, in pieces; default 64 (longer sentences are cut) and 384 for
            questions (longer contexts become several rows).
        stride: for questions, pieces of the context that neighbouring rows share.
        augment: for pictures to train on, "none", "shift" or "shift_mirror".

    Raises:
        ValueError: no validation split; joint data, but a config without the two lists of labels;
            questions with a ``max_length`` beyond the model's positions, or that leave no room;
            ``augment`` or ``max_length`` where it changes nothing; fewer classes than labels; rows
            longer than the model's positions.
    """
    if not {"train", "validation"} <= set(dd):
        raise ValueError(f"training needs the splits train and validation, got {[*dd]}")
    columns = dd["train"].column_names
    arrays = bool({"image", "audio"} & set(columns))
    if augment != "none" and "image" not in columns:
        raise ValueError(f"augment is for pictures only, got columns {columns}")
    if max_length is not None and arrays:
        raise ValueError(f"pictures and sounds are not cut: leave max_length={max_length} out")
    if "label" in columns and not arrays and max(dd["train"]["label"]) >= config.num_labels:
        raise ValueError(
            f"the data has labels up to {max(dd['train']['label'])}, the model {config.num_labels} "
            "classes, from 0; take one that was fine-tuned on this data"
        )
    if max_length is None and not arrays:
        max_length = 384 if "question" in columns else 64
    if "image" in columns:
        encoded = pictures.encode_pictures(dd, tokenizer, augment)
        collator, compute = pictures.picture_collator, sentences.sentence_metrics
        evaluate, names = pictures.evaluate_pictures, ["labels"]
    elif "audio" in columns:
        encoded = sounds.encode_sounds(dd, tokenizer)
        collator, compute = sounds.SoundCollator(tokenizer), sentences.sentence_metrics
        evaluate, names = sounds.evaluate_sounds, ["labels"]
    elif "question" in columns:
        if max_length > config.max_position_embeddings:
            raise ValueError(
                f"the model has {config.max_position_embeddings} positions, but rows of questions "
                f"and contexts may have {max_length} pieces; lower max_length and stride"
            )
        encoded = questions.encode_questions(dd, tokenizer, max_length, stride)
        collator, compute = None, questions.question_metrics
        evaluate = partial(questions.evaluate_questions, max_length=max_length, stride=stride)
        names = ["start_positions", "end_positions"]
    elif "label" in columns:
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
    longest = 0 if arrays else max(encoded["train"]["length"], default=0)
    if longest > (positions := getattr(config, "max_position_embeddings", longest)):
        raise ValueError(
            f"the model has {positions} positions, and a row {longest} pieces; lower max_length"
        )
    shared = {
        "train_dataset": encoded["train"],
        "eval_dataset": encoded["validation"],
        "data_collator": collator,
        "compute_metrics": compute,
        "processing_class": tokenizer,
    }
    split = "test" if "test" in dd else "validation"
    return Task(shared, names, evaluate, split, max_length)


def logit_pairs(student, teacher, inputs):
    """List of (name, student's logits, teacher's logits, mask of rows or None) of two outputs.

    Slots count at the first piece of each word, where they have a label; the starts and ends of
    answers are choices among all pieces of a row, padding included as in BERT's own loss.
    """
    if getattr(student, "start_logits", None) is not None:
        return [
            ("starts", student.start_logits, teacher.start_logits, None),
            ("ends", student.end_logits, teacher.end_logits, None),
        ]
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
