"""Streams of codes to what an operator wants, in operators that an engine runs once, at loading.

Every input is a constant, so onnxruntime folds these nodes away before the first call: the file
holds the stream of ``storage.codes``, memory holds what the operator reads.
"""

import numpy as np

from ..sparsity.patterns import Pattern
from .graph import Writer
from .grids import Weight


def codes(w: Writer, weight: Weight) -> str:
    """Return the codes of a weight as uint8, in its shape, counted from 0."""
    return w.once((weight.name, "codes"), lambda: _codes(w, weight))


def _codes(w: Writer, weight: Weight) -> str:
    if weight.form is None:
        whole = len(weight.stream) % weight.bits == 0
        source = stream(w, weight) if whole else weight.stream
        return reshape(w, unpacked(w, source, weight.bits, weight.numel, weight.name), weight.shape)
    form = weight.form.form
    kept = weight.form.groups * form.keep
    flat = unpacked(w, weight.stream, weight.bits, kept, weight.name)
    return spread(w, weight, flat, weight.hole, np.uint8)


def stream(w: Writer, weight: Weight) -> str:
    """Return the bytes of a weight, which all who read it share."""
    return w.once((weight.name, "stream"), lambda: w.constant(weight.stream, np.uint8, weight.name))


def spread(w: Writer, weight: Weight, kept: str, hole: float | int, dtype: type) -> str:
    """Put the kept numbers of an N:M mask in their places, ``hole`` elsewhere."""
    module, form = weight.form, weight.form.form
    runs = unpacked(
        w, weight.places, form.place_bits, module.groups * form.keep // form.run, weight.name
    )
    runs = w.add("Cast", [runs], to=7)  # int64
    if form.run > 1:
        runs = reshape(w, runs, (-1, 1))
        runs = w.add("Mul", [runs, w.constant(form.run, np.int64)])
        runs = w.add("Add", [runs, w.constant(np.arange(form.run), np.int64)])
    at = reshape(w, runs, (module.groups, form.keep))
    shape = w.constant([module.groups, form.group], np.int64)
    empty = w.add("Expand", [w.constant(hole, dtype), shape])
    full = w.add(
        "ScatterElements", [empty, at, reshape(w, kept, (module.groups, form.keep))], axis=1
    )
    return _ungrouped(w, full, weight)


