"""An explorer on a slow page: never blank, whatever becomes of its live figure."""

import nbformat
import pytest
from jupyter_page import drawn, explorer, move, open_notebook, photograph, run_all

from tqlearn.lab.build import METADATA

pytestmark = pytest.mark.browser

STILL, LIVE = ".jp-RenderedPlotly", ".tqlearn-live.js-plotly-plot"
EXPLORER = "from tqlearn.lab.explorers import budget_explorer\n\nbudget_explorer()"
BROKEN = "from tqlearn.lab.explorers.live import Live\n\nLive._esm = 'throw Error(\"broken\")'"


def write(lab, stem, *cells):
    """Put a notebook of these cells beside the course's."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nb = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.write(nb, lab[2] / f"{stem}.ipynb")
    return stem


def test_a_slow_browser_draws_it(new_page, lab):
    """Six times slower: too slow for a front end of 5 MB that has 2 seconds."""
    page, slow = new_page, new_page.context.new_cdp_session(new_page)
    open_notebook(page, write(lab, "slow", EXPLORER))
    slow.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    run_all(page)
    area = explorer(page)
    area.locator(LIVE).wait_for()
    area.locator(STILL).wait_for(state="hidden")
    move(area)
    photograph(page, area, "slow")
    assert area.locator(LIVE).is_visible() and page.outside == []


def test_the_picture_answers_where_no_live_figure_comes(page, lab):
    open_notebook(page, write(lab, "picture", BROKEN, EXPLORER))
    run_all(page)
    area = explorer(page)
    for _ in range(2):
        move(area)
        assert area.locator(STILL).is_visible() and not area.locator(LIVE).count()
    photograph(page, area, "picture")
    assert drawn(area)["title"]
