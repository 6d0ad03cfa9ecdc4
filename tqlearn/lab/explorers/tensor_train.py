"""Notebook 02: what a tensor train costs and loses, with a plain low-rank pair beside it."""

from collections.abc import Mapping
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from ... import shapes
from ...factors.trains import tt_svd
from .. import plots
from .base import Explorer, choice, sweep

DIGITS = {"1 + 1 (pair)": 1, "2 + 2": 2, "3 + 3": 3, "only twos": 0}
TRAIN_RANKS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
TOKENS = 512  # in the batch over which the merging of the cores is spread: 32 sentences of 16


def digit_modes(size: int, digits: int) -> tuple[int, ...]:
    """Split a size into near-equal modes; 0 digits stand for its prime factors.

    >>> digit_modes(512, 2), digit_modes(128, 3), digit_modes(8, 0)
    ((16, 32), (4, 4, 8), (2, 2, 2))
    """
    if digits:
        return shapes.factorize(size, digits)
    modes = shapes.factorize(size, size.bit_length())
    return tuple(mode for mode in modes if mode > 1)


def train_costs(weight: Tensor, digits: int, rank: int) -> dict:
    """Cut a matrix into a tensor train and say what that costs.

    Args:
        weight: the matrix; rows and columns get ``digits`` digits each, the larger modes inside.
        digits: as in ``digit_modes``.
        rank: limit for every inner rank.

    Returns:
        ``ranks``, clipped and with the outer ones; ``error``, relative; ``numbers`` in the cores;
        ``macs``, multiplications per token in a batch of ``TOKENS``, merging the cores included;
        ``dense``, the numbers of the matrix itself.
    """
    out_modes = digit_modes(weight.shape[0], digits)
    in_modes = digit_modes(weight.shape[1], digits)[::-1]
    modes = (*out_modes, *in_modes)
    ranks = shapes.tt_ranks(modes, rank)
    _, dropped = tt_svd(weight.reshape(modes), ranks)
    return {
        "ranks": ranks,
        "error": float(dropped.norm() / weight.norm()),
        "numbers": shapes.tt_parameters(modes, ranks),
        "macs": shapes.tt_macs(out_modes, in_modes, ranks, TOKENS) / TOKENS,
        "dense": weight.numel(),
    }


def pair_costs(weight: Tensor) -> list[dict]:
    """Return rank, relative error and numbers of every low-rank pair; its MACs are its numbers."""
    squares = torch.linalg.svdvals(weight.double()).square()
    tails = squares.flip(0).cumsum(0).flip(0)[1:].tolist() + [0.0]
    whole, both = float(squares.sum()), sum(weight.shape)
    return [
        {"rank": r, "error": (tail / whole) ** 0.5, "numbers": r * both}
        for r, tail in enumerate(tails, 1)
    ]


def train_table(matrices: Mapping[str, Tensor]) -> list[dict]:
    """Return the costs of every matrix at every number of digits and every rank.

    Each row also holds ``pair``: the best low-rank pair that needs no more numbers than the train,
    or None where the train is smaller than any pair.
    """
    pairs = {name: pair_costs(weight) for name, weight in matrices.items()}

    def costs(matrix: str, digits: int, rank: int) -> dict:
        row = train_costs(matrices[matrix], digits, rank)
        fitting = [p for p in pairs[matrix] if p["numbers"] <= row["numbers"]]
        return row | {"pair": fitting[-1] if fitting else None}

    return sweep(costs, matrix=[*matrices], digits=[*DIGITS.values()], rank=TRAIN_RANKS)


def draw_trains(
    digits: int, rank: int, matrix: str, rows: list[dict], pairs: Mapping[str, list[dict]]
) -> tuple[go.Figure, str]:
    """Draw error against cost: all pairs, all trains with these digits, and the chosen train."""
    trains = [row for row in rows if (row["matrix"], row["digits"]) == (matrix, digits)]
    chosen = next(row for row in trains if row["rank"] == rank)
    dense = chosen["dense"]

    def trace(name: str, found: list[dict], key: str = "numbers", **look) -> go.Scatter:
        return go.Scatter(
            x=[100 * row[key] / dense for row in found],
            y=[100 * row["error"] for row in found],
            text=[f"rank {row['rank']}: {row[key]:,.0f} {key}" for row in found],
            hovertemplate="%{text}<br>error %{y:.1f} %<extra></extra>",
            name=name,
            **look,
        )

    mark = {"size": 15, "line": {"width": 3}, "color": plots.RED}
    numbers, error = chosen["numbers"], 100 * chosen["error"]
    how = next(name for name, value in DIGITS.items() if value == digits)
    fig = plots.figure(
        trace("pairs", pairs[matrix], mode="lines", line={"color": plots.GRAY, "width": 4}),
        trace("trains", trains, mode="markers", marker={"color": plots.BLUE, "size": 9}),
        trace("its numbers", [chosen], mode="markers", marker=mark | {"symbol": "circle-open"}),
        trace(
            "its work",
            [chosen],
            "macs",
            mode="markers",
            marker=mark | {"symbol": "diamond-open", "size": 11},
        ),
        title=f"{how}, rank {rank}: {numbers:,} numbers, error {error:.0f} %",
        x="percent of the whole matrix: numbers, or work (logarithmic)",
        y="relative error in percent",
        xaxis_type="log",
        xaxis_range=[-1.5, 2.5],
        xaxis_tickvals=[0.1, 1, 10, 100],
        yaxis_range=[-3, 103],
        shapes=[{"type": "line", "x0": 100, "x1": 100, "y0": 0, "y1": 100}],
    )
    fig.update_shapes(line={"color": plots.GRAY, "dash": "dot", "width": 1.5})
    return fig, _caption(chosen)


def _caption(row: dict) -> str:
    inner, share = " ".join(map(str, row["ranks"][1:-1])), 100 * row["numbers"] / row["dense"]
    words = (
        f"<b>{row['numbers']:,} numbers ({share:.1f} % of the matrix), error "
        f"{100 * row['error']:.1f} %.</b> Inner ranks {inner}; {row['macs']:,.0f} multiplications "
        f"per token, {row['dense']:,} without the train. "
    )
    if row["pair"] is None:
        return words + "No low-rank pair is that small."
    pair = row["pair"]
    return words + (
        f"Gray: a pair of rank {pair['rank']} needs {pair['numbers']:,} numbers for an error of "
        f"{100 * pair['error']:.1f} %."
    )


def tensor_train_explorer(rows: list[dict], matrices: Mapping[str, Tensor]) -> Explorer:
    """Notebook 02: choose digits, rank and matrix.

    Args:
        rows: from ``train_table(matrices)``.
        matrices: name -> matrix; the first one is shown first.
    """
    pairs = {name: pair_costs(weight) for name, weight in matrices.items()}
    return Explorer(
        partial(draw_trains, rows=rows, pairs=pairs),
        digits=choice("digits", DIGITS, 2),
        rank=choice("rank", {str(rank): rank for rank in TRAIN_RANKS}, 16),
        matrix=ipywidgets.Dropdown(
            options=[*matrices], description="matrix", layout={"width": "350px"}
        ),
    )
