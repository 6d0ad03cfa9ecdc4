"""The workbench in a real JupyterLab: a dial moves, the bytes follow, the plan is printed."""

import re

import pytest
from jupyter_page import OFTEN, SHOTS, explorer, open_notebook, run_cells

pytestmark = pytest.mark.browser

TOLD = ".widget-html-content"
DARK = "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab %s'})"
# tables and figures that are wider than the page, and whether the figure has followed its size
CUT = """e => [...e.querySelectorAll('table, .js-plotly-plot')]
    .filter(shown => shown.offsetWidth > e.clientWidth).length"""
# columns of names that are too narrow to read
SQUEEZED = "e => [...e.querySelectorAll('td:first-child')].filter(c => c.offsetWidth < 90).length"
DRAWN_TO_SIZE = """area => {
    const shown = [...area.querySelectorAll('.js-plotly-plot')].find(e => e.offsetHeight);
    return shown && Math.abs(shown._fullLayout.width - shown.clientWidth) < 2;
}"""


def test_a_dial_on_the_page(page, lab):
    open_notebook(page, "workbench")
    run_cells(page, [2, 3, 5])
    area = explorer(page)
    before = area.inner_text()
    size = re.search(r"after\s+([\d,]+)", before)[1]
    assert "error of weights" in before and "of outputs" in before
    handle = area.locator(".noUi-handle:visible").nth(1)  # bits of the first row
    handle.focus()
    handle.press("ArrowRight")
    page.wait_for_function(
        "([area, size]) => !area.innerText.includes(size)",
        arg=[area.element_handle(), size], polling=OFTEN,
    )  # fmt: skip
    area.get_by_role("button", name="copy plan").click()
    page.wait_for_function(
        "area => /LowRank[(]ratio=4[)], tq.LSQ[(]bits=5[)]/.test(area.innerText)",
        arg=area.element_handle(), polling=OFTEN,
    )  # fmt: skip
    SHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("Dark", "Light"):
        page.evaluate(DARK % theme)
        page.wait_for_function(
            f"(document.body.dataset.jpThemeLight === 'false') === {str(theme == 'Dark').lower()}"
        )
        for width in (1400, 1100):
            page.set_viewport_size({"width": width, "height": 2200})  # all of it in one look
            page.wait_for_function(DRAWN_TO_SIZE, arg=area.element_handle(), polling=OFTEN)
            assert area.evaluate(CUT) == area.evaluate(SQUEEZED) == 0
            area.screenshot(path=SHOTS / f"workbench_{theme.lower()}_{width}.png")
    area.get_by_role("tab", name="front").click()
    page.wait_for_function(
        "area => / of \\d+ points/.test(area.innerText)", arg=area.element_handle(), polling=OFTEN
    )
    area.screenshot(path=SHOTS / "workbench_front.png")
    page.set_viewport_size({"width": 1280, "height": 1000})
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.outside == []
