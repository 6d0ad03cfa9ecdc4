"""Notebook 13: one kind of tensor at a time on its grid, and what a translator makes of it."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from math import exp

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import nn

from ...models import Transformer
from ...quantizers.calibration import calibrate
from ...quantizers.minmax import MinMax
from ...quantizers.ranges import Uniform
from ...quantizers.running_ranges import switch
from ...surgery.verbs import compress
from .. import plots
from .base import Explorer, choice, sweep

BITS = (8, 6, 4, 3, 2)
WEIGHTS = {  # a kind of tensor, and the patterns of its places
    "matrices": ("*.query", "*.key", "*.value", "*.output", "*.up", "*.down"),
    "word table": ("embedding",),
    "gammas": ("*.gamma",),
    "positions": ("positions",),
}
FLOWS = {
    "embedding sums": ("*.quant_sum",),
    "queries and keys": ("*.quant_queries", "*.quant_keys"),
    "values": ("*.quant_values",),
    "softmax: exp": ("*.softmax.quant_numerator",),
    "softmax: sum": ("*.softmax.quant_denominator",),
    "softmax: quotient": ("*.softmax.quant_output",),
    "attention's result": ("*.quant_context",),
    "ReLU's output": ("*.quant_hidden",),
    "FFN's result": ("*.feed_forward.quant_output",),
    "norm: x − mean": ("*.norm_*.quant_numerator",),
    "norm: deviation": ("*.norm_*.quant_denominator",),
    "norm: quotient": ("*.norm_*.quant_quotient",),
    "norm: output": ("*.norm_*.quant_output",),
}
KINDS = WEIGHTS | FLOWS
ALL_WEIGHTS, ALL_FLOWS, EVERYTHING = "all weights", "all that flows", "everything"
GROUPS = {
    ALL_WEIGHTS: tuple(WEIGHTS),
    ALL_FLOWS: tuple(FLOWS),
    EVERYTHING: tuple(KINDS),
    "nothing": (),
}
CHOICES = (*KINDS, ALL_WEIGHTS, ALL_FLOWS, EVERYTHING)
RANGES = {"per row, per feature": "feature", "one per tensor": "tensor"}
ZEROS = {"kept": True, "not kept": False}
FULLYQT = ("per row, per feature", "kept")
CONTROL = ("one per tensor", "not kept")
LEAST = 1e-3  # what the logarithmic axes can show
CHAIN = ".parametrizations.weight.0"


def places(student: nn.Module, kind: str) -> list[str]:
    """Return the names of the places that a kind, or a group of kinds, stands for.

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS and kind not in GROUPS:
        raise ValueError(f"kinds are {[*KINDS, *GROUPS]}, got {kind!r}")
    patterns = [p for one in GROUPS.get(kind, (kind,)) for p in KINDS[one]]
    found = [n.removesuffix(CHAIN) for n, m in student.named_modules() if isinstance(m, Uniform)]
    return [n for n in (*found, "positions") if any(fnmatchcase(n, p) for p in patterns)]


def at_rest(
    model: Transformer, batches: Sequence[Mapping], bucket: str, zero_care: bool
) -> Transformer:
    """Return a copy with a quantizer at every place but the positions, ranges set, all resting.

    Args:
        batches: what the ranges are averaged over, while the model runs in floats.
        zero_care: False fixes no range at 0 and counts padding.
    """
    edit = MinMax(8, bucket, zero=zero_care, padding=not zero_care)
    student = compress(model, {"positions": [], "*": [edit]})
    return calibrate(switch(student, follows=False, rounds=False), batches).eval()


@torch.no_grad()
def effect(student: Transformer, kind: str, bits: int, batch: Mapping) -> dict[str, float]:
    """Let one kind of tensor round, and tell how well the student still predicts.

    Args:
        student: of ``at_rest``; it rests again afterwards.
        kind: a name of ``CHOICES``, or "nothing".

    Returns:
        ``perplexity`` per piece, and ``right``, the share of pieces that are guessed, both with
        teacher forcing: each piece is guessed after the right ones.
    """
    names, plain = set(places(student, kind)), student.positions
    for name, module in student.named_modules():
        if isinstance(module, Uniform) and name.removesuffix(CHAIN) in names:
            module.bits, module.qmax, module.rounds = bits, 2**bits - 1, True
    try:
        if "positions" in names:
            student.positions = plain.quantized(bits)
        out = student.eval()(**batch)
    finally:
        student.positions = plain
        switch(student, follows=False, rounds=False)
    known = batch["labels"] != -100
    hits = out["logits"].argmax(-1)[known] == batch["labels"][known]
    return {"perplexity": exp(out["loss"].item()), "right": float(hits.double().mean())}


