"""Notebook 05: pruned weights on a grid with a zero and on one without."""

from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from ...sparsity.nm import nm_mask
from .. import plots
from .base import Explorer, choice, sweep

GRID_BITS = (2, 3, 4, 8)
CLIPS = tuple(0.5 + 0.25 * k for k in range(17))  # in rms of the whole matrix: 0.5 to 4.5
PRUNED = (0, 1, 2, 3)  # of every four neighbors
GRIDS = {"with a zero": True, "without a zero": False}


def levels(bits: int, zero: bool) -> Tensor:
    """Return the places of a grid between -1 and 1.

    >>> levels(2, True).tolist(), [round(x, 3) for x in levels(2, False).tolist()]
    ([-1.0, 0.0, 1.0], [-1.0, -0.333, 0.333, 1.0])
    """
    top = 2 ** (bits - 1) - 1 if zero else 2**bits - 1
    return torch.arange(-top, top + 1, 1 if zero else 2) / top


def on_grid(weight: Tensor, clip: float, bits: int, zero: bool) -> tuple[Tensor, Tensor]:
    """Return the places that numbers take, and which of ``levels`` these are.

    With a zero there are 2^bits - 1 places, clip * k / Q; without one 2^bits, at odd multiples of
    clip / (2^bits - 1). Halfway cases go to the even number, so without a zero 0 goes up.
    """
    places = clip * levels(bits, zero)
    half = (len(places) - 1) / 2
    v = (weight / clip).clamp_(-1, 1).mul_(half)
    index = (v.round_() + half if zero else v.add_(half).round_()).long()
    return places[index], index


def pruned_mask(weight: Tensor, pruned: int) -> Tensor:
    """Return what stays (True) when ``pruned`` of every four neighbors go, the smallest ones."""
    if pruned == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    return nm_mask(weight.abs(), f"{4 - pruned}:4")


def grid_parts(weight: Tensor, mask: Tensor, clip: float, bits: int, zero: bool) -> dict:
    """Prune, quantize, and say which weights the error comes from.

    Returns:
        ``kept`` and ``lifted``: squared errors of the kept weights and of the pruned ones that are
        lifted off zero, as shares of the pruned matrix's squared norm; ``error``, the root of their
        sum; ``zeros``, the share of the pruned weights that are exactly zero (None if none is
        pruned); ``rounded``, the share of the kept ones that became zero.

    >>> w, mask = torch.tensor([3.0, 0.1, -1.0, 0.0]), torch.tensor([True, False, True, False])
    >>> row = grid_parts(w, mask, clip=3.0, bits=2, zero=False)  # places -3, -1, 1, 3
    >>> row["zeros"], round(row["lifted"], 6)  # two pruned weights became 1: 2 of 3² + 1²
    (0.0, 0.2)
    """
    hat, _ = on_grid(weight * mask, clip, bits, zero)
    gone = ~mask
    whole = weight[mask].square().sum()
    kept = float((hat - weight)[mask].square().sum() / whole)
    lifted = float(hat[gone].square().sum() / whole)
    return {
        "kept": kept,
        "lifted": lifted,
        "error": (kept + lifted) ** 0.5,
        "zeros": float((hat[gone] == 0).float().mean()) if gone.any() else None,
        "rounded": float((hat[mask] == 0).float().mean()),
    }


def zero_grid_table(
    matrices: Mapping[str, Tensor],
    bits: Sequence[int] = GRID_BITS,
    clips: Sequence[float] = CLIPS,
    pruned: Sequence[int] = PRUNED,
) -> list[dict]:
    """Return the parts of the error of every matrix at every setting; clips in rms."""
    masks = {(name, k): pruned_mask(w, k) for name, w in matrices.items() for k in pruned}
    sizes = {name: float(w.square().mean().sqrt()) for name, w in matrices.items()}

    def row(matrix: str, pruned: int, bits: int, grid: str, clip: float) -> dict:
        mask = masks[matrix, pruned]
        return grid_parts(matrices[matrix], mask, clip * sizes[matrix], bits, GRIDS[grid])

    return sweep(row, matrix=[*matrices], pruned=pruned, bits=bits, grid=[*GRIDS], clip=clips)


def occupied(weight: Tensor, mask: Tensor, clip: float, bits: int, zero: bool) -> tuple:
    """Return the percent of all weights at each place: kept ones, pruned ones."""
    _, index = on_grid(weight * mask, clip, bits, zero)
    count = len(levels(bits, zero))
    parts = (torch.bincount(index[m], minlength=count) for m in (mask, ~mask))
    return tuple([round(100 * n / weight.numel(), 3) for n in part.tolist()] for part in parts)


