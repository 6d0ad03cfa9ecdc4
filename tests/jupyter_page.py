"""One JupyterLab and one Chromium for all browser tests, and what a reader does with a notebook.

JupyterLab is loaded once, in one tab; notebooks are opened in it and closed again, and the kernel
is emptied in between: most of a short lesson's time is spent on starting these two. The notebooks
are copied first, so nothing is saved over them. A picture of each explorer lies in
test-results/browser afterwards, to be looked at; with TQLEARN_SHOTS=all, one of each screen too. A
page has as long as it needs: nothing here waits for a time, everything for a state. It is looked at
four times a second: as often as it is drawn, which is the default, would keep it busy.
"""

import dis
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

import pytest

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "test-results" / "browser"
SETTINGS = {  # every cell stays in the page, so that the whole of it can be examined
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no other machine
]
PATIENCE = 900_000  # milliseconds that a notebook may take on a machine with other work
OFTEN = 250  # milliseconds between two looks


@pytest.fixture(scope="package")
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
    command += ["--LabApp.expose_app_in_browser=True"]  # its commands, as ``window.jupyterapp``
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
        yield url, token, home / "notebooks"
    finally:
        _stop(server)
        log.close()


def _wait_for(url, server, log):
    """Return as soon as the server answers."""
    for _ in range(1200):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)  # not up yet
    pytest.fail(f"JupyterLab did not answer within five minutes:\n{log.read_text()}")


def _stop(server):
    """Ask the server to go, and its kernels with it; after ten seconds, see to it."""
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.fixture(scope="package")
def browser(chromium):
    """A Chromium that is driven from here; its pages share what they have loaded and compiled."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running.new_context(viewport={"width": 1280, "height": 1000})
        running.close()


@pytest.fixture(scope="package")
def tab(lab, browser):
    """A tab with JupyterLab, in which one notebook after the other is opened."""
    with _new_tab(lab, browser) as tab:
        yield tab


@pytest.fixture
def page(tab):
    """The tab without a notebook; ``page.outside`` lists what asks for another machine.

    Afterwards the notebook is closed, its kernel has no names and no widgets, or ends if it is not
    idle. Plotly is gone: the next explorer has to bring its own again.
    """
    tab.outside.clear()
    yield tab
    tab.kernel = tab.evaluate(CLOSE, EMPTY)


@pytest.fixture
def new_page(lab, browser):
    """A tab of its own for a test that changes the tab itself."""
    with _new_tab(lab, browser) as tab:
        yield tab
        tab.evaluate(CLOSE)


@contextmanager
def _new_tab(lab, browser):
    url, token, _ = lab
    tab = browser.new_page()
    tab.set_default_timeout(300_000)
    tab.outside, tab.kernel = [], None

    def note(request):
        if not request.url.startswith((url, "data:", "blob:")):
            tab.outside.append(request.url)

    tab.on("request", note)
    tab.goto(f"{url}/lab/workspaces/{secrets.token_hex(4)}?token={token}")  # nothing is open there
    tab.wait_for_function("window.jupyterapp?.shell && jupyterapp.restored.then(() => true)")
    yield tab
    tab.close()


def open_notebook(page, stem):
    """Open a notebook and wait until its kernel is ready."""
    page.evaluate(OPEN, {"path": f"{stem}.ipynb", "kernel": page.kernel})
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function(IDLE, polling=OFTEN)  # before, "Run All" is lost
    assert page.locator(".jp-Dialog").count() == 0


def run_all(page):
    """Run > Run All Cells, and wait until the last one is done."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = "[...document.querySelectorAll('.jp-InputPrompt')].map(p => p.textContent)"
    page.wait_for_function(f"{prompts}.some(text => text.includes('*'))", polling=OFTEN)
    page.wait_for_function(
        f"{prompts}.every(text => !text.includes('*'))", timeout=PATIENCE, polling=OFTEN
    )
    left_out = [text for text in page.evaluate(prompts) if text == "[ ]:"]
    assert not left_out, page.locator(
        '[data-mime-type="application/vnd.jupyter.error"]'
    ).inner_text()


def run_cells(page, places):
    """Select the cells, then Run > Run Selected Cells, and wait until the last one is done."""
    page.evaluate(RUN, places)
    page.wait_for_function("window.ran !== undefined", timeout=PATIENCE, polling=OFTEN)
    failed = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]'
    assert page.evaluate("window.ran"), page.locator(failed).all_inner_texts()


def needed(cells, wanted):
    """Return the places of ``wanted`` cells and of all that bind or fill a name for them, in order.

    >>> from nbformat.v4 import new_code_cell
    >>> sources = "a, c = [1], 2", "b = a", "a[0] = 3", "f = lambda x: x + a", "f(3)"
    >>> needed([new_code_cell(source) for source in sources], [4])
    [0, 2, 3, 4]
    """
    names, places = set(), []
    for place, cell in reversed([*enumerate(cells)]):
        if cell.cell_type == "code":
            takes, leaves, fills = _names(compile(cell.source, f"cell {place}", "exec"))
            if place in wanted or names & (leaves | (takes if fills else set())):
                names = names - leaves | takes
                places.insert(0, place)
    return places


