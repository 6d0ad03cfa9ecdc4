"""Digests of what a file stores: a flipped bit, a lost, swapped or renamed tensor is noticed.

They stand in the header of the safetensors file, one short line whatever the size of the model.
Against faults of disks, copies and hands; whoever wants to deceive can write a new line.
"""

import base64
import ctypes
import hashlib
import json
import mmap
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

KEY = "tqlearn.digests"
TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16",
    torch.int16: "I16", torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
ROW = 4096  # bytes
WEIGHTS = torch.frombuffer(bytearray(hashlib.shake_128(b"tqlearn").digest(ROW)), dtype=torch.int32)
WEIGHTS |= 1  # an odd weight loses no bit
WAY_OUT = "get the file again or save the model anew"


@dataclass(frozen=True)
class Stored:
    """A tensor as a file has it: the name of its type there, its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview | bytes

    @classmethod
    def of(cls, tensor: Tensor) -> "Stored":
        """Return what a file would hold of a tensor."""
        flat = tensor.detach().to("cpu").contiguous()
        size = flat.numel() * flat.element_size()
        data = memoryview((ctypes.c_char * size).from_address(flat.data_ptr())) if size else b""
        stored = cls(TYPES[flat.dtype], tuple(flat.shape), data)
        object.__setattr__(stored, "_owner", flat)  # its memory stays as long as the view of it
        return stored

    @property
    def floats(self) -> bool:
        """Say whether the numbers are floats."""
        return self.dtype.removeprefix("B").startswith("F")

    def tensor(self) -> Tensor:
        """Return the values, on the CPU; a copy."""
        kind = next(dtype for dtype, name in TYPES.items() if name == self.dtype)
        raw = torch.frombuffer(bytearray(self.data), dtype=kind) if len(self.data) else None
        empty = torch.empty(self.shape, dtype=kind, device="cpu") if raw is None else raw
        return empty.reshape(self.shape)


def read(file: str | Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors and the notes in the header of a safetensors file; nothing is copied.

    Raises:
        ValueError: it is not there, no safetensors file, or not a whole one.
    """
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file}; {WAY_OUT}")
    try:
        with safe_open(str(file), "pt") as opened:
            notes = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file ({error}); {WAY_OUT}") from error
    with open(file, "rb") as opened:
        data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY))
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(bytes(data[8:start])).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = data[start + first : start + last]
            found[name] = Stored(entry["dtype"], tuple(entry["shape"]), values)
    return found, notes


def checksum(text: str) -> str:
    """Return eight digits that tell one text from another."""
    return f"{zlib.crc32(text.encode()):08x}"


def digests(tensors: Mapping[str, Stored]) -> dict[str, int]:
    """Return a digest of 32 bits of each tensor: of its name, type, shape and bytes.

    A change of one bit is always noticed, any other but for a chance in some billions. Large
    tensors go through memory once, about as fast as it can be read: every ``ROW`` of them becomes
    a sum with odd weights, modulo 2^32. CRC-32 of these sums, or of the bytes of a small tensor.
    """
    return {name: _digest(name, stored) for name, stored in tensors.items()}


def _digest(name: str, stored: Stored) -> int:
    data, about = stored.data, f"{name} {stored.dtype} {list(stored.shape)}"
    found, rows = zlib.crc32(about.encode()), len(data) // ROW
    if rows >= 16:
        words = torch.frombuffer(data, dtype=torch.int32, count=rows * ROW // 4)
        sums = words.reshape(rows, -1) @ WEIGHTS
        found, data = zlib.crc32(Stored.of(sums).data, found), data[rows * ROW :]
    return zlib.crc32(data, found)


def seal(tensors: Mapping[str, Stored], layout: str, config: str = "") -> str:
    """Return the line for the header: digests of all tensors, of the layout, of a config.

    72 bits hold for all tensors together, and 12 of each tensor tell which one it was.
    """
    return seal_line(digests(tensors), layout, config)


def seal_line(found: Mapping[str, int], layout: str, config: str = "") -> str:
    """Return the line of ``seal`` for tensors whose ``digests`` are known."""
    lines = [f"{name} {found[name]:08x}\n" for name in sorted(found)]
    whole = hashlib.blake2b("".join(lines).encode(), digest_size=9).digest()
    parts = [base64.b64encode(whole).decode(), checksum(layout), checksum(config)]
    return " ".join([*parts, "".join(_mark(found[name]) for name in sorted(found))])


def blank_seal(count: int) -> int:
    """Return how long the line of ``seal`` is for so many tensors.

    >>> blank_seal(1) == len(seal({"a": Stored.of(torch.ones(2))}, ""))
    True
    """
    return len(f"{'':12} {checksum('')} {checksum('')} ") + 2 * count


def _mark(digest: int) -> str:
    return base64.b64encode((digest & 0xFFF).to_bytes(3, "big")).decode()[2:]


def verify_meanwhile(
    tensors: Mapping[str, Stored], notes: list[Mapping[str, str]], layout: str
) -> Future:
    """Do what ``verify`` does in a thread of its own; ``result()`` of what is returned waits."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(verify, tensors, notes, layout)
    finally:
        pool.shutdown(wait=False)


def verify(
    tensors: Mapping[str, Stored], notes: Iterable[Mapping[str, str]], layout: str
) -> str | None:
    """Compare tensors and layout with the digests that were saved with them.

    Args:
        notes: of the header of each file that the tensors are from.

    Returns:
        The checksum of the config that was saved, or None for files without digests.

    Raises:
        ValueError: something is not what was saved.
    """
    lines = {note.get(KEY) for note in notes}
    if lines <= {None}:
        return None
    if len(lines) > 1:
        raise ValueError(f"the files of this model are not from one and the same save; {WAY_OUT}")
    (line,) = lines
    was = line.split(" ")
    now = seal(tensors, layout).split(" ")
    if len(was) != 4:
        raise ValueError(f"the digests in the file's header are damaged; {WAY_OUT}")
    if len(was[3]) != len(now[3]):
        raise ValueError(
            f"the file holds {len(tensors)} tensors, {len(was[3]) // 2} were saved; {WAY_OUT}"
        )
    if (was[0], was[3]) != (now[0], now[3]):
        places = range(0, len(was[3]), 2)
        pairs = zip(sorted(tensors), places, strict=True)
        other = [name for name, i in pairs if was[3][i : i + 2] != now[3][i : i + 2]]
        raise ValueError(
            f"{len(other) or 'some'} of {len(tensors)} tensors are not what was saved, the first "
            f"is {(other or ['not known'])[0]!r}: a digest differs; {WAY_OUT}"
        )
    if was[1] != now[1]:
        raise ValueError(f"the layout is not the one that was saved with the tensors; {WAY_OUT}")
    return was[2]
