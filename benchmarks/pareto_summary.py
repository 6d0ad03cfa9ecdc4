"""What the runs of ``pareto.py`` say: a rate per cell, means, spreads, intervals, sentences.

A cell is an arm at a size. Its rate is the one that is best on the held-out part of the training
sentences, with seed 0. It is compared with the best control of its size: of the dense arms (whole
model at low bits, narrow, shallow) and the low-rank pairs the one whose runs are best on the
held-out part, itself left out. Nothing is chosen on the reported split.

A size is spoken of once every arm that fits it has three seeds: until then a control may be
missing that would have won, and a spread of two runs says little.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev

import numpy as np
from pareto_scores import decoded, difference

SEEDS = 3  # of every arm at a size, before anything is said of it
CONTROLS = ("dense", "narrow", "shallow", "low rank")
METRICS = ("intent_accuracy", "slot_f1", "accuracy", "score")


def chosen_rate(runs: Iterable[Mapping], rates: Sequence[float], seed: int = 0) -> float | None:
    """Return the rate of a cell's best run on the held-out part; None while one is missing.

    Of equals the one that ``rates`` lists first.

    >>> runs = [{"rate": 1e-3, "seed": 0, "held": {"score": 90.0}}]
    >>> chosen_rate(runs, (1e-3,)), chosen_rate(runs, (1e-3, 3e-4))
    (0.001, None)
    """
    found = {run["rate"]: run["held"]["score"] for run in runs if run["seed"] == seed}
    if not set(rates) <= set(found):
        return None
    return max(rates, key=lambda rate: found[rate])


def finished(record: Mapping) -> dict[tuple[int, str], list[dict]]:
    """Return (size, arm) -> the runs at the chosen rate, seeds ascending, as far as there are."""
    cells: dict[tuple[int, str], list[dict]] = {}
    for run in record["runs"]:
        cells.setdefault((run["size"], run["arm"]), []).append(run)
    found = {}
    for cell, runs in cells.items():
        rate = chosen_rate(runs, record["rules"]["rates"], record["seed"])
        if rate is not None:
            own = [run for run in runs if run["rate"] == rate]
            found[cell] = sorted(own, key=lambda run: run["seed"])
    return found


def whole_sizes(record: Mapping) -> list[int]:
    """Return the sizes at which every arm that fits has its seeds, at least ``SEEDS``."""
    cells, needed = finished(record), min(SEEDS, record["rules"]["seeds"])
    late = {
        int(size)
        for arm, own in record["cells"].items()
        for size, cell in own.items()
        if "form" in cell and len(cells.get((int(size), arm), ())) < needed
    }
    return [size for size in record["sizes"] if size not in late]


def summary(record: Mapping) -> list[dict]:
    """Return a line per cell of the whole sizes: mean, spread, difference to its control."""
    sizes, gold = whole_sizes(record), record["gold"]
    cells = {cell: runs for cell, runs in finished(record).items() if cell[0] in sizes}
    counts = {cell: _counts(runs, gold, record["sentences"]) for cell, runs in cells.items()}
    lines = []
    for size in sizes:
        here = {arm: runs for (own, arm), runs in cells.items() if own == size}
        for arm, runs in here.items():
            line = {"size": size, "arm": arm, "rate": runs[0]["rate"], "seeds": len(runs),
                    "bytes": runs[0]["bytes"],
                    "held_score": round(mean(run["held"]["score"] for run in runs), 3)}  # fmt: skip
            for name in (name for name in METRICS if name in runs[0]["test"]):
                values = [run["test"][name] for run in runs]
                line[name] = round(mean(values), 3)
                if len(values) > 1:
                    line[f"{name}_sd"] = round(stdev(values), 3)
            if control := _control(arm, here):
                found = difference(counts[size, arm], counts[size, control])
                line |= {"control": control} | found | {"verdict": verdict(found)}
            lines.append(line)
    return lines


def verdict(found: Mapping) -> str:
    """Return "wins", "loses" or, where 0 is inside the interval, "ties"."""
    return "wins" if found["low"] > 0 else "loses" if found["high"] < 0 else "ties"


def _control(arm: str, here: Mapping[str, list[dict]]) -> str | None:
    others = [name for name in here if name != arm and name.split(",")[0] in CONTROLS]
    held = {name: mean(run["held"]["score"] for run in here[name]) for name in others}
    return max(held, key=held.get) if held else None


def _counts(runs: list[dict], gold: Mapping[str, str], sentences: int) -> dict[str, np.ndarray]:
    own = [decoded(run["counts"] | gold, sentences) for run in runs]
    return {name: np.stack([one[name] for one in own]) for name in own[0]}


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
