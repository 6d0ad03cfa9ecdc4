"""The static site of the real notebooks: pictures, links, formulas, the course map."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from html_page import Page

from tqlearn.lab.book import build_book

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("book") / "site"
    book = build_book(NOTEBOOKS, out)
    assert book.notebooks == len(NOTEBOOKS) and book.formulas > 50 and book.figures > 5
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    return {file.name: Page(file.read_text("utf-8")) for file in sorted(site.glob("*.html"))}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def outputs(path: Path) -> list[dict]:
    cells = nbformat.read(path, as_version=4).cells
    return [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]


def test_every_picture_is_there_with_words(path, pages, site):
    stored = [data for data in outputs(path) if "image/png" in data]
    shown = pages[f"{path.stem}.html"].all("img")
    assert len(shown) == len(stored)
    for image, data in zip(shown, stored, strict=True):
        assert image["alt"] == data["text/plain"] and image["alt"].startswith("Figure: ")
        png = (site / image["src"]).read_bytes()
        assert png == base64.b64decode(data["image/png"])
        assert int(image["width"]) == int.from_bytes(png[16:20])


def test_stored_html_survives(path, pages):
    stored = [data["text/html"] for data in outputs(path) if "text/html" in data]
    page = pages[f"{path.stem}.html"]
    assert page.html.count('<div class="html paper">') == len(stored)
    for html in stored:
        assert Page(html).text in page.text


def test_every_formula_is_drawn(path, pages):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    written = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.DOTALL)
    drawn = pages[f"{path.stem}.html"].all("math")
    assert len(drawn) == len(written)
    assert [math["display"] == "block" for math in drawn] == [w[:2] == "$$" for w in written]


def test_no_formula_is_left_as_text(pages):
    for name, page in pages.items():
        assert not re.search(r"\$\$|\\[a-zA-Z]+", page.text), name


def test_links_lead_somewhere(pages, site):
    count = 0
    for name, page in pages.items():
        for attrs in page.all("a"):
            if attrs["href"].startswith("https://"):
                continue
            file, _, anchor = unquote(attrs["href"]).partition("#")
            assert (site / (file or name)).is_file(), f"{name}: {attrs['href']}"
            ids = [tag.get("id") for _, tag in pages[file or name].tags] if anchor else []
            assert not anchor or ids.count(anchor) == 1, f"{name}: {attrs['href']}"
            count += 1
    assert count > 100


def test_nothing_is_fetched(pages, site):
    for name, page in pages.items():
        assert not page.all("script") and not page.all("iframe"), name
        assert [link["href"] for link in page.all("link")] == ["data:,", "style.css"]
        for tag, attrs in page.tags:
            for key in {"src", "srcset", "data", "poster", "style"} & set(attrs):
                assert "//" not in attrs[key], f"{name}: <{tag} {key}={attrs[key]}>"
    assert not re.search(r"@import|url\(|https?:", (site / "style.css").read_text())


def test_index_is_the_course_map(pages):
    index = pages["index.html"]
    links = [a["href"] for a in index.all("a") if a["href"][0].isdigit()]
    assert links[: len(NOTEBOOKS)] == [f"{path.stem}.html" for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        header = nbformat.read(path, as_version=4).cells[0].source
        assert header.splitlines()[0][2:] in index.text
        promise = " ".join(re.search(r"\*\*(.+?)\*\*", header, re.DOTALL)[1].split())
        minutes = re.search(r"(\d+) minutes to read", header)[1]
        seconds = re.search(r"about (\d+) CPU", header)[1]
        row = f"{path.stem}.html.*?<td>{minutes}</td><td>{seconds}</td>"
        assert promise in index.text and re.search(row, index.html, re.DOTALL)


def test_neighbors_make_one_row(pages):
    row = ["index.html", *[f"{path.stem}.html" for path in NOTEBOOKS], "glossary.html"]
    for place, name in enumerate(row):
        found = {a["rel"]: a["href"] for a in pages[name].all("a") if "rel" in a}
        wanted = {"prev": row[place - 1]} if place else {}
        wanted |= {"next": row[place + 1]} if place + 1 < len(row) else {}
        assert found == wanted


def test_pages_read_well_aloud_and_on_phones(pages):
    for name, page in pages.items():
        assert page.all("html") == [{"lang": "en"}] and len(page.all("main")) == 1
        assert any(m.get("name") == "viewport" for m in page.all("meta"))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1 and levels[0] == 1, name
        assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False)), name


def test_glossary_is_in_order_and_names_notebooks():
    text = (ROOT / "notebooks" / "glossary.md").read_text()
    groups = [re.split(r"^### ", part, flags=re.M)[1:] for part in text.split("\n## ")[1:]]
    terms = [[entry.splitlines()[0].lower() for entry in group] for group in groups]
    assert all(group == sorted(group) for group in terms)
    flat = sum(terms, [])
    assert len(set(flat)) == len(flat) > 35
    for entry in sum(groups, []):
        assert re.search(r"\[Notebook \d\d\]\(\d\d_\w+\.ipynb#", entry), entry
