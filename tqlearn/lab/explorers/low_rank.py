"""Notebook 01: the spectrum of a matrix, the part that a rank keeps, and what that costs."""

from collections.abc import Mapping
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from .. import plots
from .base import Explorer, sweep

TERMS = 128  # the longest spectrum that the axes show


def spectrum(matrix: Tensor) -> dict:
    """Return what decides about every rank of a matrix.

    Returns:
        ``shape``; ``values``, the singular values as parts of the norm, so that their squares sum
        to 1; ``errors``, the relative error at rank 0, 1, 2 and so on; ``break_even``, the rank at
        which the pair holds as many numbers as the matrix (rarely an integer).
    """
    rows, cols = matrix.shape
    values = torch.linalg.svdvals(matrix.double())
    values = values / values.norm()
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt().tolist()
    return {
        "shape": (rows, cols),
        "values": values.tolist(),
        "errors": [*tails, 0.0],
        "break_even": rows * cols / (rows + cols),
    }


def low_rank_costs(found: dict, rank: int) -> dict:
    """Return what a pair of a rank holds, multiplies per token and loses.

    Args:
        found: from ``spectrum``.
        rank: clipped to the number of terms.
    """
    rows, cols = found["shape"]
    rank = min(rank, len(found["values"]))
    return {
        "numbers": rank * (rows + cols),
        "dense": rows * cols,
        "ratio": rows * cols / (rank * (rows + cols)),
        "error": found["errors"][rank],
        "pays": rank < found["break_even"],
    }


def low_rank_table(spectra: Mapping[str, dict], ranks: tuple[int, ...]) -> list[dict]:
    """Return one row per matrix and rank: ``low_rank_costs`` with the settings first."""
    return sweep(
        lambda matrix, rank: low_rank_costs(spectra[matrix], rank), matrix=[*spectra], rank=ranks
    )


def draw_spectrum(matrix: str, rank: int, spectra: Mapping[str, dict]) -> tuple[go.Figure, str]:
    """Draw the spectrum with the kept part in color, and the error against the numbers."""
    found, row = spectra[matrix], low_rank_costs(spectra[matrix], rank)
    values, even = found["values"], found["break_even"]
    kept = min(rank, len(values))
    both = sum(found["shape"])
    share = [100 * r * both / row["dense"] for r in range(len(values) + 1)]
    right = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    dotted = {"mode": "lines", "line": {"color": plots.RED, "width": 2, "dash": "dot"}}
    blue, gray = ({"color": color, "line": {"width": 0}} for color in (plots.BLUE, plots.GRAY))
    fig = plots.figure(
        go.Bar(
            x=[*range(1, kept + 1)],
            y=values[:kept],
            name="kept",
            marker=blue,
        ),
        go.Bar(
            x=[*range(kept + 1, len(values) + 1)],
            y=values[kept:],
            name="dropped",
            marker=gray,
        ),
        go.Scatter(x=[even, even], y=[0, 0.3], name="break-even", **dotted),
        go.Scatter(
            x=share,
            y=[100 * error for error in found["errors"]],
            mode="lines",
            line={"color": plots.GRAY, "width": 3},
            **right,
        ),
        go.Scatter(x=[100, 100], y=[0, 100], **dotted, **right),
        go.Scatter(
            x=[share[kept]],
            y=[100 * row["error"]],
            mode="markers",
            marker={"color": plots.BLUE, "size": 14},
            **right,
        ),
        title=f"Rank {kept}: {100 * row['numbers'] / row['dense']:.0f} % of the numbers, "
        f"error {100 * row['error']:.0f} %",
        x="term",
        y="singular value / norm",
        bargap=0,
        xaxis_range=[0, TERMS + 2],
        xaxis_domain=[0, 0.5],
        yaxis_range=[0, 0.3],
        xaxis2={"domain": [0.64, 1], "range": [-5, 208], "title": {"text": "numbers in percent"}},
        yaxis2={
            "anchor": "x2",
            "range": [-3, 103],
            "title": {"text": "relative error in percent", "standoff": 5},
        },
    )
    return fig, _caption(matrix, kept, row, even)


def _caption(matrix: str, rank: int, row: dict, even: float) -> str:
    numbers, dense = row["numbers"], row["dense"]
    verdict = (
        f"{row['ratio']:.1f} times fewer of both than the matrix."
        if row["pays"]
        else "<b>That is no saving: keep the matrix.</b>"
    )
    return (
        f"<b>{matrix}, rank {rank}: {numbers:,} numbers for {dense:,}, error "
        f"{100 * row['error']:.1f} %.</b> As many multiplications per token as numbers: {verdict} "
        f"The pair breaks even at rank {even:.0f}."
    )


def low_rank_explorer(spectra: Mapping[str, dict]) -> Explorer:
    """Notebook 01: choose matrix and rank.

    Args:
        spectra: name -> ``spectrum(matrix)``; the first one is shown first.
    """
    wide = {"description_width": "initial"}
    return Explorer(
        partial(draw_spectrum, spectra=spectra),
        matrix=ipywidgets.Dropdown(
            options=[*spectra], description="matrix", layout={"width": "330px"}
        ),
        rank=ipywidgets.IntSlider(
            32, 1, TERMS, description="rank", style=wide, layout={"width": "330px"}
        ),
    )
