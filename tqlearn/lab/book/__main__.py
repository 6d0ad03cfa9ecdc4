"""Write the course as a static site: ``python -m tqlearn.lab.book [--out _site] [notebooks...]``.

Without names it takes all of ``notebooks/``. Nothing is run: the pages show the stored outputs.
"""

import argparse
import sys
from pathlib import Path

from . import build_book

ROOT = Path(__file__).parents[3]


def main(argv: list[str] | None = None) -> int:
    """Build the book; return 0, or 1 after printing what is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m tqlearn.lab.book", description=__doc__)
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--out", type=Path, default=ROOT / "_site", help="default: _site/")
    args = parser.parse_args(argv)
    paths = args.notebook or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    try:
        book = build_book(paths, args.out)
    except (ValueError, OSError) as error:
        print(f"The book was not written.\n{error}", file=sys.stderr)
        return 1
    print(f"{args.out / 'index.html'}: {book}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
