"""The tables of docs/export.md from ``results/runtime.json``: contestants, predictions, steps."""

import json
from pathlib import Path

NOTHING = "Not measured yet; `benchmarks/runtime.py` does.\n"
FIXED = ("model", "threads", "file", "loads in", "in memory", "same intents / slots")


def sections(results: Path) -> str:
    """Return a table for each shape, of predictions and of training steps, and their origin."""
    file = results / "runtime.json"
    if not file.exists():
        return NOTHING
    found = json.loads(file.read_text())
    timed = [row for row in found["rows"] if "tokens" in row["metrics"]]
    script = " ".join(found["command"].split()[:2])
    parts = [
        f"[runtime](../benchmarks/results/runtime.json): `{script}`, {found['date'][:10]}, "
        f"{found['machine']}. Columns of sizes: how many times faster than torch's FP32 model in "
        "the same turns, sentences x tokens.\n"
    ]
    for shape in dict.fromkeys(row["metrics"]["shape"] for row in timed):
        rows = [row for row in timed if row["metrics"]["shape"] == shape]
        parts.append(f"**{shape}**\n\n" + drawn(lines(rows)))
    for shape, cells in found.items():
        if isinstance(cells, dict) and "agreement" in cells:
            head = f"**Predictions on ATIS's test sentences, {shape}** (%)\n\n"
            parts.append(head + drawn(agreement_lines(cells["agreement"])))
    steps = [row for row in found["rows"] if "tokens" not in row["metrics"]]
    if steps:
        parts.append("**A training step** (8 x 64 tokens, AdamW)\n\n" + drawn(step_lines(steps)))
    return "\n".join(parts)


def lines(rows: list[dict]) -> list[dict[str, str]]:
    """Return one line per contestant and number of threads."""
    found: dict[tuple, dict[str, str]] = {}
    for row in rows:
        metrics, name = row["metrics"], row["model"].split(",")[0]
        line = found.setdefault((metrics["threads"], name), {"model": name})
        line |= {"threads": str(metrics["threads"])}
        line["file"] = f"{row['bytes']['file'] / 1e6:,.1f} MB"
        if "load_seconds" in metrics:
            line["loads in"] = f"{metrics['load_seconds']:.2f} s"
            line["in memory"] = f"{metrics['resident'] / 1e6:,.0f} MB"
        if "same_intents" in metrics:
            pair = metrics["same_intents"], metrics["same_slots"]
            line["same intents / slots"] = " / ".join(f"{x:.2f} %" for x in pair)
        size = f"{metrics['batch']} x {metrics['tokens']}"
        line[size] = f"{row['speed']['speedup']:.2f}x"
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def agreement_lines(agreement: dict[str, dict]) -> list[dict[str, str]]:
    """Return one line per student: its slot F1 in both engines, and how often they agree."""
    return [
        {
            "model": name,
            "slot F1 in torch": f"{one['torch']['slot_f1']:.2f}",
            "in ORT": f"{one['ort']['slot_f1']:.2f}",
            "same intents": f"{one['same_intents']:.2f}",
            "same slots": f"{one['same_slots']:.2f}",
            "same slots, torch in double precision": f"{one['double']['same_slots']:.2f}",
        }
        for name, one in agreement.items()
    ]


def step_lines(rows: list[dict]) -> list[dict[str, str]]:
    """Return one line per training step."""
    return [
        {
            "model": ", ".join(row["model"].split(", ")[1:]),
            "seconds": f"{row['speed']['seconds']:.2f}",
            "faster": f"{row['speed']['speedup']:.2f}x",
        }
        for row in rows
    ]


def drawn(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table; a cell that a row leaves out is empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=lambda column: FIXED.index(column) if column in FIXED else len(FIXED))
    table = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
