"""Running ranges of activations: one for a tensor, or one for each feature of its last axis.

A range follows the batches of training by an exponential mean, counts real positions alone, and
stands still in evaluation. It can watch before it rounds, see ``switch``.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..precision import widened
from ..registry import register
from .ranges import Uniform
from .rounding import fake_quantize, positive


@register
class RunningRange(Uniform):
    """Quantize a ``Point``'s tensor between running extremes, of each feature or of all.

    Args:
        bits: 2 to 8.
        features: width of the last axis, for a range per feature; None for one range.
        momentum: share of the old range in the new one; the first batch gives the start.
        signed: False fixes low at 0.
        padding: True counts padded positions too, which FullyQT warns of.

    Per-feature ranges of what enters a matrix product do not factor out of its integer sum, which
    runs over the features: such a layer runs in fake-quantized floats only. Give these places one
    range per tensor for real integers; see ``integers.product``.

    Source: spec sheet FullyQT, sections 2, 4 and 5.

    >>> q = RunningRange(bits=2, features=2)
    >>> x = torch.tensor([[[0.0, 10.0], [3.0, 70.0]]])
    >>> q(x, torch.tensor([[True, True]])).tolist(), q.high.flatten().tolist()
    ([[[0.0, 10.0], [3.0, 70.0]]], [3.0, 70.0])
    """

    options = {"features": None, "momentum": 0.9, "signed": True, "padding": False}

    def __init__(
        self,
        bits: int,
        features: int | None = None,
        momentum: float = 0.9,
        signed: bool = True,
        padding: bool = False,
    ) -> None:
        super().__init__(bits, momentum, signed, groups=features or 1)
        self.features, self.padding = features, padding

    def rows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return x itself with one range, else as (features, n).

        Raises:
            ValueError: the last axis is not as wide as there are ranges.
        """
        if self.features is None:
            return x
        if x.shape[-1] != self.features:
            raise ValueError(f"{self.features} ranges cannot serve a tensor of {(*x.shape,)}")
        return x.reshape(-1, self.features).t()

    def _back(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return (rows if self.features is None else rows.t()).reshape(shape)

    def counted(self, x: Tensor, real: Tensor | None) -> Float[Tensor, "..."]:
        """Return what the range looks at: the real positions, or all."""
        return x if real is None or self.padding else x[real]

    @torch.no_grad()
    def calibrate(
        self, x: Float[Tensor, "..."], real: Bool[Tensor, "batch tokens"] | None = None
    ) -> "RunningRange":
        """Set the range from a tensor and return the quantizer."""
        super().calibrate(self.counted(x, real))
        return self

    def forward(
        self, x: Float[Tensor, "..."], real: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "..."]:
        """Return x on the grid.

        Args:
            x: (batch, tokens, ...).
            real: True where a position is no padding; None: everywhere.
        """
        if self.training and self.follows:
            with torch.no_grad():
                counted = self.rows(self.counted(x.detach(), real))
                self._follow(counted.reshape(self.groups, -1))
        if not self.rounds:
            return x
        out = fake_quantize(self.rows(x), self.scale, self.qmin, self.qmax, offset=self.low)
        return self._back(out, x.shape)

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Return the integers behind ``forward``, as int16."""
        v = widened(self.rows(x)) / positive(self.scale) + self.zero_point  # as ``forward`` rounds
        return self._back(v.clamp(self.qmin, self.qmax).round().to(torch.int16), x.shape)

    def decode(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the floats of integers."""
        rows = self.rows(codes.to(self.low.dtype))
        return self._back((rows - self.zero_point) * positive(self.scale), codes.shape)

    def config(self) -> dict:
        """Return the arguments that rebuild this quantizer, defaults left out."""
        return {k: v for k, v in super().config().items() if k != "groups"}


def switch(model: nn.Module, *, follows: bool = True, rounds: bool = True) -> nn.Module:
    """Let the min-max quantizers of a model follow their tensors or not, round or not, in place.

    ``follows`` alone watches without changing the model; neither leaves it as if in floats, but for
    fixed sinusoids, which stay on their grid. A saved model comes back with both.

    Args:
        follows: for ranges of activations; those of weights follow when they round.
    """
    for module in model.modules():
        if isinstance(module, Uniform):
            module.rounds = rounds
            module.follows = follows if isinstance(module, RunningRange) else rounds
    return model


def synchronize(model: nn.Module, together: bool = True) -> nn.Module:
    """Let running ranges of activations see the batches of all processes, in place.

    Each step takes the smallest and the largest value of all: exactly the range of one process with
    the whole batch, at the cost of one small message per range. All processes must call the same
    layers in the same order, as data-parallel training does. A saved model does not remember it.

    Args:
        together: False lets each process follow its own, without a warning.
    """
    for module in model.modules():
        if isinstance(module, Uniform):
            module.together = together
    return model


@torch.no_grad()
def clamp_rates(model: nn.Module, batches: Iterable) -> dict[str, float]:
    """Return the share of real entries that each running range clamps, by name of its place.

    Where many are clamped, many get no gradient: start later, take larger batches or one range
    for the tensor.

    Args:
        batches: dicts or tuples that the model is called with, in evaluation mode.

    Source: spec sheet FullyQT, section 10.
    """
    places = {m: name for name, m in model.named_modules() if isinstance(m, RunningRange)}
    counts = {name: [0, 0] for name in places.values()}

    def look(module: nn.Module, inputs: tuple) -> None:
        x = module.rows(module.counted(*(*inputs, None)[:2]))
        outside = (x < module.low) | (x > module.high)
        count = counts[places[module]]
        count[0] += int(outside.sum())
        count[1] += x.numel()

    hooks = [module.register_forward_pre_hook(look) for module in places]
    training = model.training
    try:
        for batch in batches:
            model.eval()(**batch) if isinstance(batch, Mapping) else model.eval()(*batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {name: out / total for name, (out, total) in counts.items() if total}
