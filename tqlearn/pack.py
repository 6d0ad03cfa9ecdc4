"""Real integer storage: codes of 2 to 8 bits without gaps, their scales, and the way back.

A packed tensor keeps its place in the model: the module's attribute still yields the float values,
computed from a uint8 buffer. So a packed model runs, saves and loads like any other.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .cores import own_class
from .quantize import integer_range, is_quantizer, positive, require_calibrated
from .registry import build, register, spec_of
from .shapes import packed_bytes


def pack_bits(codes: Int[Tensor, "..."], bits: int, qmin: int) -> UInt8[Tensor, "_"]:
    """Write integers into a gapless stream of bits, the lowest bit of a code first.

    Args:
        codes: integers from ``qmin`` to ``qmin + 2**bits - 1``.
        bits: 2 to 8.
        qmin: the smallest code, stored as 0.

    Raises:
        ValueError: a code does not fit.

    >>> pack_bits(torch.tensor([-8, 7, 0]), bits=4, qmin=-8).tolist()
    [240, 8]
    """
    integer_range(bits)
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
    """Yield scale * code from packed codes; stands on a tensor in place of its quantizer.

    Args:
        shape: shape of the float tensor.
        quantizer: class name and arguments of the quantizer that made the codes, for ``unpack``.
        bits, qmin: of the codes.

    The float values are computed at the first use and kept until the codes or the scale change.
    """

    def __init__(self, shape: list[int], bits: int, qmin: int, quantizer: dict) -> None:
        super().__init__()
        self.shape, self.bits, self.qmin, self.quantizer = tuple(shape), bits, qmin, quantizer
        self.register_buffer("scale", torch.tensor(float("nan")))
        self._kept: tuple | None = None

    def forward(self, packed: UInt8[Tensor, "_"]) -> Float[Tensor, "..."]:
        if torch.compiler.is_compiling() or packed.is_inference() or self.scale.is_inference():
            return self._values(packed)  # these count no versions, so nothing tells of a change
        scale = self.scale
        stamp = (packed.data_ptr(), packed._version, scale.data_ptr(), scale._version, scale.dtype)
        # someone may have written into the kept values too, as weight initializers do: version 0
        if self._kept is None or self._kept[0] != stamp or self._kept[1]._version:
            with torch.inference_mode(False):  # kept for later calls, which may want gradients
                self._kept = (stamp, self._values(packed))
        return self._kept[1]

    def _values(self, packed: UInt8[Tensor, "_"]) -> Float[Tensor, "..."]:
        codes = unpack_bits(packed, self.bits, self.qmin, self.shape)
        return codes.to(self.scale.dtype) * self.scale

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


def pack_tensors(model: nn.Module) -> nn.Module:
    """Replace every fake-quantized tensor by its packed codes, in place.

    Raises:
        ValueError: a quantizer has no scale yet.
    """
    require_calibrated(model)
    for module in list(model.modules()):
        for name, chain in list(getattr(module, "parametrizations", {}).items()):
            if is_quantizer(chain[-1]):
                _pack_tensor(module, name, chain)
    return model


@torch.no_grad()
def _pack_tensor(module: nn.Module, name: str, chain: nn.Module) -> None:
    x = chain.original
    for stage in list(chain)[:-1]:  # masks come before the quantizer
        x = stage(x)
    q = chain[-1]
    codes = pack_bits(q.codes(x), q.bits, q.qmin)
    packed = Packed(list(x.shape), q.bits, q.qmin, spec_of(q)).to(codes.device)
    packed.scale = positive(q.scale.detach()).clone()
    strip(module, name)
    place_packed(module, name, packed, codes)


def place_packed(module: nn.Module, name: str, packed: Packed, codes: Tensor | None = None) -> None:
    """Put packed codes in the place of a tensor; without codes, an empty buffer for loading."""
    if codes is None:
        size = packed_bytes(torch.Size(packed.shape).numel(), packed.bits)
        codes = torch.zeros(size, dtype=torch.uint8, device=getattr(module, name).device)
    delattr(module, name)
    module.register_buffer(name, codes)
    parametrize.register_parametrization(own_class(module), name, packed, unsafe=True)


@torch.no_grad()
def strip(module: nn.Module, name: str) -> None:
    """Make the current value of a parametrized tensor an ordinary parameter again."""
    values = getattr(module, name).detach().clone()
    parametrize.remove_parametrizations(own_class(module), name, leave_parametrized=False)
    delattr(module, name)
    module.register_parameter(name, nn.Parameter(values))


def unpack_tensors(model: nn.Module) -> nn.Module:
    """Replace packed codes by trainable floats under the quantizer that made them, in place."""
    for module in list(model.modules()):
        for name, chain in list(getattr(module, "parametrizations", {}).items()):
            if isinstance(chain[-1], Packed):
                packed = chain[-1]
                strip(module, name)
                q = build(packed.quantizer).to(packed.scale.device)
                q.scale.data.copy_(packed.scale)
                parametrize.register_parametrization(own_class(module), name, q, unsafe=True)
    return model


def stored_bits(chain: nn.Module) -> int:
    """Return the bits per number that a parametrized tensor is stored with, 32 if in float."""
    last = chain[-1]
    return last.bits if isinstance(last, Packed) or is_quantizer(last) else 32
