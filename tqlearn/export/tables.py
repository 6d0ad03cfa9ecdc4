"""A table in codes: GatherBlockQuantized decodes the rows that are looked up, and no others."""

from math import gcd

import numpy as np

from . import unpacking
from .graph import CONTRIB, Writer
from .grids import Weight
from .unpacking import packed_rows


def look_up(w: Writer, weight: Weight, ids: str) -> str | None:
    """Return rows of a table by GatherBlockQuantized; None where it cannot hold the grid."""
    if weight.bits is None or weight.shape[1] * weight.container % 8:
        return None
    rows, width = weight.shape
    bits, run = weight.container, weight.run
    zeros = np.clip(np.rint(weight.zero), 0, 2**bits - 1).astype(np.uint8)
    rest = ((zeros - weight.zero) * weight.scale).astype(np.float32)
    if run % width == 0:
        block, blocks = max(16, 1 << (width - 1).bit_length()), 1
    else:
        block = gcd(run, 1 << 30) if width % run == 0 else 0
        blocks = width // block if block else 0
        if block < 16 or rest.any():
            return None
    shape = (rows, blocks)

    def spread(values: np.ndarray, dtype: type) -> str:
        if values.size == 1:
            one = w.constant(values.reshape(1, 1), dtype)
            return w.add("Expand", [one, w.constant(shape, np.int64)])
        return w.constant(_each(values, rows, blocks), dtype)

    inputs = [w.once((weight.name, "table"), lambda: _table(w, weight)), ids]
    inputs.append(spread(weight.scale, np.float32))
    if (zeros != 2 ** (bits - 1)).any():
        packed = packed_rows(_each(zeros, rows, blocks), bits, (rows, -(-blocks * bits // 8)))
        packed = packed[:1, :1] if (packed == packed[0, 0]).all() else packed
        wide = w.constant([rows, -(-blocks * bits // 8)], np.int64)
        inputs.append(w.add("Expand", [w.constant(packed, np.uint8), wide]))
    sizes = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": bits}
    y = w.add("GatherBlockQuantized", inputs, CONTRIB, **sizes)
    if not rest.any():
        return y
    if rest.size == 1:
        return w.add("Add", [y, w.constant(rest[0])])
    column = w.constant(_each(rest, rows, 1))
    return w.add("Add", [y, w.add("Gather", [column, ids], axis=0)])


def _each(values: np.ndarray, rows: int, blocks: int) -> np.ndarray:
    return np.repeat(values, rows * blocks // values.size).reshape(rows, blocks)


def _table(w: Writer, weight: Weight) -> str:
    bits, (rows, width) = weight.container, weight.shape
    shape = (rows, width * bits // 8)
    if weight.direct:
        return unpacking.reshape(w, unpacking.stream(w, weight), shape)
    return unpacking.packed(w, unpacking.codes(w, weight), bits, shape)
