"""Where a link of a notebook leads once the notebooks are pages of a site.

To a notebook or sheet of the site: to its page. To another file of the repository, such as a
benchmark's JSON: the file is carried along. To a folder: a reader of the site has none, so the
words stay and the link goes. To anything that is not there: an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

OUTSIDE = ("https://", "http://", "mailto:")
FENCED = r"(?P<code>^(?P<fence>`{3,}).*?^(?P=fence)|`[^`\n]+`)"
LINK = re.compile(
    r"(?P<picture>!?)\[(?P<words>(?:`[^`]*`|[^\[\]`])*)\]\((?P<target>[^()\s]+)\)|" + FENCED,
    re.MULTILINE | re.DOTALL,
)


def slug(heading: str) -> str:
    """Return the anchor of a heading: the one that GitHub makes, and JupyterLab's in small letters.

    >>> slug("Idea one: fewer numbers"), slug("Idea-one:-fewer-numbers")
    ('idea-one-fewer-numbers', 'idea-one-fewer-numbers')
    """
    return re.sub(r"[^\w-]", "", heading.strip().replace(" ", "-")).lower()


@dataclass
class Links:
    """The pages of a site by their source files, and the files that it has to carry along.

    Args:
        root: the repository; a link may not leave it.
        pages: source file to the name of its staged page.
    """

    root: Path
    pages: Mapping[Path, str]
    carried: dict[str, Path] = field(default_factory=dict)

    def carry(self, file: Path) -> str:
        """Note that a file is to be carried along, and return the address to link to."""
        name = f"files/{file.relative_to(self.root).as_posix()}"
        self.carried[name] = file
        return f"path:/{quote(name)}"

    def resolve(self, target: str, source: Path) -> str | None:
        """Return the address that a link of ``source`` gets in the site; None for a folder.

        Raises:
            ValueError: the target does not exist or lies outside the repository.
        """
        if target.startswith((*OUTSIDE, "path:")):
            return target
        name, _, anchor = unquote(target).partition("#")
        anchor = f"#{slug(anchor)}" if anchor else ""
        file = (source.parent / name).resolve() if name else source
        if file in self.pages:
            return f"/{self.pages[file]}{anchor}"
        if not file.is_relative_to(self.root):
            raise ValueError(
                f"{source.name} links to {target}, which lies outside {self.root}; "
                "link to a page on the web or to a file of the repository"
            )
        if not file.exists():
            raise ValueError(
                f"{source.name} links to {target}, which does not exist; "
                f"links are read from the folder {source.parent.name}/"
            )
        return None if file.is_dir() else self.carry(file)

    def rewrite(self, markdown: str, source: Path) -> str:
        """Return Markdown whose links lead to the right places of the site; code stays as it is.

        Raises:
            ValueError: a link leads nowhere, or a picture lies on a server or has no words.
        """

        def led(match: re.Match) -> str:
            if match["code"]:
                return match[0]
            address = self.resolve(match["target"], source)
            if not match["picture"]:
                return match["words"] if address is None else f"[{match['words']}]({address})"
            if not match["words"].strip() or address is None or address == match["target"]:
                raise ValueError(
                    f"{source.name} shows the picture {match['target']}: a picture needs a text in "
                    "its brackets and has to be a file of the repository"
                )
            return f"![{match['words']}]({address.removeprefix('path:')})"

        return LINK.sub(led, markdown)
