"""The ledger: what each notebook's model weighs, costs and knows, in a small file of the reader's.

    ledger.add("02", {"teacher": teacher, "tensor trains": student}, tokenizer, flights["test"])
    ledger.show()

Every notebook adds its rows, in any order, two at once as well; the last notebook plots them all.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from statistics import median

import plotly.graph_objects as go
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import report
from ..locks import locked
from ..writing import write
from . import plots

FILE = "ledger.json"  # in the reader's working folder; TQLEARN_LEDGER names another
WORDS, WHOLE = ("notebook", "model"), ("bytes", "macs")
KEYS = {*WORDS, *WHOLE, "intent_accuracy", "slot_f1", "cpu_ms"}
WAY = "move it away or delete it to begin anew, or name another with TQLEARN_LEDGER"
AREA, TOP = (680, 290), 105  # pixels inside the axes of a still picture; percent at their top
LETTER = (8, 18)  # pixels of a letter, wide and high
PLACES = [f"{y} {x}" for x in ("center", "right", "left") for y in ("bottom", "middle", "top")]
PLACES.remove("middle center")  # on the dot
SENTENCES = 32  # in the batch that MACs and time are measured on


def path() -> Path:
    """Where the ledger lies."""
    return Path(os.environ.get("TQLEARN_LEDGER", FILE))


def rows() -> list[dict]:
    """Everything written so far, by notebook; nothing if there is no file yet.

    Raises:
        ValueError: the file is no ledger, or was damaged; the message says where.
    """
    if not path().exists():
        return []
    try:
        found = json.loads(path().read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path()} cannot be read as a ledger: {error.strerror}; {WAY}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path()} is no ledger of this course: {error}; {WAY}") from error
    if wrong := _wrong(found):
        raise ValueError(f"{path()} is no ledger of this course: {wrong}; {WAY}")
    return found


def _wrong(found: object) -> str:
    """Say what is wrong with the content of a ledger; nothing if it is one."""
    if not isinstance(found, list):
        return f"it holds a {type(found).__name__} where a list of rows is wanted"
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict) or row.keys() != KEYS:
            have = sorted(row) if isinstance(row, dict) else row
            return f"row {number} must have {sorted(KEYS)}, but has {have}"
        for key, value in row.items():
            kinds = str if key in WORDS else int if key in WHOLE else int | float
            fine = isinstance(value, kinds) and not isinstance(value, bool)
            if not fine or (key in WHOLE and value < 1):
                return f"{key} of row {number} cannot be {value!r}"
    return ""


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

    What other notebooks add meanwhile stays: the file is read again, under a lock, when the rows
    are there.

    Args:
        notebook: its number, such as "02"; the teacher's row is everybody's, its number "--".

    Returns:
        The new rows.

    Raises:
        ValueError: the ledger's file is something else (nothing is written).
        OSError: it cannot be written; the old one is unchanged.
    """
    rows()  # what is no ledger is refused before anything is measured
    new = []
    for name, model in models.items():
        number = "--" if name == "teacher" else notebook
        new.append({"notebook": number, "model": name} | measure(model, tokenizer, sentences))
    put(new)
    return new


def put(new: list[dict]) -> None:
    """Add rows to the file, each in the place of one of the same name.

    Raises:
        ValueError: the file is no ledger (nothing is written).
        OSError: it cannot be written; the old one is unchanged.
    """
    names = {(row["notebook"], row["model"]) for row in new}
    with locked(path()):
        kept = [row for row in rows() if (row["notebook"], row["model"]) not in names]
        ordered = sorted(kept + new, key=lambda row: (row["notebook"] != "--", row["notebook"]))
        write(path(), json.dumps(ordered, indent=1) + "\n")


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


def labels(points: Sequence[tuple]) -> list[tuple[str, str]]:
    """Return what to write at each point of a picture and where: within it, no two texts overlap.

    Args:
        points: pixels from the left, pixels from below, radius of the dot, and its name.

    Returns:
        Name and plotly's place for it. Where every place is taken the name is empty: the table
        above the picture has it, and so has the dot under the mouse.
    """
    taken = [(x - r, x + r, y - r, y + r) for x, y, r, _ in points]
    found = []
    for x, y, r, name in points:
        wide, high = LETTER[0] * len(name), LETTER[1]
        across = {"center": x - wide / 2, "right": x + r, "left": x - r - wide}
        up = {"bottom": y - r - high, "top": y + r, "middle": y - high / 2}
        lowest = sorted(PLACES, key=lambda place: "bottom" in place)  # not on the axis's numbers
        for place in PLACES if y > 2 * high else lowest:
            left, low = across[place.split()[1]], up[place.split()[0]]
            box = (left, left + wide, low, low + high)
            if 0 <= left <= AREA[0] - wide and not any(
                box[0] < b[1] and b[0] < box[1] and box[2] < b[3] and b[2] < box[3] for b in taken
            ):
                taken.append(box)
                found.append((name, place))
                break
        else:
            found.append(("", PLACES[0]))
    return found


def draw(entries: list[dict]) -> go.Figure:
    """Draw bytes against slot F1; the area of a dot is its multiply-adds."""
    most = max(row["macs"] for row in entries)
    sizes = [row["bytes"] / 1e3 for row in entries]
    dots = [8 + 26 * (row["macs"] / most) ** 0.5 for row in entries]
    low, high = log10(min(sizes)) - 0.2, log10(max(sizes)) + 0.2
    points = [
        (AREA[0] * (log10(size) - low) / (high - low), AREA[1] * row["slot_f1"] / TOP, dot / 2,
         row["model"])
        for row, size, dot in zip(entries, sizes, dots, strict=True)
    ]  # fmt: skip
    names, places = zip(*labels(points), strict=True)
    return plots.figure(
        go.Scatter(
            x=sizes,
            y=[row["slot_f1"] for row in entries],
            text=names,
            textposition=places,
            hovertext=[row["model"] for row in entries],
            mode="markers+text",
            cliponaxis=False,
            marker={
                "size": dots,
                "color": [plots.GRAY if row["notebook"] == "--" else plots.BLUE for row in entries],
            },
            hovertemplate="%{hovertext}: %{x:.0f} kB, %{y:.1f} %<extra></extra>",
        ),
        title="Your ledger: kilobytes, slots, and work (area)",
        x="kilobytes of the whole file (logarithmic)",
        y="slots, span F1 in percent",
        xaxis_type="log",
        xaxis_range=[low, high],
        xaxis_tickvals=[digit * 10**power for power in range(6) for digit in (1, 2, 5)],
        yaxis_range=[0, TOP],
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
