"""Notebook 06: one matrix under a pattern: what it loses, and what its numbers and places cost."""

from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from ...sparsity.nm import magnitude, nm_mask
from ...sparsity.patterns import Pattern
from ...sparsity.wanda import activation_aware
from .. import plots
from .base import Explorer, choice, sweep

ANY = "any half"  # no groups: the larger half of the whole matrix
PATTERNS = ("1:4", "1:2", "2:4", "4:8", "8:16", ANY, "4:8 pairs", "3:4")
SCORES = ("size", "size x input")
ROWS, COLUMNS = 16, 32  # of the corner that is drawn
HOLE = "#C9CDD2"  # a kept weight near zero is nearly white, so the holes are gray
LABELS = {"1:2": "bottom left", "2:4": "top right", ANY: "bottom left", "4:8 pairs": "top right"}


def scores_of(weight: Tensor, gram: Tensor, score: str) -> Tensor:
    """Return the scores of ``SCORES``; the norm of an input is the root of the gram's diagonal."""
    return magnitude(weight) if score == SCORES[0] else activation_aware(weight, gram.diag().sqrt())


def mask_for(scores: Tensor, pattern: str) -> Tensor:
    """Return the mask of a pattern, ``ANY`` included; True stays.

    >>> mask_for(torch.tensor([[0.1, 0.2, 0.3, 0.4], [5.0, 6.0, 7.0, 8.0]]), ANY).int().tolist()
    [[0, 0, 0, 0], [1, 1, 1, 1]]
    """
    if pattern != ANY:
        return nm_mask(scores, pattern)
    order = scores.flatten().argsort(stable=True)
    kept = torch.ones(len(order), dtype=torch.bool).scatter(0, order[: len(order) // 2], False)
    return kept.reshape(scores.shape)


def storage(shape: Sequence[int], pattern: str, bits: int = 4) -> dict:
    """Count the bytes of a matrix: its kept numbers, and the places where they stand.

    A place of ``ANY`` needs no fewer bits than a bit for every weight, kept or not.

    >>> storage((768, 3072), "2:4"), storage((768, 3072), ANY)["places"]
    ({'numbers': 589824, 'places': 294912}, 294912)
    """
    if pattern == ANY:
        count = shape[0] * shape[1]
        return {"numbers": count // 2 * bits // 8, "places": count // 8}
    form = Pattern.of(pattern)
    groups = form.groups(shape)
    return {"numbers": form.value_bytes(groups, bits), "places": form.place_bytes(groups)}


def sparsity_costs(weight: Tensor, gram: Tensor, pattern: str, score: str) -> dict:
    """Prune a matrix and say what that loses and costs, at four bits for a kept number.

    Args:
        weight: (out, in); gram: (in, in), the inputs' X^T X, by any factor.

    Returns:
        ``error`` of the weights and ``output_error``, relative norms; ``numbers`` and ``places``
        in bytes; ``bits``, both together for each weight of the whole matrix; ``corner``, its
        first rows and columns with None for what is dropped.
    """
    mask = mask_for(scores_of(weight, gram, score), pattern)
    missing = weight.masked_fill(mask, 0)
    lost, whole = ((w @ gram * w).sum() for w in (missing, weight))
    stored = storage(weight.shape, pattern)
    corner = weight[:ROWS, :COLUMNS].masked_fill(~mask[:ROWS, :COLUMNS], torch.nan)
    return stored | {
        "error": float(missing.norm() / weight.norm()),
        "output_error": float((lost / whole).clamp_min(0).sqrt()),
        "bits": 8 * (stored["numbers"] + stored["places"]) / weight.numel(),
        "corner": [[None if x != x else round(x, 3) for x in row] for row in corner.tolist()],
    }


def sparsity_table(matrices: Mapping[str, tuple[Tensor, Tensor]]) -> list[dict]:
    """Return the costs of every matrix, given with its gram, under every pattern and score."""

    def row(matrix: str, pattern: str, score: str) -> dict:
        return sparsity_costs(*matrices[matrix], pattern, score)

    return sweep(row, matrix=[*matrices], pattern=PATTERNS, score=SCORES)


def draw_sparsity(
    pattern: str, score: str, matrix: str, rows: Sequence[dict]
) -> tuple[go.Figure, str]:
    """Draw a corner of the pruned matrix, and output error against size for all patterns."""
    here = [row for row in rows if row["matrix"] == matrix]
    mine = [row for row in here if row["score"] == score]
    chosen = next(row for row in mine if row["pattern"] == pattern)
    most = max(abs(x) for row in chosen["corner"] for x in row if x is not None)

    def dots(name: str, found: list[dict], **look) -> go.Scatter:
        return go.Scatter(
            x=[row["bits"] for row in found],
            y=[100 * row["output_error"] for row in found],
            name=name,
            xaxis="x2",
            yaxis="y2",
            hovertext=[row["pattern"] for row in found],
            hovertemplate="%{hovertext}: %{x:.2f} bits, %{y:.1f} %<extra></extra>",
            **look,
        )

    fig = plots.figure(
        go.Heatmap(
            z=chosen["corner"],
            x=[*range(COLUMNS)],
            y=[*range(ROWS)],
            colorscale="RdBu",
            zmin=-most,
            zmax=most,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="row %{y}, input %{x}: %{z}<extra></extra>",
        ),
        dots(
            "the other score",
            [row for row in here if row["score"] != score],
            mode="markers",
            marker={"color": plots.GRAY, "size": 8},
        ),
        dots(
            score,
            mine,
            mode="markers+text",
            marker={"color": plots.BLUE, "size": 9},
            text=[row["pattern"] for row in mine],
            textposition=[LABELS.get(row["pattern"], "top center") for row in mine],
            textfont={"size": 12},
            cliponaxis=False,
        ),
        dots(
            "your choice",
            [chosen],
            mode="markers",
            showlegend=False,
            marker={"size": 17, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}},
        ),
        title=f"{pattern} by {score}: {chosen['bits']:.2f} bits per weight, "
        f"output error {100 * chosen['output_error']:.0f} %",
        margin_t=110,
        legend_y=1.02,
    )
    corner = {"x0": -0.5, "x1": COLUMNS - 0.5, "y0": -0.5, "y1": ROWS - 0.5}
    fig.add_shape(type="rect", **corner, fillcolor=HOLE, line_width=0, layer="below")
    fig.update_layout(
        xaxis={"domain": [0, 0.41], "title.text": "input", "dtick": 8},
        yaxis={"title.text": "output", "autorange": "reversed", "dtick": 4},
        xaxis2={
            "domain": [0.55, 1],
            "title.text": "bits per weight, places included",
            "range": [1, 5],
        },
        yaxis2={"anchor": "x2", "title.text": "output error in percent", "range": [0, 62]},
    )
    lines = {"showgrid": False, "zeroline": False}  # either would cross the matrix
    fig.update_layout(xaxis=lines, yaxis=lines)
    return fig, _caption(chosen)


def _caption(row: dict) -> str:
    numbers, places = row["numbers"], row["places"]
    dense = 32 * (numbers + places) / row["bits"]
    return (
        f"<b>{numbers:,} + {places:,} bytes: {dense / numbers:.1f} times smaller by the numbers "
        f"alone, {dense / (numbers + places):.1f} times with their places.</b> "
        f"Error of the weights {100 * row['error']:.1f} %, of the outputs "
        f"{100 * row['output_error']:.1f} %."
    )


def sparsity_explorer(rows: Sequence[dict]) -> Explorer:
    """Notebook 06: choose pattern, score and matrix.

    Args:
        rows: from ``sparsity_table``; the first matrix is shown first.
    """
    matrices = [*dict.fromkeys(row["matrix"] for row in rows)]
    return Explorer(
        partial(draw_sparsity, rows=rows),
        pattern=choice("pattern", {pattern: pattern for pattern in PATTERNS}, "2:4"),
        score=ipywidgets.ToggleButtons(options=SCORES, style={"button_width": "auto"}),
        matrix=ipywidgets.Dropdown(
            options=matrices, description="matrix", layout={"width": "290px"}
        ),
    )
