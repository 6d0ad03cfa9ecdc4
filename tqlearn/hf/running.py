"""What every command-line recipe shares: defaults for the Trainer, what is saved, the record."""

import json
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerState, TrainingArguments

from ..writing import folder_beside, write
from .resuming import newest_checkpoint  # noqa: F401  (for recipes)

DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "score",  # mean of intent accuracy and span F1
    "greater_is_better": True,
    "train_sampling_strategy": "group_by_length",  # less padding, so less time
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "label_names": ["intent_labels", "slot_labels"],
    "dataloader_pin_memory": False,
    "report_to": "none",
}


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch dropout off, in place: attention maps that were dropped out are no maps to match."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def word_counts(split, vocabulary: int) -> tuple[int, ...]:
    """Return how often each id occurs in the ``input_ids`` of an encoded split."""
    counts = Counter(chain.from_iterable(split["input_ids"]))
    return tuple(counts.get(i, 0) for i in range(vocabulary))


def save_model(model: PreTrainedModel, tokenizer: object, folder: str | Path) -> None:
    """Write a model and what prepares its inputs; what the folder held stays until both are whole.

    Raises:
        OSError: the folder cannot be written; it is unchanged.
    """
    with folder_beside(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)


def save_trained(trainer: Trainer) -> None:
    """``trainer.save_model()``, but what the folder held stays until all of it is whole."""
    if trainer.args.push_to_hub:
        trainer.save_model()  # uploads from the folder itself
        return
    with folder_beside(trainer.args.output_dir) as new:  # the first process alone writes files
        trainer.save_model(str(new))


def write_metrics(
    recipe: str,
    training: TrainingArguments,
    data: str,
    split: str,
    metrics: dict,
    state: TrainerState,
    **extra: object,
) -> dict:
    """Write ``metrics.json`` into the output folder, print it in one line and return it."""
    record = {
        "command": " ".join([f"python -m tqlearn.recipes.{recipe}", *sys.argv[1:]]),
        "seed": training.seed,
        "data": data,
        "split": split,
        "best_validation": state.best_metric,
        "steps": state.global_step,
        "epochs": state.epoch,
        "processes": training.world_size,
        "metrics": metrics,
        **extra,
    }
    file = Path(training.output_dir) / "metrics.json"
    write(file, json.dumps(record, indent=2) + "\n")
    print(f"{split}: " + ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()) + f" -> {file}")
    return record
