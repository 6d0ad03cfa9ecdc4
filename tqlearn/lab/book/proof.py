"""Read the finished pages and say what is wrong: broken links, calls to a network, raw formulas."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from urllib.parse import unquote

from .links import OUTSIDE

VERBATIM = {"code", "pre", "math", "style", "kbd"}
RAW = re.compile(r"\$\$|\$[A-Za-z\\]|\\[A-Za-z]+")
FETCH = re.compile(r"(https?:)?//|@import")
LOADS = {"src", "srcset", "poster", "data", "action", "style"}  # attributes that fetch something


class Reader(HTMLParser):
    """What a page holds: anchors, links, and complaints that need no other page."""

    def __init__(self, html: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.complaints: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note a tag's anchor and links; complain of scripts, fetches and pictures without text."""
        values = {name: value or "" for name, value in attrs}
        if tag in VERBATIM:
            self._open.append(tag)
        if tag == "script":
            self.complaints.append("it holds a script; a page has to work without")
        if tag == "img" and not values.get("alt", "").strip():
            self.complaints.append(f"the picture {values.get('src', '')[:60]} has no alt text")
        for name in LOADS & set(values):
            if FETCH.match(values[name]) or name == "style" and FETCH.search(values[name]):
                self.complaints.append(f"<{tag} {name}> fetches {values[name]}")
        if "id" in values:
            self.anchors.add(values["id"])
        address = values.get("href") or (values.get("src") if tag == "img" else None)
        if address and not address.startswith("data:"):
            if tag == "link" and FETCH.match(address):
                self.complaints.append(f"<link> fetches {address}")
            elif not address.startswith(OUTSIDE):
                self.links.append(address)

    def handle_endtag(self, tag: str) -> None:
        """Close what ``handle_starttag`` opened."""
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        """Complain of LaTeX outside code and of style sheets that fetch."""
        if self._open == ["style"] and FETCH.search(data):
            self.complaints.append(f"a style sheet fetches: {FETCH.search(data)[0]}")
        if not self._open and (raw := RAW.search(data)):
            near = data[max(0, raw.start() - 20) : raw.end() + 40].strip()
            self.complaints.append(f"a formula is left as text: {near!r}")


def proofread(pages: Mapping[str, str], files: set[str]) -> list[str]:
    """Return one line per mistake; an empty list means that the site is sound.

    Args:
        pages: name to HTML.
        files: names of everything else in the site.

    >>> proofread({"a.html": '<p id="x"><a href="b.html">b</a> <a href="#x">x</a>'}, set())
    ['a.html: it links to b.html, which is not in the site']
    """
    read = {name: Reader(html) for name, html in pages.items()}
    complaints = []
    for name, reader in read.items():
        complaints += [f"{name}: {complaint}" for complaint in reader.complaints]
        for link in reader.links:
            target, _, anchor = unquote(link).partition("#")
            target = target or name
            if target not in read and target not in files:
                complaints.append(f"{name}: it links to {link}, which is not in the site")
            elif anchor and target in read and anchor not in read[target].anchors:
                complaints.append(f"{name}: it links to {link}, but {target} has no such heading")
    return complaints
