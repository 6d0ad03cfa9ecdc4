"""The lines of a text file as its author meant them, or an error that names the file and the line.

Read right are UTF-8 with or without a byte-order mark, and the line ends of Linux, Windows and old
Macs. Everything else is refused: a wrong character would be learned like any other.
"""

import gzip
import zlib

PIECE = 2**16  # bytes at a time, so that it is known how far a damaged file goes


def lines(path, header=None):
    """Return the lines of a text file; ``.gz`` is decompressed.

    Args:
        path: a ``Path``.
        header: what the first line must say, in any case; it is left out then.

    Raises:
        ValueError: the file is missing, empty, no gzip, no UTF-8, or has another header.
    """
    text = _text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty; get it again")
    text = text.replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # old Macs
    found = text.removesuffix("\n").split("\n")
    odd = next((i for i, line in enumerate(found, 1) if "\r" in line), None)
    if odd:
        raise ValueError(
            f"{path} line {odd}: a carriage return inside a line, so it is not clear where rows "
            "end; write the file anew with one kind of line end"
        )
    if header is None:
        return found
    if found[0].strip().lower() != header.lower():
        raise ValueError(
            f"{path} line 1: the header must be {header!r}, got {found[0][:80]!r}; without it the "
            "first row would be lost"
        )
    return found[1:]


def require_full(path, column, first=1):
    """Raise a ValueError that names the first line without a word.

    Args:
        column: what was read from each line.
        first: the line of the first row.
    """
    for number, row in enumerate(column, first):
        if not row:
            raise ValueError(
                f"{path} line {number}: nothing stands there, and every row needs its words and "
                "its label; fill it in, or remove the row from every file of the set"
            )


def _text(path):
    data = _bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        number = before.count(b"\n") + 1
        kind = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise ValueError(
            f"{path} line {number}: byte 0x{data[error.start]:02x} is not UTF-8, perhaps the file "
            f"is in {kind}; convert it, such as by iconv -f {kind} -t utf-8"
        ) from error


def _bytes(path):
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder must hold the benchmark's raw files")
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    found = b""
    parts = []
    try:
        with gzip.open(path) as file:
            while found := file.read1(PIECE):
                parts.append(found)
    except (EOFError, OSError, zlib.error) as error:
        number = b"".join(parts).count(b"\n") + 1
        raise ValueError(
            f"{path} is no whole gzip file ({error}): what can be read ends in line {number}; get "
            "it again"
        ) from error
    return b"".join(parts)
