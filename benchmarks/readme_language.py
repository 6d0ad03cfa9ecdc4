"""The tables of docs/language_models.md: SmolLM2 taught again, and with another structure."""

import json
from pathlib import Path

from readme_runtime import drawn


def distilled(results: Path) -> str:
    """Return what few bits cost before and after training, and which rates were tried."""
    found = read(results, "smollm2_distill")
    rows = [] if found is None else found["rows"]
    arms = [row for row in rows if "perplexity" in row["metrics"]]
    if not arms:
        return nothing("smollm2_distill")
    lines = [judged(row) | lessons(row["metrics"]) for row in arms]
    tried = [row for row in rows if row not in arms]
    rates = ", ".join(f"{row['model'].split('rate ')[1]}: {held_out(row)}" for row in tried)
    said = ""
    if tried:
        steps = found["settings"]["lessons"]["pilot"]
        said = f"\nLoss on held-out training text after {steps} steps: {rates}.\n"
    return source(found, "smollm2_distill") + drawn(lines) + said


def structure(results: Path) -> str:
    """Return what a structure costs a decoder without training."""
    found = read(results, "smollm2_structure")
    if found is None:
        return nothing("smollm2_structure")
    lines = []
    for row in found["rows"]:
        share = f"{row['metrics']['weights']:.1%}"
        lines.append({"model": row["model"], "numbers left": share} | judged(row))
    return source(found, "smollm2_structure") + drawn(lines)


def judged(row: dict) -> dict[str, str]:
    """Return the columns that all rows have."""
    metrics = row["metrics"]
    return {
        "model": row["model"],
        "perplexity": number(metrics["perplexity"]),
        "KL": f"{metrics['kl']:.3f}" if "kl" in metrics else "",
        "file": f"{row['bytes']['file'] / 1e6:,.1f} MB",
    }


def lessons(metrics: dict) -> dict[str, str]:
    """Return what training took."""
    if "steps" not in metrics:
        return {}
    return {
        "steps": str(metrics["steps"]),
        "tokens seen": f"{metrics['tokens_seen']:,}",
        "hours": f"{metrics['hours']:.2f}",
        "rate": f"{metrics['learning_rate']:g}",
    }


def held_out(row: dict) -> str:
    """Return the loss of a rate."""
    return f"{next(v for k, v in row['metrics'].items() if k.startswith('held_out')):.3f}"


def number(value: float) -> str:
    """Return a perplexity, which may be huge."""
    return f"{value:,.1f}" if value < 1e6 else f"{value:.1e}"


def read(results: Path, name: str) -> dict | None:
    """Return a result, if it is measured."""
    file = results / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def source(found: dict, name: str) -> str:
    """Return where a table is from, and how many tokens judged it."""
    return (
        f"[{name}](../benchmarks/results/{name}.json): `benchmarks/{name}.py`, {found['date']}, "
        f"{found['settings']['tokens']:,} tokens.\n\n"
    )


def nothing(name: str) -> str:
    """Return what stands where nothing is measured yet."""
    return f"Not measured yet; `benchmarks/{name}.py` does.\n"
