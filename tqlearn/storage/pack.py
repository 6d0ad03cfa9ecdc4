"""Real integer storage: codes of 2 to 8 bits without gaps, their scales, and the way back.

A packed tensor keeps its place in the model: the module's attribute still yields the float values,
computed from a uint8 buffer (see ``packed``). So a packed model runs, saves and loads like any
other.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..kinds import own_class
from ..quantizers.grid import grid_is_a_scale, require_calibrated, stored_in
from ..registry import spec_of
from ..shapes import packed_bytes
from ..sparsity.blocks import BlockMask, RowMask
from ..sparsity.nm import NMMask
from ..stages import is_frozen, is_quantizer, mask_of, put, strip
from .packed import Packed
from .packed_nm import PackedNM
from .tied import retie, ties


def behind_stages(model: nn.Module) -> list[Tensor]:
    """Return the tensors under masks, quantizers or codes: what packing and baking replace."""
    chains = (getattr(module, "parametrizations", {}).values() for module in model.modules())
    return [chain.original for found in chains for chain in found if chain.is_tensor]


def pack_tensors(model: nn.Module) -> nn.Module:
    """Replace every fake-quantized or N:M-masked tensor by its packed codes, in place.

    A block mask becomes plain zeros: what its scores were for is over. On meta the codes are empty.

    Raises:
        ValueError: a quantizer has no scale yet.
    """
    if not all(t.is_meta for t in (*model.parameters(), *model.buffers())):
        require_calibrated(model)
    groups = ties(model)
    for module in list(model.modules()):
        for name, chain in list(getattr(module, "parametrizations", {}).items()):
            if is_quantizer(chain[-1]) or isinstance(chain[-1], NMMask):
                _pack_tensor(module, name, chain)
            elif isinstance(chain[-1], BlockMask | RowMask):
                strip(module, name)
    return retie(model, groups)


@torch.no_grad()
def _pack_tensor(module: nn.Module, name: str, chain: nn.Module) -> None:
    *before, q = [*chain] if is_quantizer(chain[-1]) else [*chain, None]
    masks = [stage for stage in before if isinstance(stage, NMMask)]
    x = chain.original
    for stage in before if not x.is_meta else ():  # masks come before the quantizer
        x = stage(x)
    if x.is_meta:
        packed, codes = _outlined(x, q, masks), None
    elif masks:
        packed, codes = PackedNM.of(x, q, masks[-1], mask_of(module, name))
    else:
        packed, codes = Packed.of(x, q)
    packed.frozen = is_frozen(module, name)
    parametrize.remove_parametrizations(own_class(module), name, leave_parametrized=False)
    place_packed(module, name, packed, codes)


def _outlined(x: Tensor, q: nn.Module | None, masks: list[NMMask]) -> Packed:
    """Return what would hold the codes of a tensor on meta."""
    grid = () if q is None else (q.bits, q.qmin, spec_of(q))
    with torch.device("meta"):
        if masks:
            return PackedNM(list(x.shape), spec_of(masks[-1]), *grid).to(x.dtype)
        return Packed(list(x.shape), *grid).to(x.dtype)


def place_packed(module: nn.Module, name: str, packed: Packed, codes: Tensor | None = None) -> None:
    """Put packed codes in the place of a tensor; without codes, an empty buffer for loading."""
    if codes is None:
        codes = packed.blank(getattr(module, name).detach())
    delattr(module, name)
    module.register_buffer(name, codes)
    put(module, name, packed)


def unpack_tensors(model: nn.Module) -> nn.Module:
    """Replace packed codes by trainable floats under the quantizer that made them, in place."""
    for module in list(model.modules()):
        for name, chain in list(getattr(module, "parametrizations", {}).items()):
            if isinstance(chain[-1], Packed):
                stages = chain[-1].stages()
                strip(module, name)
                for stage in stages:
                    stage.train(module.training)
                    put(module, name, stage)
    return model


def stored_bits(chain: nn.Module) -> int:
    """Return the bits per stored number of a parametrized tensor, those of its type if in float."""
    bits = chain[-1].bits if isinstance(chain[-1], Packed) or is_quantizer(chain[-1]) else None
    return 8 * chain.original.element_size() if bits is None else bits


def stored_bytes(chain: nn.Module, numel: int) -> tuple[int, int]:
    """Return the bytes of a parametrized tensor once it is packed: (numbers, what decoding needs).

    Under an N:M mask the numbers are the kept ones, and decoding needs their places.
    """
    bits, needed = stored_bits(chain), 0
    masks = [stage for stage in chain if isinstance(stage, NMMask | PackedNM)]
    for stage in chain:
        if not isinstance(stage, NMMask | BlockMask | RowMask):  # places, or plain zeros
            needed += _bytes_beside(stage)
    if not masks:
        return packed_bytes(numel, bits), needed
    form = masks[-1].form
    groups = form.groups(masks[-1].shape, masks[-1].axis)
    if isinstance(masks[-1], NMMask):
        needed += form.place_bytes(groups)
    return form.value_bytes(groups, bits), needed


def _bytes_beside(stage: nn.Module) -> int:
    """Return the bytes of a stage's own numbers in a packed file."""
    short = stored_in(stage) if grid_is_a_scale(stage) else None  # others are kept as they are
    held = [*stage.parameters(), *stage.buffers()]
    return sum(t.numel() * (short or t.dtype).itemsize for t in held)


def bake_tensors(model: nn.Module) -> nn.Module:
    """Turn every parametrized tensor into a plain parameter with its present value, in place."""
    groups = ties(model)
    for module in list(model.modules()):
        for name, parametrized in list(getattr(module, "parametrizations", {}).items()):
            if parametrized.is_tensor:
                strip(module, name)
    return retie(model, groups)
