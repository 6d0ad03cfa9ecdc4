"""Notebook 07: scores on a map of blocks as they move, and what every lambda leaves of a model."""

from collections.abc import Mapping, Sequence
from functools import partial

import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from ...sparsity.anatomy import encoder_weights, transformer_layers
from ...sparsity.blocks import block_masks
from .. import plots
from .base import Explorer, choice, sweep

MATRICES = ("query", "key", "value", "output")
SHADES = [[0, "#A6CBE8"], [1, "#08306B"]]  # light scores are near the line, dark ones high
LOW, HIGH = -2.2, 0.0  # of the shades: at a threshold of 0.1 a block goes at -2.197


def snapshot(model: nn.Module, threshold: float | int) -> dict:
    """Return the scores of a model under a hybrid plan, layer by layer, and the threshold.

    Each layer has the grids of ``MATRICES``, a vector of "dimensions", "head_size" and the "block"
    of its query.
    """
    masks, layers = block_masks(model), []
    for layer in transformer_layers(model):
        found = {
            name: (mask := masks[getattr(layer, name)])
            .source.scores.detach()
            .clone()
            .view(mask.grid)
            for name in MATRICES
        }
        found["dimensions"] = masks[layer.up].source.scores.detach().clone().flatten()
        layers.append(found | {"head_size": layer.head_size, "block": masks[layer.query].block})
    return {"threshold": threshold, "layers": layers}


def kept(scores: Tensor, threshold: float | int) -> Tensor:
    """Return which blocks stay."""
    return scores.sigmoid() > threshold


def left(shot: Mapping) -> dict:
    """Count what a snapshot leaves, from its scores alone.

    Returns:
        ``density``, the share of the matrices' weights that the masks keep; ``heads`` and
        ``dimensions`` per layer that compaction would keep, one at least; ``compacted``, the
        density that is left in memory then.
    """
    tau = shot["threshold"]
    heads, dimensions, used, whole = [], [], 0, 0
    for layer in shot["layers"]:
        (rows, columns), size = layer["block"], layer["head_size"]
        width = layer["query"].shape[1] * columns
        masks = {name: kept(layer[name], tau) for name in MATRICES}
        alive = kept(layer["dimensions"], tau)
        used += sum(int(mask.sum()) for mask in masks.values()) * rows * columns
        used += 2 * width * int(alive.sum())
        per_head = size // rows
        speaks = masks["value"].unflatten(0, (-1, per_head)).any(-1).any(-1)
        heard = masks["output"].T.unflatten(0, (-1, per_head)).any(-1).any(-1)
        heads.append(max(1, int((speaks & heard).sum())))
        dimensions.append(max(1, int(alive.sum())))
        whole += width * (4 * size * len(speaks) + 2 * len(alive))
    stays = encoder_weights(heads, dimensions, width, size)
    return {
        "density": used / whole,
        "compacted": stays / whole,
        "heads": heads,
        "dimensions": dimensions,
    }


def sheet(shot: Mapping) -> list[list[float | None]]:
    """Lay a snapshot out as one sheet: a band per layer, its four grids, then its dimensions.

    The dimensions fill as many rows as the grids have. None is a gap, or what is gone.
    """
    bands, tau = [], shot["threshold"]
    for layer in shot["layers"]:
        grids = [layer[name] for name in MATRICES]
        grids.append(layer["dimensions"].unflatten(0, (grids[0].shape[0], -1)))
        gap = torch.full((grids[0].shape[0], 1), torch.nan)
        parts = [grid.float().masked_fill(~kept(grid, tau), torch.nan) for grid in grids]
        band = torch.cat([part for grid in parts for part in (grid, gap)][:-1], 1)
        bands += [band, torch.full((1, band.shape[1]), torch.nan)]
    rows = torch.cat(bands[:-1]).tolist()
    return [[None if x != x else round(x, 2) for x in row] for row in rows]


def frames(shot: Mapping) -> list[tuple[str, float, float, float, float]]:
    """Return (name, left, right, top, bottom) of every grid on the sheet."""
    found, top = [], -0.5
    for layer in shot["layers"]:
        side = -0.5
        high = layer["query"].shape[0]
        widths = {name: layer[name].shape[1] for name in MATRICES}
        widths["FFN dimensions"] = len(layer["dimensions"]) // high
        for name, width in widths.items():
            found.append((name, side, side + width, top, top + high))
            side += width + 1
        top += high + 1
    return found


def draw_sheet(fig: go.Figure, shot: Mapping, axis: str = "") -> go.Figure:
    """Put gray grounds and the names of the grids on the axes (such as "2") of a sheet."""
    places = frames(shot)
    for _, x0, x1, y0, y1 in places:
        fig.add_shape(
            type="rect", x0=x0, x1=x1, y0=y0, y1=y1, fillcolor=plots.GONE, line_width=0,
            layer="below", xref=f"x{axis}", yref=f"y{axis}",
        )  # fmt: skip
    row = places[: len(MATRICES) + 1]
    bands = places[:: len(MATRICES) + 1]
    fig.update_layout(
        {
            f"xaxis{axis}": {
                "tickvals": [(x0 + x1) / 2 for _, x0, x1, _, _ in row],
                "ticktext": [name for name, *_ in row],
                "ticks": "", "showgrid": False, "zeroline": False,
                "range": [-0.5, max(x1 for _, _, x1, _, _ in row)],
            },
            f"yaxis{axis}": {
                "tickvals": [(y0 + y1) / 2 for *_, y0, y1 in bands],
                "ticktext": [f"layer {k}" for k in range(len(bands))],
                "ticks": "", "showgrid": False, "zeroline": False,
                "range": [bands[-1][-1], -0.5],
            },
        }
    )  # fmt: skip
    return fig


