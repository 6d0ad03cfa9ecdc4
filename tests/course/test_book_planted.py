"""The static site of planted notebooks: every fault is named, every output has its place."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from html_page import Page
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tqlearn.lab.book import build_book
from tqlearn.lab.book.__main__ import main
from tqlearn.lab.book.formulas import mathml
from tqlearn.lab.book.links import Links

ROOT = Path(__file__).parents[2]
HEADER = """# A {name}

**You will see
one fault.**

| | |
|---|---|
| Time | 7 minutes to read; <!--spent-->about 3 CPU-seconds, 0.1 GiB<!--/spent--> to run |
"""
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30).to_bytes(4) + (20).to_bytes(4))


def plant(tmp_path: Path, *cells, name: str = "01_planted", header: str = HEADER) -> Path:
    """Write a notebook into a repository of its own."""
    file = tmp_path / "repo" / "notebooks" / f"{name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    made = [new_markdown_cell(header.format(name=name))]
    for cell in cells:
        if isinstance(cell, dict):
            made.append(new_code_cell("1", outputs=[new_output("display_data", cell)]))
        else:
            made.append(new_markdown_cell(cell))
    nbformat.write(new_notebook(cells=made), file)
    return file


def built(tmp_path: Path, *cells, **options) -> Page:
    """Build a planted notebook alone and read its page."""
    build_book([plant(tmp_path, *cells, **options)], tmp_path / "site")
    return Page((tmp_path / "site" / "01_planted.html").read_text("utf-8"))


FAULTS = {
    "file": ("[x](nowhere.ipynb)", "01_planted.ipynb links to nowhere.ipynb, which does not exist"),
    "anchor": ("## Here\n\n[x](#there)", "01_planted.html: it links to #there, but .* no such"),
    "raw": ('<a href="y.ipynb">x</a>', "01_planted.html: it links to y.ipynb, which is not"),
    "outside": ("[x](../../secret.txt)", "lies outside"),
    "formula": (
        r"$\nosuch{x}$",
        r"01_planted.ipynb: the formula \$\\nosuch{x}\$ cannot .* unknown",
    ),
    "dollar": ("$$ x", "01_planted.html: a formula is left as text"),
    "words": ({"image/png": PNG.decode()}, "01_planted.ipynb, cell 1: a picture without words"),
    "kind": ({"image/jpeg": "x", "text/plain": "y"}, "cell 1: the output is .*image/jpeg"),
    "script": ({"text/html": "<script>1</script>"}, "it holds a script"),
    "fetch": ({"text/html": '<img alt="x" src="https://a.b/c.png">'}, "<img src> fetches"),
    "picture": ("![x](https://a.b/c.png)", "has to be a file of the repository"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_written(tmp_path, fault, capsys):
    cell, message = FAULTS[fault]
    (tmp_path / "secret.txt").touch()
    file = plant(tmp_path, cell)
    assert main([str(file), "--out", str(tmp_path / "site")]) == 1
    complaint = capsys.readouterr().err
    assert "The book was not written" in complaint and re.search(message, complaint), complaint
    assert not (tmp_path / "site").exists()


def test_a_header_must_tell_the_map(tmp_path):
    for word, missing in (("# A", "title"), ("**", "promise"), ("minutes", "minutes")):
        with pytest.raises(ValueError, match=f"01_planted.ipynb: the course map needs .*{missing}"):
            built(tmp_path, header=HEADER.replace(word, ""))
    with pytest.raises(ValueError, match="needs the cpu seconds"):
        built(tmp_path, header=HEADER.replace("about 3", "some"))


def test_links_between_pages_files_and_folders(tmp_path):
    results = tmp_path / "repo" / "results"
    results.mkdir(parents=True)
    (results / "a b.json").write_text("{}")
    (tmp_path / "repo" / "notebooks").mkdir()
    sheet = "# For you\n\nSee [the page](01_planted.ipynb#Two-words:-one).\n"
    (tmp_path / "repo" / "notebooks" / "README.md").write_text(sheet)
    page = built(
        tmp_path, "## Two words: one\n\n## Two words: one\n",
        "[json](../results/a%20b.json) [the folder](../results) [guide](README.md) [w](https://a.b)",
    )  # fmt: skip
    links = [a["href"] for a in page.all("a")]
    assert "files/results/a%20b.json" in links and "https://a.b" in links
    assert (tmp_path / "site" / "files" / "results" / "a b.json").read_text() == "{}"
    assert "the folder" in page.text and not any(link.endswith("results") for link in links)
    assert links.count("instructors.html") == 2  # in the bar and in the text
    guide = (tmp_path / "site" / "instructors.html").read_text()
    assert 'href="01_planted.html#two-words-one"' in guide and "01_planted.html#x" not in guide
    assert {"two-words-one", "two-words-one-1"} <= {tag.get("id") for _, tag in page.tags}
    assert not list((tmp_path / "site").glob("glossary*"))


def test_tables_scroll_and_an_empty_head_goes(tmp_path):
    page = built(tmp_path, "| a | b |\n|---|---|\n| $x$ | y |")
    assert page.html.count('<div class="wide"><table>') == len(page.all("table")) == 2
    assert len(page.all("thead")) == 1  # the header's table has none


def test_outputs_of_every_kind(tmp_path):
    box = '<div style="background:#E6F4EA;color:#202124"><b>TODO 01.1</b></div>'
    page = built(
        tmp_path,
        {"image/png": PNG.decode(), "text/html": "<p>no</p>", "text/plain": 'Figure: "a" < b'},
        {"text/html": box, "text/plain": "TODO 01.1 not attempted"},
        {"text/plain": "<plain>"},
        {"text/latex": "$$w^2$$", "text/plain": "w"},
    )
    assert page.all("img")[0]["alt"] == 'Figure: "a" < b'
    assert "no" not in page.text.split() and "<b>TODO 01.1</b>" in page.html
    assert "not attempted" not in page.html and "&lt;plain&gt;" in page.html
    assert len(page.all("math")) == 1


def test_a_folder_that_is_no_book_stays(tmp_path):
    mine = tmp_path / "site" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    with pytest.raises(ValueError, match="holds something that is not a book"):
        built(tmp_path)
    assert mine.read_text() == "dear diary"
    mine.unlink()
    built(tmp_path)
    (tmp_path / "site" / "01_old.html").touch()
    built(tmp_path)
    assert not (tmp_path / "site" / "01_old.html").exists()


def test_a_book_is_made_of_one_folder(tmp_path):
    with pytest.raises(ValueError, match="lie in 0"):
        build_book([], tmp_path / "site")
    with pytest.raises(ValueError, match="lie in 2"):
        build_book([plant(tmp_path), ROOT / "notebooks" / "x.ipynb"], tmp_path / "site")


def test_command_line(tmp_path, capsys):
    file = plant(tmp_path, "$x$")
    assert main([str(file), "--out", str(tmp_path / "site")]) == 0
    assert "1 notebooks, 0 figures, 1 formulas" in capsys.readouterr().out


def test_links_of_the_web_are_left_alone():
    assert Links(ROOT, {}).resolve("https://a.b/c#D", ROOT / "x.md") == "https://a.b/c#D"


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
