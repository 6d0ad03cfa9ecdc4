"""What all factored layers share: numbered cores, biases, and a safe way to parametrize copies."""

from collections.abc import Sequence
from math import sqrt

import torch
from jaxtyping import Float, Int
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


def check_ids(ids: Int[Tensor, "..."], rows: int) -> None:
    """Raise an IndexError for a token id outside a table; on a GPU and in compiled code as a device
    assert, for no look-up should wait for the check.
    """
    words = f"the table has rows 0 to {rows - 1}"
    inside = ((ids >= 0) & (ids < rows)).all()
    if ids.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(inside, f"a token id is out of range: {words}")
    elif not ids.is_meta and not inside:
        raise IndexError(f"token ids run from {int(ids.min())} to {int(ids.max())}, but {words}")


class Cores(nn.Module):
    """A module whose weight is a product of parameters ``core_0``, ``core_1`` and so on."""

    order: int

    def _new_cores(self, shapes: Sequence[tuple[int, ...]], std: float) -> None:
        """Create random cores; the entries of their product get the standard deviation ``std``.

        Source: spec sheet QTC, section 3: N(0, 1) * std^(1/d) / sqrt(rank after); every entry is a
        sum over prod(ranks) paths with variance std^2 / prod(ranks) each.
        """
        each = [std ** (1 / len(shapes)) / sqrt(shape[-1]) for shape in shapes]
        self._random_cores(shapes, each)

    def _new_pairs(self, shapes: Sequence[tuple[int, ...]], rank: int, std: float) -> None:
        """Create random cores whose product is a sum over ``rank`` products of two entries."""
        self._random_cores(shapes, [(std / sqrt(rank)) ** 0.5] * len(shapes))

    def _random_cores(self, shapes: Sequence[tuple[int, ...]], stds: Sequence[float]) -> None:
        self.order = len(shapes)
        for k, (shape, std) in enumerate(zip(shapes, stds, strict=True)):
            self.register_parameter(f"core_{k}", nn.Parameter(torch.randn(shape) * std))

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


def new_bias(out_features: int) -> nn.Parameter:
    """Return a random bias within 1 / sqrt(out_features), as in QTC's code."""
    limit = 1 / sqrt(out_features)
    return nn.Parameter(torch.empty(out_features).uniform_(-limit, limit))


def filled(layer: Cores, cores: Sequence[Tensor], linear: nn.Linear) -> Cores:
    """Return a factored layer with these cores, and the bias and number format of a dense one."""
    layer.set_cores(cores)
    if layer.bias is not None:
        layer.bias.data.copy_(linear.bias)
    return layer.to(linear.weight.dtype)


def dense_linear(layer: Cores, weight: Float[Tensor, "out in"]) -> nn.Linear:
    """Return an ordinary layer with this weight, and the bias of a factored one."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None).to(weight)
    linear.weight.data.copy_(weight)
    if layer.bias is not None:
        linear.bias.data.copy_(layer.bias)
    return linear
