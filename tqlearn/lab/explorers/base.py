"""What every explorer is made of: controls, a label and a figure over one drawing function.

The numbers come from pure functions (they need no widget and are tested); an explorer only draws
what they return. In the stored notebook an explorer is the still picture of its default setting,
drawn by the same function.

An explorer is never blank: the page draws a picture as it draws every figure of the course, and the
live figure takes its place only once the browser has really drawn that. Until then, and where that
never happens, moving a slider replaces the picture.
"""

import os
import re
from collections.abc import Callable, Sequence
from itertools import product

import ipywidgets
import plotly.graph_objects as go

from .. import plots
from .live import Live, bundle


def sweep(function: Callable[..., dict], **grid: Sequence) -> list[dict]:
    """Call a function at every point of a grid and return one row per point, settings first.

    >>> sweep(lambda rank, bits: {"bytes": rank * bits}, rank=(4, 8), bits=(2,))
    [{'rank': 4, 'bits': 2, 'bytes': 8}, {'rank': 8, 'bits': 2, 'bytes': 16}]
    """
    points = (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
    return [point | function(**point) for point in points]


def unbroken(words: str) -> str:
    """Return the words with a space before each percent sign at which no line ends.

    >>> unbroken("34.2 % of 50% stay").split(" ")
    ['34.2\\xa0%', 'of', '50%', 'stay']
    """
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", words)


class Explorer(ipywidgets.VBox):
    """Controls above a label above a figure.

    Args:
        draw: takes the controls' values by name, returns a figure and the label's HTML.
        controls: name -> widget.

    ``figure`` (a plotly figure) and ``caption`` (an ``HTML`` widget) are what the reader sees;
    ``picture`` stands in for ``live`` until that is drawn.
    """

    def __init__(
        self, draw: Callable[..., tuple[go.Figure, str]], **controls: ipywidgets.ValueWidget
    ) -> None:
        self._draw, self.controls, self.retried = draw, controls, False
        self.figure, words = self.draw(**self.settings())
        self.still = self.figure
        self.caption = ipywidgets.HTML(words)
        self.picture = ipywidgets.Output(outputs=(_output(self.figure),))
        self.picture.add_class(f"tqlearn-{self.picture.model_id}")
        self.live = Live(self.figure, f"tqlearn-{self.picture.model_id}")
        super().__init__([ipywidgets.HBox([*controls.values()]), self.caption])
        self.children += (self.picture, self.live)
        self.children[0].layout.flex_flow = "row wrap"
        self.children[0].layout.grid_gap = "0 20px"  # or a control's value runs into the next name
        for control in controls.values():
            control.style.description_width = "initial"  # names begin where those above begin
            control.observe(self.redraw, names="value")

    def draw(self, **settings: object) -> tuple[go.Figure, str]:
        """Return the figure and the label for these values of the controls."""
        figure, words = self._draw(**settings)
        return figure, unbroken(words)

    def settings(self) -> dict:
        """Return the controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self, _change: object = None) -> None:
        """Draw the present settings into the figure that is on the page."""
        self.figure, self.caption.value = self.draw(**self.settings())
        self.live.show(self.figure)
        if not self.live.drawn:
            self.picture.outputs = (_output(self.figure),)
            self.retry()

    def retry(self) -> None:
        """Give the browser another live figure, once: the first one came to nothing."""
        if not self.retried:
            self.retried, self.live = True, Live(self.figure, self.live.still)
            self.children = (*self.children[:-1], self.live)

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        """Publish the widget; while the course is being built also the figure for the still."""
        data = super()._repr_mimebundle_(**kwargs)
        still = plots.bundle(self.still)
        if os.environ.get("TQLEARN_STILLS") != "1":
            still.pop(plots.PLOTLY)
        return data | still


def _output(fig: go.Figure) -> dict:
    """Return the figure as an output of a cell, in words for pages that cannot draw it."""
    data = bundle(fig)
    data["text/plain"] += "\nNo picture? Run this cell again, please."
    return {"output_type": "display_data", "data": data, "metadata": {}}


def choice(label: str, options: dict[str, object], value: object) -> ipywidgets.SelectionSlider:
    """Return a slider over named values."""
    return ipywidgets.SelectionSlider(
        options=list(options.items()),
        value=value,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "290px"},
    )
