"""Notebook 12: a training in phases as a plan over time, and what its measured runs scored."""

import re
from collections.abc import Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go

from ...hf.dropout import DropoutSchedule
from ...sparsity.patterns import Pattern
from .. import plots
from .base import Explorer, choice, sweep

ORDERS = (
    *("dense", "prune", "dense > prune", "quantize", "dense > quantize", "both", "dense > both"),
    *("prune > quantize", "dense > prune > quantize"),
    *("quantize > prune", "dense > quantize > prune"),
)
DROPOUTS = {
    "0.1": DropoutSchedule(0.1, 0.1, "constant"),
    "0": DropoutSchedule(0.0, 0.0, "constant"),
    "0.1 to 0": DropoutSchedule(0.1, 0.0),
    "0 to 0.1": DropoutSchedule(0.0, 0.1),
}
GRIDS = ("with a zero", "without a zero")
USUAL = ("prune > quantize", "0.1 to 0", "with a zero")
EPOCHS, WARMUP = 9, 0.1  # of the benchmark's trainings
POINTS = 180  # of a curve over the whole training
SEEDS = re.compile(r"seeds: ([\d., ]+)")


def learning_rate(progress: float, phases: int, warmup: float = WARMUP) -> float:
    """Return the rate, in parts of its highest, of phases that each warm up and fall to zero.

    >>> [round(learning_rate(t, phases=2), 3) for t in (0.0, 0.05, 0.275, 0.5, 0.55, 1.0)]
    [0.0, 1.0, 0.5, 0.0, 1.0, 0.0]
    """
    t = progress * phases
    t -= min(int(t), phases - 1)  # within its phase, 0 to 1
    return t / warmup if t < warmup else (1 - t) / (1 - warmup)


def begins(order: str) -> dict[str, float | None]:
    """Return when, 0 to 1, the mask and the grid go on; None: never.

    >>> begins("dense > prune > quantize")["grid"], begins("both")
    (0.6666666666666666, {'mask': 0.0, 'grid': 0.0})
    """
    phases = order.split(" > ")
    found: dict[str, float | None] = {"mask": None, "grid": None}
    for i, phase in enumerate(phases):
        for name, verbs in (("mask", ("prune", "both")), ("grid", ("quantize", "both"))):
            if phase in verbs and found[name] is None:
                found[name] = i / len(phases)
    return found


def bits_of(order: str) -> tuple[float, float]:
    """Return the bits per weight that an order leaves: without and with the places of kept ones.

    >>> bits_of("prune > quantize"), bits_of("prune"), bits_of("dense")
    ((2.0, 3.0), (16.0, 17.0), (32.0, 32.0))
    """
    on = begins(order)
    number = 32.0 if on["grid"] is None else 4.0
    if on["mask"] is None:
        return number, number
    form = Pattern.of("2:4")
    return number * form.density, (number + form.place_bits) * form.density


def results(rows: Sequence[dict]) -> dict[tuple[str, str, str], dict]:
    """Return what a setting (order, dropout, grid) scored: mean, every seed, mean as deployed."""
    found = {}
    for row in rows:
        group, _, label = row["model"].partition(": ")
        phases = "dense" if "FP32" in group else "quantize" if "dense" in group else USUAL[0]
        at = {
            "order": (label, *USUAL[1:]),
            "dropout": (phases, label, USUAL[2]),
            "grid": (phases, USUAL[1], label),
        }[group.split(",")[0]]
        metrics = row["metrics"]
        one = {"score": metrics["score"]}
        one["seeds"] = [float(x) for x in SEEDS.search(row["note"]).group(1).split(", ")]
        pair = [metrics.get(f"{key}_deployed") for key in ("intent_accuracy", "slot_f1")]
        one["deployed"] = None if None in pair else sum(pair) / 2
        if at not in found or one["deployed"] is not None:
            found[at] = one
    return found


def plan_table(rows: Sequence[dict] = ()) -> list[dict]:
    """Return one row for each setting: how long mask and grid are on, dropout then, score.

    Args:
        rows: of the benchmark ``deep_compression_ablation``; without them no setting has a score.
    """
    found = results(rows)

    def row(order: str, dropout: str, grid: str) -> dict:
        on, p = begins(order), DROPOUTS[dropout]
        scored = found.get((order, dropout, grid), {})
        return {
            "rises": len(order.split(" > ")),
            "epochs masked": 0.0 if on["mask"] is None else EPOCHS * (1 - on["mask"]),
            "epochs on the grid": 0.0 if on["grid"] is None else EPOCHS * (1 - on["grid"]),
            "dropout at the grid": None if on["grid"] is None else p(on["grid"]),
            "bits": bits_of(order),
            "score": scored.get("score"),
            "seeds": scored.get("seeds", []),
            "deployed": scored.get("deployed"),
        }

    return sweep(row, order=ORDERS, dropout=[*DROPOUTS], grid=GRIDS)


