"""Packed tensors under an N:M mask: the kept codes, and their places in the groups."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..guarded import fit
from ..registry import build, register, spec_of
from ..sparsity.nm import NMMask, grouped, ungrouped
from .codes import pack_bits, unpack_bits
from .packed import Packed


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

    def rows(self, packed: Tensor, ids: Tensor) -> None:
        """Nothing: the kept numbers of a row need not stand together."""

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
