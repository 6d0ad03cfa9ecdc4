"""Safetensors files that are filled tensor by tensor, and a journal of what is in them.

A kill in between leaves both; the next process reads the journal, compares the digests of what it
names with what is there, and goes on. See ``tqlearn.hf.streaming``.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..writing import telling
from .digests import TYPES, Stored
from .weighing import header


class Shard:
    """A safetensors file of known tensors, each written to its place when it is there.

    Args:
        path: of the file.
        tensors: name -> tensor, on meta.
        notes: of the header; ``finish`` may put others of the same length.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        self.path, self.tensors = path, dict(tensors)
        self.head, self.places = header(tensors, notes)

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return max(end for _, end in self.places.values())

    def begin(self) -> None:
        """Make the file, with its header and empty places, unless it is there."""
        if not self.path.is_file():
            self.path.touch()
        with open(self.path, "r+b") as file:
            file.truncate(self.size)
            file.write(self.head)

    def put(self, name: str, stored: Stored) -> None:
        """Write a tensor to its place.

        Raises:
            ValueError: it is of another type or shape than the one that was announced.
        """
        wanted = TYPES[self.tensors[name].dtype], tuple(self.tensors[name].shape)
        if (stored.dtype, stored.shape) != wanted:
            raise ValueError(
                f"{name} became {stored.dtype} of {stored.shape}, its plan had announced "
                f"{wanted[0]} of {wanted[1]}; an edit whose sizes depend on the numbers cannot be "
                "streamed: give it sizes, or compress the model in memory"
            )
        with open(self.path, "r+b") as file:
            file.seek(self.places[name][0])
            file.write(stored.data)

    def get(self, name: str) -> Stored:
        """Return a tensor as it stands in the file; a copy."""
        start, end = self.places[name]
        with open(self.path, "rb") as file:
            file.seek(start)
            data = bytearray(end - start)  # torch wants one that could be written to
            file.readinto(data)
        return Stored(
            TYPES[self.tensors[name].dtype], tuple(self.tensors[name].shape), memoryview(data)
        )

    def finish(self, notes: Mapping[str, str]) -> None:
        """Write the header anew, with other notes of the same length."""
        head, _ = header(self.tensors, notes)
        if len(head) != len(self.head):
            raise ValueError(f"a header of {len(head)} bytes has no place in {len(self.head)}")
        with open(self.path, "r+b") as file:
            file.write(head)
            file.flush()
            os.fsync(file.fileno())

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        with open(self.path, "r+b") as file:
            os.fsync(file.fileno())


class Journal:
    """A file of lines of JSON that only grows; each line is on the disk before the next thing is
    done. A line that a kill cut short is taken away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[dict]:
        """Yield what was written down, oldest first."""
        if not self.path.is_file():
            return
        whole, mark, _ = self.path.read_bytes().rpartition(b"\n")
        with open(self.path, "r+b") as file:
            file.truncate(len(whole + mark))
        for line in whole.splitlines():
            yield json.loads(line)

    def add(self, entry: Mapping) -> None:
        """Write a line down."""
        with telling(self.path):
            self.path.touch()
            with open(self.path, "r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
