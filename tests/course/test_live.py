"""The figure of an explorer: never blank, whether its live form comes or not."""

import gzip
import json

import ipywidgets
import pytest
from plotly.offline import get_plotlyjs

from tqlearn.lab import explorers, plots
from tqlearn.lab.explorers import Explorer


@pytest.fixture
def explorer():
    return explorers.budget_explorer()


def test_a_picture_stands_in_until_the_live_figure_is_drawn(explorer):
    first, still = explorer.live, explorer.picture.outputs
    assert json.loads(first.figure) == still[0]["data"][plots.PLOTLY]
    explorer.controls["rank"].value = 10
    moved, second = explorer.picture.outputs, explorer.live
    assert moved != still and second is not first and explorer.children[-1] is second
    explorer.controls["rank"].value = 5
    assert explorer.live is second, "one more try, no more"
    assert explorer.picture.outputs[0]["data"][plots.PLOTLY] == json.loads(second.figure)
    assert "Run this cell again, please." in explorer.picture.outputs[0]["data"]["text/plain"]
    second.drawn, last = True, explorer.picture.outputs
    explorer.controls["rank"].value = 30
    assert explorer.picture.outputs == last, "nobody sees it any more"
    assert json.loads(second.figure)["layout"]["title"]["text"] == explorer.figure.layout.title.text


def test_names_of_controls_begin_at_the_left(explorer):
    names = ipywidgets.Dropdown(options=["one"], description="matrix")
    rows = Explorer(lambda name: explorer.draw(**explorer.settings()), name=names)
    every = *explorer.controls.values(), *rows.controls.values()
    assert {control.style.description_width for control in every} == {"initial"}


def test_a_dark_page_has_a_color_for_all_that_is_drawn_on_paper(explorer):
    night = json.loads(explorer.live.night)
    layout = json.loads(explorer.live.figure)["layout"]["template"]["layout"]
    used = {layout["font"]["color"], layout["paper_bgcolor"], layout["plot_bgcolor"]}
    used |= {v for k, v in layout["xaxis"].items() if k.endswith("color")}
    assert used <= {*night} and night["white"] == "rgba(0,0,0,0)"


def test_the_live_figure_has_a_front_end_that_is_there_at_once(explorer):
    """anywidget gives it 2 seconds; plotly follows in a part of its own."""
    assert len(explorer.live._esm) < 5_000
    assert gzip.decompress(explorer.live.library).decode() == get_plotlyjs()
    assert len(explorer.live.library) < 2_000_000
    assert explorer.live.still in explorer.picture._dom_classes
