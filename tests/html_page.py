"""A page of HTML as the tests of the book read it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A page as a test reads it: its tags, and its text outside code and formulas."""

    def __init__(self, html: str):
        super().__init__()
        self.html, self.tags, self.words, self.inside = html, [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside += [tag] if tag in ("pre", "code", "math", "title", "style", "script") else []

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())
