"""Integers of 1 to 8 bits in a gapless stream of bytes, and back."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn


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
    offset = codes.flatten().to(torch.int16) - qmin
    if offset.numel() and not 0 <= int(offset.min()) <= int(offset.max()) < 2**bits:
        raise ValueError(
            f"codes must lie in {qmin} .. {qmin + 2**bits - 1} for {bits} bits, got "
            f"{int(codes.min())} .. {int(codes.max())}"
        )
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)  # a byte per bit, not eight
    stream = ((offset.to(torch.uint8)[:, None] >> places[:bits]) & 1).flatten()
    stream = nn.functional.pad(stream, (0, -stream.numel() % 8)).reshape(-1, 8)
    return (stream << places).sum(1, dtype=torch.uint8)


def unpack_bits(
    packed: UInt8[Tensor, "_"], bits: int, qmin: int, shape: tuple[int, ...]
) -> Int[Tensor, "..."]:
    """Return the int16 codes that ``pack_bits`` wrote.

    >>> codes = torch.randint(-4, 4, (5, 3))
    >>> torch.equal(unpack_bits(pack_bits(codes, 3, -4), 3, -4, (5, 3)), codes.to(torch.int16))
    True
    """
    numel = torch.Size(shape).numel()
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = ((packed[:, None] >> places) & 1).flatten()[: numel * bits].reshape(numel, bits)
    return ((stream << places[:bits]).sum(1, dtype=torch.int16) + qmin).reshape(shape)
