"""The documentation site of planted notebooks: every fault is named, every output has its place."""

import base64
import re
import runpy
import subprocess
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from html_page import Page
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sitekit import rooms, terms
from sitekit.formulas import mathml
from sitekit.links import Links
from sitekit.stage import Stage
from warm import FRESH

from tqlearn.lab import exercises
from tqlearn.lab.build import METADATA
from tqlearn.lab.plots import PLOTLY

ROOT = Path(__file__).parents[2]
HEADER = """# A {name}

**You will see
one fault.**

| | |
|---|---|
| Goals | see it |
| Prerequisites | nothing |
| Time | 7 minutes to read; <!--spent-->about 3 CPU-seconds, 0.1 GiB<!--/spent--> to run |
"""
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30).to_bytes(4) + (20).to_bytes(4))


def plant(tmp_path: Path, *cells, name: str = "01_planted", header: str = HEADER) -> Path:
    """Write a notebook into a repository of its own; a dict is an output, a pair has its source."""
    file = tmp_path / "repo" / "notebooks" / f"{name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    made = [new_markdown_cell(header.format(name=name))]
    for cell in cells:
        if isinstance(cell, str):
            made.append(new_markdown_cell(cell))
        else:
            source, data = cell if isinstance(cell, tuple) else ("1", cell)
            made.append(new_code_cell(source, outputs=[new_output("display_data", data)]))
    nbformat.write(new_notebook(cells=made, metadata=METADATA), file)
    return file


