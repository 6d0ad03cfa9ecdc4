"""Where a link of a notebook leads once the notebooks are pages of a site.

To a notebook or sheet of the book: to its page. To another file of the repository, such as a
benchmark's JSON: the file is copied along. To a folder: a reader of the site has none, so the words
stay and the link goes. To anything that is not there: an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

OUTSIDE = ("https://", "http://", "mailto:")


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
        pages: source file to the name of its page.
    """

    root: Path
    pages: Mapping[Path, str]
    copied: dict[str, Path] = field(default_factory=dict)

    def carry(self, file: Path) -> str:
        """Note that a file is to be copied, and return where it will lie in the site."""
        name = f"files/{file.relative_to(self.root).as_posix()}"
        self.copied[name] = file
        return quote(name)

    def resolve(self, target: str, source: Path) -> str | None:
        """Return the address in the site that a link of ``source`` leads to; None for a folder.

        Raises:
            ValueError: the target does not exist or lies outside the repository.
        """
        if target.startswith(OUTSIDE):
            return target
        name, _, anchor = unquote(target).partition("#")
        anchor = f"#{slug(anchor)}" if anchor else ""
        if not name:
            return anchor
        file = (source.parent / name).resolve()
        if file in self.pages:
            return self.pages[file] + anchor
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
