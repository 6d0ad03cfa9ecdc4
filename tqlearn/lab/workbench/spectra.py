"""The decomposition of each matrix, made once: a rank is a slice of it.

Of a matrix and its singular triples one basis is enough, that of the short side: the other one is
the matrix times it. Kept on disk by the digest of the weight, and read when a rank asks for it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...factors.svd import check_finite, enough, squares, tails, truncated_svd
from ...precision import widened
from ...storage.digests import Stored
from ...writing import beside

FORMAT = "tqlearn workbench 1"


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix and the basis of its short side, (short, short), rows first.

    The basis is in memory, or in the file at ``place``, which is read as far as a rank needs it.
    """

    values: Float[Tensor, "short"]
    lost: Float[Tensor, "_"]  # the norm that each rank loses, from rank 0
    norm: float
    basis: Float[Tensor, "short short"] | None
    place: Path | None = None

    @classmethod
    def of(cls, matrix: Float[Tensor, "m n"]) -> "Spectrum":
        """Decompose a matrix, as ``LowRank`` does.

        Raises:
            ValueError: it has a NaN or infinite entry.
        """
        check_finite(matrix)
        wide = widened(matrix)
        u, s, v, dropped = truncated_svd(wide, min(wide.shape))
        basis = v if wide.shape[0] >= wide.shape[1] else u.T
        return cls(s, tails(s, dropped), float(squares(wide).sqrt()), basis.contiguous())

    def error(self, rank: int) -> float:
        """Return the relative error of the nearest matrix of a rank."""
        return float(self.lost[min(rank, len(self.values))]) / self.norm if self.norm else 0.0

    def rank(self, error: float) -> int:
        """Return the rank that a relative error needs."""
        return enough(self.lost, error * self.norm)

    def pair(self, matrix: Float[Tensor, "m n"], rank: int) -> tuple[Tensor, Tensor]:
        """Return the factors (m, rank) and (rank, n) of the nearest matrix of a rank."""
        wide, tall = widened(matrix), matrix.shape[0] >= matrix.shape[1]
        near, root = self._leading(matrix, rank).to(wide), self.values[:rank].sqrt().to(wide)
        other = wide @ near.T if tall else (near @ wide).T  # its columns are as long as the values
        other = torch.where(root > 0, other / root, 0.0)
        near = root[:, None] * near
        left, right = (other, near) if tall else (near.T, other.T)
        return left.to(matrix.dtype), right.to(matrix.dtype)

    def _leading(self, matrix: Tensor, rank: int) -> Float[Tensor, "rank short"]:
        if self.basis is not None:
            return self.basis[:rank]
        try:
            with safe_open(str(self.place), "pt") as file:
                return file.get_slice("basis")[:rank]
        except (OSError, SafetensorError):  # somebody has deleted or damaged the file
            return Spectrum.of(matrix).basis[:rank]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return 32 letters that tell a layer's numbers from any others."""
    told = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        stored = Stored.of(tensor)
        told.update(f"{name} {stored.dtype} {stored.shape}".encode())
        told.update(stored.data)
    return told.hexdigest()


class Shelf:
    """Spectra on disk, one file for each digest; in memory where no folder is given.

    ``trouble`` has the words of the disk where it takes no files.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.memory, self.trouble = folder, {}, ""

    def get(self, key: str) -> Spectrum | None:
        """Return a spectrum that was put, in this session or an earlier one."""
        if key in self.memory:
            return self.memory[key]
        place = None if self.folder is None else self.folder / f"{key}.safetensors"
        if place is None or not place.is_file():
            return None
        try:
            with safe_open(str(place), "pt") as file:
                notes = file.metadata() or {}
                if notes.get("format") != FORMAT:
                    return None
                parts = {name: file.get_tensor(name).clone() for name in ("values", "lost")}
                if [*file.get_slice("basis").get_shape()] != [len(parts["values"])] * 2:
                    return None
            norm = float(notes["norm"])
            self.memory[key] = Spectrum(**parts, norm=norm, basis=None, place=place)
        except (SafetensorError, KeyError, ValueError):
            return None  # cut short or foreign: it is decomposed anew
        return self.memory[key]

    def put(self, key: str, found: Spectrum) -> Spectrum:
        """Keep a spectrum."""
        self.memory[key] = found
        if self.folder is None or self.trouble:
            return found
        parts = {"values": found.values, "basis": found.basis, "lost": found.lost}
        notes = {"format": FORMAT, "norm": repr(found.norm)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with beside(self.folder / f"{key}.safetensors") as new:
                save_file({k: t.contiguous() for k, t in parts.items()}, new, metadata=notes)
        except OSError as error:
            self.trouble = f"decompositions are not kept on disk: {error}"
            return found
        del self.memory[key]  # from now on the basis lies in the file
        return self.get(key) or found
