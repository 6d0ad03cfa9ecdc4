"""The ledger: what each notebook's model weighs, costs and knows, in a small file of the reader's.

    ledger.add("02", {"teacher": teacher, "tensor trains": student}, tokenizer, flights["test"])
    ledger.show()

Every notebook adds its rows, in any order; the last notebook plots them all.
"""

import json
import os
import time
from collections.abc import Mapping
from math import log10
from pathlib import Path
from statistics import median

import plotly.graph_objects as go
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import report
from . import plots

FILE = "ledger.json"  # in the reader's working folder; TQLEARN_LEDGER names another
KEYS = {"notebook", "model", "bytes", "macs", "intent_accuracy", "slot_f1", "cpu_ms"}
SENTENCES = 32  # in the batch that MACs and time are measured on


def path() -> Path:
    """Where the ledger lies."""
    return Path(os.environ.get("TQLEARN_LEDGER", FILE))


def rows() -> list[dict]:
    """Everything written so far, by notebook; nothing if there is no file yet.

    Raises:
        ValueError: the file is no ledger.
    """
    if not path().is_file():
        return []
    try:
        found = json.loads(path().read_text("utf-8"))
        fine = all(KEYS == row.keys() for row in found)
    except (ValueError, AttributeError, TypeError):
        fine = False
    if not fine:
        raise ValueError(f"{path()} is no ledger of this course; delete it to begin anew")
    return found


@torch.no_grad()
def measure(model: nn.Module, tokenizer: object, sentences: object) -> dict:
    """Measure a joint intent + slot model.

    Args:
        sentences: a split of a joint data set, such as ``tq.data.load("flights")["test"]``.

    Returns:
        ``bytes`` of the whole file that ``save`` would write; ``macs``, multiply-adds per sentence;
        ``intent_accuracy`` and ``slot_f1`` (whole spans) in percent; ``cpu_ms``, processor
        milliseconds per sentence, the median of five batches of 32.
    """
    from ..hf import evaluate_joint  # transformers is slow to import, and not everyone measures
    from ..hf.attention import attention_of

    model.eval()
    batch = tokenizer(
        sentences[:SENTENCES]["tokens"], is_split_into_words=True, padding=True, return_tensors="pt"
    )
    # torch does not count the fused kinds on CPUs
    with attention_of(model, "eager"), FlopCounterMode(display=False) as counter:
        model(**batch)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        model(**batch)
        seconds.append(time.process_time() - start)
    scores = evaluate_joint(model, tokenizer, sentences)
    return {
        "bytes": report(model).file,
        "macs": counter.get_total_flops() // 2 // SENTENCES,
        "intent_accuracy": scores["intent_accuracy"],
        "slot_f1": scores["slot_f1"],
        "cpu_ms": round(1000 * median(seconds) / SENTENCES, 3),
    }


def add(
    notebook: str, models: Mapping[str, nn.Module], tokenizer: object, sentences: object
) -> list[dict]:
    """Measure models and write a row for each; a row of the same name is replaced.

    Args:
        notebook: its number, such as "02"; the teacher's row is everybody's, its number "--".

    Returns:
        The new rows.

    Raises:
        ValueError: the ledger's file is something else (nothing is written).
    """
    old = rows()
    new = []
    for name, model in models.items():
        number = "--" if name == "teacher" else notebook
        new.append({"notebook": number, "model": name} | measure(model, tokenizer, sentences))
    names = {(row["notebook"], row["model"]) for row in new}
    kept = [row for row in old if (row["notebook"], row["model"]) not in names]
    ordered = sorted(kept + new, key=lambda row: (row["notebook"] != "--", row["notebook"]))
    beside = path().with_name(f"{path().name}.{os.getpid()}")
    beside.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")
    beside.replace(path())  # whole or not at all, also when two notebooks write
    return new


def table(entries: list[dict]) -> str:
    """The rows as text."""
    wide = max([len(row["model"]) for row in entries] + [5])
    head = f"{'nb':3} {'model':{wide}} {'bytes':>10} {'MACs':>11} {'intents':>8} {'slots':>7} "
    lines = [
        f"{row['notebook']:3} {row['model']:{wide}} {row['bytes']:>10,} {row['macs']:>11,} "
        f"{row['intent_accuracy']:>6.1f} % {row['slot_f1']:>5.1f} % {row['cpu_ms']:>6.2f} ms"
        for row in entries
    ]
    return "\n".join([head + f"{'CPU':>9}", *lines])


def draw(entries: list[dict]) -> go.Figure:
    """Draw bytes against slot F1; the area of a dot is its multiply-adds."""
    most = max(row["macs"] for row in entries)
    sizes = [row["bytes"] / 1e3 for row in entries]
    return plots.figure(
        go.Scatter(
            x=sizes,
            y=[row["slot_f1"] for row in entries],
            text=[row["model"] for row in entries],
            textposition=[  # no name may lie on the numbers of the axis
                f"{'top' if row['slot_f1'] < 15 else 'bottom'} center" for row in entries
            ],
            mode="markers+text",
            cliponaxis=False,
            marker={
                "size": [8 + 26 * (row["macs"] / most) ** 0.5 for row in entries],
                "color": [plots.GRAY if row["notebook"] == "--" else plots.BLUE for row in entries],
            },
            hovertemplate="%{text}: %{x:.0f} kB, %{y:.1f} %<extra></extra>",
        ),
        title="Your ledger: kilobytes, slots, and work (area)",
        x="kilobytes of the whole file (logarithmic)",
        y="slots, span F1 in percent",
        xaxis_type="log",
        xaxis_range=[log10(min(sizes)) - 0.2, log10(max(sizes)) + 0.2],
        xaxis_tickvals=[digit * 10**power for power in range(6) for digit in (1, 2, 5)],
        yaxis_range=[0, 105],
    )


def show() -> None:
    """Print and plot the ledger; say how to begin one if there is none.

    Raises:
        ValueError: the file is no ledger.
    """
    entries = rows()
    if not entries:
        print("Your ledger is empty: run the ledger cell of a notebook that you have been through.")
        return
    print(table(entries))
    plots.show(draw(entries))
