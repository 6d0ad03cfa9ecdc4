"""One dial swept over a plan: bytes of the whole file against the mean error of the layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from .. import plots
from .bench import Bench
from .layers import Answer
from .positions import Dial
from .rows import Row


@dataclass(frozen=True)
class Point:
    """A plan on the front: the dial's value, its rows, the answer; or why it is refused."""

    value: object
    rows: list[Row]
    answer: Answer | None = None
    refused: str = ""
    score: float | None = None


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
