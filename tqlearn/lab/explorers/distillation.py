"""Notebook 08: what each signal moves, over the steps of a training that was measured once."""

import re
from collections.abc import Sequence
from functools import partial
from statistics import mean

import ipywidgets
import plotly.graph_objects as go

from .. import plots
from .base import Explorer, choice, sweep

METRICS = {
    "slots (span F1, %)": "slot_f1",
    "words tagged right (%)": "token_accuracy",
    "intents right (%)": "intent_accuracy",
    "hidden distance D, embeddings": "hidden_0",
    "hidden distance D, layer 1": "hidden_1",
    "hidden distance D, layer 2": "hidden_2",
    "attention divergence A, layer 1": "attention_1",
    "attention divergence A, layer 2": "attention_2",
}
NAME = re.compile(r"(.+) / (\d+) steps / seed (\d+) / step (\d+)")
START = "every student"  # the benchmark's row for step 0, where all students are the same
CHECKPOINTS = 8  # of each training, besides its start


def runs(rows: Sequence[dict]) -> dict[str, dict[int, dict[int, dict]]]:
    """Sort the benchmark's rows: student -> seed -> step -> metrics, step 0 included.

    A student that was also taught longer appears twice, as "everything" and as "everything, 600
    steps"; the shortest training needs no number.

    Raises:
        ValueError: a row's name is not "student / N steps / seed S / step K".
    """
    start, found = None, {}
    for row in rows:
        if row["role"] == "baseline":
            continue
        parts = NAME.fullmatch(row["model"])
        if parts is None:
            raise ValueError(
                f'a row is named "student / N steps / seed S / step K", got {row["model"]!r}; '
                "run benchmarks/embedded_distillation.py again"
            )
        name, steps, seed, step = parts[1], *map(int, parts.groups()[1:])
        if name == START:
            start = row["metrics"]
            continue
        found.setdefault((name, steps), {}).setdefault(seed, {0: start})[step] = row["metrics"]
    shortest = min((steps for _, steps in found), default=0)
    return {
        name if steps == shortest else f"{name}, {steps} steps": seeds
        for (name, steps), seeds in found.items()
    }


def over_seeds(seeds: dict[int, dict[int, dict]], metric: str) -> list[dict]:
    """Return step, mean, low and high of a metric over the seeds, by step."""
    steps = sorted(next(iter(seeds.values())))
    values = {step: [run[step][metric] for run in seeds.values()] for step in steps}
    return [
        {"step": step, "mean": mean(v), "low": min(v), "high": max(v)} for step, v in values.items()
    ]


def endings(found: dict, metrics: Sequence[str] = tuple(METRICS.values())) -> list[dict]:
    """Return one row per student and metric: mean, low and high at the end of its training."""
    return sweep(
        lambda student, metric: over_seeds(found[student], metric)[-1],
        student=list(found),
        metric=list(metrics),
    )


def draw_distillation(
    student: str, other: str, metric: str, eighth: int, found: dict, teacher: dict
) -> tuple[go.Figure, str]:
    """Draw one metric over the steps: two students in color, all the others in gray.

    Args:
        eighth: how far the marked point is through each training, 0 to 8.
        found: from ``runs``; teacher: its metrics.
    """
    gray = [
        go.Scatter(
            x=[point["step"] for point in over_seeds(seeds, metric)],
            y=[point["mean"] for point in over_seeds(seeds, metric)],
            mode="lines",
            line={"color": plots.FAINT, "width": 2},
            name=name,
            showlegend=False,
            hovertemplate="%{fullData.name}: %{y:.2f}<extra></extra>",
        )
        for name, seeds in found.items()
        if not name.endswith("steps")
    ]
    chosen = [
        trace
        for name, color, fill in (
            (student, plots.BLUE, "rgba(0,114,178,0.18)"),
            (other, plots.RED, "rgba(213,94,0,0.18)"),
        )
        for trace in _band(name, over_seeds(found[name], metric), eighth, color, fill)
    ]
    label = next(label for label, key in METRICS.items() if key == metric)
    last = max(point["step"] for n in (student, other) for point in over_seeds(found[n], metric))
    end = max(last, *(max(trace.x) for trace in gray))
    fig = plots.figure(
        *gray,
        *chosen,
        go.Scatter(
            x=[0, last],
            y=[teacher[metric]] * 2,
            mode="lines",
            line={"color": plots.INK, "dash": "dot", "width": 1.5},
            name="teacher",
        ),
        title=f"{label[0].upper()}{label[1:]}: point {eighth} of {CHECKPOINTS}",
        x="step (bands: lowest and highest of the seeds)",
        xaxis_range=[-0.03 * end, 1.03 * end],  # or it would follow the circles
    )
    return fig, _caption((student, other), eighth, found, teacher)


