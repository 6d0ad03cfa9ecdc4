"""Notebook 11: where a learned clip starts, where it comes to rest, and what the bits weigh."""

from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from ... import shapes
from ...quantizers.initial_scales import start_scale
from .. import plots
from .base import Explorer, choice, sweep
from .quantizer import histogram

BITS = (2, 3, 4, 8)
STARTS = ("truncation", "kl", "mse", "lsq", "max")
REST = "at rest"  # where the clip stays when it alone learns, from the error of the weights
PLACES = (*STARTS, REST)
FACTORS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
LINE = tuple(0.3 * 80 ** (k / 60) for k in range(61))  # clips of the curve, in root mean squares


def quantized(weight: Tensor, clip: float, bits: int) -> Tensor:
    """Return the weight on the 2^b - 1 levels from -clip to clip."""
    top = 2 ** (bits - 1) - 1
    return ((weight / clip).clamp(-1, 1) * top).round() * (clip / top)


def push(weight: Tensor, clip: float, bits: int) -> float:
    """Return the gradient of half the mean squared error for the clip; below 0 the clip grows."""
    x = weight / clip
    off = quantized(weight, clip, bits) / clip - x
    inside = x.abs() <= 1
    by_clip = torch.where(inside, off, x.sign())
    return float((clip * off * by_clip).mean())


def rest(weight: Tensor, bits: int) -> float:
    """Return the clip at which a clip that learns alone stops: its gradient changes sign there."""
    low, high = (float(f * weight.square().mean().sqrt()) for f in (0.3, 24))
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if push(weight, middle, bits) < 0 else (low, middle)
    return (low * high) ** 0.5


def clips(weight: Tensor, bits: int) -> dict[str, float]:
    """Return the clip of every start, as the library sets it, and the one at rest."""
    top = 2 ** (bits - 1) - 1
    row = weight.reshape(1, -1)
    found = {rule: float(start_scale(row, rule, bits, -top, top)) * top for rule in STARTS}
    return found | {REST: rest(weight, bits)}


def effect(weight: Tensor, clip: float, bits: int) -> dict:
    """Return relative error, shares that become zero and that lie beyond the clip, levels used."""
    hat = quantized(weight, clip, bits)
    codes = (hat * ((2 ** (bits - 1) - 1) / clip)).round()
    return {
        "clip": clip,
        "error": float((hat - weight).norm() / weight.norm()),
        "zero": float((codes == 0).double().mean()),
        "beyond": float((weight.abs() > clip).double().mean()),
        "levels": len(codes.unique()),
    }


def clip_table(matrices: Mapping[str, Tensor]) -> list[dict]:
    """Return what every start does to every matrix at every number of bits, moved by FACTORS."""
    started = {(name, b): clips(w, b) for name, w in matrices.items() for b in BITS}

    def row(matrix: str, bits: int, start: str, factor: float) -> dict:
        return effect(matrices[matrix], factor * started[matrix, bits][start], bits)

    return sweep(row, matrix=[*matrices], bits=BITS, start=PLACES, factor=FACTORS)


def clip_lines(matrices: Mapping[str, Tensor]) -> dict[tuple, tuple[list, list]]:
    """Return (clips, relative errors) of a curve for every matrix and number of bits."""
    found = {}
    for name, weight in matrices.items():
        size = float(weight.square().mean().sqrt())
        for bits in BITS:
            x = [size * k for k in LINE]
            y = [float((quantized(weight, c, bits) - weight).norm() / weight.norm()) for c in x]
            found[name, bits] = x, y
    return found


def bert_base_bytes(bits: int) -> int:
    """Count BERT-base with linear layers, word table and pooler at ``bits`` bits, the rest at 32.

    >>> bert_base_bytes(2), round(bert_base_bytes(32) / bert_base_bytes(2), 2)
    (29308800, 14.94)
    """
    counts = shapes.bert_parameters()
    pooler = counts["pooler"] - 768
    cut = sum(counts[n] for n in ("word embeddings", "attention", "feed-forward")) + pooler
    return cut * bits // 8 + 4 * (sum(counts.values()) - cut)


