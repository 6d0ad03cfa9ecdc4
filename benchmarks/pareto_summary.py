"""What the runs of ``pareto.py`` say, as rows of the JSON and as sentences.

How rates, means, spreads and intervals are worked out stands in ``tqlearn.lab.pareto``.
"""

from collections.abc import Mapping

from tqlearn.lab.pareto import (
    CONTROLS,
    METRICS,
    chosen_rate,
    finished,
    summary,
    verdict,
    whole_sizes,
)

__all__ = ["chosen_rate", "finished", "rows", "sentences", "summary", "verdict", "whole_sizes"]


def rows(record: Mapping) -> list[dict]:
    """Return the rows of the benchmark's JSON: the teacher, a line per cell of the whole sizes."""
    found = [{"model": "teacher", "role": "baseline", **record["teacher"]}]
    for line in summary(record):
        keys = [f"{name}{end}" for name in METRICS for end in ("", "_sd")]
        metrics = {key: line[key] for key in keys if key in line}
        note = f"rate {line['rate']}, {line['seeds']} seeds"
        if "control" in line:
            metrics |= {name: line[name] for name in ("difference", "low", "high")}
            note += f"; {line['verdict']} against {line['control']}"
        dense = line["arm"].split(",")[0] in CONTROLS
        found.append({
            "model": f"{line['arm']}, at {line['size'] // 1000} kB",
            "role": "baseline" if dense else "student",
            "metrics": metrics, "bytes": {"file": line["bytes"]}, "note": note,
        })  # fmt: skip
    return found


def sentences(record: Mapping) -> list[str]:
    """Return a sentence per size, who is best there, and one per arm: wins here, loses there."""
    lines, said = summary(record), []
    for size in record["sizes"]:
        here = [line for line in lines if line["size"] == size]
        if here:
            best = max(here, key=lambda line: line["score"])
            said.append(f"At {_kilo(size)} the highest mean is that of {best['arm']}: score "
                        f"{best['score']:.2f}, {_compared(best)}.")  # fmt: skip
    for arm, cells in record["cells"].items():
        own = {line["size"]: line for line in lines if line["arm"] == arm}
        parts = []
        for word in ("wins", "ties", "loses"):
            at = [f"{_kilo(size)} ({line['difference']:+.2f}, {line['low']:+.2f} to "
                  f"{line['high']:+.2f} against {line['control']})"
                  for size, line in own.items() if line.get("verdict") == word]  # fmt: skip
            parts += [f"{word} at {', '.join(at)}"] if at else []
        not_there = {}
        for size in record["sizes"]:
            if reason := cells[str(size)].get("reason"):
                not_there.setdefault(reason, []).append(_kilo(size))
        parts += [f"cannot be had at {', '.join(at)}: {why}" for why, at in not_there.items()]
        said += [f"{arm}: {'; '.join(parts)}."] if parts else []
    return said


def _compared(line: Mapping) -> str:
    if "control" not in line:
        return "and nothing to compare it with yet"
    return (f"{line['difference']:+.2f} ({line['low']:+.2f} to {line['high']:+.2f}) against "
            f"{line['control']}")  # fmt: skip


def _kilo(size: int) -> str:
    return f"{size // 1000} kB"
