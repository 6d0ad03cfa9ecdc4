"""Every explorer of the course after Run All, on a slow page and beside a busy process.

That is an hour for all of them, three times in a row, so it is asked for by name:

    TQLEARN_TIMES=3 python -m pytest -m browser tests/browser/test_browser_busy.py
    TQLEARN_TIMES=1 python -m pytest -m browser tests/browser/test_browser_busy.py -k 02

Without TQLEARN_TIMES the last test alone runs; one slow page is ``test_browser_slow``'s.
"""

import os
import subprocess
import sys

import nbformat
import pytest
from jupyter_page import ROOT, explorer, move, open_notebook, photograph, run_all

from tqlearn.lab.build import METADATA

pytestmark = pytest.mark.browser

LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
TIMES = range(int(os.environ.get("TQLEARN_TIMES", 0)))
RUNS = pytest.mark.parametrize("stem, time", [(one, time) for one in LESSONS for time in TIMES])
STILL, LIVE = ".jp-RenderedPlotly", ".tqlearn-live.js-plotly-plot"
EXPLORER = "from tqlearn.lab.explorers import budget_explorer\n\nbudget_explorer()"


@pytest.fixture
def throttled(page):
    """A page whose processor is six times slower."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    yield page
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    session.detach()


@pytest.fixture
def crowded(page):
    """A page on a machine where each core has something else to do."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(os.cpu_count())]  # fmt: skip
    yield page
    for process in busy:
        process.kill()
        process.wait()


def draws(page, stem, shot):
    """Run all cells of a notebook: its explorer is live, in the picture's place, and answers."""
    open_notebook(page, stem)
    run_all(page)
    area = explorer(page)
    area.locator(LIVE).wait_for()
    area.locator(STILL).wait_for(state="hidden")
    move(area)
    photograph(page, area, shot)
    assert area.locator(LIVE).is_visible() and page.outside == []


@RUNS
def test_every_explorer_on_a_slow_page(throttled, stem, time):
    draws(throttled, stem, f"slow_{stem}")


@RUNS
def test_every_explorer_beside_a_busy_process(crowded, stem, time):
    draws(crowded, stem, f"busy_{stem}")


def test_an_explorer_beside_a_busy_process(crowded, lab):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(EXPLORER)], metadata=METADATA)
    nbformat.write(nb, lab[2] / "busy.ipynb")
    draws(crowded, "busy", "busy")
