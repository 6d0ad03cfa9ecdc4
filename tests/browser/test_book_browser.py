"""The documentation site in a real browser, from the disk: no server, no network."""

import pytest

pytestmark = pytest.mark.browser
LESSONS = ("02_tensor_train", "07_block_pruning")
SHOWN = [f"notebooks/{lesson}" for lesson in LESSONS]
SHOWN += ["index", "course", "glossary", "instructors", "methods", "names", "results/index"]
SHOWN += ["results/latency", "api/index", "api/tqlearn"]
CONTRAST = """selector => {
  const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = numbers(getComputedStyle(node).backgroundColor);
      if (color[3] !== 0) return color;
    }
    return [255, 255, 255];
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


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def tab(browser, request):
    """A tab of the width and color scheme that a test asks for; ``asked`` lists its requests."""
    width, scheme = getattr(request, "param", (1280, "light"))
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page.asked, page.errors = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    page.close()


@pytest.mark.parametrize("tab", [(1280, "light"), (1280, "dark"), (400, "light")], indirect=True)
def test_pages_read_well_and_ask_no_network(tab, site):
    """Nothing is wider than the screen, every text has a contrast of 4.5, formulas are drawn."""
    scheme = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for name in SHOWN:
        tab.goto((site / f"{name}.html").as_uri())
        assert tab.evaluate("document.documentElement.dataset.theme") == (
            "dark" if scheme else "light"
        )
        wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        scroll, width = tab.evaluate(wide)
        assert scroll <= width, f"{name} is {scroll} pixels wide on a screen of {width}"
        assert tab.evaluate(CONTRAST, ".bd-article *, .bd-header *") == [], name
        assert tab.locator("article h1").is_visible()
    assert tab.evaluate("innerWidth") == 400 or tab.locator(".bd-sidebar-primary").is_visible()
    tab.goto((site / "notebooks" / "02_tensor_train.html").as_uri())
    boxes = tab.locator(".formula math").evaluate_all(
        "all => all.map(m => [m.getBoundingClientRect().height, m.querySelector('merror')])"
    )
    assert len(boxes) > 3 and all(height > 10 and not error for height, error in boxes)
    assert tab.locator("article img").first.evaluate("i => i.complete && i.naturalWidth") >= 700
    assert tab.asked and not [url for url in tab.asked if not url.startswith(("file:", "data:"))]
    assert tab.errors == []


def test_search_finds_kronecker(tab, site):
    """Typed into the field that every page has."""
    tab.goto((site / "index.html").as_uri())
    tab.keyboard.press("ControlOrMeta+k")
    tab.keyboard.type("Kronecker")
    tab.keyboard.press("Enter")
    tab.locator("#search-results li").nth(5).wait_for()
    found = tab.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    found = " ".join(found)
    for page in ("notebooks/03_kronecker.html", "glossary.html#term-Kronecker-product",
                 "api/tqlearn.html#tqlearn.Kronecker"):  # fmt: skip
        assert page in found
    assert not [url for url in tab.asked if not url.startswith(("file:", "data:"))]


def test_a_term_leads_to_its_entry_and_a_solution_unfolds(tab, site):
    tab.goto((site / "notebooks" / "03_kronecker.html").as_uri())
    solution = tab.locator("details", has_text="A solution of 03.1")
    assert not solution.locator("pre").is_visible()
    solution.locator("summary").click()
    assert solution.locator("pre").is_visible()
    tab.get_by_role("link", name="Kronecker product", exact=True).first.click()
    entry = tab.locator("dt#term-Kronecker-product")
    entry.wait_for()
    assert entry.evaluate("e => e.getBoundingClientRect().top") < 1000


def test_the_theme_can_be_switched(tab, site):
    tab.goto((site / "index.html").as_uri())
    seen = {tab.evaluate("document.documentElement.dataset.theme")}
    for _ in range(3):
        tab.locator(".theme-switch-button").first.click()
        if tab.locator(".theme-switch-dropdown, .dropdown-menu.show").count():
            tab.locator(".dropdown-menu.show button", has_text="Dark").first.click()
        seen.add(tab.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
