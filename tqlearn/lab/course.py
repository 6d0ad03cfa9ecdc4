"""Copy the course out of the installed package: ``python -m tqlearn.lab.course DIR``.

A wheel brings the notebooks and the results that they show; a checkout has them at its top. What is
in DIR already stays, unless it is the same or its replacement is agreed to: those are a learner's
own pages. A link that would lead out of DIR becomes its words.
"""

import argparse
import posixpath
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

from ..writing import write

ROOT = Path(__file__).parents[2]
SHARE = "share/tqlearn"  # below the environment; pyproject.toml puts it there
LINK = re.compile(r"\[([^\[\]]*)\]\(((?:\.\./)*[\w./-]+\.(?:md|ipynb|json))(#[\w-]+)?\)")


@cache
def shipped(part: str) -> Path:
    """Return where a part of the course lies, in a checkout or in the environment.

    Args:
        part: "notebooks", "docs" or "benchmarks/results".

    Raises:
        FileNotFoundError: a package that was installed without its data.
    """
    if (ROOT / "pyproject.toml").is_file():
        return ROOT / part
    wanted = f"{SHARE}/{part}"
    for file in metadata.files("tqlearn") or []:
        before, found, after = file.as_posix().partition(wanted)
        if found and after.startswith("/"):
            return Path(str(file.locate())).resolve().parents[after.count("/") - 1]
    raise FileNotFoundError(
        f"tqlearn was installed without {wanted}, which its wheel holds; install it again with "
        "pip install --force-reinstall --no-deps tqlearn, or work in a checkout"
    )


def fitted(text: str, here: str, there: dict[str, str]) -> str:
    """Return a page whose links lead to where its neighbors are now.

    Args:
        here: the folder that the page comes from, such as "notebooks".
        there: page, as named from the top of a checkout -> its link now; other links become words.

    >>> there = {"docs/methods.md": "methods.md"}
    >>> fitted("[Which?](../docs/methods.md#no-labels) [Home](../README.md)", "notebooks", there)
    '[Which?](methods.md#no-labels) Home'
    """

    def link(found: re.Match) -> str:
        words, file, anchor = found.groups(default="")
        target = there.get(posixpath.normpath(posixpath.join(here, file)))
        return f"[{words}]({target}{anchor})" if target else words

    return LINK.sub(link, text)


def copied(folder: Path, agreed: Callable[[Path], bool]) -> tuple[list[str], list[str]]:
    """Copy lessons, glossary and "Which method for my case?" into a folder.

    Returns the names that were written and kept.

    Args:
        folder: made if it is missing.
        agreed: asked with the path of a file that is there and differs; True replaces it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    pages = [p for p in shipped("notebooks").glob("*.*") if p.suffix in (".ipynb", ".md")]
    pages.append(shipped("docs") / "methods.md")
    there = {f"{page.parent.name}/{page.name}": page.name for page in pages}
    for source in sorted(pages, key=lambda page: page.name):
        target = folder / source.name
        page = fitted(source.read_text("utf-8"), source.parent.name, there)
        if target.exists() and target.read_text("utf-8") != page and not agreed(target):
            kept.append(source.name)
            continue
        write(target, page)
        written.append(source.name)
    return written, kept


def _ask(path: Path) -> bool:
    """Ask on the terminal; where nobody can answer, no."""
    if not sys.stdin.isatty():
        return False
    print(f"{path} is there and differs: your answers, or an older course.")
    answer = input("Replace it? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def main(argv: list[str] | None = None) -> int:
    """Copy the course, and say how to open it; return 1 if the folder cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path, help="where the notebooks shall lie; made if missing")
    folder = parser.parse_args(argv).dir
    try:
        written, kept = copied(folder, _ask)
    except OSError as error:
        print(f"{folder} cannot be written: {error}; name another folder", file=sys.stderr)
        return 1
    print(f"{folder}: {len(written)} files of the course written")
    if kept:
        print(f"kept as they were, because they differ: {', '.join(kept)}")
        print("To have these anew, name an empty folder, or move them away.")
    print(f"Open it with:  jupyter lab {folder / '00_start_here.ipynb'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
