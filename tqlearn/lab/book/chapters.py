"""One stored notebook to one page: what its header says, its pictures, its HTML."""

import base64
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from .links import Links
from .markdown import Scribe

SHOWN = ["image/png", "text/html", "text/markdown", "text/latex", "text/plain"]  # best first
CELLS = """
{%- extends 'base/display_priority.j2' -%}
{%- block codecell %}<div class="cell">{{ super() }}</div>
{% endblock -%}
{%- block input %}{{ cell.source | highlight_code(metadata=cell.metadata) }}{% endblock -%}
{%- block output_group %}<div class="output">{{ super() }}</div>{% endblock -%}
{%- block stream_stdout %}<pre>{{ output.text | ansi2html }}</pre>{% endblock -%}
{%- block stream_stderr %}<pre class="stderr">{{ output.text | ansi2html }}</pre>{% endblock -%}
{%- block error %}<pre class="stderr">{{ super() }}</pre>{% endblock -%}
{%- block traceback_line %}{{ line | ansi2html }}
{% endblock -%}
{%- block execute_result %}{% block data_priority scoped %}{{ super() }}{% endblock %}
{%- endblock -%}
{%- block data_text %}<pre>{{ output.data['text/plain'] | ansi2html }}</pre>{% endblock -%}
{%- block data_html %}<div class="html paper">{{ output.data['text/html'] }}</div>{% endblock -%}
{%- block data_markdown %}{{ output.data['text/markdown'] | markdown2html }}{% endblock -%}
{%- block data_latex %}{{ output.data['text/latex'] | markdown2html }}{% endblock -%}
{%- block data_png %}{% set png = output.metadata['image/png'] %}<figure>
{% set file = output.metadata.filenames['image/png'] %}<a href="{{ file }}"><img class="paper"
src="{{ file }}" alt="{{ png.alt | escape_html }}" width="{{ png.width }}"
height="{{ png.height }}" loading="lazy"></a>
{% if '_explorer(' in cell.source %}<figcaption>A still picture of the explorer's first setting; in
JupyterLab it moves.</figcaption>{% endif %}</figure>{% endblock -%}
{%- block markdowncell %}{{ cell.source | markdown2html }}{% endblock -%}
"""


@dataclass
class Chapter:
    """A page of the book, without its frame; a glossary has no number and no costs."""

    source: Path
    name: str
    title: str
    body: str = ""
    headings: list[tuple[str, str]] = field(default_factory=list)
    formulas: int = 0
    pictures: dict[str, bytes] = field(default_factory=dict)
    promise: str = ""
    number: str = ""
    minutes: int = 0
    cpu_seconds: int = 0


def header(nb: NotebookNode, source: Path) -> dict:
    """Return what a notebook's first cell says: title, promise, minutes, CPU-seconds.

    Raises:
        ValueError: one of them is missing.
    """
    text = nb.cells[0].source if nb.cells else ""
    wanted = {
        "title": r"^# (.+)$",
        "promise": r"^\*\*(.+?)\*\*\s*$",
        "minutes": r"^\| time \|.*?(\d+) minutes",
        "cpu_seconds": r"<!--spent-->about (\d+) CPU-seconds",
    }
    found = {}
    for name, pattern in wanted.items():
        match = re.search(pattern, text, re.IGNORECASE | re.MULTILINE | re.DOTALL)
        if not match:
            raise ValueError(
                f"{source.name}: the course map needs the {name.replace('_', ' ')} and reads it "
                f"from the first cell, where nothing matches {pattern}; see 00_start_here.ipynb"
            )
        value = " ".join(match[1].split("\n")) if name == "promise" else match[1].split("\n")[0]
        found[name] = int(value) if name in ("minutes", "cpu_seconds") else value.strip()
    return found


def prepare(nb: NotebookNode, source: Path) -> None:
    """Give every stored picture its words and its size in pixels.

    Raises:
        ValueError: a picture has no words, or an output is of a kind that the book cannot show.
    """
    for index, cell in enumerate(nb.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            stills = [kind for kind in data if kind.startswith("image/")]
            if stills and "image/png" not in stills or data and not set(SHOWN) & set(data):
                raise ValueError(
                    f"{source.name}, cell {index}: the output is {sorted(data)}, and the book "
                    f"shows {SHOWN}; store a figure with tqlearn.lab.plots.show"
                )
            if "image/png" not in data:
                continue
            alt = output.metadata.get("image/png", {}).get("alt") or data.get("text/plain", "")
            if not alt.strip():
                raise ValueError(
                    f"{source.name}, cell {index}: a picture without words; "
                    "show it with tqlearn.lab.plots.show and run `make notebooks`"
                )
            width, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
            output.metadata["image/png"] = {"alt": alt, "width": width, "height": height}


def notebook_chapter(source: Path, links: Links) -> Chapter:
    """Return the page of a stored notebook.

    Raises:
        ValueError: its header lacks something, a picture has no words, a link leads nowhere, a
            formula cannot be converted.
    """
    nb = nbformat.read(source, as_version=4)
    facts = header(nb, source)
    prepare(nb, source)
    scribe = Scribe(source, links)
    config = Config(
        NbConvertBase={"display_data_priority": SHOWN},
        ExtractOutputPreprocessor={"enabled": True},
    )
    exporter = HTMLExporter(
        config=config,
        template_name="base",
        raw_template=CELLS,
        filters={"markdown2html": scribe.html},
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"unique_key": source.stem, "output_files_dir": "figures"}
    body, resources = exporter.from_notebook_node(nb, resources)
    facts["promise"] = Scribe(source, links).html(facts["promise"])
    return Chapter(
        source=source,
        name=links.pages[source],
        number=source.stem.partition("_")[0],
        body=body,
        headings=scribe.headings,
        formulas=scribe.formulas,
        pictures=resources["outputs"],
        **facts,
    )


def sheet_chapter(source: Path, links: Links) -> Chapter:
    """Return the page of a Markdown file.

    Raises:
        ValueError: it has no title, a link leads nowhere, a formula cannot be converted.
    """
    text = source.read_text("utf-8")
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    if not title:
        raise ValueError(f"{source.name} has no title; begin it with a line '# Title'")
    scribe = Scribe(source, links)
    body = scribe.html(text)
    return Chapter(
        source=source,
        name=links.pages[source],
        title=title[1].strip(),
        body=body,
        headings=scribe.headings,
        formulas=scribe.formulas,
    )
