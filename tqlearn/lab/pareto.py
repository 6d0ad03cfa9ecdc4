"""What the tables of method against method say: scores of many sentences, intervals, cells.

The runs are those of ``benchmarks/pareto.py``; each keeps its counts per test sentence, so that
every comparison can be made later, when its model is gone. A cell is an arm at a size. Its rate is
the one that is best on the held-out part of the training sentences, with the first seed; nothing is
chosen on the reported split.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from .course import shipped

BITS = {"intents", "correct"}  # 0 or 1 per sentence: four of them are a hex digit
CONTROLS = ("dense", "narrow", "shallow", "low rank")
DRAWS = 2000
METRICS = ("intent_accuracy", "slot_f1", "accuracy", "score")
SEEDS = 3  # of every arm at a size, before anything is said of it

Counts = Mapping[str, Sequence[int] | np.ndarray]


def runs_of(name: str, folder: Path | None = None) -> dict | None:
    """Return the whole record of a table, such as "pareto_flights"; None if nobody has begun it."""
    path = (folder or shipped("benchmarks/results")) / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def metrics(counts: Counts, draws: np.ndarray | None = None) -> dict:
    """Return percentages, and "score": their mean, which rates, epochs and comparisons go by.

    Args:
        counts: arrays (..., sentences): of joint data "intents" (1: right), and "right", "found"
            and "gold", the spans that are right, that the model finds and that there are; of
            classes "correct".
        draws: (sentences, draws), how often each sentence counts in each draw; None: once.

    >>> counts = {"intents": [1, 0], "right": [1, 1], "found": [1, 2], "gold": [2, 1]}
    >>> {name: round(float(value), 2) for name, value in metrics(counts).items()}
    {'intent_accuracy': 50.0, 'slot_f1': 66.67, 'score': 58.33}
    """
    plain = draws is None
    draws = np.ones((np.shape(next(iter(counts.values())))[-1], 1)) if plain else draws
    sums = {name: np.asarray(values, float) @ draws for name, values in counts.items()}
    sentences = draws.sum(0)
    if "right" in sums:
        spans_in = np.maximum(sums["found"] + sums["gold"], 1)
        found = {"intent_accuracy": 100 * sums["intents"] / sentences,
                 "slot_f1": 200 * sums["right"] / spans_in}  # fmt: skip
    else:
        found = {"accuracy": 100 * sums["correct"] / sentences}
    found["score"] = sum(found.values()) / len(found)
    return {name: value[..., 0] for name, value in found.items()} if plain else found


def decoded(words: Mapping[str, str], sentences: int) -> dict[str, np.ndarray]:
    """Return the counts that a run keeps as strings: hex digits of bits, else a digit each.

    >>> decoded({"intents": "b8", "right": "0a123"}, 5)["intents"].tolist()
    [1, 0, 1, 1, 1]
    """
    found = {}
    for name, text in words.items():
        values = [int(digit, 36) for digit in text]
        if name in BITS:
            values = [int(bit) for value in values for bit in f"{value:04b}"][:sentences]
        found[name] = np.array(values)
    return found


def difference(
    one: Counts, other: Counts, draws: int = DRAWS, seed: int = 0, metric: str = "score"
) -> dict:
    """Return the difference of two arms' mean scores, with the middle 95 % of a bootstrap.

    Every draw takes as many sentences as there are, with replacement and the same for both arms,
    and of each arm as many of its runs as it has.

    Args:
        one, other: counts (runs, sentences) of two arms; the sentences are the same.
        metric: which of ``metrics``.
    """
    chance = np.random.default_rng(seed)
    sentences = np.asarray(one[next(iter(one))]).shape[-1]
    drawn = chance.multinomial(sentences, np.full(sentences, 1 / sentences), size=draws).T
    means, there = [], []
    for counts in (one, other):
        there.append(float(metrics(counts)[metric].mean()))
        scores = metrics(counts, drawn)[metric]  # (runs, draws)
        runs = chance.integers(len(scores), size=scores.shape)
        means.append(np.take_along_axis(scores, runs, 0).mean(0))
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    found = {"difference": there[0] - there[1], "low": low, "high": high}
    return {name: round(float(value), 3) for name, value in found.items()}


def unbeaten(
    models: Sequence, small: Callable[[object], float], large: Callable[[object], float]
) -> list:
    """Return the models that no other beats, smallest first; of twins all.

    Another one beats a model if it is no larger, no worse, and better in one of the two.

    Args:
        small, large: model -> what should be small, and what should be large.

    >>> unbeaten([(3, 7), (2, 5), (1, 5)], lambda m: m[0], lambda m: m[1])
    [(1, 5), (3, 7)]
    """
    at = [(small(model), -large(model)) for model in models]

    def beaten(a: float | int, b: float | int) -> bool:
        return any(x <= a and y <= b and (x, y) != (a, b) for x, y in at)

    return sorted((m for m, one in zip(models, at, strict=True) if not beaten(*one)), key=small)


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
    """Return the sizes at which every arm that fits has its seeds, at least ``SEEDS``.

    Until then a control may be missing that would have won, and a spread of two runs says little.
    """
    cells, needed = finished(record), min(SEEDS, record["rules"]["seeds"])
    late = {
        int(size)
        for arm, own in record["cells"].items()
        for size, cell in own.items()
        if "form" in cell and len(cells.get((int(size), arm), ())) < needed
    }
    return [size for size in record["sizes"] if size not in late]


def summary(record: Mapping) -> list[dict]:
    """Return a line per cell of the whole sizes: mean, spread, difference to its control.

    The control of a cell is the best of its size, itself left out: of the dense arms (whole model
    at low bits, narrow, shallow) and the low-rank pairs the one whose runs are best on the held-out
    part.
    """
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
