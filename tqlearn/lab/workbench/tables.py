"""The workbench's tables, in HTML: bytes three ways, and layers colored by cost and loss.

The page's own letters and ground, which shines through every tint: readable in both themes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from .bench import Bench
from .layers import Answer, Layer

GROUND, RULE = "transparent", "1px solid rgba(128,134,142,0.5)"
COST, LOSS = (58, 140, 200), (224, 112, 58)  # of all the bytes; of an error of 1
STRONG = 0.55  # how much of a page the fullest tint covers
COUNTS = {"nominal": "numbers alone", "with_metadata": "with scales", "file": "whole file"}


@dataclass(frozen=True)
class Line:
    """A line of the table: a group or a layer, bytes before and after, errors as far as known."""

    name: str
    layers: tuple[str, ...]
    shape: str
    before: int
    after: int | None
    becomes: str
    weight: float | None
    output: float | None
    missing: int
    planned: bool


def lines_of(bench: Bench, answer: Answer, unfolded: str = "", sort: str = "bytes") -> list[Line]:
    """Return a line for each group of layers, sorted; layers instead where a group is unfolded.

    Args:
        unfolded: a group, "*" for all, "" for none.
        sort: "bytes" (after) or "error" (of the weights), the largest first.
    """
    after: dict[str, int] = {}
    for row in answer.sizes.rows if answer.sizes else ():
        owner = _owner(row["name"], answer.asked)
        after[owner] = after.get(owner, 0) + row["bytes"]
    becomes = {
        row["name"]: row["becomes"] for row in (answer.preview.rows if answer.preview else ())
    }
    found = []
    for group, layers in bench.groups.items():
        parts = [[x] for x in layers] if unfolded in (group, "*") else [layers]
        found += [_line(group, part, answer, after, becomes) for part in parts]
    size = [x.before if x.after is None else x.after for x in found]
    order = {"bytes": size, "error": [-1 if x.weight is None else x.weight for x in found]}[sort]
    return [found[k] for k in sorted(range(len(found)), key=lambda k: -order[k])]


def _owner(name: str, asked: dict) -> str:
    """Return the planned layer of a row of the report, which may be one of its quantizers."""
    above = name.rpartition(".")[0]
    return above if above in asked else name


def _line(group: str, layers: Sequence[Layer], answer: Answer, after: dict, becomes: dict) -> Line:
    names = tuple(layer.name for layer in layers)
    weights = [answer.weights[n] for n in names if n in answer.weights]
    outputs = [answer.outputs[n] for n in names if n in answer.outputs]
    planned = [n for n in names if n in answer.asked]
    kinds = list(dict.fromkeys(becomes[n] for n in names if n in becomes))
    refused = [answer.refused[n] for n in names if n in answer.refused]
    shape = " x ".join(map(str, layers[0].shape))
    return Line(
        name=names[0] if len(names) == 1 else group,
        layers=names,
        shape=shape if len(names) == 1 else f"{len(names)} of {shape}",
        before=sum(layer.bytes for layer in layers),
        after=sum(after.get(n, 0) for n in names) if after else None,
        becomes=(refused or kinds or ["stays as it is"])[0] + " …" * (len(kinds) > 1),
        weight=fmean(weights) if weights else None,
        output=fmean(outputs) if outputs else None,
        missing=len(planned) - len(weights) - len(refused),
        planned=bool(planned),
    )


def tint(share: float | int, color: tuple[int, int, int]) -> str:
    """Return the color as a veil over the page: none at 0, the fullest at 1."""
    return "rgba({},{},{},{:.3f})".format(*color, STRONG * min(max(share, 0.0), 1.0))


def kilo(count: int | float | None) -> str:
    """Return bytes in the unit that fits.

    >>> kilo(1_234), kilo(437_935_704), kilo(None)
    ('1.2 kB', '437.9 MB', '…')
    """
    if count is None:
        return "…"
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def percent(error: float | None, line: Line) -> str:
    """Return an error in percent; a sign where it is still being found, or where there is none."""
    if error is None:
        return "…" if line.missing else "–"
    return f"{100 * error:.1f} %" + " …" * bool(line.missing)


def layer_table(lines: Sequence[Line], outputs: bool) -> str:
    """Return the table of layers."""
    most = max((line.before for line in lines), default=1) or 1
    heads = ["layers", "shape", "before", "after", "error of weights"]
    heads += ["of outputs"] * outputs + ["becomes"]
    body = []
    for line in lines:
        cells = [(line.name, GROUND, "left"), (line.shape, GROUND, "left")]
        cells += [(kilo(line.before), tint(line.before / most, COST), "right")]
        size = 0 if line.after is None else line.after / most
        cells += [(kilo(line.after), tint(size, COST), "right")]
        for error in (line.weight, line.output)[: 1 + outputs]:
            cells.append((percent(error, line), tint(error or 0, LOSS), "right"))
        cells.append((line.becomes, GROUND, "left"))
        body.append(_row("td", cells))
    head = _row("th", [(text, GROUND, "left") for text in heads])
    style = "color:inherit;border-collapse:collapse;width:100%;font-size:13px;line-height:1.5"
    frame = "max-height:420px;overflow:auto;width:100%"
    return f'<div style="{frame}"><table style="{style}">{head}{"".join(body)}</table></div>'


def _row(tag: str, cells: Sequence[tuple[str, str, str]]) -> str:
    """Return a line: numbers on one line each, heads on several; names break at dots and bars."""
    style = f"padding:2px 8px;border-bottom:{RULE}"
    found = ""
    for k, (text, color, side) in enumerate(cells):
        firm = ";white-space:nowrap" * (tag == "td" and 0 < k < len(cells) - 1)
        words = escape(text) if k else re.sub("([._])", r"\1<wbr>", escape(text))
        look = f"{style};background:{color};text-align:{side}{firm}"
        found += f'<{tag} style="{look}">{words}</{tag}>'
    return f"<tr>{found}</tr>"


def byte_table(answer: Answer) -> str:
    """Return the three counts, before and after."""
    if answer.sizes is None:
        return "<p>The bytes follow as soon as the errors are turned into ranks …</p>"
    sizes, whole = answer.sizes, answer.sizes.reference
    cells = [[("", GROUND, "left"), *((text, GROUND, "right") for text in COUNTS.values())]]
    for title, one in (("before", whole), ("after", sizes)):
        counts = [(f"{getattr(one, key):,}", GROUND, "right") for key in COUNTS]
        cells.append([(title, GROUND, "left"), *counts])
    ratios = [(f"{sizes.ratios[key]:.2f}", tint(0.5, COST), "right") for key in COUNTS]
    cells.append([("times smaller", GROUND, "left"), *ratios])
    rows = "".join(_row("td", line) for line in cells)
    style = "color:inherit;border-collapse:collapse;font-size:13px;line-height:1.5"
    return f'<table style="{style}">{rows}</table>'


def left_alone(bench: Bench, answer: Answer) -> str:
    """Return what the plan leaves alone, in words: layers and other matrices, with their bytes."""
    left = {layer.name: layer.bytes for layer in bench.layers if layer.name not in answer.asked}
    left |= {} if answer.preview is None else answer.preview.left
    if not left:
        return "The plan leaves no matrix alone."
    names = sorted(left, key=left.get, reverse=True)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    told = ", ".join(f"{name} ({kilo(left[name])})" for name in names[:3])
    return f"Left alone, {kilo(sum(left.values()))}: {told}{more}."
