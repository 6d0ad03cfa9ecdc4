"""The ledgers of all lessons on one picture: your own rows, and those that the stored pages show.

A lesson that you have not run yet is there with what its page says under "Your ledger".
"""

import re
from collections.abc import Sequence
from math import log10

import nbformat
import plotly.graph_objects as go

from . import plots
from .course import shipped
from .ledger import AREA, KEYS, TOP, labels
from .pareto import unbeaten

FLOOR = 45  # percent at the foot of the picture
ROW = re.compile(
    r"^(--|\d\d)  +(\S.*?) +([\d,]+) +([\d,]+) +([\d.]+) % +([\d.]+) % +([\d.]+) ms$", re.MULTILINE
)


def printed(text: str) -> list[dict]:
    """Return the rows of a ledger's table, as ``ledger.table`` writes it.

    >>> printed("09  packed  128,168  3,000  97.5 %   85.0 %   0.50 ms")[0]["bytes"]
    128168
    """
    rows = []
    for notebook, model, *numbers in ROW.findall(text):
        size, macs, intents, slots, time = (float(n.replace(",", "")) for n in numbers)
        rows.append({"notebook": notebook, "model": model, "bytes": int(size), "macs": int(macs),
                     "intent_accuracy": intents, "slot_f1": slots, "cpu_ms": time})  # fmt: skip
    return rows


def stored() -> list[dict]:
    """Return the rows on the pages of the course; a page whose outputs are gone gives none."""
    found: dict[tuple[str, str], dict] = {}
    for path in sorted(shipped("notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "ledger.add(" in cell.source:
                text = "".join(o.get("text", "") for o in cell.outputs)
                for row in printed(text):
                    found.setdefault((row["notebook"], row["model"]), row)
    return [*found.values()]


def joined(own: Sequence[dict], others: Sequence[dict]) -> list[dict]:
    """Return your rows, and the others of lessons that you have no row of."""
    mine = {row["notebook"] for row in own}
    rows = [*own, *(row for row in others if row["notebook"] not in mine)]
    return sorted(({key: row[key] for key in KEYS} for row in rows), key=lambda r: r["notebook"])


def draw(rows: Sequence[dict], score: str = "slot_f1") -> go.Figure:
    """Draw bytes against slots, and the front as a staircase with its names."""
    kept = unbeaten(rows, lambda row: row["bytes"], lambda row: row[score])
    sizes = [row["bytes"] / 1e3 for row in rows]
    low, high = log10(min(sizes)) - 0.2, log10(max(sizes)) + 0.2
    below = sum(row[score] < FLOOR for row in rows)
    points = [
        (AREA[0] * (log10(row["bytes"] / 1e3) - low) / (high - low),
         AREA[1] * (row[score] - FLOOR) / (TOP - FLOOR), 6, f"{row['notebook']} {row['model']}")
        for row in kept
    ]  # fmt: skip
    names, places = zip(*labels(points), strict=True)

    def dots(name: str, of: Sequence[dict], **looks: object) -> go.Scatter:
        return go.Scatter(
            x=[row["bytes"] / 1e3 for row in of], y=[row[score] for row in of], name=name,
            hovertext=[f"{row['notebook']} {row['model']}" for row in of], cliponaxis=False,
            hovertemplate="%{hovertext}: %{x:.0f} kB, %{y:.1f} %<extra></extra>", **looks,
        )  # fmt: skip

    return plots.figure(
        dots("all", [row for row in rows if row[score] >= FLOOR], mode="markers",
             marker={"size": 9, "color": plots.GRAY}),
        dots("front", kept, mode="lines+markers+text", text=names, textposition=places,
             line={"color": plots.BLUE, "shape": "hv"}, marker={"size": 12}),
        title=f"The whole course: {len(rows)} models, {len(kept)} on the front"
        + (f"; {below} below {FLOOR} % not drawn" if below else ""),
        x="kilobytes of the whole file (logarithmic)", y="slots, span F1 in percent",
        xaxis_type="log", xaxis_range=[low, high], yaxis_range=[FLOOR, TOP],
        xaxis_tickvals=[digit * 10**power for power in range(6) for digit in (1, 2, 5)],
        margin_t=95, legend_y=1.02,
    )  # fmt: skip
