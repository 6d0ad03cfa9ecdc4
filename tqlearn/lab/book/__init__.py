"""The course as a static site: ``make book`` writes ``_site/``, which any browser reads off-line.

The stored notebooks become pages, their pictures are the stored PNGs, their formulas MathML, and
nothing is fetched from anywhere. ``build_book`` does it; ``python -m tqlearn.lab.book`` calls it.

| file | what it does |
|---|---|
| formulas | LaTeX to MathML |
| links | where a link of a notebook leads inside the site |
| markdown | Markdown to HTML, with both of these |
| chapters | one notebook to one page |
| look | the frame of a page and its style |
| site | all pages, written to a folder |
| proof | reads the finished pages and says what is wrong with them |
"""

from .site import build_book

__all__ = ["build_book"]
