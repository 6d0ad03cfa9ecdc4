"""Notebook 16: what bits, groups and method cost a language model, with and without an outlier.

The settings are measured beforehand, by ``benchmarks/decoder_bits.py``, with the functions here.
"""

import copy
from collections.abc import Iterable, Sequence
from functools import partial

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import nn

from ... import LSQ, calibrate, compensate, compress
from ...posttraining import folds_of, rotate
from .. import plots
from .base import Explorer, choice, sweep

BITS = (2, 3, 4, 5, 6, 7, 8)
GROUPS = {"a matrix": "tensor", "a row": "channel", "64": 64, "32": 32}  # what shares a scale
METHODS = ("to nearest", "GPTQ", "rotated GPTQ")
LAYERS = "*.layers.*"
FACTOR, CHANNEL = 20.0, 5  # of the planted outlier
LEAST, MOST = 5.2, 60.0  # perplexities in the picture; what lies above is told in words
TICKS = [6, 7, 8, 10, 15, 20, 30, 40, 60]
LOOKS = dict(zip(METHODS, zip((plots.RED, plots.BLUE, plots.GREEN), ("circle", "square", "diamond"),
                              strict=True), strict=True))  # fmt: skip


def plant(model: nn.Module, factor: float = FACTOR, channel: int = CHANNEL) -> nn.Module:
    """Return a model with a loud column in every matrix that reads a norm or values; equal outputs.

    One channel of each norm, and of the values of each layer, is divided by ``factor``, and the
    weights that read it are multiplied. Not in front of a FFN's last matrix: no rotation can be
    folded in there.
    """
    planted = copy.deepcopy(model)
    for fold in folds_of(planted):
        if not fold.readers[0].endswith("down_proj"):
            scale = torch.ones(len(fold.rows))
            scale[channel] = factor
            fold.apply(planted, scale)
    return planted


def rounded(
    model: nn.Module, batches: Iterable, bits: int, per: str | int, method: str
) -> nn.Module:
    """Return a student whose layers are on a grid of ``bits`` bits; the table of words stays.

    Args:
        batches: what GPTQ looks at.
        per: what shares a scale, as in ``LSQ``; the largest weight sets the scale.
        method: one of ``METHODS``, or "rotated": turned, then to nearest.
    """
    if method.startswith("rotated"):
        model = rotate(model)
    student = calibrate(compress(model, {LAYERS: [LSQ(bits=bits, init="max", per=per)]}))
    if method.endswith("GPTQ"):
        compensate(student, batches)
    return student


def setting(method: str, bits: int, per: str | int, planted: bool) -> str:
    """Return the name of a row of the benchmark.

    >>> setting("GPTQ", 3, 64, True)
    'GPTQ, 3 bits per 64, planted'
    """
    return f"{method}, {bits} bits per {per}" + ", planted" * planted


def layer_bytes(model: nn.Module, bits: int, per: str | int) -> float:
    """Return the bytes of the matrices in the layers: codes, and scales of 32 bits.

    Args:
        model: in floats; of ``bits=32`` there are no scales.
    """
    total = 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name:
            out, width = module.weight.shape
            scales = {"tensor": 1, "channel": out}.get(per) or out * width // per
            total += out * width * bits / 8 + 4 * scales * (bits < 32)
    return total


def language_table(model: nn.Module, rows: Sequence[dict]) -> list[dict]:
    """Return perplexity and bytes of the layers for every setting that was measured.

    Args:
        model: in floats, for the bytes.
        rows: of the benchmark ``decoder_bits``.
    """
    found = {row["model"]: row["metrics"]["perplexity"] for row in rows}

    def one(method: str, bits: int, group: str, planted: bool) -> dict:
        per = GROUPS[group]
        return {
            "perplexity": found.get(setting(method, bits, per, planted)),
            "bytes": layer_bytes(model, bits, per),
        }

    table = sweep(one, method=METHODS, bits=BITS, group=[*GROUPS], planted=(False, True))
    return [row for row in table if row["perplexity"] is not None]


def draw_language(
    bits: int,
    group: str,
    method: str,
    planted: bool,
    table: Sequence[dict],
    floats: tuple[float, float],
) -> tuple[go.Figure, str]:
    """Draw perplexity over bytes for every method at this group, and ring the setting.

    Args:
        floats: perplexity and bytes of the layers before anything is rounded.
    """
    here = [r for r in table if (r["group"], r["planted"]) == (group, planted)]
    (row,) = [r for r in here if (r["bits"], r["method"]) == (bits, method)]
    lines, beyond = [], row["perplexity"] > MOST
    for name, (color, symbol) in LOOKS.items():
        line = [r for r in here if r["method"] == name]
        lines.append(go.Scatter(
            x=[r["bytes"] / 1e3 for r in line], y=[r["perplexity"] for r in line], name=name,
            mode="lines+markers", line_color=color, marker={"symbol": symbol, "size": 9},
            text=[f"{r['bits']} bits" for r in line],
            hovertemplate="%{text}: %{y:.2f}<extra>" + name + "</extra>",
        ))  # fmt: skip
    lines.append(go.Scatter(
        x=[row["bytes"] / 1e3], y=[min(row["perplexity"], MOST)], name="yours", mode="markers",
        marker={"size": 18, "symbol": "triangle-up-open" if beyond else "circle-open",
                "color": plots.INK, "line": {"width": 3}},
        hoverinfo="skip",
    ))  # fmt: skip
    fig = plots.figure(
        *lines,
        title=f"{method}, {bits} bits, a scale for {_of(group)}: perplexity {_short(row)}",
        x="kilobytes of the layers: codes and scales", y="perplexity (logarithmic)",
        yaxis_type="log", yaxis_range=_decades(LEAST, 1.1 * MOST), margin_t=95,
        legend_y=1.02, xaxis_range=[75, 450], yaxis_tickvals=TICKS,
    )  # fmt: skip
    fig.add_hline(y=floats[0], line_dash="dot", line_color=plots.INK)
    others = ", ".join(
        f"{r['method']} {_short(r)}" for r in here if r["bits"] == bits and r is not row
    )
    return fig, (
        f"<b>Perplexity {_short(row)}, in floats {floats[0]:.2f}; {row['bytes'] / 1e3:.0f} kB "
        f"for the layers, {floats[1] / row['bytes']:.1f} times smaller than 32 bits.</b> "
        f"At the same bytes: {others}."
    )


def _decades(low: float, high: float) -> list[float]:
    return torch.tensor([low, high]).log10().tolist()


def _of(group: str) -> str:
    return group if group in ("a matrix", "a row") else f"{group} weights"


def _short(row: dict) -> str:
    value = row["perplexity"]
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def language_model_explorer(table: Sequence[dict], floats: tuple[float, float]) -> Explorer:
    """Notebook 16: choose bits, what shares a scale, the method, and a planted outlier.

    Args:
        table: from ``language_table``.
        floats: perplexity and bytes of the layers in 32 bits.
    """
    return Explorer(
        partial(draw_language, table=table, floats=floats),
        bits=choice("bits", {str(b): b for b in BITS}, 3),
        group=choice("a scale for", {_of(g): g for g in GROUPS}, "a row"),
        method=ipywidgets.Dropdown(
            options=METHODS, value="to nearest", description="method", layout={"width": "290px"}
        ),
        planted=choice("outlier", {"none": False, "planted": True}, False),
    )
