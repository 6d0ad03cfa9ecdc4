"""How far the weights and the outputs of a layer are from those of the layer before."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...factors.svd import squares
from ...kinds import is_conv1d
from ...quantizers import LSQ, LearnedClip
from ...stages import Cores, weight_names

Pieces = dict[str, tuple[Tensor, nn.Module | None]]
PIECE = 2**16  # numbers at a time: what a processor's cache holds


def weights_in(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a layer, masked and quantized as they are; of cores their product."""
    if isinstance(layer, Cores):
        return {"weight": layer.product().detach()}
    return {name: getattr(layer, name).detach() for name in weight_names(layer)}


def read_in_pieces(layer: nn.Module) -> Pieces:
    """Calibrate the quantizers of a layer, in place, and return for each weight what enters the
    last of them, and this: a weight can be read through it piece by piece.

    Nothing is done, and nothing returned, unless each weight ends in a quantizer with one scale
    that treats every number for itself.
    """
    chains = dict(getattr(layer, "parametrizations", {}))
    if isinstance(layer, Cores) or [*chains] != weight_names(layer):
        return {}
    last = [chain[-1] for chain in chains.values()]
    if not all(isinstance(q, LSQ | LearnedClip) and q.groups == 1 for q in last):
        return {}
    found = {}
    for name, chain in chains.items():
        *masks, quantizer = chain
        x = chain.original.detach()
        for mask in masks:
            x = mask(x)
        found[name] = x, quantizer.calibrate(x)
    return found


def norm_of(layer: nn.Module) -> float:
    """Return the Frobenius norm of a layer's weights."""
    return norm([*weights_in(layer).values()])


@torch.no_grad()
def distance(
    layer: nn.Module, new: nn.Module, whole: float | None = None, pieces: Pieces | None = None
) -> float:
    """Return how far the weights of a new layer are from the old ones, relative to these.

    Args:
        whole: the old ones' norm, where it is known.
        pieces: the new ones as ``read_in_pieces`` gives them, where it does.
    """
    old = weights_in(layer)
    whole = norm([*old.values()]) if whole is None else whole
    if not pieces:
        turned = is_conv1d(layer) and not is_conv1d(new)  # the same matrix, the other way round
        made = {n: w.T if turned else w for n, w in weights_in(new).items()}
        pieces = {n: (w, None) for n, w in made.items()}
    lost = sum(apart(x, old[n], stage) for n, (x, stage) in pieces.items()) ** 0.5
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
