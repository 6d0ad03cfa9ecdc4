"""Notebook 15: what is on the front depends on what is counted, and on which sentences choose."""

from collections.abc import Sequence
from functools import partial

import plotly.graph_objects as go

from .. import plots
from ..pareto import unbeaten
from .base import Explorer, choice

LIMITS = (120, 140, 160, 180, 200, 220, 240, 260, 280, 300)  # kilobytes of the whole file
SMALL = {"file bytes": "bytes", "numbers": "numbers"}
LARGE = {"slots": "slot_f1", "intents": "intent_accuracy", "their mean": "score"}


def best_under(rows: Sequence[dict], limit: int, large: str) -> dict | None:
    """Return the best row of at most ``limit`` bytes, the smallest of equals; None without any."""
    fit = [row for row in rows if row["bytes"] <= limit]
    return max(fit, key=lambda row: (row["chose"][large], -row["bytes"]), default=None)


def draw_front(limit: int, small: str, large: str, rows: Sequence[dict]) -> tuple[go.Figure, str]:
    """Draw all trials, their front, and the best model within the budget on both halves.

    Args:
        limit: kilobytes of the whole file.
        small, large: keys of a row and of its metrics.
        rows: a trial each: "plan" as JSON, "bytes" of the whole file, "numbers", and metrics in
            percent on the sentences that chose ("chose") and on others ("held").
    """
    best = best_under(rows, 1000 * limit, large)
    kept = unbeaten(rows, lambda row: row[small], lambda row: row["chose"][large])
    at = [row[small] for row in rows]

    def dots(name: str, of: Sequence[dict], part: str, **looks: object) -> go.Scatter:
        return go.Scatter(
            x=[row[small] / 1e3 for row in of], y=[row[part][large] for row in of], name=name,
            text=[f"{row['bytes'] / 1e3:.0f} kB" for row in of],
            hovertemplate="%{text}: %{y:.1f} %<extra></extra>", **looks,
        )  # fmt: skip

    chosen = [] if best is None else [best]
    ring = {"size": 17, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}}
    diamond = {"size": 12, "symbol": "diamond-open", "color": plots.RED, "line": {"width": 3}}
    what = next(name for name, key in LARGE.items() if key == large)
    fig = plots.figure(
        dots("all trials", rows, "chose", mode="markers", marker={"color": plots.GRAY, "size": 8}),
        dots("front", kept, "chose", mode="lines+markers", marker={"size": 9},
             line={"color": plots.BLUE, "shape": "hv"}),
        dots("yours", chosen, "chose", mode="markers", marker=ring),
        dots("yours, other sentences", chosen, "held", mode="markers", marker=diamond),
        title=f"Within {limit} kB: " + (
            "no trial" if best is None else f"{best['bytes'] / 1e3:.0f} kB, {what} "
            f"{best['chose'][large]:.1f} %"
        ),
        x="kilobytes of the whole file" if small == "bytes" else "thousands of numbers",
        y=f"{what}, percent", yaxis_range=[45, 103], margin_t=95, legend_y=1.02,
        xaxis_range=[0.9 * min(at) / 1e3, 1.05 * max(at) / 1e3],
    )  # fmt: skip
    if small == "bytes":
        fig.add_vline(x=limit, line_dash="dot", line_color=plots.INK)
    on = f"{len(kept)} of {len(rows)} trials are on the front. "
    if best is None:
        return fig, f"<b>No trial is this small.</b> {on}"
    beaten = "" if best in kept else "Counted this way something smaller is as good. "
    return fig, (
        f"<b>{what.capitalize()}: {best['chose'][large]:.1f} % on the sentences that chose, "
        f"{best['held'][large]:.1f} % on others; {best['bytes']:,} bytes.</b> {on}{beaten}"
        f"Its plan: {in_words(best['plan'])}."
    )


def in_words(plan: dict) -> str:
    """Return a plan in few words.

    >>> in_words({"*.dense": [{"edit": "TT", "rank": 8}, {"edit": "LSQ", "bits": 3}], "*": []})
    'dense TT 8, 3 bits; rest as it is'
    """
    said = []
    for pattern, edits in plan.items():
        words = []
        for edit in edits:
            if "bits" in edit:
                words.append(f"{edit['bits']} bits" + " per row" * (edit.get("per") == "channel"))
            else:
                words.append(f"{edit['edit']} {edit.get('rank', '')}".strip())
        name = "rest" if pattern == "*" else pattern.strip("*.").removesuffix(".dense")
        said.append(f"{name} {', '.join(words) or 'as it is'}")
    return "; ".join(said)


def pareto_lab_explorer(rows: Sequence[dict], limit: int = 160) -> Explorer:
    """Notebook 15: a budget, what should be small and what large; see the front and the choice.

    Args:
        rows: as ``draw_front`` takes them.
        limit: kilobytes to begin with.
    """
    return Explorer(
        partial(draw_front, rows=rows),
        limit=choice("budget", {f"{k} kB": k for k in LIMITS}, limit),
        small=choice("small", SMALL, "bytes"),
        large=choice("large", LARGE, "slot_f1"),
    )
