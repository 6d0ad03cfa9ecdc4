"""The documentation site as ``make book`` builds it: pictures, links, formulas, terms, names."""

import base64
import inspect
import json
import pkgutil
import re
import zlib
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from html_page import Page

import tqlearn
from tqlearn.lab import exercises

pytestmark = pytest.mark.slow  # building the site

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
GLOSSARY = (ROOT / "notebooks" / "glossary.md").read_text("utf-8")


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    files = [file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts]
    return {f.relative_to(site).as_posix(): Page(f.read_text("utf-8")) for f in files}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def outputs(path: Path) -> list[dict]:
    cells = nbformat.read(path, as_version=4).cells
    return [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]


def test_every_picture_is_there_with_words(path, pages, site):
    stored = [data for data in outputs(path) if "image/png" in data]
    shown = pages[f"notebooks/{path.stem}.html"].all("img")
    assert len(shown) == len(stored) >= 2
    for image, data in zip(shown, stored, strict=True):
        assert image["alt"] == data["text/plain"] and image["alt"].startswith("Figure: ")
        png = (site / "notebooks" / image["src"]).read_bytes()
        assert png == base64.b64decode(data["image/png"])


def test_stored_html_survives(path, pages):
    for html in [data["text/html"] for data in outputs(path) if "text/html" in data]:
        assert html in pages[f"notebooks/{path.stem}.html"].html


def test_every_formula_is_drawn(path, pages):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    written = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.DOTALL)
    drawn = pages[f"notebooks/{path.stem}.html"].all("math")
    assert [math["display"] == "block" for math in drawn] == [w[:2] == "$$" for w in written]


def test_every_exercise_has_its_folded_solution(path, pages):
    page = pages[f"notebooks/{path.stem}.html"]
    of = exercises.of(path.stem[:2])
    assert len(page.all("details")) == 2 * len(of) > 0
    assert not any("open" in details for details in page.all("details"))
    for exercise in of:
        assert f"<summary>A solution of {exercise.id}</summary>" in page.html


def test_every_lesson_can_be_downloaded_as_it_is_stored(path, pages, site):
    links = [a["href"] for a in pages[f"notebooks/{path.stem}.html"].all("a") if "download" in a]
    (link,) = [link for link in links if link.endswith(f"/{path.name}")]
    assert (site / "notebooks" / link).read_bytes() == path.read_bytes()


def test_no_formula_is_left_as_text(pages):
    for name, page in pages.items():
        assert not re.search(r"\$\$|\\[a-zA-Z]+", page.text), name


def test_links_lead_somewhere(pages, site):
    count, anchors = 0, {name: {t.get("id") for _, t in page.tags} for name, page in pages.items()}
    for name, page in pages.items():
        for attrs in page.all("a"):
            if attrs.get("href", "https://").startswith("https://"):
                continue
            file, _, anchor = unquote(attrs["href"]).partition("#")
            target = ((site / name).parent / file).resolve() if file else site / name
            assert target.is_file(), f"{name}: {attrs['href']}"
            if anchor and target.suffix == ".html":
                place = target.relative_to(site.resolve()) if file else name
                assert anchor in anchors[str(place)], f"{name}: {attrs['href']}"
            count += 1
    assert count > 5000


def test_nothing_is_fetched(pages, site):
    for name, page in pages.items():
        assert not page.all("iframe"), name
        for tag, attrs in page.tags:
            for key in {"src", "srcset", "data", "poster", "style"} & set(attrs):
                assert "//" not in attrs[key], f"{name}: <{tag} {key}={attrs[key]}>"
            if tag == "link":
                assert not attrs["href"].startswith(("http", "//")), f"{name}: {attrs['href']}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import |url\()[\"']?(https?:)?//", style.read_text("utf-8")), style


def test_the_course_page_is_the_map(pages):
    course = pages["course.html"]
    links = [a["href"] for a in course.all("a") if a["href"].startswith("notebooks/")]
    assert [f"notebooks/{path.stem}.html" for path in NOTEBOOKS] == list(dict.fromkeys(links))
    for path in NOTEBOOKS:
        header = nbformat.read(path, as_version=4).cells[0].source
        promise = re.sub(r"[*$`\\].*", "", " ".join(header.split("**")[1].split()))
        minutes = re.search(r"(\d+) minutes to read", header)[1]
        seconds = re.search(r"about (\d+) CPU", header)[1]
        line = f"{header.splitlines()[0][2:]} {promise}"
        assert line in course.text and re.search(
            rf"{re.escape(line)}.{{0,600}}? {minutes} {seconds} ", course.text
        )


def test_neighbors_make_one_row(pages):
    row = ["course.html", *[f"notebooks/{path.stem}.html" for path in NOTEBOOKS]]
    for before, after in zip(row, row[1:], strict=False):
        on = [a["href"] for a in pages[before].all("a") if a.get("class") == "right-next"]
        back = [a["href"] for a in pages[after].all("a") if a.get("class") == "left-prev"]
        assert [Path(link).name for link in on + back] == [Path(after).name, Path(before).name]


def test_pages_read_well_aloud_and_on_phones(pages):
    for name, page in pages.items():
        assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == 1
        assert any(m.get("name") == "viewport" for m in page.all("meta"))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1 and levels[0] == 1, name
        assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False)), name


