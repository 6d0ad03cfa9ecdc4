"""What the reader sees of a workbench: a tab with the plan's dials, and one with a front."""

import asyncio
import os
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from threading import RLock

import ipywidgets
import plotly.graph_objects as go
from torch import nn

from .. import plots
from ..explorers import Explorer
from . import tables
from .bench import START, Bench
from .dials import Dials
from .opening import opened
from .rows import Row
from .sweeping import FrontView
from .worker import Worker

CACHE = ".tqlearn-workbench"
PATIENCE = 0.7  # seconds that a move waits for errors; what is missing then follows
MOST = 12  # groups in the picture


def draw_plan(bench: Bench, answer: object) -> go.Figure:
    """Draw the bytes of the heaviest groups before and after."""
    lines = tables.lines_of(bench, answer)
    lines = sorted(lines, key=lambda line: -line.before)[:MOST]
    names = [f"…{x.name[-37:]}" if len(x.name) > 38 else x.name for x in lines]
    told = [f"{x.name}<br>error {tables.percent(x.weight, x)}" for x in lines]
    bars = [("before", [x.before for x in lines], plots.GRAY)]
    if answer.sizes is not None:
        bars.append(("after", [x.after for x in lines], plots.BLUE))
    title = "Bytes follow as soon as errors are turned into ranks"
    if (sizes := answer.sizes) is not None:
        size, times = tables.kilo(sizes.file), sizes.ratios["file"]
        mean = "…" if answer.mean is None else f"{100 * answer.mean:.1f} %"
        title = f"{size}, {times:.2f} times smaller; mean error {mean}"
    fig = plots.figure(
        *(
            go.Bar(
                x=[size / 1e6 for size in sizes], y=names, name=name, orientation="h",
                marker_color=color, text=told, textposition="none",
                hovertemplate="%{text}<br>%{x:.3f} MB<extra></extra>",
            )
            for name, sizes, color in bars
        ),
        title=title, x="megabytes", barmode="group", height=110 + 34 * max(len(lines), 3),
        yaxis_autorange="reversed", legend_traceorder="normal",
    )  # fmt: skip
    return fig.update_layout(title={"xref": "container", "x": 0.02})  # names take half the width


class PlanView(Explorer):
    """Rows of dials, bytes, layers and the picture of both."""

    def __init__(self, bench: Bench, worker: Worker) -> None:
        self.bench, self.worker, self.trouble = bench, worker, ""
        self.table, self.words = ipywidgets.HTML(), ipywidgets.HTML()
        self.sort = ipywidgets.Dropdown(
            options=["bytes", "error"], description="sort by", layout={"width": "180px"}
        )
        folds = [("groups", ""), ("all layers", "*"), *((g, g) for g in bench.groups)]
        self.fold = ipywidgets.Dropdown(options=folds, description="show")
        self.add = ipywidgets.Button(description="add a row")
        self.ask = ipywidgets.Button(description="score", disabled=bench.score is None)
        self.copy = ipywidgets.Button(description="copy plan")
        self.shown = ipywidgets.HTML()
        self.plan_rows = ipywidgets.VBox()
        super().__init__(self._draw)
        buttons = ipywidgets.HBox([self.add, self.copy, self.ask, self.sort, self.fold])
        buttons.layout.flex_flow, buttons.layout.grid_gap = "row wrap", "6px 14px"
        parts = (self.plan_rows, buttons, self.words, self.shown, self.caption, self.table)
        self.children = (*parts, self.picture, self.live)
        self._place([Dials(row, [*bench.groups], self.change) for row in bench.rows])
        self.add.on_click(lambda _: self.append(Row("", quantizer="LSQ", bits=4)))
        self.ask.on_click(lambda _: self.measure())
        self.copy.on_click(lambda _: self.show_code())
        for control in (self.sort, self.fold):
            control.observe(self.redraw, names="value")

    def _place(self, found: list[Dials]) -> None:
        for k, one in enumerate(found):
            one.remove._click_handlers.callbacks.clear()
            one.remove.on_click(lambda _, k=k: self.drop(k))
        self.plan_rows.children = tuple(found)

    def place(self, rows: Iterable[Row]) -> None:
        """Begin anew with other rows."""
        self._place([Dials(row, [*self.bench.groups], self.change) for row in rows])
        self.change()

    def append(self, row: Row) -> None:
        """Add a row, in front: the first pattern that fits wins, and "*" would leave nothing."""
        self._place([Dials(row, [*self.bench.groups], self.change), *self.plan_rows.children])
        self.change()

    def drop(self, place: int) -> None:
        """Take a row away."""
        left = [one for k, one in enumerate(self.plan_rows.children) if k != place]
        self._place(left)
        self.change()

    def change(self) -> None:
        """Take over what the dials say; what is refused is told, and the last plan stays."""
        rows = [one.row for one in self.plan_rows.children if one.row.pattern]
        try:
            self.bench.rows, self.trouble = rows, ""
        except (ValueError, TypeError) as error:
            self.trouble = str(error)
        else:
            self.shown.value = ""
            self.worker.wake()
            self.worker.settled(PATIENCE)
        self.redraw()

    def show_code(self) -> None:
        """Print the plan as code."""
        style = f"padding:8px;border:{tables.RULE};overflow:auto;line-height:1.4"
        self.shown.value = f'<pre style="{style}">{escape(self.bench.code())}</pre>'

    def measure(self) -> None:
        """Build the student and ask ``score`` about it."""
        self.ask.disabled, self.ask.description = True, "scoring …"
        try:
            said = escape(str(self.bench.measure()))
        except Exception as error:  # of the reader's own function: it is told, the page stays
            said = f"score failed: {escape(f'{type(error).__name__}: {error}')}"
        finally:
            self.ask.disabled, self.ask.description = False, "score"
        self.shown.value = f"<p><b>{said}</b></p>"

    def _draw(self) -> tuple[go.Figure, str]:
        answer = self.bench.answer()
        lines = tables.lines_of(self.bench, answer, self.fold.value, self.sort.value)
        self.table.value = tables.layer_table(lines, self.bench.errors.seen is not None)
        self.words.value = self._status(answer)
        told = tables.byte_table(answer) + f"<p>{escape(tables.left_alone(self.bench, answer))}</p>"
        return draw_plan(self.bench, answer), told

    def _status(self, answer: object) -> str:
        done, all_ = len(answer.weights) + len(answer.refused), len(answer.asked)
        words = [] if answer.whole else [f"errors: {done} of {all_} layers …"]
        words += [f"refused: {self.trouble}"] if self.trouble else []
        words += [f"refused: {text}" for text in [*answer.refused.values()][:1]]
        words += [self.bench.errors.shelf.trouble] if self.bench.errors.shelf.trouble else []
        failed = self.worker.failed
        words += [f"stopped: {type(failed).__name__}: {failed}"] if failed is not None else []
        share = 100 * done / max(all_, 1)
        bar = f'<progress value="{share:.0f}" max="100"></progress> ' if share < 100 else ""
        return f"<p>{bar}{'<br>'.join(map(escape, words))}</p>" if bar or words else ""


