"""``MinMax``, the edit behind FullyQT: whatever a plan names, between its extremes."""

from dataclasses import dataclass

from torch import nn

from ..arguments import settle
from ..spaces import Edit
from ..stages import attach
from . import ranges
from .edits import Uniform
from .named_points import Point, Positions, Vector
from .running_ranges import RunningRange
from .weight_edit import weights_to_quantize

BUCKETS = ("feature", "tensor")


@dataclass(frozen=True)
class MinMax(Edit):
    """Quantize matrices, vectors, positions and points between minimum and maximum.

    ``{"*": [MinMax(8)]}`` quantizes all of a ``models.Transformer``, ``{"*.quant_*": [MinMax(8)]}``
    its activations. Weights follow their present extremes, activations running ones.

    Args:
        bits: 2 to 8.
        bucket: "feature": a range per output row of a matrix, and per feature of an activation
            where the point has them. "tensor": one range each.
        zero: keep low at 0 where a point says that its tensor is never negative.
        padding: count padded positions in running ranges.
        momentum: of running ranges.

    Biases and the beta of a norm stay in floats: they are added to sums.

    Source: spec sheet FullyQT, sections 2 to 5.

    >>> MinMax(bits=8)(Point(features=16))
    RunningRange(bits=8, features=16)
    >>> MinMax(bits=6, bucket="tensor")(nn.Linear(4, 3)).parametrizations.weight[0]
    Uniform(bits=6)
    """

    bits: int
    bucket: str = "feature"
    zero: bool = True
    padding: bool = False
    momentum: float = 0.9

    def __post_init__(self) -> None:
        settle(self)
        if self.bucket not in BUCKETS:
            raise ValueError(f"bucket is one of {BUCKETS}, got {self.bucket!r}")
        self.quantizer(activation=True)  # refuses bad arguments now, not at the first place

    def quantizer(self, point: Point | None = None, *, activation: bool = False) -> nn.Module:
        """Return a fresh quantizer: for a point, for activations without one, or for a vector."""
        if not activation and point is None:
            return ranges.Uniform(self.bits)
        found = Point() if point is None else point
        features = found.features if self.bucket == "feature" else None
        signed = found.signed or not self.zero
        return RunningRange(self.bits, features, self.momentum, signed, self.padding)

    def __call__(self, module: nn.Module) -> nn.Module:
        """Return the place quantized.

        Raises:
            TypeError: a layer without weights.
            ValueError: a weight that is quantized already.
        """
        if isinstance(module, Point):
            return self.quantizer(module).train(module.training)
        if isinstance(module, Positions):
            return module.quantized(self.bits)
        if isinstance(module, Vector):
            if hasattr(module, "parametrizations"):
                raise ValueError("the vector is quantized already; call tqlearn.bake(model) before")
            attach(module, "weight", self.quantizer())
            return module
        weights_to_quantize(self, module)
        per = "channel" if self.bucket == "feature" else "tensor"
        return Uniform(self.bits, per=per)(module)
