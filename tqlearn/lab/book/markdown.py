"""Markdown to HTML as the book wants it: MathML, anchors, links between pages, scrolling tables."""

import re
from pathlib import Path

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from .formulas import mathml
from .links import Links, slug

TAGS = re.compile(r"<[^>]*>")


class Scribe(IPythonRenderer):
    """Render all Markdown of one page, one cell after the other.

    Args:
        source: the notebook or Markdown file; links are relative to it, errors name it.
        links: where they lead in the site.

    ``headings`` collects (anchor, HTML) of the second-level headings, ``formulas`` counts.

    >>> Scribe(Path("a.md"), Links(Path("."), {})).html("one *word*")
    '<p>one <em>word</em></p>\\n'
    """

    def __init__(self, source: Path, links: Links):
        super().__init__(escape=False)
        self.source = source
        self.links = links
        self.headings: list[tuple[str, str]] = []
        self.anchors: dict[str, int] = {}
        self.formulas = 0

    def html(self, text: str) -> str:
        """Return the HTML of one cell or file.

        Raises:
            ValueError: a formula cannot be converted, a link leads nowhere, a picture has no words.
        """
        return MarkdownWithMath(renderer=self).render(text)

    def heading(self, text: str, level: int, **attrs: object) -> str:
        """Give every heading an anchor; a repeated one gets a number, as on GitHub."""
        anchor = slug(TAGS.sub("", text))
        repeats = self.anchors[anchor] = self.anchors.get(anchor, -1) + 1
        anchor += f"-{repeats}" if repeats else ""
        if level == 2:
            self.headings.append((anchor, text))
        mark = f'<a class="mark" href="#{anchor}" aria-label="link to this section">#</a>'
        return f'<h{level} id="{anchor}">{text}{mark if level > 1 else ""}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Lead to the page in the site; a link to a folder keeps its words only."""
        address = self.links.resolve(url, self.source)
        return text if address is None else super().link(text, address, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Show a picture that lies in the repository; it needs words for those who cannot see it.

        Raises:
            ValueError: the words are missing, or the picture lies on some server.
        """
        address = self.links.resolve(url, self.source)
        if not text.strip() or address is None or address == url:
            raise ValueError(
                f"{self.source.name} shows the picture {url}: a picture needs a text in its "
                "brackets and has to be a file of the repository"
            )
        return super().image(text, address, title)

    def inline_math(self, body: str) -> str:
        """Convert ``$...$``."""
        return self._math(body, display=False)

    def block_math(self, body: str) -> str:
        """Convert ``$$...$$``; a formula wider than a phone scrolls by itself."""
        return f'<span class="formula">{self._math(body, display=True)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        """Convert an environment that stands without dollar signs."""
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def _math(self, body: str, display: bool) -> str:
        self.formulas += 1
        try:
            return mathml(body, display)
        except ValueError as error:
            raise ValueError(f"{self.source.name}: {error}") from error

    def table(self, text: str) -> str:
        """Let wide tables scroll, and drop a head without words."""
        head, _, rest = text.partition("</thead>")
        if not TAGS.sub("", head).strip():
            text = rest
        return f'<div class="wide"><table>\n{text}</table></div>\n'
