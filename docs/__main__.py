"""Build the documentation site: ``python docs [--out _site] [--course ROOT]``.

Nothing is run: the pages show the notebooks' stored outputs. The site is written only if it is
sound; otherwise every fault is printed and an earlier site stays.
"""

import argparse
import gc
import io
import shutil
import sys
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

from sitekit.explorers import publish
from sitekit.proof import proofread
from sitekit.stage import Stage
from sphinx.cmd.build import build_main

DOCS = Path(__file__).parent.resolve()
MARK = ".tqlearn-site"  # lies in a folder that we may replace


def sphinx(source: Path, html: Path, work: Path) -> list[str]:
    """Let Sphinx build the pages, and return its complaints."""
    log = work / "warnings.txt"
    options = ["-q", "-N", "-b", "html", "-c", str(DOCS), "-d", str(work / "doctrees")]
    gc.set_threshold(100_000, 50, 100)  # the trees of pages are large, and few of them are garbage
    with redirect_stderr(io.StringIO()):  # the log has the same lines
        build_main([*options, "-w", str(log), str(source), str(html)])
    return log.read_text("utf-8").replace(f"{source}/", "").splitlines()


def build(root: Path, out: Path, whole: bool = True) -> tuple[str, list[str]]:
    """Build the site into ``out`` and return what it holds, in words, and remarks to print.

    Args:
        root: the repository, with ``notebooks/``.
        out: replaced if it holds an earlier site.
        whole: False for the course alone, without API and results.

    Raises:
        ValueError: ``out`` holds something else, or a line for every fault; nothing is written.
        OSError: a file cannot be read or the folder not be written.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ValueError(f"{out} holds something that is not a site of ours; name another folder")
    with TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        stage = Stage(root, work / "source", whole)
        stage.all()
        html = work / "html"
        complaints = sphinx(work / "source", html, work)
        publish(root, html)
        complaints += proofread(html)
        if complaints:
            raise ValueError("\n".join(complaints))
        (html / MARK).touch()
        replace(html, out)
    files = [file for file in out.rglob("*") if file.is_file()]
    pages = sum(file.suffix == ".html" for file in files)
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{pages} pages, {len(stage.notebooks)} lessons, {size:.1f} MB", stage.remarks


def replace(html: Path, out: Path) -> None:
    """Put a site in the place of an earlier one, which stays until the new one is there whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".site-") as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        shutil.copytree(html, new)
        if out.exists():
            out.rename(old)
        new.rename(out)


def main(argv: list[str] | None = None) -> int:
    """Build the site; return 0, or 1 after printing what is wrong with it."""
    parser = argparse.ArgumentParser(prog="python docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS.parent / "_site", help="default: _site/")
    parser.add_argument("--course", type=Path, metavar="ROOT",
                        help="only the course, and that of another repository")  # fmt: skip
    args = parser.parse_args(argv)
    try:
        words, remarks = build(args.course or DOCS.parent, args.out, whole=args.course is None)
    except (ValueError, OSError) as error:
        print(f"The site was not written.\n{error}", file=sys.stderr)
        return 1
    print(*remarks, f"{args.out / 'index.html'}: {words}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
