"""The course as a reader meets it: a real JupyterLab, a real Chromium, a moved slider.

Run with ``pytest -m browser``; ``jupyter_page`` has the server, the browser and the reader's hands.
That every cell runs, and what it prints, is nbval's part (``make test-notebooks``). Here runs what
needs a page: the explorer, the first exercise with its check, and the cells these two are made of.
"""

import os

import nbformat
import pytest
from jupyter_page import (
    OFTEN,
    ROOT,
    explorer,
    move,
    needed,
    open_notebook,
    photograph,
    run_all,
    run_cells,
)

from tqlearn.lab import exercises
from tqlearn.lab.build import METADATA

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
WHOLE = ("00", "02")  # Run > Run All Cells: two short ones
# A page draws what a few steps leave as it draws what all of them do; nbval runs all of them.
LOAD = 'flights = tq.data.load("flights")'
FEW = (LOAD, f'{LOAD}\nflights["test"] = flights["test"].select(range(120))')
BRIEF = {
    "01": [FEW],
    "04": [FEW, ("1e-3, scale_rate, 110,", "1e-3, scale_rate, 10,")],
    "05": [FEW],
    "06": [FEW, ("def learn(model, steps=60,", "def learn(model, steps=3,")],
    "07": [FEW, ("def prune(penalty, steps=120)", "def prune(penalty, steps=60)")]
    + [("in (0.3, 1.0, 2.0, 5.0, 10.0)", "in (1.0, 5.0, 10.0)")],
    "08": [FEW, ("one_school, steps=80", "one_school, steps=4")],
    "09": [("max_steps=300", "max_steps=20"), ("range(0, 500, 4)", "range(0, 500, 50)")],
    "10": [FEW, ("hide_words(tokenizer, 0), 160,", "hide_words(tokenizer, 0), 10,")]
    + [("stage_2, 60)", "stage_2, 10)"), ("labels_alone, 60)", "labels_alone, 10)")]
    + [("stage_2, 220)", "stage_2, 10)")],
    "11": [
        FEW,
        ("rate=3e-4, steps=120)", "rate=3e-4, steps=12)"),
        ("batches[::16]", "batches[::64]"),
    ],
    "13": [("steps=250, rate=4e-3, warm=50", "steps=10, rate=4e-3, warm=5")]
    + [("for bits in (8, 6, 5, 4, 3):", "for bits in (8, 4):")]
    + [("range(100, 130)", "range(100, 104)")],
    "15": [(".run(36, progress", ".run(8, progress")],
    # its explorer shows what was measured
    "16": [("in ((model, 3), (model, 2), (planted, 3), (planted, 2)):", "in ():")],
}
ORANGE, GREEN = "rgb(230, 159, 0)", "rgb(30, 142, 62)"  # check's boxes: TODO and PASS
BROKEN = (
    "Error displaying widget",
    "Error creating widget",
    "model not found",
    "Loading widget",
    "Failed to load",
    "Traceback",
    "Widgets require us to update",
)


WRITE = """([place, source]) =>
    jupyterapp.shell.currentWidget.content.widgets[place].model.sharedModel.setSource(source)"""


def solve_first_exercise(page, exercise):
    """Write the solution over the stub, run it and its check: the box says PASS, in green."""
    todo = page.locator(".jp-RenderedHTML", has_text=f"TODO {exercise.id} not attempted")
    assert todo.locator("div").evaluate("e => getComputedStyle(e).borderLeftColor") == ORANGE
    stub = page.locator(".jp-CodeCell", has_text=f"def {exercise.name}(")
    stub = stub.filter(has_text="raise NotImplementedError")
    stub.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(exercise.solution)
    page.keyboard.press("Shift+Enter")  # the next cell is the check
    page.keyboard.press("Shift+Enter")
    passed = page.locator(".jp-RenderedHTML", has_text=f"PASS {exercise.id} {exercise.title}")
    passed.wait_for()
    assert passed.locator("div").evaluate("e => getComputedStyle(e).borderLeftColor") == GREEN


def run(page, lab, stem):
    """The lesson, as far as it needs a page; with TQLEARN_SHOTS=all, to be looked at, all of it."""
    if stem[:2] in WHOLE or os.environ.get("TQLEARN_SHOTS") == "all":
        return run_all(page)
    cells = nbformat.read(lab[2] / f"{stem}.ipynb", as_version=4).cells
    exercise = exercises.of(stem[:2])[0]
    # what is registered is found by a string, which no name in a cell tells
    wanted = "_explorer(", ".register(", f"def {exercise.name}(", f'check("{exercise.id}"'
    places = [
        place
        for place, cell in enumerate(cells)
        if cell.cell_type == "code" and any(words in cell.source for words in wanted)
    ]
    places = needed(cells, places)
    for long, short in BRIEF.get(stem[:2], []):
        (place,) = [place for place in places if long in cells[place].source]
        cells[place].source = cells[place].source.replace(long, short)
        page.evaluate(WRITE, [place, cells[place].source])
    run_cells(page, places)


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_notebook_in_the_browser(page, lab, stem):
    open_notebook(page, stem)
    stored = page.locator(".jp-OutputArea-output :is(.js-plotly-plot, img)")
    stored.nth(1).wait_for(state="attached")  # a freshly opened notebook shows its pictures
    cut = "all => all.filter(e => e.offsetWidth > e.closest('.jp-OutputArea').clientWidth).length"
    assert stored.evaluate_all(cut) == 0, "and none of them is cut off"
    assert "Error displaying widget" not in page.inner_text(".jp-Notebook")

    run(page, lab, stem)
    area = explorer(page)
    move(area)
    photograph(page, area, stem)

    boxes = page.locator(".jp-RenderedHTML", has_text="not attempted")
    assert boxes.count() == len(exercises.of(stem[:2]))
    solve_first_exercise(page, exercises.of(stem[:2])[0])

    text = page.inner_text(".jp-Notebook")
    assert not [words for words in BROKEN if words in text]
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    assert page.locator(".jp-RenderedMarkdown mjx-container").count() >= 2, "formulas are drawn"
    assert page.locator(".jp-RenderedMarkdown mjx-merror").count() == 0
    assert page.outside == [], "the course needs no network"


FIGURE = """import plotly.graph_objects as go

from tqlearn.lab import plots

plots.show(plots.figure(go.Bar(y=[1]), title="one", height=330))"""
THEME = "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab %s'})"


def test_a_figure_keeps_its_height_when_the_theme_changes(page, lab):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FIGURE)], metadata=METADATA)
    nbformat.write(nb, lab[2] / "figure.ipynb")
    open_notebook(page, "figure")
    run_cells(page, [0])
    drawn = page.locator(".jp-RenderedPlotly:has(.main-svg)")
    drawn.wait_for()
    for theme in ("Dark", "Light"):
        page.evaluate(THEME % theme)
        page.wait_for_function(
            f"(document.body.dataset.jpThemeLight === 'false') === {str(theme == 'Dark').lower()}",
            polling=OFTEN,
        )
        page.wait_for_timeout(1000)  # plotly draws anew, and nothing tells when it is done
        assert drawn.evaluate("e => e.offsetHeight") == 330, theme