def _names(code):
    """The names that a cell takes from the cells above it, those that it leaves behind, and whether
    it writes into something, such as ``runs["slots"] = 3``.
    """
    takes, leaves, inner, fills = set(), set(), [code], False
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_NAME" and step.argval not in leaves:
            takes.add(step.argval)
        elif step.opname == "STORE_NAME":
            leaves.add(step.argval)
    for part in inner:  # grows while it is read: functions in functions
        fills |= any(
            step.opname in ("STORE_SUBSCR", "STORE_ATTR") for step in dis.get_instructions(part)
        )
        inner += [value for value in part.co_consts if isinstance(value, CodeType)]
        if part is not code:
            steps = dis.get_instructions(part)
            takes |= {s.argval for s in steps if s.opname == "LOAD_GLOBAL"} - leaves
    return takes, leaves, fills


def explorer(page):
    """The output area that holds the widgets, as soon as its figure is drawn."""
    found = page.locator(".jp-OutputArea:has(.jupyter-widgets .noUi-handle)")
    found.scroll_into_view_if_needed()
    shown = f"area => ({DRAWN})(area).title"
    page.wait_for_function(shown, arg=found.element_handle(), polling=OFTEN)
    return found


def move(area):
    """One step to the right with the first slider; the label, the data and the title follow."""
    before, words = drawn(area), area.locator(".widget-html-content").first.inner_text()
    handle = area.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    area.page.wait_for_function(
        f"""([area, before, words]) => {{
            const now = ({DRAWN})(area);
            return area.querySelector('.widget-html-content').innerText !== words
                && now.data && now.data !== before.data && now.title !== before.title;
        }}""",
        arg=[area.element_handle(), before, words],
        polling=OFTEN,
    )


def photograph(page, area, name):
    """A picture of the explorer; with TQLEARN_SHOTS=all, one of each screen from top to bottom."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    for old in SHOTS.glob(f"{name}*.png"):
        old.unlink()
    area.screenshot(path=SHOTS / f"{name}.png")
    if os.environ.get("TQLEARN_SHOTS") != "all":
        return
    panel = page.locator(".jp-WindowedPanel-outer").first
    whole, screen = panel.evaluate("e => [e.scrollHeight, e.clientHeight]")
    for number, top in enumerate(range(0, whole, screen - 80)):
        panel.evaluate(
            "(e, top) => { e.scrollTo(0, top); return new Promise("
            "done => requestAnimationFrame(() => requestAnimationFrame(done))) }",
            top,
        )
        page.screenshot(path=SHOTS / f"{name}_{number:02}.png")


# Commands of JupyterLab itself, for what a reader does with the file browser and the mouse
OPEN = """asked => {
    jupyterapp.commands.execute('docmanager:open', asked);
}"""
EMPTY = (
    "import ipywidgets; ipywidgets.Widget.close_all(); get_ipython().run_line_magic('reset', '-f')"
)
IDLE = """() => {
    const session = jupyterapp.shell.currentWidget?.sessionContext;
    return session?.isReady && session.session?.kernel?.status === 'idle';
}"""
CLOSE = """async code => {
    const widget = jupyterapp.shell.currentWidget, context = widget?.sessionContext;
    if (!context) return null;
    const kernel = context.session?.kernel, kept = code && kernel?.status === 'idle';
    const model = kept ? {id: kernel.id, name: kernel.name} : null;
    await (kept ? kernel.requestExecute({code}).done : context.shutdown());
    widget.context.model.dirty = false;  // nothing is to be saved
    widget.dispose();
    delete window.Plotly;
    return model;
}"""
RUN = """places => {
    const notebook = jupyterapp.shell.currentWidget.content;
    notebook.deselectAll();
    notebook.activeCellIndex = places[0];
    for (const place of places) notebook.select(notebook.widgets[place]);
    window.ran = undefined;
    jupyterapp.commands.execute('notebook:run-cell').then(good => { window.ran = good ?? false; });
}"""
# What the figure on the page holds: x, y and z of each trace and its title, once it is drawn
DRAWN = """area => {
    const shown = [...area.querySelectorAll('.js-plotly-plot')].find(e => e.offsetHeight);
    if (!shown?.querySelector('.main-svg :is(.trace, .hm)') || !shown._fullData) return {};
    return {data: JSON.stringify(shown._fullData.map(t => [t.x, t.y, t.z].map(v => v && [...v]))),
            title: shown.querySelector('.gtitle')?.textContent};
}"""


def drawn(area):
    """What the figure on the page holds."""
    return area.evaluate(DRAWN)
