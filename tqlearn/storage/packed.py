"""What a packed tensor is: a gapless stream of codes in a buffer, and a module that reads it.

A packed tensor keeps its place in the model: the module's attribute still yields the float values,
computed from the buffer. ``PackedNM`` is the one for tensors under an N:M mask.
"""

import copy

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from ..precision import Fine
from ..quantizers.grid import decode, grid_is_a_scale
from ..quantizers.rounding import positive
from ..registry import build, register, spec_of
from ..shapes import packed_bytes
from ..sparsity.nm import NMMask, grouped, ungrouped
from ..stages import fit
from .codes import pack_bits, unpack_bits


@register
class Packed(Fine):
    """Yield scale * code from packed codes; stands on a tensor in place of its quantizer. One with
    more than a scale (clips, a zero point) is kept as ``grid`` and decodes by itself.

    Args:
        shape: shape of the float tensor.
        quantizer: class name and arguments of the quantizer that made the codes, for ``unpack``.
        bits, qmin: of the codes.
        frozen: the numbers shall not learn once they are unpacked.

    The float values are computed at the first use and kept until the codes or the scale change.
    Scales stay in float32 when the model is cast to ``dtype``; each value is rounded to it once.
    """

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
        scale = like.scale.detach() if like is not None and plain else None
        self.register_buffer("scale", None if scale is None else torch.full_like(scale, torch.nan))
        self.dtype = torch.get_default_dtype()
        self._kept: tuple | None = None

    def _apply(self, fn, recurse: bool = True) -> nn.Module:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    @classmethod
    def of(cls, x: Float[Tensor, "..."], q: nn.Module) -> tuple["Packed", UInt8[Tensor, "_"]]:
        """Return the module and the stream for a tensor and its quantizer."""
        packed = cls(list(x.shape), q.bits, q.qmin, spec_of(q)).to(x.device, x.dtype)
        return packed._take(q), pack_bits(q.codes(x), q.bits, q.qmin)

    def _take(self, q: nn.Module) -> "Packed":
        if self.grid is None:
            self.scale = positive(q.scale.detach()).clone()
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
        return pack_bits(q.codes(values), self.bits, self.qmin)

    def _decode(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        values = decode(codes, self.scale) if self.grid is None else self.grid.decode(codes)
        return values.to(self.dtype)

    def blank(self, like: Tensor) -> Tensor:
        """Return an empty stream, to be loaded, on the device of a tensor."""
        size = packed_bytes(torch.Size(self.shape).numel(), self.bits)
        return torch.zeros(size, dtype=torch.uint8, device=like.device)

    def stages(self) -> list[nn.Module]:
        """Return what stood on the tensor before it was packed."""
        if self.grid is not None:
            return [copy.deepcopy(self.grid).requires_grad_(not self.frozen)]
        q = build(self.quantizer).to(self.scale)
        q.scale.data.copy_(self.scale)
        return [q.requires_grad_(not self.frozen)]

    def forward(self, packed: Tensor) -> Float[Tensor, "..."]:
        parts = [packed, *self.parameters(), *self.buffers()]
        if torch.compiler.is_compiling() or any(part.is_inference() for part in parts):
            return self._values(packed)  # these count no versions, so nothing tells of a change
        stamp = [self.dtype, *((part.data_ptr(), part._version) for part in parts)]
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
        } | ({"frozen": True} if self.frozen else {})

    def extra_repr(self) -> str:
        return f"shape={self.shape}, bits={self.bits}"


