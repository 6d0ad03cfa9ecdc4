"""Notebook 03: low-rank pairs, tensor trains and Kronecker sums with the same budget of numbers."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import product

import plotly.graph_objects as go
from torch import Tensor

from ... import shapes
from ...factors.trains import tt_svd
from .. import plots
from .kronecker import sum_costs
from .tensor_train import pair_costs

FAMILIES = {  # name -> family of ``candidates``, and whether a factor may be one row or column
    "pair": ("pair", True),
    "train": ("train", True),
    "one product": ("one", True),
    "sum of blocks": ("sum", False),
    "any sum": ("sum", True),
}
LOOKS = {"one product": plots.RED, "sum of blocks": plots.BLUE, "train": plots.GREEN}


def candidates(weight: Tensor, budgets: Sequence[int | float]) -> list[dict]:
    """Return the structures of three families for a matrix: family, shape, numbers, error.

    "pair": every rank. "sum": Kronecker products with every shape of A and every number of them,
    "one" if it is one; ``vector`` is True where a factor is a single row or column. "train": two
    digits a side in every way, cut by TT-SVD; for each budget the largest limit of the inner ranks
    that stays within it.
    """
    high, wide = weight.shape
    found = [{"family": "pair", "shape": f"rank {p['rank']}"} | p for p in pair_costs(weight)]
    for rows, cols in product(shapes.divisors(high), shapes.divisors(wide)):
        row = sum_costs(weight, rows, cols)
        vector = rows in (1, high) or cols in (1, wide)
        for count, error in enumerate(row["errors"], 1):
            shape = f"{count} x ({rows} x {cols}, {high // rows} x {wide // cols})"
            entry = {"shape": shape, "numbers": count * row["numbers"], "error": error}
            found += [entry | {"family": "sum", "vector": vector}]
            found += [entry | {"family": "one", "vector": vector}] if count == 1 else []
    for rows, cols in product(shapes.divisors(high)[1:-1], shapes.divisors(wide)[1:-1]):
        modes = (rows, high // rows, cols, wide // cols)
        limits = {largest_rank(modes, budget) for budget in budgets}
        found += [_train(weight, modes, limit) for limit in sorted(limits) if limit]
    return found


def largest_rank(modes: Sequence[int], budget: int | float) -> int:
    """Return the largest limit of all inner ranks with which a train stays within a budget; or 0.

    >>> largest_rank((24, 32, 32, 24), 47_232), largest_rank((24, 32, 32, 24), 47_231)
    (30, 29)
    """
    whole = range(1, min(modes[0] * modes[1], modes[2] * modes[3]) + 1)
    return bisect_right(whole, budget, key=lambda limit: shapes.tt_parameters(modes, limit))


def _train(weight: Tensor, modes: Sequence[int], limit: int) -> dict:
    """Return shape, numbers and relative error of one train, all inner ranks at most ``limit``."""
    dropped = tt_svd(weight.reshape(modes), limit)[1]
    return {
        "family": "train",
        "shape": f"{' '.join(map(str, modes))} rank {limit}",
        "numbers": shapes.tt_parameters(modes, limit),
        "error": float(dropped.norm() / weight.norm()),
    }


def best_within(found: list[dict], family: str, budget: int | float, vectors: bool = True) -> dict:
    """Return the structure of a family with the smallest error among those within a budget.

    Raises:
        ValueError: the family has none that small.
    """
    fitting = [
        row
        for row in found
        if row["family"] == family
        and row["numbers"] <= budget
        and (vectors or not row.get("vector"))
    ]
    if not fitting:
        raise ValueError(f"no {family!r} has at most {budget:,.0f} numbers; allow more")
    return min(fitting, key=lambda row: (round(row["error"], 9), row["numbers"]))


def compare(
    matrices: Mapping[tuple[str, str], Tensor], shares: Sequence[float]
) -> dict[tuple[str, str, float, str], dict]:
    """Return the best of every family in ``FAMILIES`` for every matrix and budget.

    Args:
        matrices: (name, kind) -> matrix, such as ("query", "trained").
        shares: budgets, as parts of the matrix; one percent more is allowed.
    """
    best = {}
    for (name, kind), weight in matrices.items():
        budgets = [1.01 * share * weight.numel() for share in shares]
        found = candidates(weight, budgets)
        for share, budget in zip(shares, budgets, strict=True):
            for family, (key, vectors) in FAMILIES.items():
                best[name, kind, share, family] = best_within(found, key, budget, vectors)
    return best


def draw_structures(best: Mapping[tuple[str, str, float, str], dict]) -> go.Figure:
    """Draw how far each family lies behind the pair of the same size, a panel per matrix."""
    names, kinds, shares = (list(dict.fromkeys(key[k] for key in best)) for k in range(3))
    fig = plots.figure(
        title="At equal numbers: how far behind a low-rank pair?", height=580, margin_b=30
    )
    wide, high = 1 / len(names), 1 / len(kinds)
    for k, (kind, name) in enumerate(product(kinds, names), 1):
        column, row = names.index(name), kinds.index(kind)
        axes = {"xaxis": f"x{k}", "yaxis": f"y{k}", "showlegend": False}
        fig.add_scatter(
            x=[*range(len(shares))],
            y=[0] * len(shares),
            name="pair",
            mode="lines",
            line={"color": plots.GRAY, "width": 4},
            **axes,
        )
        for family, color in LOOKS.items():
            behind = [
                100 * (best[name, kind, s, family]["error"] - best[name, kind, s, "pair"]["error"])
                for s in shares
            ]
            fig.add_scatter(
                x=[*range(len(shares))],
                y=behind,
                name=family,
                mode="lines+markers",
                line_color=color,
                **axes,
            )
        fig.layout[f"xaxis{k}"] = {
            "domain": [column * wide, (column + 0.9) * wide],
            "anchor": f"y{k}",
            "zeroline": False,
            "tickvals": [*range(len(shares))],
            "ticktext": [f"1/{1 / share:.0f}" for share in shares],
            "title": {"text": f"{kind}: {name}", "standoff": 6},
        }
        fig.layout[f"yaxis{k}"] = {
            "domain": [1 - (row + 0.74) * high, 1 - (row + 0.02) * high],
            "anchor": f"x{k}",
            "range": [-3.5, 17],
            "showticklabels": column == 0,
            "title": {"text": "points of error" if column == 0 else ""},
        }
    places = {"one product": (1.5, 12), "sum of blocks": (2.9, 7.2), "train": (3.2, 1.3),
              "pair": (0.3, -1.7)}  # fmt: skip
    for text, (x, y) in places.items():
        color = LOOKS.get(text, "#5F6368")
        fig.add_annotation(
            x=x, y=y, text=text, font_color=color, showarrow=False, xref="x", yref="y"
        )
    return fig
