"""The documentation site in a real browser, from the disk: no server, no network."""

import json
import re
from pathlib import Path

import pytest

from tqlearn.lab.explorers.grid import replay

pytestmark = pytest.mark.browser
LESSONS = ("02_tensor_train", "07_block_pruning")
SHOWN = [f"notebooks/{lesson}" for lesson in LESSONS]
SHOWN += ["index", "course", "glossary", "instructors", "methods", "names", "results/index"]
SHOWN += ["results/latency", "api/index", "api/tqlearn"]
GRIDS = sorted((Path(__file__).parents[2] / "docs" / "explorers").glob("*.json"))
CONTRAST = """selector => {
  const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const known = new Map([[null, [255, 255, 255]]]);
  const behind = node => {
    if (!known.has(node)) {
      const color = numbers(getComputedStyle(node).backgroundColor);
      known.set(node, color[3] === 0 ? behind(node.parentElement) : color);
    }
    return known.get(node);
  };
  const found = [];
  for (const node of document.querySelectorAll(selector)) {
    const words = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!words || !node.getClientRects().length || node.closest('.text_html')) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${node.textContent.trim().slice(0, 40)}`);
  }
  return found;
}"""


@pytest.fixture
def book(browser):
    """A tab; ``asked`` lists its requests, ``errors`` what its scripts have raised."""
    page = browser.new_page()
    page.asked, page.errors = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    page.close()


@pytest.mark.parametrize("name", SHOWN)
def test_page_reads_well_and_asks_no_network(book, site, name):
    """In light, dark and on a telephone: nothing too wide, every text has a contrast of 4.5."""
    book.goto((site / f"{name}.html").as_uri())
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light")):
        book.set_viewport_size({"width": width, "height": 1000})
        book.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        book.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        scroll, shown = book.evaluate(wide)
        assert scroll <= shown <= width, f"{scroll} pixels wide on a screen of {shown}"
        assert book.evaluate(CONTRAST, ".bd-article *, .bd-header *") == [], scheme
        assert book.locator("article h1").is_visible()
        sidebar = book.locator(".bd-sidebar-primary").is_visible()
        assert "/" not in name or sidebar == (width > 400)
    assert book.asked and not [url for url in book.asked if not url.startswith(("file:", "data:"))]
    assert book.errors == []


def test_formulas_and_pictures_are_drawn(book, site):
    book.goto((site / "notebooks" / "02_tensor_train.html").as_uri())
    boxes = book.locator(".formula math").evaluate_all(
        "all => all.map(m => [m.getBoundingClientRect().height, m.querySelector('merror')])"
    )
    assert len(boxes) > 3 and all(height > 10 and not error for height, error in boxes)
    assert book.locator("article img").first.evaluate("i => i.complete && i.naturalWidth") >= 700


def test_search_finds_kronecker(book, site):
    """Typed into the field that every page has."""
    book.goto((site / "index.html").as_uri())
    book.keyboard.press("ControlOrMeta+k")
    book.keyboard.type("Kronecker")
    book.keyboard.press("Enter")
    book.locator("#search-results li").nth(5).wait_for()
    found = book.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    found = " ".join(found)
    for page in ("notebooks/03_kronecker.html", "glossary.html#term-Kronecker-product",
                 "api/tqlearn.html#tqlearn.Kronecker"):  # fmt: skip
        assert page in found
    assert not [url for url in book.asked if not url.startswith(("file:", "data:"))]


def test_a_term_leads_to_its_entry_and_a_solution_unfolds(book, site):
    book.goto((site / "notebooks" / "03_kronecker.html").as_uri())
    solution = book.locator("details", has_text="A solution of 03.1")
    assert not solution.locator("pre").is_visible()
    solution.locator("summary").click()
    assert solution.locator("pre").is_visible()
    book.get_by_role("link", name="Kronecker product", exact=True).first.click()
    entry = book.locator("dt#term-Kronecker-product")
    entry.wait_for()
    assert entry.evaluate("e => e.getBoundingClientRect().top") < 1000


def test_the_theme_can_be_switched(book, site):
    book.goto((site / "index.html").as_uri())
    seen = {book.evaluate("document.documentElement.dataset.theme")}
    for _ in range(3):
        book.locator(".theme-switch-button").first.click()
        if book.locator(".theme-switch-dropdown, .dropdown-menu.show").count():
            book.locator(".dropdown-menu.show button", has_text="Dark").first.click()
        seen.add(book.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}


def test_every_explorer_answers_without_a_kernel(book, site):
    """First and last control: caption and figure are the ones that the grid has for them."""
    drawn = """() => document.querySelector('.tqlearn-live').data.map(
      t => Object.fromEntries(['x', 'y', 'z'].filter(k => k in t).map(k => [k, t[k]])))"""
    assert GRIDS
    book.add_init_script("localStorage.clear()")  # a theme that another test has chosen
    for number, file in enumerate(GRIDS):
        grid = json.loads(file.read_text("utf-8"))
        at = [control["at"] for control in grid["controls"]]
        first = replay(grid, at)
        scheme = ("light", "dark")[number % 2]
        book.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        book.goto((site / "notebooks" / f"{file.stem}.html").as_uri())
        still, live = book.locator("img.explorer-still"), book.locator(".explorer-live")
        assert "Precomputed" in book.locator(".explorer").inner_text() and still.is_visible()
        assert not any("plotly" in url for url in book.asked), "only when something is moved"
        fields = book.locator(".explorer-fields :is(input, select)")
        assert fields.count() == len(at)
        for axis in {0, len(at) - 1}:
            control = grid["controls"][axis]
            last = len(control["stops"]) - 1
            at[axis] = 0 if control["at"] == last else last
            if control["kind"] == "range":
                fields.nth(axis).press("End" if at[axis] else "Home")
            else:
                fields.nth(axis).select_option(str(at[axis]))
            now = replay(grid, at)
            assert now != first
            said = re.sub("<[^>]+>", "", now["caption"]).split()
            assert "".join(book.locator(".explorer-caption").inner_text().split()) == "".join(said)
        still.wait_for(state="hidden")
        live.locator(".gtitle", has_text=now["figure"]["layout"]["title"]["text"]).first.wait_for()
        traces = [{k: t[k] for k in "xyz" if k in t} for t in now["figure"]["data"]]
        assert json.loads(json.dumps(book.evaluate(drawn))) == traces
        assert book.evaluate(CONTRAST, ".explorer-caption *, .explorer-fields *, .explorer *") == []
        paper = live.locator(".main-svg").first.evaluate("e => getComputedStyle(e).background")
        assert ("rgba(0, 0, 0, 0)" in paper) == (scheme == "dark")
        assert book.errors == []
        assert not [url for url in book.asked if not url.startswith(("file:", "data:", "blob:"))]
        book.asked.clear()
