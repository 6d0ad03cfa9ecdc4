"""Notebook 03: sums of Kronecker products of every shape, and low-rank pairs beside them."""

from collections.abc import Iterable, Mapping
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from ... import shapes
from ...factors.kronecker import rearrange
from .. import plots
from .base import Explorer, choice, sweep
from .tensor_train import pair_costs

PRODUCTS = (1, 2, 4, 8, 16, 32, 64)


def sum_errors(weight: Tensor, rows: int, cols: int) -> list[float]:
    """Return the relative errors of the nearest sums of 1, 2, 3 ... products, A rows x cols each.

    Nothing is rebuilt: the errors follow from the eigenvalues of the short side's Gram matrix.
    """
    out_modes = (rows, weight.shape[0] // rows)
    moved = rearrange(weight.double(), out_modes, (cols, weight.shape[1] // cols))
    gram = moved.T @ moved if moved.shape[0] > moved.shape[1] else moved @ moved.T
    energies = torch.linalg.eigvalsh(gram).clamp(min=0)  # ascending
    tails = (energies.cumsum(0) / energies.sum()).sqrt().tolist()
    return [*tails[-2::-1], 0.0]


def sum_costs(weight: Tensor, rows: int, cols: int) -> dict:
    """Say what sums of products with a factor A of ``rows`` x ``cols`` cost and lose.

    Returns:
        ``errors``, relative, one per number of products, until the sum is exact; for *one*
        product ``numbers``, and the MACs per token ``b_first`` and ``a_first``; ``dense``, the
        numbers of the matrix.
    """
    out_modes = (rows, weight.shape[0] // rows)
    in_modes = (cols, weight.shape[1] // cols)
    b_first, a_first = shapes.kronecker_macs(out_modes, in_modes)
    return {
        "errors": sum_errors(weight, rows, cols),
        "numbers": shapes.kronecker_parameters(out_modes, in_modes),
        "b_first": b_first,
        "a_first": a_first,
        "dense": weight.numel(),
    }


def kronecker_table(matrices: Mapping[str, Tensor]) -> list[dict]:
    """Return ``sum_costs`` of every matrix at every shape of A. All matrices have one shape.

    Raises:
        ValueError: they do not.
    """
    sizes = {(*weight.shape,) for weight in matrices.values()}
    if len(sizes) != 1:
        raise ValueError(f"one set of sliders needs matrices of one shape, got {sorted(sizes)}")
    high, wide = sizes.pop()
    return sweep(
        lambda matrix, rows, cols: sum_costs(matrices[matrix], rows, cols),
        matrix=[*matrices],
        rows=shapes.divisors(high),
        cols=shapes.divisors(wide),
    )


def at(row: dict, products: int) -> dict:
    """Return one setting's costs; ``products`` is clipped to what is exact."""
    count = min(products, len(row["errors"]))
    costs = {key: count * row[key] for key in ("numbers", "b_first", "a_first")}
    return {"products": count, "error": row["errors"][count - 1]} | costs


def draw_kronecker(
    rows: int,
    cols: int,
    products: int,
    matrix: str,
    table: list[dict],
    pairs: Mapping[str, list[dict]],
) -> tuple[go.Figure, str]:
    """Draw error against cost: all pairs, all shapes, and the chosen one with both its orders."""
    mine = [row for row in table if row["matrix"] == matrix]
    row = next(row for row in mine if (row["rows"], row["cols"]) == (rows, cols))
    chosen, dense = at(row, products), row["dense"]

    def trace(name: str, points: Iterable[tuple[int | float, float]], **look) -> go.Scatter:
        x, y = zip(*points, strict=True)
        return go.Scatter(x=[100 * n / dense for n in x], y=[100 * e for e in y], name=name, **look)

    mark = {"size": 15, "line": {"width": 3}, "color": plots.RED}
    others = [at(other, products) for other in mine]
    every = [at(row, count) for count in range(1, len(row["errors"]) + 1)]
    error = chosen["error"]
    fig = plots.figure(
        trace(
            "pairs",
            [(pair["numbers"], pair["error"]) for pair in pairs[matrix]],
            mode="lines",
            line={"color": plots.GRAY, "width": 4},
        ),
        trace(
            "all shapes",
            [(other["numbers"], other["error"]) for other in others],
            mode="markers",
            marker={"color": plots.SKY, "size": 5},
        ),
        trace(
            "this shape",
            [(one["numbers"], one["error"]) for one in every],
            mode="lines",
            line={"color": plots.BLUE, "width": 2},
        ),
        trace(
            "its numbers",
            [(chosen["numbers"], error)],
            mode="markers",
            marker=mark | {"symbol": "circle-open"},
        ),
        trace(
            "its work",
            [(chosen["b_first"], error), (chosen["a_first"], error)],
            mode="markers",
            marker=mark | {"symbol": "diamond-open", "size": 11},
        ),
        title=_title(row, chosen),
        x="percent of the whole matrix: numbers, or work (logarithmic)",
        y="relative error in percent",
        xaxis_type="log",
        xaxis_range=[-0.4, 3.1],
        xaxis_tickvals=[1, 10, 100, 1000],
        yaxis_range=[-3, 103],
        shapes=[{"type": "line", "x0": 100, "x1": 100, "y0": 0, "y1": 100}],
    )
    fig.update_shapes(line={"color": plots.GRAY, "dash": "dot", "width": 1.5})
    return fig, _caption(row, chosen, products, pairs[matrix])


def _title(row: dict, chosen: dict) -> str:
    count = f"{chosen['products']} product" + "s" * (chosen["products"] > 1)
    return (
        f"A is {row['rows']} × {row['cols']}, {count}: {chosen['numbers']:,} numbers, "
        f"error {100 * chosen['error']:.0f} %"
    )


def _caption(row: dict, chosen: dict, products: int, pairs: list[dict]) -> str:
    share = 100 * chosen["numbers"] / row["dense"]
    words = (
        f"<b>{chosen['numbers']:,} numbers ({share:.1f} % of the matrix), error "
        f"{100 * chosen['error']:.1f} %.</b> Multiplications per token: {chosen['b_first']:,} with "
        f"B first, {chosen['a_first']:,} with A first, {row['dense']:,} without products. "
    )
    if chosen["products"] < products:
        count = chosen["products"]
        exact = "1 product is" if count == 1 else f"{count} products are"
        words += f"{exact} exact, more would be zeros. "
    fitting = [pair for pair in pairs if pair["numbers"] <= chosen["numbers"]]
    if not fitting:
        return words + "No low-rank pair is that small."
    pair = fitting[-1]
    return words + (
        f"Gray: a pair of rank {pair['rank']} needs {pair['numbers']:,} numbers for an error of "
        f"{100 * pair['error']:.1f} %."
    )


def kronecker_explorer(table: list[dict], matrices: Mapping[str, Tensor]) -> Explorer:
    """Notebook 03: choose the shape of A, the number of products, and the matrix.

    Args:
        table: from ``kronecker_table(matrices)``.
        matrices: name -> matrix, all of one shape; the first one is shown first.
    """
    pairs = {name: pair_costs(weight) for name, weight in matrices.items()}
    heights = sorted({row["rows"] for row in table})
    widths = sorted({row["cols"] for row in table})
    return Explorer(
        partial(draw_kronecker, table=table, pairs=pairs),
        rows=choice("rows of A", {str(n): n for n in heights}, 8 if 8 in heights else 1),
        cols=choice("columns of A", {str(n): n for n in widths}, 2 if 2 in widths else 1),
        products=choice("products", {str(n): n for n in PRODUCTS}, 1),
        matrix=ipywidgets.Dropdown(
            options=[*matrices], description="matrix", layout={"width": "350px"}
        ),
    )