def heatmap(shot: Mapping, **more: object) -> go.Heatmap:
    """Return a sheet as a picture: the darker, the higher a score; what is gone is a hole."""
    z = sheet(shot)
    return go.Heatmap(
        z=z, x=[*range(len(z[0]))], y=[*range(len(z))], colorscale=SHADES, zmin=LOW, zmax=HIGH,
        showscale=False, xgap=0.5, ygap=0.5, hovertemplate="score %{z}<extra></extra>", **more,
    )  # fmt: skip


def pruning_table(runs: Mapping[float, Mapping]) -> list[dict]:
    """Return one row per lambda and step of the runs.

    Args:
        runs: lambda -> {"shots": {step: snapshot}, "slot_f1": ..., "speed": ...}; the last two are
            the finished model's. All runs have the same steps.
    """
    steps = [*next(iter(runs.values()))["shots"]]

    def row(penalty: float, step: int) -> dict:
        run = runs[penalty]
        shot = run["shots"][step]
        ends = {"slot_f1": run["slot_f1"], "speed": run["speed"]}
        return left(shot) | {"threshold": shot["threshold"]} | ends

    return sweep(row, penalty=[*runs], step=steps)


def draw_pruning(
    penalty: float, step: int, runs: Mapping[float, Mapping], table: Sequence[dict]
) -> tuple[go.Figure, str]:
    """Draw the blocks of one lambda at one step, the way of every density, and where all end."""
    mine = [row for row in table if row["penalty"] == penalty]
    others = [row for row in table if row["penalty"] != penalty]
    chosen = next(row for row in mine if row["step"] == step)
    last = max(row["step"] for row in table)
    ends = [row for row in table if row["step"] == last]
    gray: dict[str, list] = {"x": [], "y": []}
    for row in others:
        gray["x"] += [row["step"]] + [None] * (row["step"] == last)
        gray["y"] += [100 * row["density"]] + [None] * (row["step"] == last)
    way = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    goal = {"xaxis": "x3", "yaxis": "y3", "showlegend": False}
    ring = {"size": 17, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}}
    shot = runs[penalty]["shots"][step]
    fig = plots.figure(
        heatmap(shot),
        go.Scatter(**gray, mode="lines", line_color="#B8BDC4", name="other lambdas", **way),
        go.Scatter(
            x=[row["step"] for row in mine], y=[100 * row["density"] for row in mine],
            mode="lines", line={"color": plots.BLUE, "width": 3}, name="your lambda", **way,
        ),
        go.Scatter(x=[step], y=[100 * chosen["density"]], mode="markers", marker=ring,
                   name="your step", cliponaxis=False, **way),
        go.Scatter(
            x=[100 * row["compacted"] for row in ends], y=[row["slot_f1"] for row in ends],
            text=[f"{row['penalty']:g}" for row in ends], mode="markers+text",
            textposition="bottom right", marker={"color": plots.BLUE, "size": 9}, cliponaxis=False,
            hovertemplate="lambda %{text}: %{x:.1f} %, slots %{y:.1f}<extra></extra>",
            name="every lambda", **goal,
        ),
        go.Scatter(x=[100 * mine[-1]["compacted"]], y=[mine[-1]["slot_f1"]], mode="markers",
                   marker=ring, name="yours", **goal),
        title=f"lambda {penalty:g}, step {step}: the masks keep {100 * chosen['density']:.0f} %",
        height=560,
    )  # fmt: skip
    draw_sheet(fig, shot)
    fig.update_layout(
        xaxis={"domain": [0, 1], "side": "top", "anchor": "y"},
        yaxis={"domain": [0.56, 1]},
        xaxis2={"domain": [0, 0.44], "anchor": "y2", "title.text": "step",
                "range": [-0.05 * last, 1.05 * last]},
        yaxis2={"domain": [0, 0.4], "anchor": "x2", "title.text": "kept, %", "range": [0, 105]},
        xaxis3={"domain": [0.57, 1], "anchor": "y3", "title.text": "left when compacted, %"},
        yaxis3={"domain": [0, 0.4], "anchor": "x3", "title.text": "slot F1, %"},
        margin_t=95,
    )  # fmt: skip
    return fig, _caption(chosen, mine[-1])


def _caption(row: dict, end: dict) -> str:
    heads, dims = ("+".join(map(str, row[key])) for key in ("heads", "dimensions"))
    return (
        f"<b>Threshold {row['threshold']:.3f}: {sum(row['heads'])} heads ({heads}) and "
        f"{sum(row['dimensions'])} dimensions ({dims}) have something left; without the empty ones "
        f"{100 * row['compacted']:.1f} % of the weights would stay.</b> At the end of this run: "
        f"{100 * end['compacted']:.1f} %, slot F1 {end['slot_f1']:.1f} %, "
        f"{end['speed']:.2f} times as fast as the teacher."
    )


def block_pruning_explorer(runs: Mapping[float, Mapping]) -> Explorer:
    """Notebook 07: choose lambda and step.

    Args:
        runs: see ``pruning_table``; the middle one is shown first, at its last step.
    """
    table = pruning_table(runs)
    penalties = [*runs]
    steps = [*runs[penalties[0]]["shots"]]
    return Explorer(
        partial(draw_pruning, runs=runs, table=table),
        penalty=choice("lambda", {f"{p:g}": p for p in penalties}, penalties[len(penalties) // 2]),
        step=choice("step", {str(s): s for s in steps}, steps[-1]),
    )