def draw_clip(
    matrix: str,
    bits: int,
    start: str,
    factor: float,
    table: Sequence[dict],
    lines: Mapping[tuple, tuple],
    bins: Mapping[str, tuple],
    trained: Mapping[int, str],
) -> tuple[go.Figure, str]:
    """Draw the grid on the matrix's histogram, and the error over all clips beside it."""
    mine = [row for row in table if (row["matrix"], row["bits"]) == (matrix, bits)]
    at = {(row["start"], row["factor"]): row for row in mine}
    chosen = at[start, factor]
    clip, top = chosen["clip"], 2 ** (bits - 1) - 1
    middles, counts = bins[matrix]
    kinds = [0 if abs(x) * top < clip / 2 else 2 if abs(x) > clip else 1 for x in middles]

    def bars(name: str, kind: int, color: str) -> go.Bar:
        y = [n if k == kind else 0 for n, k in zip(counts, kinds, strict=True)]
        return go.Bar(x=middles, y=y, name=name, marker_color=color)

    places = [clip * q / top for q in range(-top, top + 1)]
    marks = [at[place, 1.0] for place in PLACES]
    x, y = lines[matrix, bits]
    ring = {"size": 17, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}}
    right = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    fig = plots.figure(
        bars("becomes 0", 0, plots.GRAY),
        bars("in between", 1, plots.SKY),
        bars("beyond the clip", 2, plots.ORANGE),
        go.Scatter(
            x=places, y=[0] * len(places), mode="markers", name="levels",
            marker={"color": plots.RED, "size": 9 if bits < 8 else 4, "symbol": "diamond"},
        ),
        go.Scatter(x=x, y=[100 * e for e in y], name="error", line_color=plots.INK, **right),
        go.Scatter(
            x=[row["clip"] for row in marks], y=[100 * row["error"] for row in marks],
            name="starts", mode="markers", marker={"color": plots.BLUE, "size": 8},
            text=[*PLACES], hovertemplate="%{text}: clip %{x:.3f}, %{y:.1f} %<extra></extra>",
            **right,
        ),
        go.Scatter(x=[clip], y=[100 * chosen["error"]], name="yours", mode="markers", marker=ring,
                   **right),
        title=f"{bits} bits, {_said(start, factor)}: error {100 * chosen['error']:.1f} %",
        barmode="stack",
        bargap=0,
        margin_t=95,
        legend_y=1.02,
        legend_traceorder="normal",
    )  # fmt: skip
    fig.update_layout(
        xaxis={"domain": [0, 0.47], "title.text": "weight", "range": [-0.42, 0.42]},
        yaxis={"title.text": "how many", "rangemode": "tozero"},
        xaxis2={"domain": [0.6, 1], "type": "log", "title.text": "clip (logarithmic)",
                "tickvals": [0.03, 0.1, 0.3, 1], "range": [-1.75, 0.2]},
        yaxis2={"anchor": "x2", "type": "log", "title.text": "relative error, %",
                "tickvals": [0.5, 1, 2, 5, 10, 20, 30, 50, 70, 100]},
    )  # fmt: skip
    return fig, _caption(chosen, mine, trained)


def _said(start: str, factor: float) -> str:
    return start if factor == 1 else f"{factor:g} times {start}"


def _caption(chosen: dict, mine: Sequence[dict], trained: Mapping[int, str]) -> str:
    best = min(mine, key=lambda row: row["error"])
    bits = chosen["bits"]
    size = bert_base_bytes(bits)
    words = (
        f"<b>{100 * chosen['zero']:.1f} % become 0, {100 * chosen['beyond']:.1f} % lie beyond the "
        f"clip, {chosen['levels']} of {2**bits - 1} levels are used.</b> Smallest error in this "
        f"table: {100 * best['error']:.1f} %, {_said(best['start'], best['factor'])}. "
        f"BERT-base at {bits}-{bits}-8: {size / 2**20:.2f} MiB, "
        f"{bert_base_bytes(32) / size:.2f} times smaller."
    )
    return words + (f" {trained[bits]}" if bits in trained else "")


def retained(rows: Sequence[dict]) -> dict[int, str]:
    """Return a sentence per number of bits: what trained students of a benchmark retained."""
    found = {row["model"]: row["metrics"].get("retention") for row in rows}
    words = {}
    for bits in BITS:
        name = f"KDLSQ {bits}-{bits}-8"
        pair = found.get(name), found.get(f"{name}, no ground truth")
        if None not in pair:
            words[bits] = (
                f"A student trained from truncation keeps {pair[0]:.1f} % of its teacher's "
                f"accuracy with the labels' term, {pair[1]:.1f} % without (SST-2, measured)."
            )
    return words


def kdlsq_bert_explorer(
    table: Sequence[dict], matrices: Mapping[str, Tensor], trained: Mapping[int, str]
) -> Explorer:
    """Notebook 11: choose matrix, bits and start, and move the clip.

    Args:
        table: from ``clip_table(matrices)``.
        matrices: name -> tensor; the first one is shown first.
        trained: from ``retained``; may be empty.
    """
    bins = {name: histogram(weight) for name, weight in matrices.items()}
    draw = partial(draw_clip, table=table, lines=clip_lines(matrices), bins=bins, trained=trained)
    return Explorer(
        draw,
        matrix=ipywidgets.Dropdown(
            options=[*matrices], description="matrix", layout={"width": "290px"}
        ),
        bits=choice("bits", {str(b): b for b in BITS}, 2),
        start=ipywidgets.Dropdown(
            options=[*PLACES], description="start", layout={"width": "290px"}
        ),
        factor=choice("times the start", {f"{f:g}": f for f in FACTORS}, 1.0),
    )