@register
class PackedNM(Packed):
    """Yield a masked tensor from the kept codes and their places in the groups.

    Args:
        shape, bits, qmin, quantizer: as in ``Packed``; without a quantizer the kept floats are
            stored as they are.
        mask: class name and arguments of the mask, for ``unpack``.

    Every group stores exactly N codes with ascending places, also where a kept weight rounded to
    zero. The places are a buffer of their own.

    Source: spec sheet Deep Compression, section 7 and acceptance check 11.
    """

    def __init__(
        self,
        shape: list[int],
        mask: dict,
        bits: int | None = None,
        qmin: int | None = None,
        quantizer: dict | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(shape, bits, qmin, quantizer, frozen)
        like = build(mask)
        self.mask, self.form, self.axis = mask, like.form, like.axis
        self.groups = self.form.groups(self.shape, self.axis)
        size = self.form.place_bytes(self.groups)
        self.register_buffer("places", torch.zeros(size, dtype=torch.uint8))

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "..."],
        q: nn.Module | None,
        mask: NMMask,
        kept: Bool[Tensor, "..."],
    ) -> tuple["PackedNM", Tensor]:
        """Return the module and the stream for a masked tensor, its quantizer and its mask.

        Raises:
            ValueError: the quantizer moves dropped weights off zero, or a group keeps too many.
        """
        spec, form = spec_of(mask), mask.form
        if q is not None and (q(x)[~kept] != 0).any():
            raise ValueError(
                f"{type(q).__name__} turns dropped weights into something else than zero, which a "
                "sparse format cannot store; use a grid that has a zero"
            )
        runs = grouped(kept, form, mask.axis).unflatten(-1, (-1, form.run)).any(-1)
        if (runs.sum(1) > form.keep // form.run).any():
            raise ValueError(f"a group keeps more than {mask.pattern} allows; call remask first")
        # kept ones first, in their order; short groups are filled up with places that hold a zero
        runs = (~runs).byte().argsort(dim=1, stable=True)[:, : form.keep // form.run]
        packed = cls(list(x.shape), spec, *(() if q is None else (q.bits, q.qmin, spec_of(q))))
        packed = packed.to(x.device, x.dtype)
        packed = packed if q is None else packed._take(q)
        packed.places = pack_bits(runs, form.place_bits, 0)
        numbers = grouped(x if q is None else q.codes(x), form, mask.axis)
        numbers = numbers.gather(1, packed._columns())
        return packed, numbers.flatten() if q is None else pack_bits(numbers, q.bits, q.qmin)

    def take(self, values: Float[Tensor, "..."]) -> Tensor:
        """Return the codes of new values, masked; the scale starts anew where that is nearer."""
        mask, *q = self.stages()
        fit([mask, *q], values)
        new, codes = self.of(mask(values), *(q or [None]), mask, mask.mask_for(values))
        self.places = new.places
        if q:
            self._take(q[0])
        return codes

    def blank(self, like: Tensor) -> Tensor:
        """Return an empty stream, to be loaded, on the device of a tensor."""
        if self.quantizer is None:
            return like.new_zeros(self.groups * self.form.keep)
        size = self.form.value_bytes(self.groups, self.bits)
        return torch.zeros(size, dtype=torch.uint8, device=like.device)

    def stages(self) -> list[nn.Module]:
        """Return what stood on the tensor before it was packed: the mask, then the quantizer."""
        mask = build(self.mask).to(self.places.device)
        if mask.mask is not None:
            mask.mask = self.mask_for()
        return [mask] + ([] if self.quantizer is None else super().stages())

    def mask_for(self, packed: Tensor | None = None) -> Bool[Tensor, "..."]:
        """Return the mask: True where a number is stored."""
        shape, device = (self.groups, self.form.keep), self.places.device
        return self._spread(torch.ones(shape, dtype=torch.bool, device=device))

    def _columns(self) -> Int[Tensor, "groups keep"]:
        shape = (self.groups, self.form.keep // self.form.run)
        runs = unpack_bits(self.places, self.form.place_bits, 0, shape).long()
        within = torch.arange(self.form.run, device=runs.device)
        return (runs[..., None] * self.form.run + within).flatten(1)

    def _spread(self, numbers: Tensor) -> Tensor:
        """Put the kept numbers of every group in their places, zeros elsewhere."""
        groups = numbers.new_zeros(self.groups, self.form.group)
        return ungrouped(groups.scatter(1, self._columns(), numbers), self.shape, self.axis)

    def _values(self, packed: Tensor) -> Float[Tensor, "..."]:
        shape = (self.groups, self.form.keep)
        if self.quantizer is None:
            return self._spread(packed.reshape(shape))
        codes = self._spread(unpack_bits(packed, self.bits, self.qmin, shape))
        return self._decode(codes).masked_fill(~self.mask_for(), 0)  # code 0 need not mean zero

    def config(self) -> dict:
        """Return the arguments that rebuild this module."""
        own = {"shape": list(self.shape), "mask": self.mask}
        own |= {"frozen": True} if self.frozen else {}
        return own if self.quantizer is None else super().config() | own

    def extra_repr(self) -> str:
        return f"shape={self.shape}, bits={self.bits}, mask={self.form}"
