"""Read the finished pages and say what is wrong: broken links, calls to a network, raw formulas."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from .links import OUTSIDE

VERBATIM = {"code", "pre", "math", "style", "kbd", "script"}
RAW = re.compile(r"\$\$|\$(?![A-Z_]{3})[A-Za-z\\]|\\[A-Za-z]+")  # a variable of the shell is none
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
        """Note a tag's anchor and links; complain of fetches and of pictures without text."""
        values = {name: value or "" for name, value in attrs}
        if tag in VERBATIM:
            self._open.append(tag)
        if tag == "img" and not values.get("alt", "").strip():
            self.complaints.append(f"the picture {values.get('src', '')[:60]} has no alt text")
        for name in LOADS & set(values):
            if FETCH.match(values[name]) or name == "style" and FETCH.search(values[name]):
                self.complaints.append(f"<{tag} {name}> fetches {values[name]}")
        self.anchors |= {values["id"]} if "id" in values else set()
        address = values.get("href") or (values.get("src") if tag in ("img", "script") else None)
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


def proofread(site: Path) -> list[str]:
    """Return one line per mistake in a folder of pages; an empty list means that it is sound."""
    site = site.resolve()
    files = [file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts]
    read = {file: Reader(file.read_text("utf-8")) for file in files}
    complaints = []
    for file, reader in read.items():
        name = file.relative_to(site).as_posix()
        complaints += [f"{name}: {complaint}" for complaint in reader.complaints]
        for link in reader.links:
            address, _, anchor = unquote(link).partition("#")
            address = address.partition("?")[0]
            target = (file.parent / address).resolve() if address else file
            if not target.is_relative_to(site) or not target.is_file():
                complaints.append(f"{name}: it links to {link}, which is not in the site")
            elif anchor and target in read and anchor not in read[target].anchors:
                place = target.relative_to(site).as_posix()
                complaints.append(f"{name}: it links to {link}, but {place} has no such heading")
    return complaints
