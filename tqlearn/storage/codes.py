"""Integers of 1 to 8 bits in a gapless stream of bytes, and back."""

import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from ..shapes import packed_bytes

CHUNK = 2**18  # codes that are turned at a time, so that no copy of a large tensor is held
WORD = {1: 8, 2: 8, 3: 12, 4: 8, 5: 10, 6: 12, 7: 14, 8: 8}  # bits of a word of whole codes
ITEM = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def pack_bits(codes: Int[Tensor, "..."], bits: int, qmin: int) -> UInt8[Tensor, "_"]:
    """Write integers into a gapless stream of bits, the lowest bit of a code first.

    Args:
        codes: integers from ``qmin`` to ``qmin + 2**bits - 1``.
        bits: 1 to 8.
        qmin: the smallest code, stored as 0.

    Raises:
        ValueError: a code does not fit, or bits out of range.

    >>> pack_bits(torch.tensor([-8, 7, 0]), bits=4, qmin=-8).tolist()
    [240, 8]
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, got {bits}")
    codes = codes.flatten()
    if codes.numel() and not qmin <= int(codes.min()) <= int(codes.max()) < qmin + 2**bits:
        raise ValueError(
            f"codes must lie in {qmin} .. {qmin + 2**bits - 1} for {bits} bits, got "
            f"{int(codes.min())} .. {int(codes.max())}"
        )
    places = torch.arange(8, device=codes.device)
    stream = torch.zeros(-(-codes.numel() // 8), bits, dtype=torch.uint8, device=codes.device)
    for start in range(0, codes.numel(), CHUNK):  # eight codes are ``bits`` bytes
        part = codes[start : start + CHUNK].long() - qmin
        part = torch.nn.functional.pad(part, (0, -part.numel() % 8)).reshape(-1, 8)
        eight = (part << bits * places).sum(1, keepdim=True)
        stream[start // 8 :][: len(part)] = (eight >> 8 * places[:bits]) & 255
    return stream.flatten()[: packed_bytes(codes.numel(), bits)].clone()


def unpack_bits(
    packed: UInt8[Tensor, "_"], bits: int, qmin: int, shape: tuple[int, ...]
) -> Int[Tensor, "..."]:
    """Return the int16 codes that ``pack_bits`` wrote.

    >>> codes = torch.randint(-4, 4, (5, 3))
    >>> torch.equal(unpack_bits(pack_bits(codes, 3, -4), 3, -4, (5, 3)), codes.to(torch.int16))
    True
    """
    codes = torch.arange(qmin, qmin + 2**bits, dtype=torch.int16, device=packed.device)
    return look_up(packed, bits, codes, shape)


def look_up(
    packed: UInt8[Tensor, "_"], bits: int, values: Shaped[Tensor, "_"], shape: tuple[int, ...]
) -> Shaped[Tensor, "..."]:
    """Return what stands for each code of a stream: ``values[code - qmin]``, in ``shape``.

    A word of the stream (a byte at 1, 2, 4 and 8 bits) holds whole codes. So one gather from a
    table of what each word stands for gives them all.

    Args:
        packed: from ``pack_bits``.
        values: what the ``2**bits`` codes stand for, lowest first: codes, or floats.
    """
    numel, word = torch.Size(shape).numel(), WORD[bits]
    each, words = word // bits, _words(packed, bits, word)
    digits = torch.arange(2**word, dtype=torch.int32, device=packed.device)[:, None]
    digits = (digits >> bits * torch.arange(each, device=packed.device)) & 2**bits - 1
    table = values[digits]
    item = ITEM.get(each * values.element_size())
    if item is None or torch.compiler.is_compiling():
        found = table[words.long()]
    else:  # the codes of a word move as one number
        found = table.view(item).flatten().index_select(0, words).view(values.dtype)
    return found.flatten()[:numel].reshape(shape)


def _words(packed: UInt8[Tensor, "_"], bits: int, word: int) -> Int[Tensor, "_"]:
    if word == 8:
        return packed.int()
    packed = torch.nn.functional.pad(packed, (0, -packed.numel() % bits)).reshape(-1, bits)
    places = torch.arange(8, device=packed.device)
    eight = sum(packed[:, k].long() << 8 * k for k in range(bits))  # the bytes of eight codes
    starts = word * places[: 8 * bits // word]
    return ((eight[:, None] >> starts) & 2**word - 1).int().flatten()
