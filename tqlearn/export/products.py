"""Products with a weight in codes: MatMulNBits of floats, MatMul of bytes for rounded inputs."""

import numpy as np

from . import unpacking
from .graph import CONTRIB, Writer
from .grids import Rounding, Weight
from .unpacking import packed_rows, reshape

BLOCKS = (256, 128, 64, 32, 16)  # of MatMulNBits


class Product:
    """x W^T for a weight in codes, (out, in) if ``stored`` that way, else (in, out)."""

    def __init__(self, w: Writer, weight: Weight, stored: bool) -> None:
        self.w, self.weight, self.stored = w, weight, stored
        self.out, self.inner = weight.shape if stored else weight.shape[::-1]
        self.zeros = np.clip(np.rint(weight.zero), 0, 2**weight.container - 1).astype(np.uint8)
        self.rest = ((self.zeros - weight.zero) * weight.scale).astype(np.float32)

    @property
    def by_row(self) -> bool:
        """One scale serves all of an output's numbers."""
        return self.weight.groups == 1 or self.stored and self.weight.run % self.inner == 0

    @property
    def block(self) -> int | None:
        """Return how many neighbors MatMulNBits gives a scale; None where it cannot."""
        if self.by_row:
            whole = [b for b in BLOCKS if self.inner % b == 0]
            return whole[0] if whole else 16
        if not self.stored or self.inner % self.weight.run or self.rest.any():
            return None
        return next((b for b in BLOCKS if self.weight.run % b == 0), None)

    def nbits(self, x: str) -> str:
        """Return MatMulNBits of x, and what zeros between two codes add to it."""
        w, weight, block = self.w, self.weight, self.block
        bits, blocks = weight.container, -(-self.inner // block)
        key = weight.name, self.stored, "blob"
        inputs = [x, w.once(key, self._blob), self._per_block(weight.scale, (self.out, blocks))]
        if (self.zeros != 2 ** (bits - 1)).any():
            inputs.append(self._zero_points(bits, blocks))
        sizes = {"K": self.inner, "N": self.out, "bits": bits, "block_size": block}
        y = w.add("MatMulNBits", inputs, CONTRIB, **sizes)
        return self._with_rest(y, x)

    def _with_rest(self, y: str, x: str) -> str:
        if not self.rest.any():
            return y
        total = self.w.add("ReduceSum", [x, self.w.constant([-1], np.int64)], keepdims=1)
        return self.w.add("Add", [y, self.w.add("Mul", [total, self._per_row(self.rest)])])

    def _per_row(self, values: np.ndarray, dtype: type = np.float32) -> str:
        rows = values if values.size == 1 else np.repeat(values, self.out // values.size)
        return self.w.constant(rows, dtype)

    def _blob(self) -> str:
        """Return the codes as (out, blocks, bytes); the stream itself where it has that order."""
        w, weight, bits, block = self.w, self.weight, self.weight.container, self.block
        blocks = -(-self.inner // block)
        shape = (self.out, blocks, block * bits // 8)
        if weight.direct and self.stored and self.inner % block == 0:
            return reshape(w, unpacking.stream(w, weight), shape)
        if weight.direct:
            table = weight.codes() if self.stored else weight.codes().T
            return w.constant(packed_rows(table, bits, shape), np.uint8, weight.name)
        if self.stored and self.inner % block == 0 and (found := unpacking.by_group(w, weight)):
            return reshape(w, found, shape)
        found = unpacking.codes(w, weight)
        if not self.stored:
            found = w.add("Transpose", [found], perm=[1, 0])
        if (missing := blocks * block - self.inner) > 0:
            ends = w.constant([0, 0, 0, missing], np.int64)
            found = w.add("Pad", [found, ends, w.constant(0, np.uint8)])
        return unpacking.packed(w, found, bits, shape)

    def _per_block(self, values: np.ndarray, shape: tuple[int, int]) -> str:
        """Return one number for each block; the file holds one for each group."""
        w, rows = self.w, shape[0]
        if values.size == 1:
            return w.add("Expand", [w.constant(values.reshape(1, 1)), w.constant(shape, np.int64)])
        if self.by_row:
            column = np.repeat(values, rows // values.size).reshape(-1, 1)
            return w.add("Expand", [w.constant(column), w.constant(shape, np.int64)])
        table = values.reshape(rows, -1)
        if table.shape == shape:
            return w.constant(table)
        wide = w.constant([*table.shape, shape[1] // table.shape[1]], np.int64)
        return reshape(w, w.add("Expand", [w.constant(table[..., None]), wide]), shape)

    def _zero_points(self, bits: int, blocks: int) -> str:
        """Return the zero points of each row of blocks, packed as codes are."""
        w, size = self.w, -(-blocks * bits // 8)
        if not self.by_row:
            table = np.repeat(
                self.zeros.reshape(self.out, -1), blocks * self.out // self.zeros.size, 1
            )
            return w.constant(packed_rows(table, bits, (self.out, size)), np.uint8)
        each = np.repeat(self.zeros, 8 // bits).reshape(-1, 8 // bits)  # the same in every place
        column = packed_rows(each, bits, (len(each), 1))
        column = column if len(each) == 1 else np.repeat(column, self.out // len(each), 0)
        shape = w.constant([self.out, size], np.int64)
        return w.add("Expand", [w.constant(column, np.uint8), shape])

    def integers(self, x: str, rounding: Rounding) -> str:
        """Return MatMul of two DequantizeLinear, (.., in) x (in, out): an integer product."""
        w, weight = self.w, self.weight
        shift = self._shift(rounding.levels)
        q = w.once((weight.name, self.stored, shift), lambda: self._bytes(shift))
        axis = {}
        scale, zero = weight.scale[0], self.zeros[0]
        if weight.groups > 1:
            repeats = self.out // weight.groups
            scale, zero = np.repeat(weight.scale, repeats), np.repeat(self.zeros, repeats)
            axis = {"axis": 1}
        zero = w.constant(zero.astype(np.int16) - shift, np.int8 if shift else np.uint8)
        dense = w.add("DequantizeLinear", [q, w.constant(scale), zero], **axis)
        y = self._with_rest(w.add("MatMul", [x, dense]), x)
        if not rounding.shift.any():
            return y
        table = weight.values() if self.stored else weight.values().T
        return w.add("Sub", [y, w.constant(table.sum(1) * rounding.shift[0])])

    def _shift(self, levels: int) -> int:
        """Return what makes signed bytes of the codes, or 0 where they have to stay unsigned.

        A product of signed weights is faster, but a processor without VNNI adds the products of
        two neighbors in 16 bits, where they must fit.
        """
        half = 2 ** (self.weight.bits - 1)
        codes = self.weight.codes().astype(np.int32) - half
        codes = codes if self.stored else codes.T
        for part in (codes.clip(min=0), codes.clip(max=0)):
            pairs = part[:, 1:] + part[:, :-1]
            if (levels - 1) * np.abs(pairs).max(initial=0) > 2**15 - 1:
                return 0
        return half

    def _bytes(self, shift: int) -> str:
        """Return the codes as bytes, (in, out), less the shift."""
        w, weight = self.w, self.weight
        if shift and weight.direct and weight.bits == 8 and not w.has((weight.name, "stream")):
            codes = weight.codes().astype(np.int16) - shift
            return w.constant(codes.T if self.stored else codes, np.int8, weight.name)
        found = unpacking.codes(w, weight)
        if shift:
            found = w.add("Sub", [w.add("Cast", [found], to=5), w.constant(shift, np.int16)])
            found = w.add("Cast", [found], to=3)  # int8
        return w.add("Transpose", [found], perm=[1, 0]) if self.stored else found
