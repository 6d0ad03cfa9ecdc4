"""Notebook 09: size against accuracy of compressed students, before and after their lessons."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
from torch import nn

from ... import calibrate, compress, report
from .. import plots
from .base import Explorer, choice

RANKS, BITS = (8, 16, 20, 32), (2, 3, 4, 8)
METRICS = {"slots (span F1)": "slot_f1", "intents": "intent_accuracy"}


def untrained(
    teacher: nn.Module,
    plan: Callable[[int, int], Mapping],
    evaluate: Callable[[nn.Module], dict],
    ranks: Sequence[int] = RANKS,
    bits: Sequence[int] = BITS,
) -> list[dict]:
    """Compress the teacher at every rank and number of bits and evaluate it as it is.

    Args:
        plan: rank and bits -> a plan for ``compress``.
        evaluate: model -> metrics in percent by name.

    Returns:
        One row per student: rank, bits, bytes of the whole file, ratio (how many times smaller),
        and ``before``, its metrics before any training.
    """
    whole, rows = report(teacher).file, []
    for rank in ranks:
        for b in bits:
            student = calibrate(compress(teacher, plan(rank, b))).eval()
            size = report(student).file
            row = {"rank": rank, "bits": b, "bytes": size, "ratio": whole / size}
            rows.append(row | {"before": evaluate(student)})
    return rows


def join(rows: Sequence[dict], measured: Sequence[dict]) -> list[dict]:
    """Add ``after``, the metrics after training, from benchmark rows named "rank R, B bits".

    Raises:
        ValueError: a student was never trained, or the trained one has another size.
    """
    trained = {row["model"]: row for row in measured}
    joined = []
    for row in rows:
        name = f"rank {row['rank']}, {row['bits']} bits"
        if name not in trained or trained[name]["bytes"]["file"] != row["bytes"]:
            found = trained.get(name, {}).get("bytes", "nothing")
            raise ValueError(
                f"{name}: this student has {row['bytes']:,} bytes, the benchmark measured {found}; "
                "run benchmarks/embedded_tradeoff.py again"
            )
        joined.append(row | {"after": trained[name]["metrics"]})
    return joined


def draw_tradeoff(
    rank: int, bits: int, metric: str, rows: Sequence[dict], teacher: Mapping[str, float]
) -> tuple[go.Figure, str]:
    """Draw all students, the chosen one larger, with the way from before to after its lessons."""
    chosen = next(row for row in rows if (row["rank"], row["bits"]) == (rank, bits))
    size, before, after = (
        chosen["bytes"] / 1e3,
        chosen["before"][metric],
        chosen["after"][metric],
    )
    sizes = [row["bytes"] / 1e3 for row in rows]
    names = [f"rank {row['rank']}, {row['bits']} bits" for row in rows]

    def dots(name: str, y: list[float], color: str) -> go.Scatter:
        marker = {"size": 9, "color": color, "opacity": 0.75}
        hover = "%{text}<br>%{x:.0f} kB, %{y:.1f} %<extra></extra>"
        return go.Scatter(
            x=sizes, y=y, name=name, mode="markers", marker=marker, text=names, hovertemplate=hover
        )

    fig = plots.figure(
        go.Scatter(
            x=[min(sizes), max(sizes)],
            y=[teacher[metric]] * 2,
            name="teacher",
            mode="lines",
            line={"color": plots.INK, "dash": "dot", "width": 1.5},
        ),
        dots("as compressed", [row["before"][metric] for row in rows], plots.GRAY),
        dots("after its lessons", [row["after"][metric] for row in rows], plots.BLUE),
        go.Scatter(
            x=[size, size],
            y=[before, after],
            name="your choice",
            mode="lines+markers",
            line={"color": plots.RED, "width": 2},
            marker={"size": 15, "symbol": "circle-open", "line": {"width": 3}},
        ),
        title=f"Rank {rank}, {bits} bits: {size:.0f} kB, {chosen['ratio']:.1f} times smaller",
        x="kilobytes of the whole file",
        y="percent right",
        yaxis_range=[0, 104],
    )
    what = next(name for name, key in METRICS.items() if key == metric)
    what = what[0].upper() + what[1:]
    return fig, (
        f"<b>{chosen['ratio']:.1f} times smaller than the teacher.</b> {what}: "
        f"{before:.1f} % straight after compression, {after:.1f} % after the lessons "
        f"(teacher: {teacher[metric]:.1f} %)."
    )


def compressed_bert_explorer(rows: Sequence[dict], teacher: Mapping[str, float]) -> Explorer:
    """Notebook 09: choose rank and bits, see size and accuracy before and after training.

    Args:
        rows: from ``untrained`` and ``join``; every rank with every number of bits.
        teacher: its metrics in percent.
    """
    ranks, bits = ({str(row[key]): row[key] for row in rows} for key in ("rank", "bits"))
    return Explorer(
        partial(draw_tradeoff, rows=rows, teacher=teacher),
        rank=choice("rank", ranks, 20),
        bits=choice("bits", bits, 4),
        metric=ipywidgets.ToggleButtons(options=METRICS, style={"button_width": "auto"}),
    )
