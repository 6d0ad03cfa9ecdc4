"""Notebook 10: KroneckerBERT's dials, and what they make of a whole model."""

from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
from torch import nn

from ... import shapes
from .. import plots
from .base import Explorer, choice, sweep
from .kronecker import sum_errors

MODELS = {  # as ``shapes.bert_parameters`` takes them
    "BERT-base": {},
    "MiniLM": {"hidden": 384, "layers": 6, "ffn": 1536},
    "our teacher": {
        "vocab": 1000, "hidden": 128, "layers": 2, "ffn": 512, "positions": 64, "pooler": False,
    },
}  # fmt: skip
HEADS = {"our teacher": 41_149}  # the layers above its encoder: two dense ones, a norm, two heads
ATTENTION = ((2, 2), (2, 4), (4, 4), (2, 8), (2, 16), (16, 16))  # rows and columns of B
FFN, ROWS, SUMS = (4, 8, 16, 32), (2, 4, 8, 16), (1, 2, 4)
PUBLISHED = {"KB8": ((2, 2), 8, 8), "KB21": ((2, 16), 16, 16)}
TOKENS = 128  # that the paper counts FLOPs for
PARTS = ("word table", "attention", "FFN", "kept", "above")  # above the encoder
COLORS = (plots.SKY, plots.BLUE, plots.GREEN, plots.GRAY, plots.ORANGE)


