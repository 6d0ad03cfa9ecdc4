"""How far the weights and the outputs of a layer are from those of the layer before."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...factors.svd import squares
from ...kinds import is_conv1d
from ...quantizers import LSQ, LearnedClip
from ...stages import Cores, weight_names

PIECE = 2**16  # numbers at a time: what a processor's cache holds


def weights_in(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a layer, masked and quantized as they are; of cores their product."""
    if isinstance(layer, Cores):
        return {"weight": layer.product().detach()}
    return {name: getattr(layer, name).detach() for name in weight_names(layer)}


def by_numbers(layer: nn.Module) -> list[nn.Module]:
    """Return what stands on the weights of a layer if each has one quantizer, with one scale, that
    treats every number for itself: such weights are read piece by piece. Else nothing.
    """
    chains = [*getattr(layer, "parametrizations", {}).values()]
    alone = all(len(c) == 1 and isinstance(c[0], LSQ | LearnedClip) for c in chains)
    wide = len(chains) == len(weight_names(layer)) and not isinstance(layer, Cores)
    return chains if wide and alone and all(c[0].groups == 1 for c in chains) else []


def norm_of(layer: nn.Module) -> float:
    """Return the Frobenius norm of a layer's weights."""
    return norm([*weights_in(layer).values()])


@torch.no_grad()
def distance(layer: nn.Module, new: nn.Module, whole: float | None = None) -> float:
    """Return how far the weights of a new layer are from the old ones, relative to these.

    Args:
        whole: the old ones' norm, where it is known.
    """
    old = weights_in(layer)
    whole = norm([*old.values()]) if whole is None else whole
    if chains := by_numbers(new):
        pairs = [(c.original, old[n], c[0]) for n, c in zip(old, chains, strict=True)]
    else:
        made = weights_in(new)
        turned = is_conv1d(layer) and not is_conv1d(new)  # the same matrix, the other way round
        pairs = [(made[n].T if turned else made[n], old[n], None) for n in old]
    lost = sum(apart(*pair) for pair in pairs) ** 0.5
    return lost / whole if whole else 0.0


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the Frobenius norm of tensors together."""
    return float(sum(squares(t.float()) for t in tensors)) ** 0.5


def apart(a: Tensor, b: Tensor, stage: nn.Module | None = None) -> float:
    """Return the sum of squares of a difference, in float64, which is never formed as a whole.

    Args:
        stage: what each piece of ``a`` goes through first.

    >>> apart(torch.ones(2, 3), torch.zeros(2, 3))
    6.0
    """
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in zip(_pieces(a), _pieces(b), strict=True):
        x = x if stage is None else stage(x)
        off = (x.float() - y.float()).double().flatten()
        total += off.dot(off)
    return float(total)


def _pieces(x: Tensor) -> Iterator[Tensor]:
    whole = x.device.type != "cpu" or not x.numel()
    yield from [x] if whole else x.split(max(1, PIECE * len(x) // x.numel()))
