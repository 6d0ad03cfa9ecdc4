"""What a packed tensor is: a gapless stream of codes in a buffer, and a module that reads it.

A packed tensor keeps its place in the model: the module's attribute still yields the float values,
computed from the buffer. ``packed_nm`` has the one for tensors under an N:M mask.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ..computed import Computed
from ..guarded import fit
from ..precision import HALF, Fine, widened
from ..quantizers.grid import Quantizer, decode, grid_is_a_scale, stored_in
from ..quantizers.rounding import positive
from ..registry import build, register, spec_of
from ..shapes import packed_bytes
from ..steps import at_hand
from .coded import Coded
from .codes import CHUNK, WORD, look_up, pack_bits, unpack_bits


@register
class Packed(Fine):
    """Yield scale * code from packed codes; stands on a tensor in place of its quantizer. One with
    more than a scale (clips, a zero point) is kept as ``grid`` and decodes by itself.

    Args:
        shape: shape of the float tensor.
        quantizer: class name and arguments of the quantizer that made the codes, for ``unpack``.
        bits, qmin: of the codes.
        frozen: the numbers shall not learn once they are unpacked.

    The float values are computed at every use, those of a table only in the rows that are looked
    up; with ``keep_floats`` they are computed once and kept until the codes or the scale change.
    Scales stay in float32, or in the 16 bits of their quantizer's ``scale_dtype``, when the model
    is cast to ``dtype``; each value is rounded to it once.
    """

    keep_floats = False

    def __init__(
        self,
        shape: list[int],
        bits: int | None,
        qmin: int | None,
        quantizer: dict | None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.shape, self.bits, self.qmin, self.quantizer = tuple(shape), bits, qmin, quantizer
        like = None if quantizer is None else build(quantizer)
        plain = like is None or grid_is_a_scale(like)
        self.grid = None if plain else like.requires_grad_(False).eval()
        scale = None
        if like is not None and plain:
            scale = like.unset() if isinstance(like, Quantizer) else like.scale.detach()
            scale = torch.full_like(scale, torch.nan, dtype=stored_in(like) or scale.dtype)
        self.register_buffer("scale", scale)
        self.dtype = torch.get_default_dtype()
        self._kept: tuple | None = None

    def _apply(self, fn, recurse: bool = True) -> nn.Module:
        self.dtype, scale = fn(torch.empty(0, dtype=self.dtype)).dtype, self.scale
        super()._apply(fn, recurse)
        if scale is not None and scale.dtype in HALF and self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.scale.device)  # a file has 16 bits for it, of this type
        return self

    @classmethod
    def of(cls, x: Float[Tensor, "..."], q: nn.Module) -> tuple["Packed", UInt8[Tensor, "_"]]:
        """Return the module and the stream for a tensor and its quantizer."""
        packed = cls(list(x.shape), q.bits, q.qmin, spec_of(q)).to(x.device, x.dtype)
        return packed._take(q), packed._stream(q, x)

    def _stream(self, q: nn.Module, x: Tensor) -> UInt8[Tensor, "_"]:
        """Pack in parts where the grid is one for all: no second copy of a large tensor is held."""
        if not isinstance(q, Quantizer) or q.groups != 1:
            return pack_bits(q.codes(x), self.bits, self.qmin)
        stream, size = self.blank(x), CHUNK * self.bits // 8
        for i, part in enumerate(x.flatten().split(CHUNK)):  # a list of parts would be a copy too
            piece = pack_bits(q.codes(part), self.bits, self.qmin)
            stream[i * size :][: len(piece)] = piece
        return stream

    def _take(self, q: nn.Module) -> "Packed":
        if self.grid is None:
            used = q.used_scale() if isinstance(q, Quantizer) else q.scale
            used = positive(used.detach()).reshape(self.scale.shape)
            self.scale = used.to(stored_in(q) or used.dtype, copy=True)
        else:
            self.grid = copy.deepcopy(q).requires_grad_(False).eval()
        return self

    def __getattr__(self, name: str) -> object:
        if name in ("scale", "grid"):  # whoever holds them may write, which no version tells
            self.__dict__["_kept"] = None
        return super().__getattr__(name)

    def take(self, values: Float[Tensor, "..."]) -> Tensor:
        """Return the codes of new values; the scale starts anew where that is nearer."""
        (q,) = self.stages()
        fit([q], values)
        self._take(q)
        return self._stream(q, values)

    def _decode(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.grid is None:
            return decode(codes, widened(self.scale)).to(self.dtype)
        with at_hand(self.grid):
            return self.grid.decode(codes).to(self.dtype)

    def blank(self, like: Tensor) -> Tensor:
        """Return an empty stream, to be loaded, on the device of a tensor."""
        size = packed_bytes(torch.Size(self.shape).numel(), self.bits)
        return torch.zeros(size, dtype=torch.uint8, device=like.device)

    def stages(self) -> list[nn.Module]:
        """Return what stood on the tensor before it was packed."""
        if self.grid is not None:
            return [copy.deepcopy(self.grid).requires_grad_(not self.frozen)]
        q = build(self.quantizer).to(self.scale).to(self.dtype)  # neither makes its scale narrower
        q.scale.data.copy_(self.scale)
        return [q.requires_grad_(not self.frozen)]

    def forward(self, packed: Tensor) -> Float[Tensor, "..."]:
        parts = [packed, *self.parameters(), *self.buffers()]
        unseen = torch.compiler.is_compiling() or any(part.is_inference() for part in parts)
        if unseen or not self.keep_floats:  # unseen ones count no versions: nothing tells of change
            return self._values(packed)
        stamp = [self.dtype, *((part.data_ptr(), part._version) for part in parts)]
        # someone may have written into the kept values too, as weight initializers do: version 0
        if self._kept is None or self._kept[0] != stamp or self._kept[1]._version:
            with torch.inference_mode(False):  # kept for later calls, which may want gradients
                self._kept = (stamp, self._values(packed))
        return self._kept[1]

    def shown(self, packed: Tensor, home: Callable[[Tensor], None]) -> Tensor:
        """Return the values for a reader, who may write: new ones go ``home``."""
        if self.keep_floats or torch.compiler.is_compiling():
            return Computed.of(self(packed), home)
        return Coded.of(self, packed, home)

    def rows(self, packed: Tensor, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"] | None:
        """Return some rows of a table, decoded alone; None where a row is not whole bytes."""
        if len(self.shape) != 2 or self.shape[1] * self.bits % (
            8 if WORD[self.bits] == 8 else 8 * self.bits
        ):
            return None
        if not (self._one_scale or self.grid is None and self.scale.numel() % self.shape[0] == 0):
            return None
        stream = packed.reshape(self.shape[0], -1).index_select(0, ids.flatten()).flatten()
        shape = (*ids.shape, self.shape[1])
        if self._one_scale:
            return self._from_table(stream, shape)
        scales = self.scale.reshape(self.shape[0], -1).index_select(0, ids.flatten())
        codes = unpack_bits(stream, self.bits, self.qmin, shape)
        return decode(codes, widened(scales).reshape(-1, 1)).to(self.dtype)

    @property
    def _one_scale(self) -> bool:
        """A code means the same everywhere in the tensor."""
        return self.scale.dim() == 0 if self.grid is None else self.grid.groups == 1

    def _from_table(self, stream: Tensor, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        codes = torch.arange(2**self.bits, dtype=torch.int16, device=stream.device) + self.qmin
        return look_up(stream, self.bits, self._decode(codes), shape)

    def _values(self, packed: Tensor) -> Float[Tensor, "..."]:
        if self._one_scale:
            return self._from_table(packed, self.shape)
        return self._decode(unpack_bits(packed, self.bits, self.qmin, self.shape))

    def config(self) -> dict:
        """Return the arguments that rebuild this module."""
        return {
            "shape": list(self.shape),
            "bits": self.bits,
            "qmin": self.qmin,
            "quantizer": self.quantizer,
        } | ({"frozen": True} if self.frozen else {})

    def extra_repr(self) -> str:
        return f"shape={self.shape}, bits={self.bits}"
