"""Notebooks as they were committed, for the times when a reader has worked in the checkout.

Running a notebook in JupyterLab drops its still pictures, and a solved exercise has lost its stub.
What is made from the notebooks (the site, the teacher's set) then needs the version that git keeps.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode


def committed(path: Path) -> NotebookNode | None:
    """Return the notebook as it stands in the last commit; None if git does not have it."""
    command = ["git", "show", f"HEAD:./{path.name}"]
    try:
        shown = subprocess.run(command, cwd=path.parent, capture_output=True)
    except OSError:  # there is no git, or no such folder
        return None
    return nbformat.reads(shown.stdout.decode(), as_version=4) if shown.returncode == 0 else None


def usable(path: Path, make: Callable[[NotebookNode], Any]) -> tuple[Any, str]:
    """Return what ``make`` makes of a notebook, and a remark if it had to take the committed one.

    Raises:
        ValueError: ``make`` refuses both; the message is the one on the notebook in the checkout.
    """
    try:
        return make(nbformat.read(path, as_version=4)), ""
    except ValueError as error:
        kept = committed(path)
        if kept is None:
            raise
        try:
            made = make(kept)
        except ValueError:
            raise error from None
        return made, f"(as it was committed, because in the one here {error})"
