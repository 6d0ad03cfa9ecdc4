"""All pages of the book, in memory until they are sound, then in a folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .chapters import Chapter, notebook_chapter, sheet_chapter
from .links import Links
from .look import GENERATOR, INDEX, PAGE, style_sheet
from .proof import proofread

SHEETS = {"glossary.md": "glossary.html", "README.md": "instructors.html"}


@dataclass(frozen=True)
class Book:
    """What was written: how many of everything.

    >>> print(Book(notebooks=2, figures=11, formulas=70))
    2 notebooks, 11 figures, 70 formulas
    """

    notebooks: int
    figures: int
    formulas: int

    def __str__(self) -> str:
        return f"{self.notebooks} notebooks, {self.figures} figures, {self.formulas} formulas"


def build_book(notebooks: Sequence[Path], out: Path) -> Book:
    """Write a static site: an index, one page per notebook, and the sheets beside the notebooks.

    Args:
        notebooks: in the order of the book, all in one folder, stored with their outputs. If
            ``glossary.md`` or ``README.md`` (for instructors) lie beside them, they become pages.
        out: the folder of the site; an earlier book in it is replaced.

    Returns:
        How many notebooks, figures and formulas it holds.

    Raises:
        ValueError: there is no notebook, or they lie in several folders; ``out`` holds something
            else; a page is not sound (a broken link, a formula that cannot be converted, a
            picture without words, anything from a network). Then nothing is written.
        OSError: a notebook cannot be read or the folder not be written.
    """
    sources = [Path(path).resolve() for path in notebooks]
    folders = {source.parent for source in sources}
    if len(folders) != 1:
        raise ValueError(
            f"a book is made of the notebooks of one folder; these lie in {len(folders)}: "
            f"{sorted(map(str, folders))}"
        )
    if out.exists() and any(out.iterdir()) and not _is_book(out):
        raise ValueError(f"{out} holds something that is not a book; name another folder")
    folder = folders.pop()
    sheets = [folder / name for name in SHEETS if (folder / name).is_file()]
    names = {source: f"{source.stem}.html" for source in sources}
    names |= {sheet: SHEETS[sheet.name] for sheet in sheets}
    links = Links(folder.parent, names)
    chapters = [notebook_chapter(source, links) for source in sources]
    extras = [sheet_chapter(sheet, links) for sheet in sheets]
    pages = _framed(chapters, extras, links)
    texts = pages | {"style.css": style_sheet()}
    pictures = {name: png for chapter in chapters for name, png in chapter.pictures.items()}
    complaints = proofread(pages, {"style.css", *pictures, *links.copied})
    if complaints:
        raise ValueError("\n".join(complaints))
    _write(out, texts, pictures, links)
    return Book(len(chapters), len(pictures), sum(c.formulas for c in chapters + extras))


def _is_book(folder: Path) -> bool:
    index = folder / "index.html"
    return index.is_file() and GENERATOR in index.read_text("utf-8")


def _framed(chapters: list[Chapter], extras: list[Chapter], links: Links) -> dict[str, str]:
    """Put every page into its frame: the bar above, the headings beside, the neighbors below."""
    about = metadata.metadata("tqlearn")
    common = {"about": about["Summary"], "version": about["Version"], "sheets": extras}
    index = Chapter(links.root, "index.html", "tqlearn")
    index.body = INDEX.render(chapters=chapters, **common)
    # instructors turn to their page when they need it; it is no step of the course
    row = [index, *chapters, *[extra for extra in extras if extra.name == "glossary.html"]]
    pages = {}
    for page in [*row, *[extra for extra in extras if extra not in row]]:
        place = row.index(page) if page in row else None
        before = row[place - 1] if place else None
        after = row[place + 1] if place is not None and place + 1 < len(row) else None
        download = links.carry(page.source) if page.source.suffix == ".ipynb" else None
        pages[page.name] = PAGE.render(
            page=page, before=before, after=after, download=download, **common
        )
    return pages


def _write(out: Path, texts: dict[str, str], pictures: dict[str, bytes], links: Links) -> None:
    if out.exists():
        shutil.rmtree(out)
    for name, content in (texts | pictures).items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, source in links.copied.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / name)