def modes(model: str, attention: tuple[int, int], ffn: int) -> list[tuple]:
    """Return (how many, out_modes, in_modes) of the matrices of one layer: attention, W_1, W_2."""
    found = {"hidden": 768, "ffn": 3072} | MODELS[model]
    width, (rows, cols) = found["hidden"], attention
    wide, narrow = (ffn, found["ffn"] // ffn), (2, width // 2)
    square = (width // rows, rows), (width // cols, cols)
    return [(4, *square), (1, wide, narrow), (1, narrow, wide)]


def dense_parts(model: str) -> dict[str, int]:
    """Count the numbers of the model before anything is replaced, by part."""
    counts = shapes.bert_parameters(**MODELS[model])
    kept = ("position embeddings", "token types", "biases", "layer norms")
    above = counts.get("pooler", 0) + HEADS.get(model, 0)
    main = [counts[name] for name in ("word embeddings", "attention", "feed-forward")]
    return dict(zip(PARTS, [*main, sum(counts[name] for name in kept), above], strict=True))


def student_parts(model: str, attention: tuple, ffn: int, row: int, sums: int) -> dict[str, int]:
    """Count the numbers of the student by part; ``sums`` products per matrix, one for the table."""
    kept = {"vocab": 30522, "hidden": 768, "layers": 12} | MODELS[model]
    numbers = [
        kept["layers"] * count * shapes.kronecker_parameters(outs, ins, sums)
        for count, outs, ins in modes(model, attention, ffn)
    ]
    return dense_parts(model) | {
        "word table": kept["vocab"] * (kept["hidden"] // row) + row,
        "attention": numbers[0],
        "FFN": numbers[1] + numbers[2],
    }


def encoder_flops(model: str, attention: tuple, ffn: int, sums: int) -> int:
    """Count FLOPs as the paper does: the layers' matrices, 128 tokens, adds and multiplies."""
    layers = MODELS[model].get("layers", 12)
    per_token = sum(
        count * shapes.kronecker_flops(outs, ins, sums)
        for count, outs, ins in modes(model, attention, ffn)
    )
    return TOKENS * layers * per_token


def dropped_squares(teacher: nn.Module) -> dict:
    """Return the squares that the nearest products drop from a joint teacher, for every dial.

    Keys are ("attention", B), ("ffn", f) and ("row", n), each with a dict from the number of
    products to the squares dropped, and "total": the squares of all matrices that are replaced.
    """
    linear = {
        name: module.weight.detach()
        for name, module in teacher.bert.encoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    table = teacher.bert.embeddings.word_embeddings.weight.detach()
    attention = [weight for name, weight in linear.items() if ".attention." in name]
    up = [weight for name, weight in linear.items() if "intermediate" in name]
    down = [
        w for name, w in linear.items() if "intermediate" not in name and ".attention." not in name
    ]
    width = table.shape[1]

    def lost(weights: Sequence, rows: int, cols: int) -> dict[int, float]:
        errors = [sum_errors(weight, rows, cols) for weight in weights]
        squares = [float(weight.double().square().sum()) for weight in weights]
        return {
            count: sum(
                e[min(count, len(e)) - 1] ** 2 * s for e, s in zip(errors, squares, strict=True)
            )
            for count in SUMS
        }

    found: dict = {
        "total": sum(float(w.double().square().sum()) for w in (*linear.values(), table))
    }
    for rows, cols in ATTENTION:
        found["attention", (rows, cols)] = lost(attention, width // rows, width // cols)
    for f in FFN:
        one, other = lost(up, f, 2), lost(down, 2, f)
        found["ffn", f] = {count: one[count] + other[count] for count in SUMS}
    for n in ROWS:
        found["row", n] = lost([table], len(table), width // n)
    return found


def start_error(dropped: Mapping, attention: tuple, ffn: int, row: int, sums: int) -> float:
    """Return the relative error of all replaced matrices together; the table is one product."""
    parts = dropped["attention", attention][sums], dropped["ffn", ffn][sums], dropped["row", row][1]
    return (sum(parts) / dropped["total"]) ** 0.5


def setting_table(teacher: nn.Module) -> list[dict]:
    """Return every setting of the dials for every model: numbers, times smaller, FLOPs, error."""
    dropped = dropped_squares(teacher)
    dense = {model: sum(dense_parts(model).values()) for model in MODELS}

    def row_of(model: str, attention: tuple, ffn: int, row: int, sums: int) -> dict:
        parts = student_parts(model, attention, ffn, row, sums)
        numbers = sum(parts.values())
        return {
            "numbers": numbers,
            "times": dense[model] / numbers,
            "flops": encoder_flops(model, attention, ffn, sums),
            "error": start_error(dropped, attention, ffn, row, sums),
            "parts": parts,
        }

    return sweep(row_of, model=[*MODELS], attention=ATTENTION, ffn=FFN, row=ROWS, sums=SUMS)


def draw_settings(
    model: str, attention: tuple, ffn: int, row: int, sums: int, table: Sequence[dict]
) -> tuple[go.Figure, str]:
    """Draw size against start error for all settings, and where the numbers of one are."""
    mine = [one for one in table if (one["model"], one["sums"]) == (model, sums)]
    at = {(one["attention"], one["ffn"], one["row"]): one for one in mine}
    chosen = at[attention, ffn, row]
    dense = dense_parts(model)

    def dots(name: str, rows: Sequence[dict], **look: object) -> go.Scatter:
        x, y = [one["times"] for one in rows], [100 * one["error"] for one in rows]
        return go.Scatter(x=x, y=y, name=name, showlegend=False, **look)

    marked = [at[setting] for setting in PUBLISHED.values()]
    ring = {"size": 17, "symbol": "circle-open", "color": plots.RED, "line": {"width": 3}}
    bars = [
        go.Bar(
            x=["before", "after"],
            y=[
                100 * dense[part] / sum(dense.values()),
                100 * chosen["parts"][part] / chosen["numbers"],
            ],
            name=part,
            marker_color=color,
            xaxis="x2",
            yaxis="y2",
        )
        for part, color in zip(PARTS, COLORS, strict=True)
    ]
    fig = plots.figure(
        dots("all settings", mine, mode="markers", marker={"color": plots.SKY, "size": 6}),
        dots("published", marked, mode="markers+text", marker={"color": plots.INK, "size": 9},
             text=[*PUBLISHED], textposition="bottom right"),
        dots("yours", [chosen], mode="markers", marker=ring),
        *bars,
        title=f"{model}: {chosen['numbers']:,} numbers, {chosen['times']:.2f} times smaller",
        y="start error on our teacher, %",
        yaxis_range=[58, 101],
        barmode="stack",
        legend_traceorder="normal",
        yaxis2={"anchor": "x2", "range": [0, 103], "title": {"text": "% of all numbers"}},
        xaxis2={"domain": [0.7, 1], "anchor": "y2"},
    )  # fmt: skip
    ticks = {"tickvals": [1, 2, 5, 10, 20], "range": [0, 1.6], "domain": [0, 0.56]}
    fig.update_layout(
        xaxis=ticks | {"type": "log", "title": {"text": "times smaller (logarithmic)"}}
    )
    return fig, _caption(model, attention, ffn, sums, chosen)


def _caption(model: str, attention: tuple, ffn: int, sums: int, chosen: dict) -> str:
    full = MODELS[model].get("layers", 12) * TOKENS * sum(
        count * (2 * ins[0] * ins[1] - 1) * outs[0] * outs[1]
        for count, outs, ins in modes(model, attention, ffn)
    )  # fmt: skip
    words = (
        f"<b>{chosen['numbers']:,} numbers, {chosen['times']:.2f} times smaller.</b> FLOPs of the "
        f"layers' matrices for {TOKENS} tokens: {chosen['flops'] / 1e9:.3f} billion, dense "
        f"{full / 1e9:.3f}. With the same dials our teacher's matrices start "
        f"{100 * chosen['error']:.1f} % off."
    )
    dense, parts = dense_parts(model), chosen["parts"]
    larger = [part for part in PARTS if parts[part] > dense[part]]
    return words + (f" Larger than before: {' and '.join(larger)}!" if larger else "")


def kronecker_bert_explorer(table: Sequence[dict]) -> Explorer:
    """Notebook 10: turn KroneckerBERT's four dials on three models.

    Args:
        table: from ``setting_table``.
    """
    squares = {f"{rows} × {cols}": (rows, cols) for rows, cols in ATTENTION}
    return Explorer(
        partial(draw_settings, table=table),
        model=ipywidgets.ToggleButtons(options=[*MODELS], style={"button_width": "auto"}),
        attention=choice("attention: B", squares, (2, 2)),
        ffn=choice("FFN: small side", {str(n): n for n in FFN}, 8),
        row=choice("word table: n", {str(n): n for n in ROWS}, 8),
        sums=choice("products per matrix", {str(n): n for n in SUMS}, 1),
    )
