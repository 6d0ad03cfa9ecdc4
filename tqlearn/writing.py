"""Files that are written whole or not at all: beside their place, then moved into it.

A full disk, an error or a kill in the middle leaves what stood there before. An error leaves no
stray file either; a kill leaves one whose name begins with a dot and ends in ".part".
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _numbers(*names: str) -> set[int]:
    return {getattr(errno, name) for name in names if hasattr(errno, name)}  # systems differ


WAYS = {
    **dict.fromkeys(_numbers("ENOSPC", "EDQUOT"), "free some space, or write to another place"),
    **dict.fromkeys(_numbers("EACCES", "EPERM", "EROFS"),
                    "make it writable, or write to another place"),
    errno.ENOENT: "make its folder first",
}  # fmt: skip
NO_SYNC = _numbers("EINVAL", "ENOSYS", "ENOTSUP")  # of a file system that offers none: no fault
NUMBER = re.compile(r"\(os error (\d+)\)")  # how safetensors words an OSError


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, in the same folder, which takes the place of ``path`` at the end.

    A link stays one, and what it leads to is replaced; the new file has the old one's permissions.
    What is no file, such as a pipe, is written to as it is.

    Raises:
        OSError: it cannot be written; the message says what to do.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with beside(Path(folder) / "a.txt") as new:
    ...         _ = new.write_text("whole")
    ...     print([file.name for file in Path(folder).iterdir()])
    ['a.txt']
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file() and not place.is_dir():
        yield place
        return
    new = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    with telling(path):
        try:
            if place.exists() and not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            yield new
            if place.exists():
                shutil.copymode(place, new)
            _reach_the_disk(new)
            new.replace(place)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to write to, whose files take their places in ``path`` at the end.

    Files of other names stay. Each file is whole at any time, and a new folder is there as a whole
    or not at all.

    Raises:
        OSError: it cannot be written; the message says what to do.
    """
    place = Path(os.path.realpath(path))
    name = f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    new = place / name if place.is_dir() else place.with_name(name)
    with telling(path):
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            new.mkdir()
            yield new
            files = [file for file in sorted(new.rglob("*")) if file.is_file()]
            for file in files:
                _reach_the_disk(file)
            if place.is_dir():
                for file in files:
                    there = place / file.relative_to(new)
                    there.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(there)
            elif files:  # of several processes one alone may have written
                new.replace(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def write(path: str | Path, content: str | bytes) -> Path:
    """Write text, in UTF-8 with line ends as they are, or bytes; return the path.

    Raises:
        OSError: as ``beside``.
    """
    with beside(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def telling(path: str | Path) -> Iterator[None]:
    """Let an error of the disk say which file, that the old one is whole, and what to do."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if not isinstance(error, OSError):
            found = NUMBER.search(str(error))
            if found is None:
                raise
            number = errno.EIO if os.name == "nt" else int(found[1])  # Windows counts differently
        if number is None:
            raise
        words = os.strerror(number)
        way = WAYS.get(number, "write to another place")
        raise OSError(
            number, f"cannot write {path}: {words}; what stood there is unchanged; {way}"
        ) from error


def _reach_the_disk(file: Path) -> None:
    """Wait until a file is on the disk: after a power cut its new name must not lead to nothing."""
    with open(file, "rb+") as handle:
        try:
            os.fsync(handle.fileno())
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise
