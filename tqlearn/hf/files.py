"""Files that a package brings: where they lie, and whether they are the ones they should be."""

import hashlib
from importlib import util
from os import PathLike
from pathlib import Path


def verify(file: str | PathLike, expected: str) -> None:
    """Raise ValueError unless the file's sha256 is ``expected`` (both are named)."""
    with open(file, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{file} has sha256 {found}, expected {expected}: the file is damaged or another one; "
            "delete it and get it again"
        )


def inside(package: str, name: str) -> Path | None:
    """Return the path of a file that a package brings, without running the package.

    None where the package, or the file in it, is not there.
    """
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / name
    return file if file.is_file() else None