def test_glossary_is_in_order_and_names_notebooks():
    groups = [re.split(r"^### ", part, flags=re.M)[1:] for part in GLOSSARY.split("\n## ")[1:]]
    terms = [[entry.splitlines()[0].lower() for entry in group] for group in groups]
    assert all(group == sorted(group) for group in terms)
    flat = sum(terms, [])
    assert len(set(flat)) == len(flat) > 70
    for entry in sum(groups, []):
        assert re.search(r"\[Notebook \d\d\]\(\d\d_\w+\.ipynb#", entry), entry


def terms_of(page: Page) -> list[str]:
    """The anchors in the glossary that a page leads to by words of its text."""
    return re.findall(r'href="\.\./glossary\.html#(term-[^"]+)"[^>]*><span class="term', page.html)


def test_lessons_link_their_terms_once(path, pages):
    found = terms_of(pages[f"notebooks/{path.stem}.html"])
    assert len(found) == len(set(found)) > 10


def test_the_words_of_a_lesson_are_among_its_links(pages):
    wanted = {"02": "tensor-train", "03": "Kronecker-product", "05": "SAWB", "06": "SR-STE",
              "07": "compaction", "11": "ternary", "13": "running-range",
              "14": "roofline", "15": "Pareto-front", "16": "GPTQ"}  # fmt: skip
    for path in NOTEBOOKS:
        if word := wanted.pop(path.stem[:2], None):
            assert f"term-{word}" in terms_of(pages[f"notebooks/{path.stem}.html"])
    assert not wanted


def test_nearly_every_term_is_met_in_a_lesson(pages):
    """Some are named otherwise there, and a few words have too many meanings to be links."""
    met = {term for path in NOTEBOOKS for term in terms_of(pages[f"notebooks/{path.stem}.html"])}
    first = re.findall(r'<(?:/dd>|dl[^>]*>)\s*<dt id="(term-[^"]+)"', pages["glossary.html"].html)
    assert len(first) == GLOSSARY.count("\n### ")
    assert len(set(first) - met) <= 0.12 * len(first), sorted(set(first) - met)


def inventory(site: Path) -> set[str]:
    """The names that other projects can link to: what the API pages describe."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def test_the_api_has_every_verb_and_edit(site):
    described = inventory(site)
    assert {f"tqlearn.{name}" for name in tqlearn.__all__} <= described
    assert len(described) > 300


def test_the_api_has_every_public_name_of_every_package(pages):
    """On the page of its package; counted here by other means than the pages are made by."""
    for info in pkgutil.iter_modules(tqlearn.__path__):
        module = import_module(f"tqlearn.{info.name}")
        page = pages[f"api/tqlearn.{info.name}.html"].html
        here = {
            n for n, v in vars(module).items() if getattr(v, "__module__", 0) == module.__name__
        }
        for name in getattr(module, "__all__", {n for n in here if n[0] != "_"}):
            if not inspect.ismodule(getattr(module, name)):
                assert f'<span class="pre">{name}</span>' in page, f"{module.__name__}.{name}"


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_result_has_its_page(file, pages, site):
    page, result = pages[f"results/{file.stem}.html"], json.loads(file.read_text("utf-8"))
    shown = page.text.replace("“", '"')
    for row in result["rows"]:
        name = row["model"].split(", ")[0] if file.stem == "latency" else row["model"]
        assert " ".join(name.replace("`", "").split()) in shown, name
    assert result["date"][:10] in page.text and result["machine"] in page.text
    links = [a["href"] for a in page.all("a") if "download" in a]
    (link,) = [link for link in links if link.endswith(f"/{file.name}")]
    assert (site / "results" / link).read_bytes() == file.read_bytes()


def test_what_works_on_which_model_is_a_page(pages):
    stored = json.loads((ROOT / "benchmarks" / "results" / "architectures.json").read_text("utf-8"))
    page = pages["architectures.html"]
    assert all(record["model"] in page.text for record in stored["architectures"])
    assert "<!--" not in page.text and "architectures.html" in [
        a["href"] for a in pages["index.html"].all("a")
    ]


def test_papers_and_what_was_reached_stand_on_two_pages(pages):
    for name, place in (("results/index.html", ""), ("methods.html", "results/")):
        links = [a["href"] for a in pages[name].all("a")]
        assert f"{place}qtc_atis.html" in links and f"{place}latency.html" in links
        for recipe in ("qtc", "kdlsq_bert", "deep_compression", "block_pruning", "fullyqt"):
            assert f"tqlearn.recipes.{recipe}" in pages[name].html
    assert "tqlearn.recipes.kronecker_bert</span>" in pages["results/index.html"].html
    assert "not measured by us yet" in pages["methods.html"].text


def test_every_goal_leads_to_its_part_and_every_lesson_to_the_goals(path, pages):
    page = pages["methods.html"]
    (table, *_) = re.findall(r"<table.*?</table>", page.html, re.DOTALL)
    goals = re.findall(r'<tr class="row-\w+"><td><p><a [^>]*href="#([\w-]+)"', table)
    ids = {tag.get("id") for _, tag in page.tags}
    assert len(set(goals)) == len(goals) >= 8 and set(goals) <= ids
    links = [a.get("href") for a in pages[f"notebooks/{path.stem}.html"].all("a")]
    assert "../methods.html" in links[links.index("#recap") + 1 :]
