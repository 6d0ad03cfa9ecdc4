"""Uniform quantization between a smallest and a largest value, of now or as a running mean."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from ..registry import register
from ..steps import recomputing
from .grid import Quantizer
from .rounding import fake_quantize, positive


@register
class Uniform(Quantizer):
    """Quantize between low and high: x -> low + scale * round((clamp(x) - low) / scale).

    In training the range follows the tensor, in evaluation it stands still. It is a constant to the
    gradient, which passes inside and is zero outside.

    Args:
        bits: 2 to 8; codes 0 to 2^b - 1.
        momentum: 0 takes the range of the present tensor, for weights; 0.9 keeps nine tenths of the
            old range at every training step, for activations.
        signed: False fixes low at 0, for inputs that are never negative.
        integer_zero: round the zero point, and widen the range to hold 0, so that zeros stay
            exactly zero. Without it they do NOT in general (with ``signed=False`` they do).
        groups: see ``grid``; for activations the rows would be batch entries, so leave it at 1.

    A running range moves once per step: under gradient checkpointing as without, and on a weight
    however often the weight is read before it changes.

    A running range sees padded positions too; ``running_ranges.RunningRange`` does not. Of several
    processes each follows its own batches, unless ``running_ranges.synchronize`` says otherwise.
    ``follows`` and ``rounds`` switch its two halves, see ``running_ranges.switch``.

    Source: spec sheet FullyQT, sections 2 and 4; ``integer_zero`` is our addition.

    >>> q = Uniform(bits=2).calibrate(torch.tensor([1.0, 4.0])).eval()
    >>> q(torch.tensor([1.2, 2.6])).tolist(), q.codes(torch.tensor([4.0])).item()
    ([1.0, 3.0], 3)
    """

    options = {"momentum": 0.0, "signed": True, "integer_zero": False}
    follows = rounds = True
    read_before = False  # set by ``stages`` for a weight that has not changed since the last look
    together: bool | None = None  # see ``running_ranges.synchronize``; None: nobody has said

    def __init__(
        self,
        bits: int,
        momentum: float = 0.0,
        signed: bool = True,
        integer_zero: bool = False,
        groups: int = 1,
    ) -> None:
        super().__init__(bits, groups)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is the share of the old range, 0 to below 1: {momentum!r}")
        self.momentum, self.signed, self.integer_zero = momentum, signed, integer_zero
        self.qmin, self.qmax = 0, 2**bits - 1
        self.register_buffer("low", self.unset())
        self.register_buffer("high", self.unset())

    @property
    def scale(self) -> Float[Tensor, "..."]:
        """The step between two codes."""
        return (self.high - self.low) / self.qmax

    @property
    def zero_point(self) -> Float[Tensor, "..."]:
        """The code of 0.0, a real number unless ``integer_zero``."""
        zero = -self.low / positive(self.scale)
        return zero.round() if self.integer_zero else zero

    def range_of(self, rows: Float[Tensor, "rows n"]) -> tuple[Tensor, Tensor]:
        """Return (low, high) that the present tensor asks for."""
        low, high = rows.amin(1), rows.amax(1)  # aminmax along an axis is many times slower
        if self.integer_zero or not self.signed:
            low, high = low.clamp_max(0), high.clamp_min(0)
        return (low if self.signed else low * 0), high

    def start(self, rows: Float[Tensor, "rows n"]) -> None:
        """Set the range from the rows of a tensor."""
        self.low, self.high = self._shaped(*self.range_of(rows))

    def _shaped(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        pairs = (low, self.low), (high, self.high)
        return tuple(new.reshape(old.shape).to(old.dtype) for new, old in pairs)

    def _follow(self, rows: Float[Tensor, "rows n"]) -> None:
        if not rows.numel():  # an empty batch, or one of padding alone, tells nothing
            if self._asks_others() and not recomputing():
                nothing = rows.new_full((self.groups,), torch.inf)
                self._mix(*self._shaped(*_of_all(nothing, -nothing)))
            return
        if self.momentum and recomputing():
            return self._require_newest(rows)
        if self.momentum and self.read_before and self._is_newest(rows):
            return
        found = self.range_of(rows)
        self._newest = self._shaped(*found)  # of this process: what a repeated pass compares with
        new = self._shaped(*_of_all(*found)) if self._asks_others() else self._newest
        if self.momentum:
            self._mix(*new)
        else:
            self.low, self.high = new

    def _mix(self, low: Tensor, high: Tensor) -> None:
        """Move towards the range of a batch, if anyone had numbers for one."""
        for name, new in (("low", low), ("high", high)):
            was = getattr(self, name)
            mixed = self.momentum * was + (1 - self.momentum) * new
            moved = torch.where(torch.isnan(was), new, mixed)
            setattr(self, name, torch.where(new.isinf(), was, moved) if self.together else moved)

    def _asks_others(self) -> bool:
        """Say whether to ask the other processes, if there are any; warn if nobody has said."""
        on_weight = hasattr(self, "_stamp")  # see ``steps``: a weight is everywhere the same
        if not self.momentum or on_weight or torch.compiler.is_compiling() or not _are_several():
            return False
        if self.together is None:
            warnings.warn(
                "a running range follows the batches of this process alone, and those of others "
                "will differ; call tqlearn.quantizers.synchronize(model) before the training, or "
                "synchronize(model, False) if each shall have its own",
                stacklevel=2,
            )
        return bool(self.together)

    def _is_newest(self, rows: Float[Tensor, "rows n"]) -> bool:
        return all(
            torch.equal(a.to(b.dtype), b.flatten())
            for a, b in zip(self.range_of(rows), self._newest, strict=True)
        )

    def _require_newest(self, rows: Float[Tensor, "rows n"]) -> None:
        """Refuse to repeat a forward pass whose range a later one has moved on."""
        pairs = zip(self.range_of(rows), self._newest, strict=True)
        if not all(torch.allclose(a.to(b.dtype), b.flatten(), rtol=0.01) for a, b in pairs):
            raise ValueError(
                f"gradient checkpointing repeats a use of {type(self).__name__} that was not its "
                "last one, and its running range has moved on; switch checkpointing off where "
                "layers are shared or several batches share a backward pass, or learn the range"
            )

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rows = self.rows(x)
        if self.training and self.follows:
            with torch.no_grad():
                self._follow(rows.detach().reshape(self.groups, -1))
        if not self.rounds:
            return x
        out = fake_quantize(
            rows,
            self.scale,
            self.qmin,
            self.qmax,
            offset=self.low,
            through=not self.momentum,  # nothing lies outside the present tensor's own range
            integer=self.integer_zero,
        )
        return out.reshape(x.shape)


def _are_several() -> bool:
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    return many and torch.distributed.get_world_size() > 1


def _of_all(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the widest range of all processes; exact, for nothing is added up."""
    ends = torch.cat([-low, high])
    torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
    low, high = ends.chunk(2)
    return -low, high
