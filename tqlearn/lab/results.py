"""Measured results for the notebooks: what the scripts in ``benchmarks/`` wrote, nothing else."""

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill

from .course import shipped

# heads of "how many times smaller", by what was counted
SMALLER = {"nominal": "nominal", "with_metadata": "with scales", "file": "whole file"}


@dataclass(frozen=True)
class Measured:
    """The rows of one result file as a table; empty, and saying so, where it was never run."""

    name: str
    rows: list[dict]
    command: str
    seed: int | None = None
    date: str = ""

    @property
    def cells(self) -> list[list[str]]:
        """The heads and then one line per row; a column that no row fills is left out."""
        rows = [_flat(row) for row in self.rows]
        heads = list(dict.fromkeys(head for row in rows for head in row))
        return [heads, *([row.get(head, "") for head in heads] for row in rows)]

    @property
    def origin(self) -> str:
        """How the numbers came about."""
        if not self.rows:
            return f"{self.name}: not measured yet. This writes it: {self.command}"
        return f"{self.name}, seed {self.seed}, {self.date[:10]}: {self.command}"

    def __str__(self) -> str:
        if not self.rows:
            return self.origin
        widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
        pad = [str.ljust] + [str.rjust] * (len(widths) - 1)
        lines = [
            "  ".join(f(cell, w) for f, cell, w in zip(pad, line, widths, strict=True)).rstrip()
            for line in self.cells
        ]
        return "\n".join([fill(self.origin, 96, subsequent_indent="    "), *lines])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{escape(self.origin)}</p>"
        heads, *lines = self.cells
        head = "".join(f"<th>{escape(h)}</th>" for h in heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>" for line in lines
        )
        return f"<table><caption>{escape(self.origin)}</caption><tr>{head}</tr>{body}</table>"


def measured(name: str, folder: Path | None = None) -> Measured:
    """Return the results ``name``; without a file, no rows and what to run.

    Raises:
        ValueError: the file is not of the one shape that benchmarks write.

    >>> print(measured("nobody_ran_this"))
    nobody_ran_this: not measured yet. This writes it: python benchmarks/nobody_ran_this.py
    """
    path = (folder or shipped("benchmarks/results")) / f"{name}.json"
    if not path.is_file():
        return Measured(name, [], f"python {_script(name)}")
    found = json.loads(path.read_text("utf-8"))
    if missing := {"name", "command", "seed", "date", "rows"} - found.keys():
        raise ValueError(f"{path} lacks {sorted(missing)}: it is no result of a benchmark script")
    return Measured(name, found["rows"], found["command"], found["seed"], found["date"])


def _flat(row: dict) -> dict[str, str]:
    """One row as head -> text: model, metrics in percent, bytes of the file, ratios."""
    flat = {"model": row["model"]}
    for name, value in row.get("metrics", {}).items():
        flat[name.replace("_accuracy", " %").replace("_", " ")] = (
            f"{value:.1f}" if isinstance(value, float) else str(value)
        )
    if "file" in row.get("bytes", {}):
        size = row["bytes"]["file"]
        flat["file"] = f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    for name, value in row.get("ratio", {}).items():
        flat[SMALLER[name]] = f"{value:.1f}x"
    return flat


def _script(name: str) -> str:
    """Return what writes a result: "kdlsq_sst2" comes from "benchmarks/kdlsq.py sst2"."""
    words = name.split("_")
    for end in range(len(words), 0, -1):
        script = "_".join(words[:end])
        if (shipped("benchmarks/results").parent / f"{script}.py").is_file():
            return " ".join([f"benchmarks/{script}.py", "_".join(words[end:])]).rstrip()
    return f"benchmarks/{name}.py"
