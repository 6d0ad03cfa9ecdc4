"""Tensors behind stages: whoever reads one may write into it, as into any other weight.

What is written becomes the tensor behind the stages, which mask and quantize it anew; so an adapter
can be merged into a compressed layer.
"""

from collections.abc import Iterable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .computed import Computed
from .kinds import own_class
from .precision import widened
from .steps import count_reads


def is_quantizer(module: nn.Module) -> bool:
    """Say whether a module has what a quantizer has: bits, a scale, codes and calibrate."""
    return all(hasattr(module, name) for name in ("bits", "scale", "codes", "calibrate"))


def is_mask(module: nn.Module) -> bool:
    """Say whether a module is a mask: it can tell which numbers of a weight stay."""
    return hasattr(module, "mask_for")


class _Guarded(property):
    """A tensor behind stages whose reader may also write."""


def put(module: nn.Module, name: str, stage: nn.Module) -> None:
    """Register a stage as it is; what is written into the tensor later goes through ``write``."""
    parametrize.register_parametrization(own_class(module), name, stage, unsafe=True)
    cls = type(module)
    plain = vars(cls)[name]
    if isinstance(plain, _Guarded):
        return

    def values(self: nn.Module) -> Tensor:
        chain = self._modules["parametrizations"]._modules[name]  # twice as fast as by attributes
        if parametrize._cache_enabled:
            return plain.fget(self)  # within ``cached`` every look gives the same tensor
        if chain.training:
            count_reads(chain)
        home, last = partial(write, self, name), next(reversed(chain._modules.values()))
        if hasattr(type(last), "shown"):
            return last.shown(chain.original, home)
        return Computed.of(chain(), home)

    def other(self: nn.Module, key: str = name, new: Tensor | None = None) -> None:
        if isinstance(vars(type(self)).get(key), _Guarded):
            raise ValueError(
                f"{key} of a {type(self).__name__} is computed, and no other tensor can stand in "
                f"its place; write into it by {key}.data.copy_, or call tqlearn.bake(model) first"
            )
        super(type(self), self).register_parameter(key, new)

    setattr(cls, name, _Guarded(values, lambda self, new: write(self, name, new), other))
    cls.register_parameter = other


@torch.no_grad()
def write(
    module: nn.Module, name: str, values: Tensor | None = None, learns: bool | None = None
) -> None:
    """Make values the tensor behind the stages, which mask and quantize it anew; packed codes, too.

    So an adapter can be merged into a compressed layer. Or say whether the tensor shall learn.
    """
    chain = module.parametrizations[name]
    if values is None:
        return _switch(chain, bool(learns))
    values, now = values.detach(), chain()
    if not values.is_meta and (torch.equal(now.to(values), values) or _scale(chain, now, values)):
        return
    if hasattr(chain[-1], "take"):
        chain.original = chain[-1].take(values)
    else:
        chain.original.copy_(values)
        fit(chain, values)


def _scale(chain: nn.Module, now: Tensor, values: Tensor) -> bool:
    """Scale what is behind the stages where that gives the values, and say whether it does.

    RWKV halves its weights for evaluation, and doubles them again: no code changes.
    """
    if not now.numel() or now.shape != values.shape:
        return False
    top = now.abs().argmax()
    factor = values.flatten()[top] / now.flatten()[top]
    if not (factor > 0 and torch.equal(values, now * factor)):
        return False
    stages = [stage for stage in chain if is_quantizer(stage) or hasattr(stage, "take")]
    held = [t for stage in stages for t in (*stage.parameters(), *stage.buffers())]
    held = [t for t in (chain.original, *held) if t.is_floating_point()]
    before = [t.clone() for t in held]
    for tensor in held:
        tensor.mul_(factor)
    if torch.equal(chain(), values):
        return True
    for tensor, old in zip(held, before, strict=True):
        tensor.copy_(old)
    return False


def _switch(chain: nn.Module, learns: bool) -> None:
    if hasattr(chain[-1], "frozen"):
        chain[-1].frozen = not learns
        return
    chain.original.requires_grad_(learns)
    for stage in chain:
        if is_quantizer(stage) or not learns:
            stage.requires_grad_(learns)


def fit(stages: Iterable[nn.Module], x: Float[Tensor, "..."]) -> None:
    """Let calibrated quantizers of a chain start anew from a tensor where that is nearer."""
    for stage in stages:
        if is_quantizer(stage) and not torch.isnan(stage.scale).any():
            kept = {name: t.clone() for name, t in stage.state_dict().items()}
            before = _missed(stage, x)
            stage.calibrate(x)
            if not _missed(stage, x) < before:
                stage.load_state_dict(kept)
        x = stage(x)


def _missed(stage: nn.Module, x: Tensor) -> Tensor:
    return (widened(stage(x)) - widened(x)).square().sum()
