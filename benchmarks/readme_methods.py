"""What "Which method for my case?" (docs/methods.md) says of measurements, from the results.

``readme_tables.py`` writes it into the page; ``readme_cases.py`` has the words and names the rows.
"""

import json
import re
from pathlib import Path

from pareto_summary import summary
from readme_cases import CASES
from readme_recipes import METRICS

RESULTS = "../benchmarks/results"  # as seen from docs/
UNKNOWN = "not measured by us yet"
HEAD = "| I want | take, with this plan | it cost us |\n|---|---|---|\n"
LISTED = re.compile(r"(?:slots|seeds:)(?: native)? (\d[\d.]*(?:, \d[\d.]*)*)")  # a score per seed
SPANNED = re.compile(r"seeds \[([\d, ]+)\]: \w+ ([\d.]+) to ([\d.]+)")
TASKS = {
    "atis": "ATIS",
    "sst2": "SST-2",
    "squad": "SQuAD",
    "flights": "flights",
    "multi30k": "Multi30k",
    "cifar10": "a sample of CIFAR-10",
    "fsdd": "spoken digits",
    "smollm2": "SmolLM2 on Wikipedia",
}  # a word of a result's name
LANGUAGE = ("smollm2",)  # judged by perplexity
EMBEDDED = ("compensation", "kronecker_or_pair", "train_or_pair", "two_four_training")  # on flights


def runs(row: dict) -> str:
    """In words, over how many seeds a row is a mean, and from where to where they lie."""
    note = row.get("note", "")
    if spanned := SPANNED.search(note):
        count, low, high = spanned[1].count(",") + 1, spanned[2], spanned[3]
    else:
        scores = found[1].split(", ") if (found := LISTED.search(note)) else ["0"]
        count, low, high = len(scores), min(scores, key=float), max(scores, key=float)
    return "one run" if count == 1 else f"{count} seeds, {low} to {high}"


def task(name: str) -> str:
    """What a result was measured on, in words.

    Raises:
        ValueError: its name does not tell.
    """
    words = ["flights"] if name in EMBEDDED else name.split("_")
    if not (known := [TASKS[word] for word in words if word in TASKS]):
        raise ValueError(f"{name} is none of {EMBEDDED} and has none of {[*TASKS]} in its name")
    return known[0]


def facts(name: str, model: str, results: Path) -> list[str]:
    """What a row says: the score before and after, bytes, speed, runs and where it stands.

    Raises:
        ValueError: the result has no such row.
    """
    result = json.loads((results / f"{name}.json").read_text())
    by_name = {row["model"]: row for row in result["rows"]}
    if model not in by_name:
        raise ValueError(f"{name} has no row {model!r}; there are {sorted(by_name)}")
    base = next(row for row in result["rows"] if row["role"] == "baseline")
    row = by_name[model]
    scores = [
        f"{word}{base['metrics'][key]:.2f} → {row['metrics'][key]:.2f}"
        for key, word in ({"perplexity": "perplexity "} if name in LANGUAGE else METRICS).items()
        if key in row.get("metrics", {})
    ]
    said = [f"{task(name)}: {', '.join(scores)}"] if scores else []
    if "file" in row.get("bytes", {}):
        before, after = (one["bytes"]["file"] / 1e6 for one in (base, row))
        said.append(f"{before:.2f} → {after:.2f} MB")
    elif said:
        said.append("bytes not measured in this run")
    if "speedup" in row.get("speed", {}):
        said.append(f"{row['speed']['speedup']:.2f}x faster")
    counted = runs(row)
    if "repeats" in result:
        counted += f", median of {result['repeats']} turns"
    return [*said, f"{counted}: [{model}]({RESULTS}/{name}.json)"]


def slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def table(results: Path) -> str:
    """A line per goal."""
    lines = []
    for case in CASES:
        cost = facts(*case.row, results) if case.row else [f"score, bytes, memory: {UNKNOWN}"]
        cost += [f"{case.missing}: {UNKNOWN}"] if case.missing else []
        recipe = case.command.split(" ")[0]
        sheet = f", recipe [{recipe}](../tqlearn/recipes/{recipe}.md)" if recipe else ""
        goal = f"[{case.goal}](#{slug(case.title)})"
        take = f"{case.take}{sheet}<br>`{case.plan}`"
        lines.append(f"| {goal} | {take} | {'<br>'.join(cost)} |\n")
    return HEAD + "".join(lines)


def details(results: Path) -> str:
    """A part per goal: words, code, command, what was measured."""
    parts = []
    for case in CASES:
        code = f"```python\n{case.code.replace('...', case.plan)}\n```"
        lines = [f"## {case.title}", case.words, code]
        if case.command:
            lines.append(f"```bash\npython -m tqlearn.recipes.{case.command}\n```")
        rows = [case.row, *case.beside] if case.row else []
        said = [f"* {'; '.join(facts(*row, results))}" for row in rows]
        said += [f"* {case.missing}: {UNKNOWN}"] if case.missing else []
        lines.append("\n".join(said) if said else f"Score, bytes and memory: {UNKNOWN}.")
        parts.append("\n\n".join(lines) + "\n")
    return "\n".join(parts)


def at_equal_bytes(results: Path) -> str:
    """A table per task and size of what was trained alike; sizes that are not whole stay out."""
    parts = []
    for name in ("pareto_flights", "pareto_atis", "pareto_sst2"):
        if not (path := results / f"{name}.json").exists():
            continue
        record = json.loads(path.read_text())
        lines = summary(record)
        for size in dict.fromkeys(line["size"] for line in lines):
            here = sorted((one for one in lines if one["size"] == size), key=lambda o: -o["score"])
            rows = [
                f"| {one['arm']} | {one['score']:.2f} | {one['difference']:+.2f} "
                f"({one['low']:+.2f} to {one['high']:+.2f}) | {one['verdict']} against "
                f"{one['control']} |\n"
                for one in here
                if "control" in one
            ]
            seeds = min(one["seeds"] for one in here)
            parts.append(
                f"**{task(name)}, {size / 1e3:.0f} kB**, {seeds} seeds ({_counts(here)}): "
                f"[{name}]({RESULTS}/{name}.json)\n\n| arm | score | difference | verdict |\n"
                f"|---|---|---|---|\n{''.join(rows)}"
            )
    return "\n".join(parts) or f"{UNKNOWN.capitalize()}.\n"


def _counts(lines: list[dict]) -> str:
    """How many arms win, tie and lose."""
    verdicts = [line.get("verdict") for line in lines]
    words = {"wins": "win", "ties": "tie", "loses": "lose"}
    return ", ".join(f"{verdicts.count(key)} {word}" for key, word in words.items())