class Workbench(ipywidgets.VBox):
    """A model's layers under dials, with what they cost and lose.

    ``bench`` has the numbers: ``bench.plan``, ``bench.answer()``, ``bench.code()``,
    ``bench.student()``.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench, self.lock, self.loop = bench, RLock(), _loop()
        self.worker = Worker(bench, self._told)
        self.plan_view = PlanView(bench, self.worker)
        self.front_view = FrontView(bench, self.worker)
        self.tabs = ipywidgets.Tab([self.plan_view, self.front_view])
        self.tabs.titles = ("plan", "front")
        super().__init__([self.tabs])
        self.tabs.observe(self._turned, names="selected_index")
        self.worker.wake()
        self.worker.settled(PATIENCE)
        self.refresh()
        self.plan_view.still = self.plan_view.figure

    def wait(self) -> "Workbench":
        """Wait until everything that is asked for is known, and show it."""
        self.worker.wake()
        self.worker.settled()
        self.refresh()
        return self

    def close(self) -> None:
        """Take it off the page; what is being found in the background is left."""
        self.worker.end()
        super().close()

    def refresh(self) -> None:
        """Draw what is known now."""
        with self.lock:
            (self.front_view if self.front_view.active else self.plan_view).redraw()

    def _turned(self, change: dict) -> None:
        with self.lock:
            self.front_view.activate(change["new"] == 1)
            self.refresh()

    def _told(self) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.refresh)

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        """Publish the widget; while the course is being built also the figure for the still."""
        data = super()._repr_mimebundle_(**kwargs)
        still = plots.bundle(self.plan_view.figure)
        if os.environ.get("TQLEARN_STILLS") != "1":
            still.pop(plots.PLOTLY)
        return data | still


def _loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that a kernel runs its cells in; None in a script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def workbench(
    model: nn.Module | str | Path,
    batches: Iterable | None = None,
    score: Callable[[nn.Module], object] | None = None,
    *,
    rows: Iterable[Row] = START,
    cache: str | Path | None = CACHE,
) -> Workbench:
    """Open a workbench for a model of one's own.

    Args:
        model: any torch model; or a folder or the name of a transformers model.
        batches: what the model is called with: errors of outputs are shown then, and inputs can be
            quantized.
        score: student -> a number or a dict of numbers; a button asks it.
        rows: the plan to begin with.
        cache: folder for decompositions, beside the notebook; None keeps them in memory.

    Raises:
        TypeError, ValueError: no model, or one without numbers; rows that do not fit it.
    """
    found = model if isinstance(model, nn.Module) else opened(model)
    bench = Bench(found, batches, score, cache=cache)
    bench.rows = list(rows)
    return Workbench(bench)
