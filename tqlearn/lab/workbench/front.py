"""One dial swept over a plan: bytes of the whole file against the mean error of the layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from .. import plots
from .bench import Answer, Bench
from .dials import AMOUNTS, BITS
from .rows import PATTERNS, Row


@dataclass(frozen=True)
class Dial:
    """A field of one row, and the values that it is swept over."""

    index: int
    field: str
    values: tuple
    label: str

    def rows(self, rows: Sequence[Row], value: object) -> list[Row]:
        """Return the rows with the dial at a value."""
        return [replace(r, **{self.field: value}) if k == self.index else r
                for k, r in enumerate(rows)]  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A plan on the front: the dial's value, its rows, the answer; or why it is refused."""

    value: object
    rows: list[Row]
    answer: Answer | None = None
    refused: str = ""
    score: float | None = None


def dials(rows: Sequence[Row]) -> list[Dial]:
    """Return every dial of a plan that can be swept."""
    found = []
    for k, row in enumerate(rows):
        for field, values, on in (
            ("amount", AMOUNTS[row.by], row.structure),
            ("bits", BITS, row.quantizer and row.quantizer != "Ternary"),
            ("nm", PATTERNS, row.nm),
            ("inputs", BITS, row.inputs),
        ):
            if on:
                value = getattr(row, field)
                values = tuple(dict.fromkeys((*values, value)))
                values = values if field == "nm" else tuple(sorted(values))
                name = row.by if field == "amount" else {"nm": "N:M"}.get(field, field)
                found.append(Dial(k, field, values, f"{name} of {row.pattern}"))
    return found


def swept(bench: Bench, dial: Dial, scores: Mapping[str, float] | None = None) -> list[Point]:
    """Return a point for every value, as far as it is known.

    Args:
        scores: of rows, as text.
    """
    found = []
    for value in dial.values:
        rows = dial.rows(bench.rows, value)
        try:
            answer = bench.answer(rows)
        except (ValueError, TypeError) as error:
            found.append(Point(value, rows, refused=str(error)))
            continue
        words = next(iter(answer.refused.values()), "")
        found.append(Point(value, rows, answer, words, (scores or {}).get(str(rows))))
    return found


def draw_front(dial: Dial, points: Sequence[Point], chosen: object) -> tuple[go.Figure, str]:
    """Draw the front, the chosen point larger, and scores where they were measured."""
    shown = [p for p in points if not p.refused and p.answer.sizes and p.answer.mean is not None]
    xs = [p.answer.sizes.file / 1e6 for p in shown]
    names = [f"{dial.label}: {p.value}" for p in shown]
    hover = "%{text}<br>%{x:.3f} MB, error %{y:.1f} %<extra></extra>"
    mine = [p for p in shown if p.value == chosen]
    traces = [
        go.Scatter(
            x=xs, y=[100 * p.answer.mean for p in shown], text=names, hovertemplate=hover,
            name="mean error", mode="lines+markers", line_color=plots.BLUE, marker_size=9,
        ),
        go.Scatter(
            x=[p.answer.sizes.file / 1e6 for p in mine], y=[100 * p.answer.mean for p in mine],
            name="your plan", mode="markers",
            marker={"size": 17, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}},
        ),
    ]  # fmt: skip
    measured = [p for p in shown if p.score is not None]
    layout = {}
    if measured:
        traces.append(go.Scatter(
            x=[p.answer.sizes.file / 1e6 for p in measured], y=[p.score for p in measured],
            name="score", mode="lines+markers", line={"color": plots.GREEN, "dash": "dot"},
            marker={"symbol": "square", "size": 9}, yaxis="y2",
        ))  # fmt: skip
        layout["yaxis2"] = {"overlaying": "y", "side": "right", "title": {"text": "score"}}
    fig = plots.figure(
        *traces, title=f"Swept: {dial.label}", x="megabytes of the whole file",
        y="mean error of the weights, percent", yaxis_rangemode="tozero", **layout,
    )  # fmt: skip
    waiting = sum(not p.refused and p not in shown for p in points)
    refused = [p for p in points if p.refused]
    words = f"<b>{len(shown)} of {len(points)} points.</b>"
    words += f" {waiting} are still being found …" if waiting else ""
    if refused:
        words += f" Ruled out: {', '.join(str(p.value) for p in refused)}."
    return fig, words
