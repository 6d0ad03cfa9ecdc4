"""What Sphinx cannot do by itself, in small parts; ``make book`` (``python docs``).

| file | what it does |
|---|---|
| formulas | LaTeX to MathML |
| links | where a link of a notebook leads inside the site |
| lessons | stored notebooks made ready: pictures with words, folded solutions |
| explorers | explorers that move without a kernel |
| terms | the glossary, and links to it from the lessons |
| rooms | the API pages, found by walking the package |
| tables | the pages of results, from the JSON files |
| stage | all sources of the site, written to a folder that Sphinx reads |
| proof | reads the finished pages and says what is wrong with them |

This file is the Sphinx extension: MathML, glossary links, docstrings as they were typed.
"""

import re

from docutils import nodes
from sphinx.util import logging

from .formulas import mathml
from .terms import Mentions

# what RST would read as mark-up in a docstring: |w|, (*cases), quant_; literals and *this* stay
MARKS = re.compile(r"``.+?``|\*\w(?:[^*]*\w)?\*(?!\w)|(?P<mark>[*|]|(?<=\w)_(?!\w))")

LOGGER = logging.getLogger(__name__)


def setup(app: object) -> dict:
    """Register the parts with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.add_post_transform(Mentions)
    app.connect("doctree-read", _tidy)
    app.connect("autodoc-process-docstring", _as_typed, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _as_typed(app: object, what: str, name: str, obj: object, options: dict, lines: list) -> None:
    """Escape what RST would read as mark-up; examples stay as they are."""
    text = "\n".join(lines)
    lines[:] = [
        line if line.lstrip().startswith((">>>", "...")) else escaped
        for line, escaped in zip(
            lines, MARKS.sub(lambda m: "\\" * bool(m["mark"]) + m[0], text).split("\n"), strict=True
        )
    ]


def _math(node: nodes.Element, display: bool) -> str:
    try:
        return mathml(node.astext(), display)
    except ValueError as error:
        LOGGER.warning("%s", error, location=node)
        return ""


def _inline(translator: object, node: nodes.Element) -> None:
    translator.body.append(_math(node, display=False))
    raise nodes.SkipNode


def _block(translator: object, node: nodes.Element) -> None:
    """A formula wider than a phone scrolls by itself."""
    translator.body.append(f'<div class="formula">{_math(node, display=True)}</div>')
    raise nodes.SkipNode


def _tidy(app: object, doctree: nodes.document) -> None:
    """Drop empty heads of tables, and set the dash between a parameter and its text."""
    for dash in [text for text in doctree.findall(nodes.Text) if text == " -- "]:
        dash.parent.replace(dash, nodes.Text(" – "))
    for head in list(doctree.findall(nodes.thead)):
        if not head.astext().strip():
            head.parent.remove(head)
