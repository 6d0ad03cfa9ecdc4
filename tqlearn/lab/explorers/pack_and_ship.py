"""Notebook 14: what file, memory and time become with bits, rank and engine.

File and memory are counted to the byte on a model without numbers. Time is a model, too: the roof
of a machine, the larger of moving and multiplying for each product, and nothing else.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import NamedTuple

import ipywidgets
import plotly.graph_objects as go
from torch import nn

from ... import LSQ, LowRank
from ...factors import LowRankLinear
from ...hf.sealing import file_of
from ...shapes import packed_bytes
from ...storage import Packed, weigh
from ...surgery.sketch import sketch
from .. import plots
from .base import Explorer, choice, sweep

BITS, RANKS, TOKENS = (32, 8, 4, 3, 2), (0, 128, 32), (1, 8, 128, 1024)
ENGINES = {  # what an engine does with codes
    "decoded once, at loading": "floats",
    "decoded at each call": "decoded",
    "multiplied as codes": "codes",
}


class Roof(NamedTuple):
    """The two limits of a machine: bytes, and multiply-adds of floats, in a second."""

    bandwidth: float
    peak: float

    def seconds(self, moved: int | float, macs: int | float) -> float:
        """Return the least time for moving and multiplying, which go on at once.

        >>> Roof(1e9, 4e9).seconds(moved=2e9, macs=4e9)
        2.0
        """
        return max(moved / self.bandwidth, macs / self.peak)


EXAMPLE = Roof(10e9, 50e9)  # round numbers for one core; measure your own


def ship_plan(rank: int, bits: int) -> dict[str, list]:
    """Return a plan: pairs of a rank in the encoder (0: dense), codes there and for the words."""
    pair, grid = [LowRank(rank)] if rank else [], [LSQ(bits)] if bits < 32 else []
    return {"*word_embeddings": grid, "*encoder.*": [*pair, *grid]}


class Product(NamedTuple):
    """A matrix that tokens are multiplied with, and whether it will be in codes."""

    out: int
    width: int
    coded: bool


def products(model: nn.Module) -> list[Product]:
    """Return every matrix that a token is multiplied with, of a model that is not packed yet."""
    found = []
    for module in model.modules():
        stages = getattr(module, "parametrizations", {})
        if isinstance(module, LowRankLinear):
            found += [
                Product(module.rank, module.in_features, "core_1" in stages),
                Product(module.out_features, module.rank, "core_0" in stages),
            ]
        elif isinstance(module, nn.Linear):
            found.append(Product(module.out_features, module.in_features, "weight" in stages))
    return found


def container(bits: int) -> int:
    """Return the bits that a code takes where whole codes have to fill a byte."""
    return next(room for room in (2, 4, 8, 32) if bits <= room)


def ship_sizes(model: nn.Module, rank: int, bits: int) -> dict:
    """Count a compressed model without its numbers.

    Args:
        model: of transformers, on meta; it stays as it is.

    Returns:
        ``file``, bytes of it; ``stored``, bytes of the tensors in it; ``coded``, how many numbers
        are codes, and ``codes``, their bytes; ``products``.
    """
    student = sketch(model, ship_plan(rank, bits))
    found = products(student)
    size = weigh(student, file_of).file  # packs it
    counts = [
        prod(chain[-1].shape)
        for module in student.modules()
        for chain in getattr(module, "parametrizations", {}).values()
        if isinstance(chain[-1], Packed)
    ]
    return {
        "file": size,
        "stored": sum(t.numel() * t.element_size() for t in file_of(student)[0].values()),
        "coded": sum(counts),
        "codes": sum(packed_bytes(count, bits) for count in counts),
        "products": found,
    }


def ship_table(model: nn.Module) -> list[dict]:
    """Return ``ship_sizes`` of a model at every rank and number of bits."""
    return sweep(partial(ship_sizes, model), rank=RANKS, bits=BITS)


def memory(row: dict, engine: str) -> int:
    """Return the bytes that weights take while the model answers, activations aside."""
    if engine == "floats":
        return row["stored"] + 4 * row["coded"]
    if engine == "decoded":  # the floats of one matrix at a time
        largest = max((p.out * p.width for p in row["products"] if p.coded), default=0)
        return row["stored"] + 4 * largest
    return row["stored"] + row["codes"] * container(row["bits"]) // row["bits"] - row["codes"]


def moved(product: Product, bits: int, tokens: int, engine: str) -> float:
    """Return the bytes that a product moves: its matrix once, inputs and outputs of each token."""
    numbers = float(product.out * product.width)
    flows = 4 * tokens * (product.out + product.width)
    if not product.coded or engine == "floats":
        return 4 * numbers + flows
    if engine == "decoded":  # codes are read, floats written, and read again
        return numbers * bits / 8 + 8 * numbers + flows
    return numbers * container(bits) / 8 + flows


def times(row: dict, engine: str, tokens: int, roof: Roof) -> tuple[float, float]:
    """Return seconds for all products under a roof, and the share of them that moving sets."""
    whole = waiting = 0.0
    for product in row["products"]:
        macs = tokens * product.out * product.width
        bytes_ = moved(product, row["bits"], tokens, engine)
        seconds = roof.seconds(bytes_, macs)
        whole += seconds
        waiting += seconds * (bytes_ / roof.bandwidth > macs / roof.peak)
    return whole, waiting / whole


def served(
    rows: Sequence[dict], shape: str = "BERT-base", size: str = "1x128", threads: int = 1
) -> list[tuple[str, float, int, int]]:
    """Return what engines made of a shape: name, times as fast, bytes of the file and in memory.

    Args:
        rows: of the benchmark ``runtime``; nothing comes of none.
    """
    end = f", {shape}, {size}, {threads} threads"
    return [
        (row["model"].removesuffix(end), row["speed"]["speedup"], row["bytes"]["file"],
         row["metrics"].get("resident", 0))
        for row in rows
        if row["model"].endswith(end)
    ]  # fmt: skip


def draw_shipping(
    bits: int, rank: int, engine: str, tokens: int, table: Sequence[dict], roof: Roof
) -> tuple[go.Figure, str]:
    """Draw file, memory and time in parts of the dense FP32 model's, and what engines differ in."""
    row, dense = (
        next(r for r in table if (r["rank"], r["bits"]) == at) for at in ((rank, bits), (0, 32))
    )

    def three(one: dict, engine: str) -> list[int | float]:
        return [times(one, engine, tokens, roof)[0], memory(one, engine), one["file"]]

    before, now = three(dense, "codes"), three(row, engine)
    shares = [100 * a / b for a, b in zip(now, before, strict=True)]
    others = {name: three(row, key) for name, key in ENGINES.items()}
    names = ["time", "memory", "file"]
    looks = zip(others.items(), ("circle", "square", "diamond"), strict=True)
    fig = plots.figure(
        go.Bar(y=names, x=shares, orientation="h", name="your choice", marker_color=plots.BLUE,
               width=0.5, hovertemplate="%{y}: %{x:.1f} %<extra></extra>"),
        *[go.Scatter(
            y=names[:2], x=[100 * a / b for a, b in zip(those[:2], before, strict=False)],
            name=name, mode="markers",
            marker={"symbol": f"{symbol}-open", "size": 13, "color": plots.INK,
                    "line": {"width": 2}},
        ) for (name, those), symbol in looks],
        title=f"{row['file'] / 1e6:.1f} MB on disk, {now[1] / 1e6:.1f} MB in memory, "
              f"{1e3 * now[0]:.2f} ms for {tokens} token{'s' * (tokens > 1)}",
        x="percent of the dense FP32 model (each grid line doubles)",
        xaxis_type="log", xaxis_range=[-0.5, 2.75], margin_t=125, legend_y=1.02,
        xaxis_tickvals=[0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    )  # fmt: skip
    fig.add_vline(x=100, line_dash="dot", line_color=plots.INK)
    times_smaller, moving = before[2] / now[2], times(row, engine, tokens, roof)[1]
    return fig, (
        f"<b>File {times_smaller:.1f} times smaller; {shares[1]:.0f} % of the memory, and at best "
        f"{shares[0]:.{0 if shares[0] >= 10 else 1}f} % of the time of dense FP32.</b> File and "
        f"memory are counted; the time is the roof's: {roof.bandwidth / 1e9:.3g} GB and "
        f"{roof.peak / 1e9:.3g} billion multiply-adds a second. Moving limits "
        f"{100 * moving:.0f} % of it."
    )


def pack_and_ship_explorer(table: Sequence[dict], roof: Roof = EXAMPLE) -> Explorer:
    """Notebook 14: choose bits, rank, engine and tokens.

    Args:
        table: from ``ship_table``.
        roof: of the machine that the time is for.
    """
    names = {"dense" if rank == 0 else str(rank): rank for rank in RANKS}
    return Explorer(
        partial(draw_shipping, table=table, roof=roof),
        bits=choice("bits", {str(b): b for b in BITS}, 4),
        rank=choice("rank of the pairs", names, 0),
        engine=ipywidgets.Dropdown(
            options=ENGINES, value="codes", description="codes are", layout={"width": "290px"}
        ),
        tokens=choice("tokens at once", {str(n): n for n in TOKENS}, 1),
    )
