"""Notebook 04: one matrix on one grid: what is rounded, what is clipped, where the valley is."""

from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from ...quantizers.rounding import integer_range
from .. import plots
from .base import Explorer, choice, sweep

GRID_BITS = (2, 3, 4, 8)
SCALES = tuple(round(0.001 * 10 ** (k / 12), 5) for k in range(31))  # 12 for a factor of ten
BINS = 121
TINY = 1e-7  # a part of the error that is zero still has a place on a logarithmic axis


def error_parts(weight: Tensor, bits: int, scale: float) -> dict:
    """Quantize a tensor and say where its error comes from.

    Returns:
        ``rounding`` and ``clipping``: squared errors of the numbers inside and outside the range,
        as shares of the tensor's squared norm; ``error``, the root of their sum; ``clipped``, the
        share of numbers outside; ``levels``, how many codes occur.

    >>> row = error_parts(torch.tensor([-4.0, 0.2, 1.0, 5.0]), bits=2, scale=1.0)
    >>> row["levels"], row["clipped"]  # codes -2, 0, 1, 1
    (3, 0.5)
    >>> round(row["clipping"] * (16 + 0.04 + 1 + 25), 3)  # (4 - 2)² + (5 - 1)²
    20.0
    """
    qmin, qmax = integer_range(bits)
    v = weight / scale
    codes = v.round().clamp_(qmin, qmax)
    inside = (v >= qmin) & (v <= qmax)
    squares = (scale * codes - weight).square_() / weight.square().sum()
    rounding, clipping = float(squares[inside].sum()), float(squares[~inside].sum())
    return {
        "rounding": rounding,
        "clipping": clipping,
        "error": (rounding + clipping) ** 0.5,
        "clipped": float((~inside).float().mean()),
        "levels": int(codes.unique().numel()),
    }


def quantizer_table(
    matrices: Mapping[str, Tensor],
    bits: Sequence[int] = GRID_BITS,
    scales: Sequence[float] = SCALES,
) -> list[dict]:
    """Return the error parts of every matrix at every number of bits and every scale."""

    def row(matrix: str, bits: int, scale: float) -> dict:
        return error_parts(matrices[matrix], bits, scale)

    return sweep(row, matrix=[*matrices], bits=bits, scale=scales)


def histogram(weight: Tensor) -> tuple[list[float], list[int]]:
    """Return the middles and counts of equal bins over a tensor."""
    most = float(weight.abs().max())
    counts = torch.histc(weight.float(), BINS, -most, most)
    width = 2 * most / BINS
    middles = [round(-most + width * (k + 0.5), 5) for k in range(BINS)]
    return middles, [int(count) for count in counts]


def draw_quantizer(
    bits: int, scale: float, matrix: str, rows: Sequence[dict], bins: Mapping[str, tuple]
) -> tuple[go.Figure, str]:
    """Draw the chosen grid on the matrix's histogram, and the error over all scales beside it."""
    line = [row for row in rows if (row["matrix"], row["bits"]) == (matrix, bits)]
    chosen = next(row for row in line if row["scale"] == scale)
    qmin, qmax = integer_range(bits)
    middles, counts = bins[matrix]
    inside = [qmin * scale <= x <= qmax * scale for x in middles]
    places = [scale * q for q in range(qmin, qmax + 1)]

    def bars(name: str, kept: bool, color: str) -> go.Bar:
        y = [n if i == kept else 0 for n, i in zip(counts, inside, strict=True)]
        return go.Bar(x=middles, y=y, name=name, marker_color=color, showlegend=not kept)

    def curve(name: str, y: list[float], color: str, **look) -> go.Scatter:
        x = [row["scale"] for row in line]
        y = [max(value, TINY) for value in y]
        return go.Scatter(x=x, y=y, name=name, line={"color": color} | look, xaxis="x2", yaxis="y2")

    parts = {key: [row[key] for row in line] for key in ("rounding", "clipping")}
    total = [row["error"] ** 2 for row in line]
    fig = plots.figure(
        bars("kept", True, plots.GRAY),
        bars("clipped", False, plots.ORANGE),
        go.Scatter(
            x=places,
            y=[0] * len(places),
            mode="markers",
            name="the grid",
            marker={"color": plots.RED, "size": 8 if bits < 8 else 4, "symbol": "diamond"},
            hovertemplate="%{x:.4f}<extra></extra>",
        ),
        curve("rounding", parts["rounding"], plots.BLUE, width=2, dash="dot"),
        curve("clipping", parts["clipping"], plots.ORANGE, width=2, dash="dot"),
        curve("sum", total, plots.INK, width=3),
        go.Scatter(
            x=[scale],
            y=[max(chosen["error"] ** 2, TINY)],
            name="your scale",
            showlegend=False,
            mode="markers",
            marker={"size": 15, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}},
            xaxis="x2",
            yaxis="y2",
        ),
        title=f"{bits} bits, scale {scale:.4f}: error {100 * chosen['error']:.1f} %",
        barmode="stack",
        bargap=0,
        margin_t=110,
        legend_y=1.02,
        legend_traceorder="normal",
    )
    fig.update_layout(
        xaxis={"domain": [0, 0.46], "title.text": "value", "range": [-0.42, 0.42]},
        yaxis={"title.text": "how many", "rangemode": "tozero"},
        xaxis2={
            "domain": [0.62, 1],
            "type": "log",
            "range": [-3.1, -0.4],
            "title.text": "scale (logarithmic)",
            "tickvals": [0.001, 0.01, 0.1],
        },
        yaxis2={
            "anchor": "x2",
            "type": "log",
            "range": [-5, 0.3],
            "title.text": "squared error",
            "exponentformat": "power",
            "dtick": 1,
        },
    )
    return fig, _caption(chosen, line)


def _caption(chosen: dict, line: Sequence[dict]) -> str:
    best = min(line, key=lambda row: row["error"])
    where = "This is the bottom of the valley."
    if chosen is not best:
        side = "small: too much is clipped" if chosen["scale"] < best["scale"] else "large"
        where = (
            f"The scale is too {side}; the best one here, {best['scale']:.4f}, has an error of "
            f"{100 * best['error']:.1f} %."
        )
    return (
        f"<b>{chosen['levels']} of {2 ** chosen['bits']} levels used, "
        f"{100 * chosen['clipped']:.1f} % of the numbers clipped, relative error "
        f"{100 * chosen['error']:.1f} %.</b> {where}"
    )


def quantizer_explorer(rows: Sequence[dict], matrices: Mapping[str, Tensor]) -> Explorer:
    """Notebook 04: choose bits, scale and matrix.

    Args:
        rows: from ``quantizer_table(matrices)``.
        matrices: name -> tensor; the first one is shown first.
    """
    bins = {name: histogram(weight) for name, weight in matrices.items()}
    scales = {f"{row['scale']:.4f}": row["scale"] for row in rows}
    middle = [*scales.values()][len(scales) // 2]
    return Explorer(
        partial(draw_quantizer, rows=rows, bins=bins),
        scale=choice("scale", scales, middle),
        bits=choice("bits", {str(row["bits"]): row["bits"] for row in rows}, 4),
        matrix=ipywidgets.Dropdown(
            options=[*matrices], description="matrix", layout={"width": "290px"}
        ),
    )
