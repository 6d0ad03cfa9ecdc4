"""A lock that two processes take turns with, on Linux, macOS and Windows.

The system holds it, not the file: whoever dies lets go of it, and a file that a kill has left
behind locks nobody out.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .writing import telling

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}
PATIENCE = 60.0  # seconds; a notebook holds the lock for milliseconds


@contextmanager
def locked(path: str | Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a file while the body runs; it stands in a file beside, for that long.

    Raises:
        TimeoutError: somebody else has held it for ``patience`` seconds.
        OSError: the folder cannot be written to, or its file system has no locks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder) / "a"):
    ...     print([file.name for file in Path(folder).iterdir()])
    ['.a.lock']
    """
    place = Path(os.path.realpath(path))
    lock = place.with_name(f".{place.name}.lock")
    with telling(path):
        handle = _taken(lock, time.monotonic() + patience)
    if handle is None:
        raise TimeoutError(
            f"{path} has been locked for {patience:g} seconds by another process, which holds "
            f"{lock}; interrupt its cell or shut its kernel down, then run this again"
        )
    try:
        yield
    finally:
        if fcntl:  # while it is held: whoever waits for this file sees that it is gone
            lock.unlink(missing_ok=True)
        os.close(handle)
        if not fcntl:  # Windows removes no file that somebody has open
            with suppress(OSError):
                lock.unlink()


def _taken(lock: Path, end: float) -> int | None:
    """Wait for the lock; return its open file, or None if it took too long."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _try(handle) and _is(lock, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() > end:
            return None
        time.sleep(0.01)


def _try(handle: int) -> bool:
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise
    return True


def _is(lock: Path, handle: int) -> bool:
    """Say whether the open file is still the one of that name: its last holder removes it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False