def kind_table(
    model: Transformer, batches: Sequence[Mapping], batch: Mapping, bits: Sequence[int] = BITS
) -> list[dict]:
    """Return what every kind does at all bits, with either sort of ranges, zeros kept or not.

    Args:
        batches: for the ranges. batch: held-out sentences, to judge by.

    Returns:
        Rows of the settings, ``perplexity``, ``right`` and ``added``, the perplexity above that of
        the model in floats.
    """
    students = {(r, z): at_rest(model, batches, RANGES[r], ZEROS[z]) for r in RANGES for z in ZEROS}
    floats = effect(students[FULLYQT], "nothing", 8, batch)["perplexity"]
    known: dict[tuple, dict] = {}

    def row(kind: str, bits: int, ranges: str, zeros: str) -> dict:
        weights = kind in WEIGHTS or kind == ALL_WEIGHTS  # no weight asks for its zeros
        key = kind, bits, ranges, "kept" if weights else zeros
        if key not in known:
            found = effect(students[key[2:]], kind, bits, batch)
            known[key] = found | {"added": found["perplexity"] - floats}
        return known[key]

    return sweep(row, kind=CHOICES, bits=tuple(bits), ranges=[*RANGES], zeros=[*ZEROS])


def chosen(table: Sequence[dict], **settings: object) -> list[dict]:
    """Return the rows that have these settings."""
    return [row for row in table if all(row[k] == v for k, v in settings.items())]


def draw_kinds(
    kind: str, bits: int, ranges: str, zeros: str, table: Sequence[dict]
) -> tuple[go.Figure, str]:
    """Draw all kinds at these settings beside the chosen kind over all bits."""
    here = {row["kind"]: row for row in chosen(table, bits=bits, ranges=ranges, zeros=zeros)}
    mine = here[kind]
    right = {"xaxis": "x2", "yaxis": "y2"}

    def line(name: str, setting: tuple[str, str], color: str, dash: str) -> go.Scatter:
        rows = chosen(table, kind=kind, ranges=setting[0], zeros=setting[1])
        return go.Scatter(
            x=[BITS.index(row["bits"]) for row in rows],
            y=[max(row["added"], LEAST) for row in rows],
            name=name, mode="lines+markers", line={"color": color, "dash": dash}, **right,
        )  # fmt: skip

    fig = plots.figure(
        go.Bar(
            y=[*here], x=[max(row["added"], LEAST) for row in here.values()], orientation="h",
            marker_color=[plots.ORANGE if k == kind else plots.SKY for k in here],
            text=[f"{row['perplexity']:.2f}" for row in here.values()], textposition="outside",
            textfont={"size": 11}, cliponaxis=False, name="all kinds", showlegend=False,
            hovertemplate="%{y}: perplexity %{text}<extra></extra>",
        ),
        line("FullyQT", FULLYQT, plots.BLUE, "solid"),
        line("control", CONTROL, plots.RED, "dash"),
        go.Scatter(
            x=[BITS.index(bits)], y=[max(mine["added"], LEAST)], name="yours", mode="markers",
            marker={"size": 17, "symbol": "circle-open", "color": plots.ORANGE,
                    "line": {"width": 3}}, **right,
        ),
        title=f"{kind} at {bits} bits: perplexity {mine['perplexity']:.2f}",
        height=560,
        margin_t=95,
        legend_y=1.02,
    )  # fmt: skip
    ticks = {"tickvals": [0.001, 0.1, 10, 1000], "range": [-3, 5.3],
             "ticktext": ["0.001", "0.1", "10", "1000"]}  # fmt: skip
    fig.update_layout(
        xaxis={"domain": [0, 0.5], "type": "log", "title.text": "added perplexity", **ticks},
        yaxis={"autorange": "reversed", "tickfont": {"size": 12}},
        xaxis2={"domain": [0.64, 1], "title.text": "bits of the chosen kind",
                "tickvals": [*range(len(BITS))], "ticktext": [str(b) for b in BITS],
                "range": [-0.4, len(BITS) - 0.6]},
        yaxis2=ticks | {"anchor": "x2", "type": "log", "title.text": "added perplexity",
                        "range": [-3.3, 5.3]},  # a whole ring at the least
    )  # fmt: skip
    return fig, _caption(mine, [row for k, row in here.items() if k in KINDS])


def _caption(mine: dict, kinds: Sequence[dict]) -> str:
    worst = max(kinds, key=lambda row: row["added"])
    return (
        f"<b>{mine['kind']} at {mine['bits']} bits, ranges {mine['ranges']}, zeros "
        f"{mine['zeros']}: perplexity {mine['perplexity']:.2f} where floats have "
        f"{mine['perplexity'] - mine['added']:.2f}; {100 * mine['right']:.1f} % of the pieces "
        f"right.</b> Of the single kinds, {worst['kind']} costs most here "
        f"({worst['perplexity']:.2f})."
    )


def fully_quantized_explorer(table: Sequence[dict]) -> Explorer:
    """Notebook 13: choose a kind of tensor, bits and ranges.

    Args:
        table: from ``kind_table``.
    """

    def menu(label: str, options: Iterable[str], value: str) -> ipywidgets.Dropdown:
        return ipywidgets.Dropdown(
            options=[*options], value=value, description=label, layout={"width": "290px"}
        )

    return Explorer(
        partial(draw_kinds, table=table),
        kind=menu("kind", CHOICES, "norm: x − mean"),
        bits=choice("bits", {str(b): b for b in BITS}, 3),
        ranges=menu("ranges", RANGES, FULLYQT[0]),
        zeros=menu("zeros", ZEROS, FULLYQT[1]),
    )
