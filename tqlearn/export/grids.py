"""What codes stand for, as other engines see it: (code - zero) * scale, codes counted from 0.

Every quantizer of ours is such a grid, with one pair of numbers for a tensor, or one for each of
``groups`` equal rows of it. That it is, is tried on the tensor itself, so that a quantizer of one's
own is refused if it is none.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..quantizers.rounding import positive
from ..storage.codes import unpack_bits
from ..storage.packed import Packed
from ..storage.packed_nm import PackedNM

CLOSE = 1e-5  # of the largest number: what a float32 product may lose


@dataclass(eq=False)
class Weight:
    """A packed tensor: its stream of bytes and what stands in it.

    Args:
        name: of the tensor in the model.
        shape: of the tensor.
        stream: bytes of the codes, lowest bits first; kept floats where ``bits`` is None.
        bits: of a code; None for the kept floats of an N:M mask without a quantizer.
        scale, zero: one number, or one for each of ``groups`` rows.
        places: of the kept numbers under an N:M mask, and the module that knows the pattern.
        core: it is a factor of a factored layer.
        made: it is computed from factors when the file is loaded, which holds none of its codes.
    """

    name: str
    shape: tuple[int, ...]
    stream: np.ndarray
    bits: int | None
    scale: np.ndarray
    zero: np.ndarray
    places: np.ndarray | None = None
    form: PackedNM | None = field(default=None, repr=False)
    core: bool = False
    made: bool = False

    @property
    def groups(self) -> int:
        """How many rows of equal length have a scale of their own."""
        return self.scale.size

    @property
    def numel(self) -> int:
        """Numbers in the tensor."""
        return int(np.prod(self.shape))

    @property
    def run(self) -> int:
        """Neighbors that share a scale."""
        return self.numel // self.groups

    @property
    def container(self) -> int:
        """Bits of a code where codes stand in 2, 4 or 8 of them."""
        return 2 if self.bits == 2 else 4 if self.bits <= 4 else 8

    @property
    def direct(self) -> bool:
        """Say whether the stream is what engines read: whole codes at 2, 4 or 8 bits."""
        return self.form is None and not self.made and self.bits in (2, 4, 8)

    def codes(self) -> np.ndarray:
        """Return the codes, counted from 0, in the tensor's shape; not of kept floats."""
        if self.made:
            return self.stream.reshape(self.shape)
        stream, shape = torch.from_numpy(self.stream), self.shape
        if self.form is None:
            return unpack_bits(stream, self.bits, 0, shape).numpy().astype(np.uint8)
        kept = unpack_bits(stream, self.bits, 0, (self.form.groups, self.form.form.keep))
        mask = self.form.mask_for().numpy()
        return np.where(mask, self.form._spread(kept).numpy(), self.hole).astype(np.uint8)

    @property
    def hole(self) -> int:
        """The code of zero, where a mask has left nothing."""
        return int(round(float(self.zero.flat[0])))

    def values(self) -> np.ndarray:
        """Return the floats."""
        rows = self.codes().reshape(self.groups, -1).astype(np.float64)
        zero, scale = (x.reshape(-1, 1).astype(np.float64) for x in (self.zero, self.scale))
        return ((rows - zero) * scale).astype(np.float32).reshape(self.shape)


@torch.no_grad()
def weight_of(name: str, packed: Packed, stream: Tensor, core: bool = False) -> Weight:
    """Return what a packed tensor is to an engine.

    Raises:
        ValueError: with the name, if its numbers are not code times scale.
    """
    masked = isinstance(packed, PackedNM)
    places = packed.places.cpu().numpy() if masked else None
    form = packed if masked else None
    bytes_ = stream.detach().cpu().numpy()
    if packed.bits is None:
        one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
        return Weight(name, packed.shape, bytes_, None, one, none, places, form, core)
    scale, zero = _numbers(packed.scale if packed.grid is None else packed.grid)
    zero = zero - packed.qmin
    found = Weight(name, packed.shape, bytes_, packed.bits, scale, zero, places, form, core)
    if masked and not np.array_equal(zero, np.full_like(zero, found.hole)):
        raise ValueError(
            f"{name} is masked and has zeros at {zero}; a grid with one whole zero fits"
        )
    _require_same(name, packed(stream).float().cpu().numpy(), found.values())
    return found


def _numbers(grid: nn.Module | Tensor) -> tuple[np.ndarray, np.ndarray]:
    scale = grid if isinstance(grid, Tensor) else grid.scale
    zero = getattr(grid, "zero_point", None)  # a quantizer of one's own need not have one
    scale = positive(scale.detach().float()).reshape(-1)
    zero = scale * 0 if zero is None else zero.detach().float().reshape(-1)
    return scale.cpu().numpy(), zero.cpu().numpy()


def _require_same(name: str, wanted: np.ndarray, found: np.ndarray) -> None:
    top = np.abs(wanted).max(initial=1e-30)
    if np.abs(wanted - found).max(initial=0) > CLOSE * top:
        raise ValueError(
            f"{name} is not (code - zero) * scale, which is all that other engines read; call "
            "tqlearn.bake(model) to export it in floats"
        )


@dataclass(eq=False)
class Rounding:
    """A quantizer of activations: codes 0 to ``levels`` - 1, one range or one per feature.

    Args:
        name: of its place in the model.
        levels: how many codes there are, up to 256.
        scale, zero: one number, or one for each feature of the last axis.
    """

    name: str
    levels: int
    scale: np.ndarray
    zero: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """The zero points as bytes; ``shift`` is what that leaves out."""
        return np.clip(np.rint(self.zero), 0, 255).astype(np.uint8)

    @property
    def shift(self) -> np.ndarray:
        """What is added before rounding and taken off after it, where zero is no whole code."""
        return ((self.zero - self.whole) * self.scale).astype(np.float32)


@torch.no_grad()
def rounding_of(name: str, q: nn.Module) -> Rounding:
    """Return what a quantizer of activations is to an engine.

    Raises:
        ValueError: with the name, if it does not round to code times scale.
    """
    if not getattr(q, "rounds", True):
        raise ValueError(f"{name} is switched off; call quantizers.switch(model) or take it away")
    scale, zero = _numbers(q)
    if scale.size != zero.size:
        zero = np.broadcast_to(zero, scale.shape)
    zero = zero - q.qmin
    top = getattr(q, "qmax", q.qmin + 2**q.bits - 1)
    found = Rounding(name, top - q.qmin + 1, scale, zero)
    features = getattr(q, "features", None)
    if scale.size != (features or 1):
        raise ValueError(
            f"{name} has {scale.size} ranges that are none of the last axis; give activations one "
            "range for the tensor"
        )
    steps = torch.linspace(-0.25, 1.25, 121)[:, None] * found.levels + 0.013  # never on an edge
    x = (steps - torch.from_numpy(zero)) * torch.from_numpy(scale)
    x = x if features else x[:, 0]
    codes = np.rint(np.clip(x.numpy() / scale + zero, 0, found.levels - 1))
    like = next((t for t in (*q.parameters(), *q.buffers())), torch.zeros(()))
    _require_same(name, q(x.to(like.device)).float().cpu().numpy(), (codes - zero) * scale)
    return found
