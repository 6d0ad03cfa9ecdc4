"""What every explorer is made of: controls, a label and a figure over one drawing function.

The numbers come from pure functions (they need no widget and are tested); an explorer only draws
what they return. In the stored notebook an explorer is the still picture of its default setting,
drawn by the same function.
"""

import os
from collections.abc import Callable, Sequence
from itertools import product

import ipywidgets
import plotly.graph_objects as go

from .. import plots


def sweep(function: Callable[..., dict], **grid: Sequence) -> list[dict]:
    """Call a function at every point of a grid and return one row per point, settings first.

    >>> sweep(lambda rank, bits: {"bytes": rank * bits}, rank=(4, 8), bits=(2,))
    [{'rank': 4, 'bits': 2, 'bytes': 8}, {'rank': 8, 'bits': 2, 'bytes': 16}]
    """
    points = (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
    return [point | function(**point) for point in points]


class Explorer(ipywidgets.VBox):
    """Controls above a label above a figure.

    Args:
        draw: takes the controls' values by name, returns a figure and the label's HTML. Its figures
            always hold the same traces, so that moving a slider replaces data and title, no more.
        controls: name -> widget.

    ``caption`` (an ``HTML`` widget) and ``figure`` (a ``FigureWidget``) are what the reader sees.
    """

    def __init__(
        self, draw: Callable[..., tuple[go.Figure, str]], **controls: ipywidgets.ValueWidget
    ) -> None:
        self.draw, self.controls = draw, controls
        self.still, words = draw(**self.settings())
        self.figure = go.FigureWidget(self.still)
        self.caption = ipywidgets.HTML(words)
        super().__init__([ipywidgets.HBox([*controls.values()]), self.caption, self.figure])
        self.children[0].layout.flex_flow = "row wrap"
        for control in controls.values():
            control.observe(self.redraw, names="value")

    def settings(self) -> dict:
        """Return the controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self, _change: object = None) -> None:
        """Draw the present settings into the figure that is on the page."""
        new, words = self.draw(**self.settings())
        with self.figure.batch_update():
            for mine, trace in zip(self.figure.data, new.data, strict=True):
                mine.update(trace.to_plotly_json(), overwrite=True)
            self.figure.layout.title = new.layout.title
        self.caption.value = words

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        """Publish the widget; while the course is being built also the figure for the still."""
        data = super()._repr_mimebundle_(**kwargs)
        still = plots.bundle(self.still)
        if os.environ.get("TQLEARN_STILLS") != "1":
            still.pop(plots.PLOTLY)
        return data | still


def choice(label: str, options: dict[str, object], value: object) -> ipywidgets.SelectionSlider:
    """Return a slider over named values."""
    return ipywidgets.SelectionSlider(
        options=list(options.items()),
        value=value,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "290px"},
    )
