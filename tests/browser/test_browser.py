"""The course as a reader meets it: a real JupyterLab, a real Chromium, every cell, a moved slider.

Run with ``pytest -m browser``. The notebooks are copied first, so nothing is saved over them; the
screenshots lie in test-results/browser afterwards, to be looked at.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tqlearn.lab import exercises

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "test-results" / "browser"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
SETTINGS = {  # every cell stays in the page, so that the whole of it can be examined
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 600_000  # milliseconds that a whole notebook may take on a busy machine
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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the notebooks, on this machine only, behind a token."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    for name, values in SETTINGS.items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", f"--ServerApp.root_dir={home / 'notebooks'}"]
    command += ["--allow-root"] if os.name == "posix" and os.geteuid() == 0 else []
    folders = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTER_TOKEN": token}
    folders |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    log = (home / "lab.log").open("w")
    server = subprocess.Popen(
        command, env=os.environ | folders, stdout=log, stderr=log, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/api/status?token={token}", server, home / "lab.log")
        yield url, token
    finally:
        _stop(server)
        log.close()


def _wait_for(url, server, log):
    """Return as soon as the server answers."""
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)  # not up yet
    pytest.fail(f"JupyterLab did not answer within two minutes:\n{log.read_text()}")


def _stop(server):
    """Ask the server to go, and its kernels with it; after ten seconds, see to it."""
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.fixture(scope="module")
def browser(chromium):
    """A Chromium that is driven from here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield running
        running.close()


@pytest.fixture
def page(lab, browser):
    """A fresh tab; whatever asks for another machine is refused, and ``page.outside`` lists it."""
    url, _ = lab
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.set_default_timeout(60_000)
    tab.outside = []

    def only_here(route):
        if route.request.url.startswith((url, "data:", "blob:")):
            return route.continue_()
        tab.outside.append(route.request.url)
        return route.abort()

    tab.route(re.compile("^http"), only_here)
    yield tab
    tab.close()


def open_notebook(page, lab, stem):
    """Open a notebook and wait until its kernel is ready."""
    url, token = lab
    page.goto(
        f"{url}/lab/workspaces/{stem}/tree/{stem}.ipynb?token={token}"
    )  # no other tab is open
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()  # before, "Run All" is lost
    assert page.locator(".jp-Dialog").count() == 0


def run_all(page):
    """Run > Run All Cells, and wait until the last one is done."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = "[...document.querySelectorAll('.jp-InputPrompt')].map(p => p.textContent)"
    page.wait_for_function(f"{prompts}.some(text => text.includes('*'))")
    page.wait_for_function(
        f"{prompts}.every(text => !text.includes('*'))", timeout=PATIENCE, polling=500
    )
    left_out = [text for text in page.evaluate(prompts) if text == "[ ]:"]
    assert not left_out, page.locator(
        '[data-mime-type="application/vnd.jupyter.error"]'
    ).inner_text()


def explorer(page):
    """The output area that holds the widgets."""
    found = page.locator(".jp-OutputArea:has(.jupyter-widgets .noUi-handle)")
    found.scroll_into_view_if_needed()
    found.locator(".js-plotly-plot .main-svg").first.wait_for()
    titled = "area => area.querySelector('.js-plotly-plot').layout?.title?.text"
    page.wait_for_function(titled, arg=found.element_handle())  # late on a busy machine
    return found


def drawn(area):
    """What the figure on the page holds: the x and y of each trace, and its title."""
    return area.locator(".js-plotly-plot").evaluate(
        "gd => JSON.stringify([gd.data.map(t => [Array.from(t.x), Array.from(t.y)]),"
        " gd.layout.title.text])"
    )


def photograph(page, name):
    """Screenshots from top to bottom, one screen each."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    for old in SHOTS.glob(f"{name}_*.png"):
        old.unlink()
    panel = page.locator(".jp-WindowedPanel-outer").first
    whole, screen = panel.evaluate("e => [e.scrollHeight, e.clientHeight]")
    for number, top in enumerate(range(0, whole, screen - 80)):
        panel.evaluate("(e, top) => e.scrollTo(0, top)", top)
        page.wait_for_timeout(400)
        page.screenshot(path=SHOTS / f"{name}_{number:02}.png")


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


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_notebook_in_the_browser(page, lab, stem):
    open_notebook(page, lab, stem)
    stored = page.locator(".jp-OutputArea-output :is(.js-plotly-plot, img)")
    stored.nth(1).wait_for(state="attached")  # a freshly opened notebook shows its pictures
    cut = "all => all.filter(e => e.offsetWidth > e.closest('.jp-OutputArea').clientWidth).length"
    assert stored.evaluate_all(cut) == 0, "and none of them is cut off"
    assert "Error displaying widget" not in page.inner_text(".jp-Notebook")

    run_all(page)
    area = explorer(page)
    before, words = drawn(area), area.locator(".widget-html-content").inner_text()
    handle = area.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    page.wait_for_function(
        "([area, words]) => area.querySelector('.widget-html-content').innerText !== words",
        arg=[area.element_handle(), words],
    )
    page.wait_for_timeout(500)
    after = drawn(area)
    assert json.loads(after)[0] != json.loads(before)[0], "the figure's data moved"
    assert json.loads(after)[1] != json.loads(before)[1], "so did its title"

    boxes = page.locator(".jp-RenderedHTML", has_text="not attempted")
    assert boxes.count() == len(exercises.of(stem[:2]))
    solve_first_exercise(page, exercises.of(stem[:2])[0])

    photograph(page, stem)
    text = page.inner_text(".jp-Notebook")
    assert not [words for words in BROKEN if words in text]
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    assert page.locator(".jp-RenderedMarkdown mjx-container").count() >= 2, "formulas are drawn"
    assert page.locator(".jp-RenderedMarkdown mjx-merror").count() == 0
    assert page.outside == [], "the course needs no network"