def _ungrouped(w: Writer, full: str, weight: Weight) -> str:
    """As ``sparsity.nm.ungrouped``."""
    front, axis = list(weight.shape), weight.form.axis % len(weight.shape)
    width = front.pop(axis)
    whole = -(-width // weight.form.form.group) * weight.form.form.group
    rows = reshape(w, full, (*front, whole))
    if whole > width:
        ends = [w.constant([n], np.int64) for n in (0, width, len(front))]
        rows = w.add("Slice", [rows, *ends])
    if axis == len(front):
        return rows
    order = [*range(len(front))]
    order.insert(axis, len(front))
    return w.add("Transpose", [rows], perm=order)


def by_group(w: Writer, weight: Weight) -> str | None:
    """Return the codes of an N:M weight as ``packed`` does, by one look into a table for a group.

    What a group holds, its codes and their places, is a number below 2^12 for 2:4 at 4 bits, and
    the table has the bytes of every such group. One index for a group takes a fraction of the
    memory of ``spread``, which wants one of 64 bits for every kept number.

    None where a group's codes or places do not fill bytes evenly, or groups leave the last axis.
    """
    module, bits = weight.form, weight.bits
    if module is None or bits is None:
        return None
    form, last = module.form, module.axis % len(weight.shape) == len(weight.shape) - 1
    each, where = form.keep * bits, form.keep // form.run * form.place_bits
    whole = (
        8 % each == 0 == 8 % where and form.group * bits % 8 == 0 == weight.shape[-1] % form.group
    )
    if not last or not whole or form.run > 1:
        return None
    words = unpacked(w, weight.stream, each, module.groups, weight.name)
    places = unpacked(w, weight.places, where, module.groups, weight.name)
    pairs = w.add("Concat", [reshape(w, line, (-1, 1)) for line in (words, places)], axis=1)
    index = w.add("MatMulInteger", [pairs, w.constant([[2**where], [1]], np.uint8)])  # in 32 bits
    key = form.keep, form.group, bits, weight.hole, "groups"
    table = w.once(key, lambda: w.constant(_groups(form, bits, weight.hole), np.uint8))
    return w.add("Gather", [table, index], axis=0)


def _groups(form: Pattern, bits: int, hole: int) -> np.ndarray:
    """Return the bytes of every group: row by codes, then places, lowest bits first."""
    each, where = form.keep * bits, form.keep * form.place_bits
    words, places = (x.ravel() for x in np.mgrid[: 2**each, : 2**where])
    full = np.full((len(words), form.group), hole)
    for k in range(form.keep):
        place = places >> k * form.place_bits & 2**form.place_bits - 1
        full[np.arange(len(full)), place] = words >> k * bits & 2**bits - 1
    return packed_rows(full, bits, (len(full), form.group * bits // 8))


def unpacked(w: Writer, source: np.ndarray | str, bits: int, count: int, name: str) -> str:
    """Return the ``count`` codes of a stream as a line of uint8; eight codes are ``bits`` bytes."""
    if isinstance(source, np.ndarray):
        missing = -len(source) % bits if bits < 8 else 0
        source = w.constant(np.pad(source, (0, missing)), np.uint8, name)
    if bits == 8:
        return source
    if 8 % bits == 0:  # whole codes in a byte: bytes are enough, and memory at loading counts
        shifts = w.constant([bits * k for k in range(8 // bits)], np.uint8)
        found = w.add("BitShift", [reshape(w, source, (-1, 1)), shifts], direction="RIGHT")
        found = w.add("Mod", [found, w.constant(2**bits, np.uint8)])
        return _first(w, reshape(w, found, (-1,)), count)
    wide = w.add("Cast", [reshape(w, source, (-1, bits))], to=7)  # int64 holds 56 bits
    places = w.constant([256**k for k in range(bits)], np.int64)
    axis = w.constant([1], np.int64)
    eight = w.add("ReduceSum", [w.add("Mul", [wide, places]), axis], keepdims=1)
    shifted = w.add("Div", [eight, w.constant([2 ** (bits * k) for k in range(8)], np.int64)])
    found = w.add("Cast", [w.add("Mod", [shifted, w.constant(2**bits, np.int64)])], to=2)  # uint8
    return _first(w, reshape(w, found, (-1,)), count)


def _first(w: Writer, line: str, count: int) -> str:
    """Return the first so many of a line that is filled up to whole bytes."""
    if count % 8 == 0:
        return line
    ends = [w.constant([n], np.int64) for n in (0, count, 0)]
    return w.add("Slice", [line, *ends])


def packed(w: Writer, codes: str, bits: int, shape: tuple[int, ...]) -> str:
    """Return codes that stand in whole bytes, the lowest first, in a shape of bytes."""
    if bits == 8:
        return reshape(w, codes, shape)
    each = 8 // bits
    rows, total = reshape(w, codes, (-1, each)), None
    for k in range(each):
        one = w.add("Gather", [rows, w.constant(k, np.int64)], axis=1)
        one = w.add("BitShift", [one, w.constant(bits * k, np.uint8)], direction="LEFT")
        total = one if total is None else w.add("BitwiseOr", [total, one])
    return reshape(w, total, shape)


def floats(w: Writer, weight: Weight) -> str:
    """Return the numbers of a weight.

    Matrices and cores become floats at loading; what has more axes, such as a convolution, stays in
    codes for DequantizeLinear at each call. (In front of a product, onnxruntime would round what
    DequantizeLinear is multiplied with.)
    """
    return w.once((weight.name, "floats"), lambda: _floats(w, weight))


def _floats(w: Writer, weight: Weight) -> str:
    if weight.bits is None:
        return spread(w, weight, w.constant(weight.stream, np.float32, weight.name), 0, np.float32)
    found = codes(w, weight)
    whole = np.clip(np.rint(weight.zero), 0, 255)
    if weight.core or len(weight.shape) < 3 or not np.array_equal(whole, weight.zero):
        rows = reshape(w, w.add("Cast", [found], to=1), (weight.groups, -1))  # float
        zero = w.constant(weight.zero.reshape(-1, 1))
        rows = w.add("Mul", [w.add("Sub", [rows, zero]), w.constant(weight.scale.reshape(-1, 1))])
        return reshape(w, rows, weight.shape)
    if weight.groups == 1:
        pair = w.constant(weight.scale[0]), w.constant(whole[0], np.uint8)
        return w.add("DequantizeLinear", [found, *pair])
    pair = w.constant(weight.scale), w.constant(whole, np.uint8)
    if weight.groups == weight.shape[0]:
        return w.add("DequantizeLinear", [found, *pair], axis=0)
    rows = reshape(w, found, (weight.groups, -1))
    return reshape(w, w.add("DequantizeLinear", [rows, *pair], axis=0), weight.shape)


def reshape(w: Writer, x: str, shape: tuple[int, ...]) -> str:
    """Return a tensor in another shape."""
    return w.add("Reshape", [x, w.constant(shape, np.int64)])


def packed_rows(table: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return a table's codes as ``packed`` does, here and now, each row filled up with zeros."""
    each, size = 8 // bits, int(np.prod(shape[1:])) * 8 // bits
    padded = np.pad(table.astype(np.uint8), ((0, 0), (0, size - table.shape[1])))
    digits = padded.reshape(len(table), -1, each) << (bits * np.arange(each)).astype(np.uint8)
    return np.bitwise_or.reduce(digits, axis=-1).astype(np.uint8).reshape(shape)
