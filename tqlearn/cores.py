"""What all factored layers share: numbered cores, and a safe way to parametrize copies."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def own_class(module: nn.Module) -> nn.Module:
    """Give a parametrized module a class of its own, before a parametrization comes or goes.

    ``parametrize`` keeps its properties on a class that ``copy.deepcopy`` shares between copies; a
    change to one copy would reach into the others.
    """
    cls = type(module)
    if parametrize.is_parametrized(module):
        keep = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, keep)
    return module


class Cores(nn.Module):
    """A module whose weight is a product of parameters ``core_0``, ``core_1`` and so on."""

    order: int

    def _new_cores(self, shapes: Sequence[tuple[int, ...]], std: float) -> None:
        """Create random cores; the entries of their product get the standard deviation ``std``.

        Source: spec sheet QTC, section 3: N(0, 1) * std^(1/d) / sqrt(rank after); every entry is a
        sum over prod(ranks) paths with variance std^2 / prod(ranks) each.
        """
        self.order = len(shapes)
        for k, shape in enumerate(shapes):
            core = torch.randn(shape) * (std ** (1 / self.order) / sqrt(shape[-1]))
            self.register_parameter(f"core_{k}", nn.Parameter(core))

    @property
    def cores(self) -> list[Tensor]:
        """The cores as they enter the forward pass, quantized and masked where they are."""
        return [getattr(self, f"core_{k}") for k in range(self.order)]

    @torch.no_grad()
    def set_cores(self, cores: Sequence[Tensor]) -> None:
        """Copy values into the cores.

        Raises:
            ValueError: a core carries a mask or quantizer; its value is computed, not stored.
        """
        if parametrize.is_parametrized(self):
            raise ValueError(
                f"the cores {[*self.parametrizations]} carry masks or quantizers; set the values "
                "before they are attached, or call tqlearn.bake(model) first"
            )
        for mine, new in zip(self.cores, cores, strict=True):
            mine.copy_(new)
