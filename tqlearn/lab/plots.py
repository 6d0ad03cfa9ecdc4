"""One look for every figure, and one way to show it.

``show`` publishes plotly's JSON, so JupyterLab draws the figure live without storing a copy of
plotly.js in the notebook, and a short text for everything else. ``tqlearn.lab.build`` adds a PNG to
the stored notebook, so GitHub and printed pages have a picture; readers need no extra tool for it.
"""

import json

import plotly.graph_objects as go
from IPython.display import display

PLOTLY = "application/vnd.plotly.v1+json"
# pixels of a still picture; JupyterLab shows it at this size until the mouse comes near, so it has
# to fit beside the file browser. Live figures fill the width of the page.
WIDTH, HEIGHT = 780, 420

# Okabe and Ito's palette: told apart by readers with any of the usual color vision deficiencies
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK, GRAY, INK = "#56B4E9", "#CC79A7", "#9AA0A6", "#30343B"
COLORS = (BLUE, ORANGE, GREEN, RED, SKY, PINK, INK)

# no "Share chart..." button: it uploads the figure, and this course asks no network for anything
CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}

_AXIS = {
    "gridcolor": "#E6E8EB",
    "linecolor": "#C3C7CC",
    "zerolinecolor": "#C3C7CC",
    "ticks": "outside",
    "tickcolor": "#C3C7CC",
    "automargin": True,
    "title": {"standoff": 10},
}
TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLORS,
        "font": {"family": "Open Sans, Segoe UI, Arial, sans-serif", "size": 14, "color": INK},
        "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 17}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        "height": HEIGHT,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "right", "x": 1},
        "hoverlabel": {"font": {"size": 13}},
        "colorscale": {"sequential": "Viridis", "diverging": "RdBu"},
    }
)


def figure(
    *traces: go.Scatter | go.Bar | go.Heatmap, title: str, x: str = "", y: str = "", **layout
):
    """Return a figure in the course's style.

    Args:
        traces: any plotly traces.
        title: what the reader should see in it; also the picture's text for those who cannot.
        x, y: axis titles, with units.
        layout: anything else ``go.Layout`` takes.

    >>> text(figure(go.Bar(x=["a", "b"], y=[1, 2], name="bytes"), title="Two bars"))
    'Figure: Two bars. bar "bytes", 2 points'
    """
    fig = go.Figure(traces)
    return fig.update_layout(
        template=TEMPLATE,
        title={"text": title},
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
        **layout,
    )


def text(fig: go.Figure) -> str:
    """Return the figure in words: title and traces. The same figure gives the same words."""
    traces = []
    for trace in fig.data:
        points = trace.z if trace.type == "heatmap" else (trace.y if trace.x is None else trace.x)
        count = 0 if points is None else len(points)
        name = f'"{trace.name}", ' if trace.name else ""
        traces.append(
            f"{trace.type} {name}{count} {'rows' if trace.type == 'heatmap' else 'points'}"
        )
    title = (fig.layout.title.text or "untitled").replace("<br>", " ").rstrip(".")
    return f"Figure: {title}. {'; '.join(traces)}"


def bundle(fig: go.Figure) -> dict:
    """Return what ``show`` publishes: plotly's JSON and the words."""
    spec = json.loads(fig.to_json())
    spec["config"] = dict(CONFIG)
    return {PLOTLY: spec, "text/plain": text(fig)}


def show(fig: go.Figure) -> None:
    """Publish a figure in the notebook."""
    display(bundle(fig), raw=True)