def draw_zero_grid(
    bits: int,
    clip: float,
    grid: str,
    pruned: int,
    matrix: str,
    rows: Sequence[dict],
    matrices: Mapping[str, Tensor],
) -> tuple[go.Figure, str]:
    """Draw what stands at each place of the grid, and the error of both grids over all clips."""
    lines = {
        name: [r for r in rows if (r["matrix"], r["pruned"], r["bits"], r["grid"])
               == (matrix, pruned, bits, name)]
        for name in GRIDS
    }  # fmt: skip
    chosen = next(row for row in lines[grid] if row["clip"] == clip)
    weight = matrices[matrix]
    size = float(weight.square().mean().sqrt())
    kept, gone = occupied(weight, pruned_mask(weight, pruned), clip * size, bits, GRIDS[grid])
    places = [round(clip * x, 4) for x in levels(bits, GRIDS[grid]).tolist()]
    width = [0.8 * (places[1] - places[0])] * len(places)

    def curve(name: str, color: str) -> go.Scatter:
        y = [100 * row["error"] for row in lines[name]]
        line = {"color": color, "width": 3}
        return go.Scatter(
            x=list(CLIPS), y=y, name=name, mode="lines", line=line, xaxis="x2", yaxis="y2"
        )

    fig = plots.figure(
        go.Bar(x=places, y=kept, width=width, name="kept", marker_color=plots.GRAY),
        go.Bar(x=places, y=gone, width=width, name="pruned", marker_color=plots.RED),
        curve("with a zero", plots.BLUE),
        curve("without a zero", plots.ORANGE),
        go.Scatter(
            x=[clip],
            y=[100 * chosen["error"]],
            name="your clip",
            showlegend=False,
            mode="markers",
            marker={"size": 15, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}},
            xaxis="x2",
            yaxis="y2",
        ),
        title=f"{bits} bits {grid}, {pruned} of 4 pruned: error {100 * chosen['error']:.1f} %",
        barmode="stack",
        margin_t=110,
        legend_y=1.02,
        legend_traceorder="normal",
    )
    fig.update_layout(
        xaxis={"domain": [0, 0.46], "title.text": "place, in rms", "range": [-4.7, 4.7]},
        yaxis={"title.text": "percent of all weights", "rangemode": "tozero"},
        xaxis2={"domain": [0.62, 1], "title.text": "clip, in rms", "range": [0.3, 4.7]},
        yaxis2={
            "anchor": "x2",
            "type": "log",
            "range": [-0.3, 2.4],
            "title.text": "error in percent",
            "tickvals": [1, 3, 10, 30, 100],
        },
    )
    return fig, _caption(chosen, lines)


def _caption(chosen: dict, lines: Mapping[str, Sequence[dict]]) -> str:
    best = {name: min(line, key=lambda row: row["error"]) for name, line in lines.items()}
    zeros = "Nothing is pruned"
    if chosen["zeros"] is not None:
        zeros = f"{100 * chosen['zeros']:.0f} % of the pruned weights are still exactly zero"
    ends = ", ".join(f"{name} {100 * row['error']:.1f} %" for name, row in best.items())
    return (
        f"<b>{zeros}.</b> Of the squared norm, {100 * chosen['kept']:.2f} % are lost on kept "
        f"weights, {100 * chosen['lifted']:.2f} % on pruned ones that left zero; "
        f"{100 * chosen['rounded']:.1f} % of the kept ones became zero. At its best clip: {ends}."
    )


def zero_grid_explorer(rows: Sequence[dict], matrices: Mapping[str, Tensor]) -> Explorer:
    """Notebook 05: choose the grid, its bits and clip, and how much is pruned.

    Args:
        rows: from ``zero_grid_table(matrices)``.
        matrices: name -> tensor; the first one is shown first.
    """

    def pick(label: str, options: Sequence[str], value: str) -> ipywidgets.Dropdown:
        return ipywidgets.Dropdown(
            options=[*options],
            value=value,
            description=label,
            style={"description_width": "initial"},
            layout={"width": "290px"},
        )

    return Explorer(
        partial(draw_zero_grid, rows=rows, matrices=matrices),
        pruned=choice("pruned of 4", {str(k): k for k in PRUNED}, 2),
        bits=choice("bits", {str(b): b for b in GRID_BITS}, 4),
        clip=choice("clip", {f"{c:.2f} rms": c for c in CLIPS}, 2.5),
        grid=pick("grid", [*GRIDS], "without a zero"),
        matrix=pick("matrix", [*matrices], next(iter(matrices))),
    )
