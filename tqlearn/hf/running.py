"""What every command-line recipe shares: defaults for the Trainer, checkpoints, the record."""

import json
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

from torch import nn
from transformers import TrainerState, TrainingArguments

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


def newest_checkpoint(training: TrainingArguments) -> str | None:
    """Return where to resume: "last" is the newest checkpoint, if any; a path stays a path."""
    wanted = training.resume_from_checkpoint
    if wanted in ("last", "true", "True", True):
        found = last_checkpoint(training.output_dir)
        return str(found) if found else None
    return wanted


def last_checkpoint(folder: str | Path) -> Path | None:
    """Return a run's newest checkpoint.

    One without ``trainer_state.json``, which is written last, was cut short by a kill.
    """
    states = Path(folder).glob("checkpoint-*/trainer_state.json")
    steps = {int(n): f.parent for f in states if (n := f.parent.name.split("-")[1]).isdigit()}
    return steps[max(steps)] if steps else None


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
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{split}: " + ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()) + f" -> {file}")
    return record
