"""The rows of ``runtime.json`` from the cells that ``runtime.py`` has measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from runtime_models import BARE, CONTESTANTS, PEERS, place_of

FIRST = "torch FP32"


def rows_of(folder: Path) -> tuple[list[dict], dict]:
    """Return (rows, what is no row): one for each contestant and size, and each training step."""
    rows, extra = [], {}
    for shape in sorted(place for place in folder.iterdir() if place.is_dir()):
        found = {file.stem: read(file) for file in sorted(shape.glob("*.json"))}
        for name in found:
            if name.startswith("latency"):
                rows += latencies(shape, name, found)
        if "step" in found:
            rows += steps(shape.name, found["step"])
        kept = {key: found[key] for key in ("load", "profile", "agreement") if key in found}
        if kept:
            extra[shape.name] = kept
    if (folder / "verbs.json").exists():
        extra["verbs"] = read(folder / "verbs.json")
    return rows, extra


def latencies(shape: Path, cell: str, found: dict[str, dict]) -> Iterator[dict]:
    """Yield the rows of a cell of latencies."""
    _, threads, size = cell.split("_")
    batch, tokens = map(int, size.split("x"))
    taken = found[cell]
    dense = read(place_of(shape, FIRST) / "spec.json")["bytes"]
    for name in (name for name in CONTESTANTS if name in taken):
        spec = read(place_of(shape, name) / "spec.json")
        metrics = {"shape": shape.name, "threads": int(threads[:-1])}
        metrics |= {"batch": batch, "tokens": tokens}
        for key, value in found.get("load", {}).get(name, {}).items():
            metrics["load_seconds" if key == "seconds" else key] = value
        if "packed" in spec:
            metrics["onnx_over_packed"] = spec["bytes"] / spec["packed"]
        for key in ("same_intents", "same_slots"):
            if name in found.get("agreement", {}):
                metrics[key] = found["agreement"][name][key]
        yield row(f"{name}, {shape.name}, {size}, {threads[:-1]} threads", name, metrics) | {
            "bytes": {"file": spec["bytes"]},
            "ratio": {"file": rounded(dense / spec["bytes"])},
            "speed": speed(taken[FIRST], taken[name]),
        }


def steps(shape: str, taken: dict[str, list[float]]) -> Iterator[dict]:
    """Yield the rows of the training steps."""
    for name, seconds in taken.items():
        dense = taken[f"dense{BARE}" if name.endswith(BARE) else "dense"]
        metrics = {"shape": shape, "threads": 1}
        yield row(f"step, {name}, {shape}", name.removesuffix(BARE), metrics) | {
            "speed": speed(dense, seconds)
        }


def row(model: str, name: str, metrics: dict) -> dict:
    """Return the beginning of a row."""
    role = "baseline" if name in (FIRST, "dense") else "peer" if name in PEERS else "student"
    return {
        "model": model,
        "role": role,
        "metrics": {k: rounded(v) if isinstance(v, float) else v for k, v in metrics.items()},
    }


def speed(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return the median seconds and the median over turns of how much faster they are."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"seconds": rounded(median(fast)), "speedup": rounded(median(ratios))}


def rounded(x: float) -> float:
    """Return four digits of a number."""
    return float(f"{x:.4g}")


def read(file: Path) -> dict:
    """Return what a cell holds."""
    return json.loads(file.read_text())
