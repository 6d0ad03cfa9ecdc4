"""What a packed tensor is: a gapless stream of codes in a buffer, and a module that reads it.

A packed tensor keeps its place in the model: the module's attribute still yields the float values,
computed from the buffer. ``storage_nm`` has the module for tensors under an N:M mask.
"""

import copy

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from .grid import decode, grid_is_a_scale
from .quantize import positive
from .registry import build, register, spec_of
from .shapes import packed_bytes


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


@register
class Packed(nn.Module):
    """Yield scale * code from packed codes; stands on a tensor in place of its quantizer. One with
    more than a scale (clips, a zero point) is kept as ``grid`` and decodes by itself.

    Args:
        shape: shape of the float tensor.
        quantizer: class name and arguments of the quantizer that made the codes, for ``unpack``.
        bits, qmin: of the codes.

    The float values are computed at the first use and kept until the codes or the scale change.
    """

    def __init__(
        self, shape: list[int], bits: int | None, qmin: int | None, quantizer: dict | None
    ) -> None:
        super().__init__()
        self.shape, self.bits, self.qmin, self.quantizer = tuple(shape), bits, qmin, quantizer
        like = None if quantizer is None else build(quantizer)
        plain = like is None or grid_is_a_scale(like)
        self.grid = None if plain else like.requires_grad_(False).eval()
        scale = like.scale.detach() if like is not None and plain else None
        self.register_buffer("scale", None if scale is None else torch.full_like(scale, torch.nan))
        self._kept: tuple | None = None

    @classmethod
    def of(cls, x: Float[Tensor, "..."], q: nn.Module) -> tuple["Packed", UInt8[Tensor, "_"]]:
        """Return the module and the stream for a tensor and its quantizer."""
        packed = cls(list(x.shape), q.bits, q.qmin, spec_of(q)).to(x.device)
        return packed._take(q), pack_bits(q.codes(x), q.bits, q.qmin)

    def _take(self, q: nn.Module) -> "Packed":
        if self.grid is None:
            self.scale = positive(q.scale.detach()).clone()
        else:
            self.grid = copy.deepcopy(q).requires_grad_(False).eval()
        return self

    def _decode(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return decode(codes, self.scale) if self.grid is None else self.grid.decode(codes)

    def blank(self, like: Tensor) -> Tensor:
        """Return an empty stream, to be loaded, on the device of a tensor."""
        size = packed_bytes(torch.Size(self.shape).numel(), self.bits)
        return torch.zeros(size, dtype=torch.uint8, device=like.device)

    def stages(self) -> list[nn.Module]:
        """Return what stood on the tensor before it was packed."""
        if self.grid is not None:
            return [copy.deepcopy(self.grid).requires_grad_()]
        q = build(self.quantizer).to(self.scale)
        q.scale.data.copy_(self.scale)
        return [q]

    def forward(self, packed: Tensor) -> Float[Tensor, "..."]:
        parts = [packed, *self.parameters(), *self.buffers()]
        if torch.compiler.is_compiling() or any(part.is_inference() for part in parts):
            return self._values(packed)  # these count no versions, so nothing tells of a change
        stamp = [(part.data_ptr(), part._version, part.dtype) for part in parts]
        # someone may have written into the kept values too, as weight initializers do: version 0
        if self._kept is None or self._kept[0] != stamp or self._kept[1]._version:
            with torch.inference_mode(False):  # kept for later calls, which may want gradients
                self._kept = (stamp, self._values(packed))
        return self._kept[1]

    def _values(self, packed: Tensor) -> Float[Tensor, "..."]:
        return self._decode(unpack_bits(packed, self.bits, self.qmin, self.shape))

    def config(self) -> dict:
        """Return the arguments that rebuild this module."""
        return {
            "shape": list(self.shape),
            "bits": self.bits,
            "qmin": self.qmin,
            "quantizer": self.quantizer,
        }

    def extra_repr(self) -> str:
        return f"shape={self.shape}, bits={self.bits}"
