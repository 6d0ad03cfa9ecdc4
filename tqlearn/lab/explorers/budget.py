"""Notebook 00: where the bytes of BERT-base go, before and after."""

import ipywidgets
import plotly.graph_objects as go

from ... import shapes
from .. import plots
from .base import Explorer, choice


def budget(rank: int, bits: int, position_bits: int = 32) -> list[dict]:
    """Count the bytes of BERT-base by group, before and after compression.

    Args:
        rank: middle rank of every tensor train (configuration B6 of the QTC spec sheet) and every
            rank of the embedding's tensor-train matrix; 0 keeps all weights dense.
        bits: of each compressed weight; below 32 every core (or dense weight) adds one FP32 scale.
        position_bits: of the position embeddings, the largest group that no tensor train touches.

    Returns:
        One row per group: name, parameters, and bytes ``before`` and ``after``.

    >>> rows = budget(rank=30, bits=4)
    >>> sum(row["before"] for row in rows), sum(row["after"] for row in rows)
    (437928960, 2991580)
    """
    before = shapes.bert_parameters()
    square = shapes.tt_parameters((12, 8, 8, 8, 8, 12), (1, 12, rank, rank, rank, 12, 1))
    wide = shapes.tt_parameters((12, 8, 8, 12, 16, 16), (1, 12, rank, rank, rank, 16, 1))
    table = shapes.ttm_parameters((16, 20, 10, 10), (4, 4, 8, 6), (1, rank, rank, rank, 1))
    weights = {  # group: (how many, numbers each as a tensor train, cores each)
        "word embeddings": (1, table, 4),
        "attention": (48, square, 6),
        "feed-forward": (24, wide, 6),
        "pooler": (1, square, 6),
    }
    rows = []
    for group, count in before.items():
        size = 4 * count
        bias = 768 if group == "pooler" else 0
        if group in weights:
            layers, cores, number = weights[group]
            numbers, scales = (layers * cores, layers * number) if rank else (count - bias, layers)
            size = shapes.packed_bytes(numbers, bits) + 4 * (scales * (bits < 32) + bias)
        elif group == "position embeddings":
            size = shapes.packed_bytes(count, position_bits) + 4 * (position_bits < 32)
        rows.append({"group": group, "parameters": count, "before": 4 * count, "after": size})
    return rows


def draw_budget(rank: int, bits: int, small_positions: bool = False) -> tuple[go.Figure, str]:
    """Draw ``budget``: one line per group, from its size in BERT-base to its size now."""
    rows = budget(rank, bits, 8 if small_positions else 32)[::-1]
    groups = [row["group"] for row in rows]
    before, after = [row["before"] / 1e6 for row in rows], [row["after"] / 1e6 for row in rows]
    all_before, all_after = sum(before), sum(after)
    between = [x for pair in zip(before, after, strict=True) for x in (*pair, None)]
    fig = plots.figure(
        go.Scatter(
            x=between,
            y=[g for g in groups for _ in range(3)],
            mode="lines",
            line={"color": plots.FAINT, "width": 5},
            hoverinfo="skip",
            showlegend=False,
        ),
        _dots("BERT-base, FP32", before, groups, plots.GRAY, 20),
        _dots("your choice", after, groups, plots.BLUE, 13),
        title=f"{all_before:.1f} MB before, {all_after:.1f} MB after",
        x="megabytes (each grid line is ten times the one before)",
        xaxis_type="log",
        xaxis_range=[-3.2, 2.9],
        xaxis_dtick=1,
    )
    most = max(rows, key=lambda row: row["after"])
    return fig, (
        f"<b>{all_before:.1f} MB → {all_after:.1f} MB: {all_before / all_after:.1f} times smaller."
        "</b> "
        f"Largest part now: {most['group']}, {most['after'] / 1e6:.2f} MB "
        f"({most['after'] / 1e4 / all_after:.0f} % of what is left)."
    )


def _dots(name: str, x: list[float], y: list[str], color: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode="markers",
        marker={"size": size, "color": color},
        hovertemplate="%{y}: %{x:.3f} MB<extra></extra>",
    )


def budget_explorer() -> Explorer:
    """Notebook 00: move rank and bits, see which group the bytes sit in."""
    return Explorer(
        draw_budget,
        rank=choice("rank", {"dense": 0} | {str(r): r for r in (96, 64, 50, 30, 20, 10, 5)}, 30),
        bits=choice("bits", {str(b): b for b in (32, 8, 6, 4, 3, 2)}, 4),
        small_positions=ipywidgets.Checkbox(
            False, description="positions at 8 bits", indent=False, layout={"width": "auto"}
        ),
    )
