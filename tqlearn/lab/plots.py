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
PAPER, GRID, EDGE, FAINT, GONE = "white", "#E6E8EB", "#C3C7CC", "#D5D8DC", "#EBECEE"
# what takes their place where an explorer stands on a dark page. Still pictures keep their white
# paper: no color of text has a contrast of 4.5 both with white and with JupyterLab's #111111
NIGHT = {INK: "#E4E7EB", BLUE: "#2B87C8", FAINT: "#4A525D", EDGE: "#7A838F",
         GRID: "#363D47", GONE: "#6B727B", PAPER: "rgba(0,0,0,0)"}  # fmt: skip

# no "Share chart..." button: it uploads the figure, and this course asks no network for anything;
# not responsive: JupyterLab itself fits figures to the page, and with both a new theme hides them
CONFIG = {"displaylogo": False, "responsive": False, "showSendToCloud": False}

_AXIS = {
    "gridcolor": GRID,
    "linecolor": EDGE,
    "zerolinecolor": EDGE,
    "ticks": "outside",
    "tickcolor": EDGE,
    "automargin": True,
    "title": {"standoff": 10},
}
TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLORS,
        "font": {"family": "Open Sans, Segoe UI, Arial, sans-serif", "size": 14, "color": INK},
        "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 17}},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        "height": HEIGHT,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "right", "x": 1},
        "hoverlabel": {"font": {"size": 13}},
        "colorscale": {"sequential": "Viridis", "diverging": "RdBu"},
    }
)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors such as "#0072B2", 1 to 21; WCAG asks 4.5 of text.

    >>> round(contrast("#FFFFFF", "#000000"), 1), round(contrast(BLUE, "#FFFFFF"), 1)
    (21.0, 5.2)
    """
    low, high = sorted(_luminance(color) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def over(color: str) -> str:
    """Return black or white, whichever reads better on a ground of this color."""
    return max("#000000", "#FFFFFF", key=lambda ink: contrast(ink, color))


def legible(color: str) -> str:
    """Return the color, darker if need be, for words on white: a contrast of 4.5 at least.

    >>> legible(BLUE), legible(ORANGE)
    ('#0072B2', '#9E6D00')
    """
    parts = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    darker = ("#" + "".join(f"{c * k // 100:02X}" for c in parts) for k in range(100, 0, -1))
    return next(shade for shade in darker if contrast(shade, "#FFFFFF") >= 4.5)


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
    """Return what ``show`` publishes: plotly's JSON and the words. Words in a color are legible."""
    spec = json.loads(fig.to_json())
    for note in spec["layout"].get("annotations", []):
        if (font := note.get("font", {})).get("color", "").startswith("#"):
            font["color"] = legible(font["color"])
    spec["config"] = dict(CONFIG)
    return {PLOTLY: spec, "text/plain": text(fig)}


def show(fig: go.Figure) -> None:
    """Publish a figure in the notebook."""
    display(bundle(fig), raw=True)
