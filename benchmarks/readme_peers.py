"""The tables of docs/language_models.md from ``smollm2_peers.json`` and ``smollm2_speed.json``."""

import json
from pathlib import Path

from readme_runtime import drawn

NOTHING = "Not measured yet; `benchmarks/{}.py` does.\n"


def sections(results: Path) -> str:
    """Return both tables, each behind where it comes from."""
    parts = [told(results, "smollm2_peers", _judged), told(results, "smollm2_speed", _timed)]
    return "\n".join(parts)


def told(results: Path, name: str, draw: object) -> str:
    """Return a result as ``draw`` shows it, or that there is none."""
    file = results / f"{name}.json"
    if not file.exists():
        return NOTHING.format(name)
    found = json.loads(file.read_text())
    script = " ".join(found["command"].split()[:2])
    origin = f"[{name}](../benchmarks/results/{name}.json): `{script}`, {found['date'][:10]}"
    return draw(found, f"{origin}, {found['machine']}")


def _judged(found: dict, origin: str) -> str:
    """Perplexity and KL, by bits per weight."""
    rows = sorted(found["rows"], key=lambda row: -row["metrics"]["bits_per_weight"])
    lines = [
        {
            "bits per weight": f"{row['metrics']['bits_per_weight']:.2f}",
            "layers in": row["model"].replace("float", "floats"),
            "perplexity": f"{row['metrics']['perplexity']:,.2f}",
            "KL": f"{row['metrics']['kl']:.4f}" if "kl" in row["metrics"] else "",
        }
        for row in rows
    ]
    return f"{origin}; {found['settings']['tokens']:,} tokens.\n\n{drawn(lines)}"


def _timed(found: dict, origin: str) -> str:
    """A line per contestant, a column of speed per number of threads."""
    lines: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        metrics, (name, _) = row["metrics"], row["model"].rsplit(", ", 1)
        line = lines.setdefault(name, {"engine": name})
        line["weights on disk"] = f"{row['bytes']['file'] / 1e6:,.1f} MB"
        if "load_seconds" in metrics:
            line["loads in (s)"] = f"{metrics['load_seconds']:.2f}"
            line["held"] = f"{metrics['resident'] / 1e6:,.0f} MB"
            line["at most"] = f"{metrics['peak'] / 1e6:,.0f} MB"
        n = metrics["threads"]
        line[f"tokens per second, {n} thread{'s' * (n > 1)}"] = (
            f"{metrics['tokens_per_second']:.1f}"
        )
        if n == 1:
            line["as fast as FP32"] = f"{row['speed']['speedup']:.2f}x"
        line["same tokens"] = f"{metrics['same_tokens']} of {found['settings']['new']}"
    return f"{origin}; {found['settings']['repeats']} turns.\n\n{drawn([*lines.values()])}"