def _band(name: str, points: list[dict], eighth: int, color: str, fill: str) -> list[go.Scatter]:
    """The seeds' span as an area, their mean as a line, the chosen checkpoint as a circle."""
    steps = [point["step"] for point in points]
    there = points[min(eighth, len(points) - 1)]
    return [
        go.Scatter(
            x=steps + steps[::-1],
            y=[point["high"] for point in points] + [point["low"] for point in points[::-1]],
            fill="toself",
            fillcolor=fill,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        ),
        go.Scatter(
            x=steps,
            y=[point["mean"] for point in points],
            mode="lines",
            line={"color": color, "width": 3},
            name=name,
        ),
        go.Scatter(
            x=[there["step"]],
            y=[there["mean"]],
            mode="markers",
            marker={"size": 13, "color": color},
            hoverinfo="skip",
            showlegend=False,
        ),
    ]


def _caption(names: tuple[str, str], eighth: int, found: dict, teacher: dict) -> str:
    """All metrics of two students at the chosen checkpoint, as a table."""
    heads = ["slots", "words", "intents", "D<sub>0</sub>", "D<sub>1</sub>", "D<sub>2</sub>"]
    heads += ["A<sub>1</sub>", "A<sub>2</sub>"]
    lines = [("teacher", teacher)]
    for name in dict.fromkeys(names):
        points = {metric: over_seeds(found[name], metric)[eighth] for metric in METRICS.values()}
        label = f"{name}, step {points['slot_f1']['step']}"
        lines.append((label, {metric: point["mean"] for metric, point in points.items()}))
    row = '<td style="padding:0 9px;text-align:right">'
    body = "".join(
        f'<tr><td style="padding-right:12px">{label}</td>'
        + "".join(
            f"{row}{values[m]:.{1 if values[m] > 5 or m[-1] not in '012' else 2}f}</td>"
            for m in METRICS.values()
        )
        + "</tr>"
        for label, values in lines
    )
    return f"<table><tr><td></td>{''.join(f'{row}{h}</td>' for h in heads)}</tr>{body}</table>"


def distillation_explorer(rows: Sequence[dict]) -> Explorer:
    """Notebook 08: compare two students over their training, metric by metric.

    Args:
        rows: what ``benchmarks/embedded_distillation.py`` measured.
    """
    found = runs(rows)
    teacher = next(row["metrics"] for row in rows if row["role"] == "baseline")

    def menu(label: str, value: str, options: object) -> ipywidgets.Dropdown:
        style, layout = {"description_width": "initial"}, {"width": "auto"}
        return ipywidgets.Dropdown(
            options=options, value=value, description=label, style=style, layout=layout
        )

    return Explorer(
        partial(draw_distillation, found=found, teacher=teacher),
        student=menu("blue", "labels", list(found)),
        other=menu("red", "hidden", list(found)),
        metric=menu("metric", "slot_f1", METRICS),
        eighth=choice("point", {f"{n} of 8": n for n in range(CHECKPOINTS + 1)}, 4),
    )
