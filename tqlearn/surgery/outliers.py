"""Weights that a coarse grid does not suit: what one scale for a whole tensor loses to outliers.

A few large numbers stretch the scale of all others, or are cut off. Groups of neighbors with a
scale each keep the harm where it is. Both errors are measured on a sample of the weight, before
anything is compressed.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..precision import widened
from ..quantizers.grid import Quantizer
from ..quantizers.rounding import integer_range

BITS = 4  # a grid of more steps has room for outliers
BLOCKS = 512  # of a weight that are looked at
GOLDEN = 0.6180339887498949  # steps of this share fall evenly, and in no rhythm with rows
PEAK, TAILS = 10, 4  # largest over standard deviation, fourth moment (3 of a normal distribution)
BEST, OWN = 1.5, 2.5  # times the error of groups that are worth a word, see ``coarse``
STEP = 0.85  # from one scale that is tried to the next
SUMS = "mse", "kl"  # starts that weigh every number: two more of the largest would move them


@dataclass(frozen=True)
class Coarse:
    """Relative errors |Q(W) - W| / |W|, rounded to nearest: as planned, and in groups."""

    bits: int
    one: float
    groups: float
    neighbors: int

    def __str__(self) -> str:
        return (
            f"one scale at {self.bits} bits loses {self.one:.0%} to rounding, a scale for each "
            f"{self.neighbors} neighbors {self.groups:.0%}: "
            f'LSQ(bits={self.bits}, init="mse", per={self.neighbors})'
        )


def coarse(model: nn.Module, made: Mapping[str, nn.Module]) -> dict[str, Coarse]:
    """Return the weights that lose much to outliers, and warn of the worst.

    A weight is named if its tails are heavier than those of a normal distribution, and if even the
    best single scale loses 1.5 times as much as groups do, or the planned one 2.5 times.

    Args:
        model: with its numbers.
        made: what a plan makes of its layers, by name, on meta.
    """
    found = {}
    for name, new in made.items():
        for key, one in _of_layer(model.get_submodule(name), new).items():
            found[f"{name}.{key}"] = one
    if found:
        (line, *_), others = words(found), len(found) - 1
        more = f"; and {others} more weights, see what preview returns" if others else ""
        warnings.warn(line.removeprefix("outliers: ") + more, stacklevel=3)
    return found


def _of_layer(layer: nn.Module, made: nn.Module) -> dict[str, Coarse]:
    found = {}
    for name, chain in getattr(made, "parametrizations", {}).items():
        weight, stages = layer._parameters.get(name), [*chain]
        if weight is None or weight.is_meta or len(stages) != 1:
            continue  # cores, or a mask beside the grid: other numbers than the layer's
        planned = stages[0]
        plain = isinstance(planned, Quantizer) and planned.groups == 1
        if not plain or planned.bits > BITS or weight.shape != chain.original.shape:
            continue
        neighbors = next((n for n in (64, 32, 16) if weight.shape[-1] % n == 0), 0)
        if neighbors and (errors := _errors(weight.detach(), planned, neighbors)):
            found[name] = Coarse(planned.bits, *errors, neighbors)
    return found


@torch.no_grad()
def _errors(weight: Tensor, planned: Quantizer, neighbors: int) -> tuple[float, float] | None:
    """Return the errors of the planned grid and of groups, None where there is nothing to say."""
    blocks = sample(weight, neighbors)
    low, high = (widened(x.reshape(1)) for x in weight.aminmax())
    spread = blocks.std()
    peak, tails = torch.maximum(-low, high) / spread, (blocks / spread).pow(4).mean()
    if not torch.isfinite(peak) or (peak < PEAK and tails < TAILS):
        return None
    seen = blocks.flatten()
    if getattr(planned, "init", "max") not in SUMS:  # a start may ask for the whole range
        seen = torch.cat([seen, low, high])
    own = type(planned)(**planned.config()).to(weight.device).calibrate(seen).eval()
    own = float((own(blocks) - blocks).norm() / blocks.norm())
    groups = _least(blocks, planned.bits)
    far = own > OWN * groups
    if own > BEST * groups and (far or _least(blocks.reshape(1, -1), planned.bits) > BEST * groups):
        return own, groups
    return None


def _least(rows: Float[Tensor, "rows n"], bits: int) -> float:
    """Return the relative error of a grid through zero, with the best of 18 scales for each row.

    ``init="mse"`` looks among 80, and finds hardly less.
    """
    low, high = integer_range(bits)
    widest = (rows.abs().amax(1, keepdim=True) / high).clamp_min(1e-30)
    errors = []
    for power in range(18):
        scale = widest * STEP**power
        rounded = (rows / scale).round_().clamp_(low, high).mul_(scale)
        errors.append(rounded.sub_(rows).square_().sum(1))
    return float(torch.stack(errors).amin(0).sum().sqrt() / rows.norm())


def sample(weight: Float[Tensor, "..."], neighbors: int) -> Float[Tensor, "blocks neighbors"]:
    """Return up to ``BLOCKS`` groups of neighbors from all over a weight, the same at each call."""
    blocks = weight.reshape(-1, neighbors)
    if len(blocks) > BLOCKS:
        steps = torch.arange(1, BLOCKS + 1, dtype=torch.float64) * GOLDEN % 1
        blocks = blocks[(steps * len(blocks)).long().to(blocks.device)]
    return widened(blocks)


def words(found: Mapping[str, Coarse], most: int = 3) -> list[str]:
    """Return lines that name the worst weights, and how many others there are."""
    worst = sorted(found, key=lambda name: found[name].groups - found[name].one)
    lines = [f"outliers: {name}: {found[name]}" for name in worst[:most]]
    return [*lines, f"outliers: {len(worst) - most} more"] if len(worst) > most else lines
