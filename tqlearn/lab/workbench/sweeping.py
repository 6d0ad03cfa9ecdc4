"""The tab with a front: one dial of the plan, swept while the reader looks."""

from collections import deque
from html import escape

import ipywidgets
import plotly.graph_objects as go

from .. import plots
from ..explorers import Explorer
from .bench import Bench
from .front import draw_front, swept
from .positions import dials
from .worker import Worker


class FrontView(Explorer):
    """One dial swept over the plan."""

    def __init__(self, bench: Bench, worker: Worker) -> None:
        self.bench, self.worker, self.scores, self.active = bench, worker, {}, False
        self.found = {dial.label: dial for dial in dials(bench.rows)}
        self.dial = ipywidgets.Dropdown(options=[*self.found], description="sweep")
        self.dial.layout.width = "430px"
        self.ask = ipywidgets.Button(description="score all", disabled=bench.score is None)
        super().__init__(self._draw, dial=self.dial)
        self.children[0].children += (self.ask,)
        self.ask.on_click(lambda _: self.measure())

    def renew(self) -> None:
        """Offer the dials of the present plan."""
        self.found = {dial.label: dial for dial in dials(self.bench.rows)}
        kept = self.dial.value if self.dial.value in self.found else next(iter(self.found), None)
        if [*self.dial.options] != [*self.found]:
            self.dial.unobserve(self.redraw, names="value")
            self.dial.options = [*self.found]
            self.dial.value = kept
            self.dial.observe(self.redraw, names="value")
        self.redraw()

    def redraw(self, _change: object = None) -> None:
        """Draw what is known; the worker finds the rest."""
        super().redraw(_change)
        missing = any(not p.refused and not p.answer.whole for p in self.points)
        if missing and self.active and self.worker.failed is None:
            self.worker.wake()

    def activate(self, active: bool) -> None:
        """Sweep while the reader looks at it, and only then: it is many plans."""
        self.active = active
        if active:
            self.renew()
        else:
            self.bench.others.clear()

    def measure(self) -> None:
        """Ask ``score`` about the student of every point; of a dict of numbers the first counts."""
        for point in self.points:
            if not point.refused and str(point.rows) not in self.scores:
                try:
                    said = self.bench.measure(point.rows)
                    said = next(iter(said.values())) if isinstance(said, dict) else said
                    self.scores[str(point.rows)] = float(said)
                except Exception as error:  # of the reader's own function: it is told
                    words = escape(f"{point.value}: {type(error).__name__}: {error}")
                    self.caption.value = f"score failed at {words}"
                    return
                super().redraw()

    def _draw(self, dial: str | None) -> tuple[go.Figure, str]:
        if dial is None:
            self.points = []
            self.bench.others.clear()
            fig = plots.figure(title="Nothing to sweep: put a structure, zeros or bits on a row")
            return fig, "The plan has no dial."
        one = self.found[dial]
        self.points = swept(self.bench, one, self.scores)
        plans = [p.answer for p in self.points if p.answer and not p.answer.whole] * self.active
        self.bench.others = deque(layer for plan in plans for layer in plan.asked.items())
        return draw_front(one, self.points, getattr(self.bench.rows[one.index], one.field))
