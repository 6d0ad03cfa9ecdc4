"""A figure that follows its sliders: plotly in the browser, the figure's JSON from the kernel.

Plotly's own ``FigureWidget`` sends a front end of 5 MB that has to be running within anywidget's 2
seconds, or its axes stay empty for good. This front end is a page of text, so it is there at once;
plotly is loaded afterwards, without a limit, and only if the page has none yet.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from .. import plots


@cache
def _library() -> bytes:
    return gzip.compress(get_plotlyjs().encode(), 6, mtime=0)  # 4.8 MB -> 1.4 MB


def bundle(fig: go.Figure) -> dict:
    """Return what ``plots.bundle`` does, for a figure that is drawn over and over."""
    data = plots.bundle(fig)
    data[plots.PLOTLY]["config"]["responsive"] = True  # nobody else fits it to the page
    layout = data[plots.PLOTLY]["layout"]
    layout["height"] = fig.layout.height or plots.HEIGHT  # a template's height does not hold
    layout["uirevision"] = "the reader's"  # and the zoom stays when a slider moves
    return data


class Live(anywidget.AnyWidget):
    """The live figure of an explorer.

    Args:
        fig: what it shows first.
        still: CSS class of the picture that stands in until the browser has drawn the figure.

    ``drawn`` turns True when the browser says so.
    """

    _esm = Path(__file__).parent / "live.js"
    figure = traitlets.Unicode().tag(sync=True)
    library = traitlets.Bytes().tag(sync=True)
    still = traitlets.Unicode().tag(sync=True)
    night = traitlets.Unicode(json.dumps(plots.NIGHT)).tag(sync=True)
    drawn = traitlets.Bool(False).tag(sync=True)

    def __init__(self, fig: go.Figure, still: str) -> None:
        super().__init__(library=_library(), still=still)
        self.show(fig)

    def show(self, fig: go.Figure) -> None:
        """Draw this figure in place of the present one."""
        self.figure = json.dumps(bundle(fig)[plots.PLOTLY])