def command(tmp_path: Path) -> subprocess.CompletedProcess:
    """Build the planted repository's course, as on the command line."""
    run = [*FRESH, "docs", "--course", str(tmp_path / "repo"), "--out"]
    return subprocess.run(
        [*run, str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


AT_ONCE = {  # named before Sphinx begins
    "file": ("[x](nowhere.ipynb)", "file.ipynb links to nowhere.ipynb, which does not exist"),
    "outside": ("[x](../../secret.txt)", "outside.ipynb links to .*secret.txt, which lies outside"),
    "words": ({"image/png": PNG.decode()}, "words.ipynb, cell 1: a picture without words"),
    "kind": ({"image/jpeg": "x", "text/plain": "y"}, "kind.ipynb, cell 1: the .*image/jpeg"),
    "script": ({"text/html": "<script>1</script>"}, "script.ipynb, cell 1: .* a script"),
    "picture": ("![x](https://a.b/c.png)", "picture.ipynb shows .* a file of the repository"),
    "mute": ("![](x.png)", "mute.ipynb shows the picture x.png: a picture needs a text"),
    "bare": ({PLOTLY: {"data": []}, "text/plain": "y"}, "bare.ipynb: 1 figures have lost"),
}
IN_PAGES = {  # seen by Sphinx, or by reading what it made
    "anchor": ("## Here\n\n[x](#there)", "anchor.ipynb.*there"),
    "elsewhere": ("[x](01_anchor.ipynb#nowhere)", "elsewhere.ipynb.*nowhere"),
    "raw": ('<a href="y.ipynb">x</a>', "raw.html: it links to y.ipynb, which is not"),
    "formula": (r"$\nosuch{x}$", r"formula.ipynb.*the formula \$\\nosuch{x}\$ cannot .* unknown"),
    "dollar": ("$$ x", "dollar.html: a formula is left as text"),
    "fetch": ({"text/html": '<img alt="x" src="https://a.b/c.png">'}, "fetch.html: <img src> fe"),
    "mute": ({"text/html": '<img src="data:,">'}, "mute.html: the picture data:, has no alt"),
}


def test_faults_of_notebooks_are_all_named(tmp_path):
    (tmp_path / "secret.txt").touch()
    for number, (fault, (cell, _)) in enumerate(AT_ONCE.items()):
        if fault == "mute":
            (tmp_path / "repo" / "notebooks" / "x.png").write_bytes(base64.b64decode(PNG))
        plant(tmp_path, cell, name=f"{number:02}_{fault}")
    with pytest.raises(ValueError) as found:
        Stage(tmp_path / "repo", tmp_path / "source", whole=False).course()
    lines = str(found.value).splitlines()
    assert len(lines) == len(AT_ONCE)
    for line, (_, message) in zip(lines, AT_ONCE.values(), strict=True):
        assert re.search(message, line)


@pytest.mark.slow
def test_faults_of_pages_are_all_named_and_an_earlier_site_stays(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / ".tqlearn-site").touch()
    for number, (fault, (cell, _)) in enumerate(IN_PAGES.items(), 1):
        plant(tmp_path, cell, name=f"{number:02}_{fault}")
    run = command(tmp_path)
    assert run.returncode == 1 and run.stderr.startswith("The site was not written.\n")
    for _, message in IN_PAGES.values():
        assert re.search(message, run.stderr), (message, run.stderr)
    assert len(run.stderr.splitlines()) == 1 + len(IN_PAGES) + 2, "the anchors are named twice"
    assert [file.name for file in (tmp_path / "site").iterdir()] == [".tqlearn-site"]


def test_a_header_must_tell_the_map(tmp_path):
    for word, missing in (("**", "a promise"), ("minutes", "Time"), ("about 3", "Time"),
                          ("| Goals", "Goals")):  # fmt: skip
        plant(tmp_path, header=HEADER.replace(word, ""))
        with pytest.raises(ValueError, match=f"header of 01_planted.ipynb needs .*{missing}"):
            Stage(tmp_path / "repo", tmp_path / "source", whole=False).course()


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, Page]:
    """A sound site with one of everything, and the page of its first lesson."""
    tmp_path = tmp_path_factory.mktemp("planted")
    results = tmp_path / "repo" / "results"
    results.mkdir(parents=True)
    (results / "a b.json").write_text("{}")
    file = plant(
        tmp_path,
        "## Two words: one\n\n## Two words: one\n\n$x$",
        "[json](../results/a%20b.json) [the folder](../results) [guide](README.md) [w](https://a.b)"
        "\n\n`[code](nowhere)`\n\n```\n[code](nowhere)\n```",
        "| a | b |\n|---|---|\n| $x$ | y |",
        "Ranks and *low-rank* pairs; a `rank` is a RANK.\n\nThe core's rank. TTs, tt, core-y.",
        ("_explorer(1)", {"image/png": PNG.decode(), "text/plain": 'Figure: "a" < b',
                          "text/html": "<p>no</p>", PLOTLY: {}}),
        {"text/html": "<b>TODO 01.1</b>", "text/plain": "TODO 01.1 not attempted"},
        {"text/plain": "<plain>"},
        {"text/latex": "$$w^2$$", "text/plain": "w"},
        ('check("00.1", f)', {"text/plain": "TODO"}),
    )  # fmt: skip
    folder = file.parent
    (folder / "README.md").write_text("# For you\n\n[x](01_planted.ipynb#Two-words:-one).\n")
    (folder / "glossary.md").write_text(
        "# Glossary\n\n## A\n\n### core\n\nA\nblock.\n\n### low rank (LR), low-rank pair\n\nB.\n\n"
        "### rank\n\n$r$.\n\n### tensor train (TT)\n\nA chain.\n"
    )
    plant(tmp_path, "A rank.", name="02_next")
    run = command(tmp_path)
    assert run.returncode == 0, run.stderr
    assert "2 lessons" in run.stdout
    html = (tmp_path / "site" / "notebooks" / "01_planted.html").read_text("utf-8")
    return tmp_path / "site", Page(html)


@pytest.mark.slow
def test_links_between_pages_files_and_folders(planted):
    site, page = planted
    links = [a["href"] for a in page.all("a") if "href" in a]
    (json,) = [link for link in links if "json" in link]
    assert (site / "notebooks" / json.replace("%20", " ")).read_text() == "{}"
    assert "the folder" in page.text and not any(link.endswith("results") for link in links)
    assert "https://a.b" in links and "../instructors.html" in links
    assert re.sub("<[^>]+>", "", page.html).count("[code](nowhere)") == 2, "code stays as it is"
    guide = (site / "instructors.html").read_text()
    assert 'href="notebooks/01_planted.html#two-words-one"' in guide
    assert {"two-words-one"} <= {tag.get("id") for _, tag in page.tags}


@pytest.mark.slow
def test_tables_scroll_and_an_empty_head_goes(planted):
    assert len(planted[1].all("table")) == 2 and len(planted[1].all("thead")) == 1
    assert planted[1].html.count("pst-scrollable-table-container") == 2


@pytest.mark.slow
def test_outputs_of_every_kind(planted):
    _, page = planted
    (image,) = page.all("img")
    assert image["alt"] == 'Figure: "a" < b' and "explorer's first setting" in page.text
    assert "<p>no</p>" not in page.html and "<b>TODO 01.1</b>" in page.html
    assert "not attempted" not in page.html and "&lt;plain&gt;" in page.html
    assert len(page.all("math")) == 3


@pytest.mark.slow
def test_hints_and_solution_are_folded(planted):
    exercise = exercises.find("00.1")
    _, hints, solution = planted[1].html.split("<details>")
    hints, solution = (part.split("</details>")[0] for part in (hints, solution))
    words = re.sub(r"<[^>]+>", "", solution)
    assert exercise.name in words and exercise.name in exercise.solution
    assert Page(hints).all("li") and len(Page(hints).all("li")) == len(exercise.hints)


@pytest.mark.slow
def test_first_mentions_lead_to_the_glossary(planted):
    site, page = planted
    found = re.findall(r'glossary.html#(term-[^"]+)"[^>]*><span class="term[^>]*>(.+?)<', page.html)
    assert found == [
        ("term-rank", "Ranks"),
        ("term-low-rank", "low-rank"),
        ("term-core", "core"),
        ("term-tensor-train", "TTs"),
    ]
    assert "term-rank" in (site / "notebooks" / "02_next.html").read_text()
    ids = {tag.get("id") for _, tag in Page((site / "glossary.html").read_text()).tags}
    assert {"term-core", "term-low-rank", "term-LR", "term-TT"} <= ids


def test_a_glossary_without_terms_and_the_longest_name_first():
    assert terms.glossary("# Glossary\n\nNothing yet.") == "# Glossary\n\nNothing yet."
    find = terms.pattern(["rank", "low rank", "2:4", "TT", "TT-SVD"]).finditer
    text = "A low\nrank at 12:45, 2:4, TT-SVD, TTM, att, shrank, rank."
    assert [match[0] for match in find(text)] == ["low\nrank", "2:4", "TT-SVD", "rank"]


def test_a_folder_that_is_no_site_stays(tmp_path, capsys):
    mine = tmp_path / "site" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    plant(tmp_path)
    main = runpy.run_path(str(ROOT / "docs" / "__main__.py"))["main"]
    assert main(["--course", str(tmp_path / "repo"), "--out", str(mine.parent)]) == 1
    assert "something that is not a site" in capsys.readouterr().err
    assert mine.read_text() == "dear diary"


def test_a_site_needs_notebooks(tmp_path):
    with pytest.raises(ValueError, match="there is no notebook in .*notebooks"):
        Stage(tmp_path, tmp_path / "source", whole=False).course()


def test_links_of_the_web_are_left_alone():
    assert Links(ROOT, {}).resolve("https://a.b/c#D", ROOT / "x.md") == "https://a.b/c#D"


MODULES = {
    "__init__": """'Top.'; from . import inner; from .inner import Part; N = 3
__all__ = ["Part", "inner", "N"]
""",
    "inner/__init__": """'Map.'; from .one import *; SIZE = 3; __all__ = ["Part", "part", "SIZE"]
""",
    "inner/one": 'def part():\n    """A part."""\nclass Part(Exception):\n    """One | two."""',
    "flat": "import json\nLIMIT = 2\ndef shown():\n    pass\ndef _hidden():\n    pass",
    "loose/__init__": "",
    "loose/leaf": "def fallen():\n    pass",
    "_private": "def secret():\n    pass",
}


def test_api_pages_of_any_package(tmp_path, monkeypatch):
    """Lists of names, modules without one, packages without one; each thing described once."""
    for name, text in MODULES.items():
        file = tmp_path / "sample" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import sample

    assert isinstance(sample, ModuleType)
    pages = rooms.pages(sample)
    assert list(pages) == ["sample", "sample.flat", "sample.inner", "sample.loose"]
    described = {name: re.findall(r"^\.\. auto(\w+):: (.+)$", text, re.M)
                 for name, text in pages.items()}  # fmt: skip
    assert described == {
        "sample": [("data", "sample.N"), ("exception", "sample.Part")],
        "sample.flat": [("function", "sample.flat.shown")],
        "sample.inner": [("function", "sample.inner.part"), ("data", "sample.inner.SIZE")],
        "sample.loose": [("function", "sample.loose.leaf.fallen")],
    }
    assert "| {py:obj}`Part <sample.Part>` | One \\| two. |" in pages["sample.inner"]
    assert "## sample.loose.leaf" in pages["sample.loose"] and "Map." in pages["sample.inner"]


DRAWN = {
    r"\mathrm{clamp}(x)": '<mi mathvariant="normal">clamp</mi>',
    r"p\log\frac{p}{q}": '<mo lspace="0.167em" rspace="0.167em">log</mo>',
    r"\min(a)": '<mo lspace="0.167em" rspace="0">min</mo>',
    r"\mathcal L": "<mi>ℒ</mi>",
    r"\mathbb R": "<mi>ℝ</mi>",
    r"\boldsymbol{\alpha}": "<mi>𝜶</mi>",
    r"\mathfrak C": "<mi>ℭ</mi>",
    r"a\!b": '<mspace width="-0.167em">',
    r"\begin{aligned} a &= b \\ &= c \end{aligned}": "text-align:right;text-align:-webkit-right",
    r"\begin{cases} a & b \\ c & d \end{cases}": "text-align:left",
    r"\underbrace{V d}_{\text{words}}": "<mtext>words</mtext>",
    r"\Big( x \Big)": 'minsize="1.623em"',
    r"\lVert x \rVert": '<mo stretchy="false" lspace="0" rspace="0">‖</mo>',
    r"|x|": '<mo stretchy="false" lspace="0" rspace="0">|</mo>',
    r"\left| x \right|": '<mo stretchy="true"',
}


@pytest.mark.parametrize("latex", DRAWN)
def test_formulas(latex):
    assert DRAWN[latex] in mathml(latex, display=True)


@pytest.mark.parametrize(
    ("latex", "why"),
    [
        (r"\nosuch{x}", "command .*nosuch is unknown"),
        (r"\begin{nosuch} x \end{nosuch}", "environment 'nosuch' is unknown"),
        (r"\frac{a}{", "NoAvailableTokens"),
        (r"a & b", "& outside a table"),
        (r"a \\ b", "line break"),
        (r"x}", "} too many"),
        (r"\text{a $x$}", "formula inside"),
        (r"a \not= b", "neq"),
        ("", "NoAvailableTokens"),
    ],
)
def test_formulas_refused(latex, why):
    with pytest.raises(ValueError, match=f"cannot be converted to MathML: .*{why}"):
        mathml(latex)