def draw_plan(order: str, dropout: str, grid: str, table: Sequence[dict]) -> tuple[go.Figure, str]:
    """Draw rate, dropout, mask and grid over the training, and all scores beside it."""
    row = next(r for r in table if (r["order"], r["dropout"], r["grid"]) == (order, dropout, grid))
    times = [k / POINTS for k in range(POINTS + 1)]
    epochs, on = [EPOCHS * t for t in times], begins(order)
    rates = [learning_rate(t, row["rises"]) for t in times]
    most = max(schedule(t) for schedule in DROPOUTS.values() for t in (0, 1))
    drops = [DROPOUTS[dropout](t) / most for t in times]

    def band(name: str, y: float, start: float | None, color: str) -> go.Scatter:
        x = [] if start is None else [EPOCHS * start, EPOCHS]
        line = {"color": color, "width": 12}
        return go.Scatter(x=x, y=[y] * len(x), name=name, mode="lines", line=line)

    others = [r for r in table if r["score"] is not None]
    right = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    ring = {"size": 15, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}}
    fig = plots.figure(
        go.Scatter(x=epochs, y=rates, name="learning rate", line_color=plots.BLUE),
        go.Scatter(x=epochs, y=drops, name="dropout", line={"color": plots.GREEN, "dash": "dash"}),
        band("2:4", -0.14, on["mask"], plots.ORANGE),
        band("4 bits", -0.28, on["grid"], plots.INK),
        go.Scatter(
            x=[r["score"] for r in others], y=[r["order"] for r in others], mode="markers",
            name="all that was measured", marker={"color": plots.GRAY, "size": 8},
            text=[f"dropout {r['dropout']}, {r['grid']}" for r in others],
            hovertemplate="%{y}, %{text}: %{x:.1f}<extra></extra>", **right,
        ),
        go.Scatter(
            x=row["seeds"], y=[order] * len(row["seeds"]), mode="markers", name="each seed",
            marker={"color": plots.RED, "size": 6, "symbol": "line-ns-open"}, **right,
        ),
        go.Scatter(
            x=[] if row["score"] is None else [row["score"]],
            y=[] if row["score"] is None else [order],
            mode="markers", name="yours", marker=ring, **right,
        ),
        title=f"{order}: {'not measured' if row['score'] is None else format(row['score'], '.1f')}",
        margin_t=95,
        legend_y=1.02,
        legend_traceorder="normal",
    )  # fmt: skip
    fig.update_layout(
        xaxis={"domain": [0, 0.33], "title.text": "epoch", "range": [0, EPOCHS]},
        yaxis={"title.text": "in parts of the largest", "range": [-0.4, 1.1],
               "tickvals": [0, 0.5, 1]},
        xaxis2={"domain": [0.71, 1], "title.text": "mean score", "anchor": "y2"},
        yaxis2={"anchor": "x2", "type": "category", "categoryorder": "array",
                "categoryarray": [*ORDERS[::-1]], "range": [-0.6, len(ORDERS) - 0.4]},
    )  # fmt: skip
    return fig, _caption(row)


def _caption(row: dict) -> str:
    nominal, whole = row["bits"]
    words = (
        f"<b>Masked for {row['epochs masked']:.3g} of {EPOCHS} epochs, on 4 bits for "
        f"{row['epochs on the grid']:.3g}; the rate rises {row['rises']} times.</b> "
    )
    if (p := row["dropout at the grid"]) is not None:
        words += f"Dropout when the grid goes on: {p:.3f}. "
    words += f"Bits per weight: {nominal:g}, with places {whole:g}. "
    if row["score"] is None:
        return words + "This setting was not measured."
    low, high = min(row["seeds"]), max(row["seeds"])
    words += f"Score {row['score']:.1f}, its seeds from {low:.1f} to {high:.1f}"
    if row["deployed"] is not None:
        words += f"; with every pruned weight at zero {row['deployed']:.1f}"
    return words + "."


def deep_compression_explorer(table: Sequence[dict]) -> Explorer:
    """Notebook 12: choose the order of the phases, the dropout and the grid.

    Args:
        table: from ``plan_table``.
    """
    return Explorer(
        partial(draw_plan, table=table),
        order=ipywidgets.Dropdown(
            options=ORDERS, value=USUAL[0], description="order", layout={"width": "290px"}
        ),
        dropout=choice("dropout", {name: name for name in DROPOUTS}, USUAL[1]),
        grid=choice("grid", {name: name for name in GRIDS}, USUAL[2]),
    )
