"""The glossary: plain Markdown made into Sphinx terms, and links to them from the lessons.

``notebooks/glossary.md`` has a heading per term, so that it reads well in JupyterLab too:
``### tensor train (TT), train`` names one term three times. In every lesson the first mention of a
term, under any of its names, becomes a link; the notebooks themselves need no mark-up for it.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

ENTRY = re.compile(r"^### (.+)\n+((?:(?!^##).*\n?)+)", re.MULTILINE)
# words that mean something else just as often; they have an entry, but no link leads there unasked
PLAIN = {"code", "factor", "range", "tensor"}
ASIDE = (nodes.title, nodes.table, nodes.reference, nodes.literal, nodes.literal_block, nodes.math,
         nodes.math_block, nodes.raw)  # fmt: skip


def names(heading: str) -> list[str]:
    """Return the names of a term from its heading.

    >>> names("tensor train (TT), train")
    ['tensor train', 'TT', 'train']
    """
    return [name.strip() for name in re.split(r"[,()]", heading) if name.strip()]


def glossary(markdown: str) -> str:
    """Return the glossary with its entries as terms that Sphinx knows.

    >>> print(glossary("## A\\n\\n### rank\\n\\nHow many\\nvalues.\\n\\n### SVD\\n\\nThe way."))
    ## A
    <BLANKLINE>
    :::{glossary}
    rank
      How many
      values.
    <BLANKLINE>
    SVD
      The way.
    :::
    """

    def entry(match: re.Match) -> str:
        body = "\n".join(f"  {line}".rstrip() for line in match[2].strip().splitlines())
        return ":::{glossary}\n" + "\n".join(names(match[1])) + f"\n{body}\n:::"

    made = ENTRY.sub(lambda match: entry(match) + "\n", markdown)
    return re.sub(r"\n:::\n*:::\{glossary\}\n", "\n\n", made).strip()


def pattern(terms: list[str]) -> re.Pattern:
    """Return what finds any of the names in running text, the longest first, in the plural too.

    Abbreviations are found as they are written only: "MAC" is a term, "mac" is a computer.

    >>> [m[0] for m in pattern(["rank", "low rank", "MAC"]).finditer("Low-rank MACs, ranks, mac")]
    ['Low-rank', 'MACs', 'ranks']
    """

    def form(name: str) -> str:
        flag = "" if any(c.isupper() for c in name[1:]) else "(?i:"
        words = re.escape(name).replace(r"\ ", "[- \n]")
        return f"{flag}{words}{')' if flag else ''}"

    forms = "|".join(form(name) for name in sorted(terms, key=len, reverse=True))
    return re.compile(rf"(?<![\w:-])(?P<name>{forms})(?:e?s)?(?![\w:-]|\.\d)")


class Mentions(SphinxPostTransform):
    """Make the first mention of every term in a lesson a link to the glossary."""

    default_priority = 200

    def run(self, **kwargs: object) -> None:
        """Link the terms of one page."""
        page = self.env.docname
        if not page.startswith("notebooks/") or "glossary" not in self.env.found_docs:
            return
        anchors = self.anchors()
        home = self.app.builder.get_relative_uri(page, "glossary")
        search = pattern([name for name in anchors if name.lower() not in PLAIN])
        anchors = {name.lower(): anchor for name, anchor in anchors.items()}
        met: set[str] = set()
        for text in [node for node in self.document.findall(nodes.Text) if in_prose(node)]:
            pieces, end, words = [], 0, text.astext()
            for match in search.finditer(words):
                name = match["name"].lower().replace("\n", " ")
                anchor = anchors.get(name) or anchors[name.replace("-", " ")]
                if anchor not in met:
                    met.add(anchor)
                    link = nodes.reference("", "", refuri=f"{home}#{anchor}", internal=True)
                    link += nodes.inline(match[0], match[0], classes=["term"])
                    pieces += [nodes.Text(words[end : match.start()]), link]
                    end = match.end()
            if pieces:
                text.parent.replace(text, [*pieces, nodes.Text(words[end:])])

    def anchors(self) -> dict[str, str]:
        """Return every name of every term with the anchor of the term's first name."""
        entries = self.env.get_doctree("glossary").findall(nodes.definition_list_item)
        terms = [[part for part in entry if isinstance(part, nodes.term)] for entry in entries]
        return {name.astext(): group[0]["ids"][0] for group in terms for name in group}


def in_prose(node: nodes.Node) -> bool:
    """Say whether a text stands in a paragraph, and in no heading, table, code or link."""
    within = False
    while node := node.parent:
        if isinstance(node, ASIDE):
            return False
        within |= isinstance(node, nodes.paragraph)
    return within
