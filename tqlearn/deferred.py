"""Weights that are computed when somebody wants their numbers; their type, device and shape cost
nothing.

``Product`` is the dense weight of a factored layer: nobody can write into it. ``storage.coded`` has
that of packed codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from .computed import LOOKS, READS, Computed


class Deferred(Tensor):
    """A weight whose numbers are made when they are wanted; type, device and shape cost nothing."""

    _is_hf_initialized = True  # as in ``Computed``

    def numbers(self) -> Tensor:
        """Make them."""
        raise NotImplementedError(f"{type(self).__name__} needs a way to make its numbers")

    def looked_up(self, ids: Tensor, **options: object) -> Tensor | None:
        """Return what ``F.embedding`` would, without the whole table; None where it takes that."""

    def home(self, values: Tensor | None = None, learns: bool | None = None) -> None:
        """Take new values, or whether they shall learn."""
        raise NotImplementedError(f"{type(self).__name__} needs a way for what is written into it")

    def shown(self) -> Tensor:
        """Return the numbers for a reader who may also write."""
        return Computed.of(self.numbers(), self.home)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        if func is F.embedding and isinstance(args[1], Deferred):
            found = args[1].looked_up(args[0], **(kwargs or {}))
            if found is not None:
                return found
        show = plain_numbers if func in READS else _shown_numbers
        args, kwargs = tree_map(show, (args, kwargs or {}))
        return DATA.get(func, func)(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(plain_numbers, (args, kwargs or {}))  # what passed by the above
        return func(*args, **kwargs)


DATA = {
    Tensor.data.__get__: Computed.data.fget,
    Tensor.data.__set__: Computed.data.fset,
    Tensor.__deepcopy__: Computed.__deepcopy__,
    Tensor.__reduce_ex__: Computed.__reduce_ex__,
}


def plain_numbers(value: object) -> object:
    """Return a deferred weight's numbers, anything else as it is."""
    return value.numbers() if isinstance(value, Deferred) else value


def _shown_numbers(value: object) -> object:
    return value.shown() if isinstance(value, Deferred) else value


class Product(Deferred):
    """The dense weight of a factored layer; functions of it get the product, with its gradients."""

    _layer: torch.nn.Module
    _learns: bool

    @staticmethod
    def of(layer: torch.nn.Module, learns: bool | None = None) -> Tensor:
        """Return the weight of a layer that has ``cores``, ``product()`` and ``dense_shape``."""
        if torch.compiler.is_compiling():
            return _dense(layer)  # what nobody uses, a compiler drops
        like, shape = layer.cores[0], layer.dense_shape
        learns = any(core.requires_grad for core in layer.cores) if learns is None else learns
        shape = shape if layer.dense_like is None else shape[::-1]
        new = Tensor._make_wrapper_subclass(
            Product, shape, dtype=like.dtype, device=like.device, requires_grad=learns
        )
        new._layer, new._learns = layer, learns
        return new

    def numbers(self) -> Tensor:
        """Multiply the cores."""
        dense = _dense(self._layer)
        return dense if self._learns else dense.detach()

    def looked_up(self, ids: Tensor, **options: object) -> Tensor | None:
        """A factored table looks up by itself."""
        return self._layer.look_up(ids) if hasattr(self._layer, "look_up") else None

    def home(self, values: Tensor | None = None, learns: bool | None = None) -> None:
        """Let the cores learn or not; refuse new values but for a multiple of these."""
        if values is not None:
            return self._scale(values)
        for core in self._layer.cores:
            core.requires_grad_(bool(learns))

    def _scale(self, values: Tensor) -> None:
        """Scale as many cores as it takes, for a model such as RWKV that halves its weights."""
        now = self.numbers().detach()
        top = now.abs().argmax()
        factor = values.flatten()[top] / now.flatten()[top]
        if not factor or not torch.equal(values, now * factor):
            refuse_write(self._layer)
        for name in self._layer.left if factor != 1 else ():
            getattr(self._layer, name).data.mul_(factor)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == Tensor.data.__get__ or func == Tensor.detach:
            return Product.of(args[0]._layer, learns=False)
        if func == Tensor.grad.__get__:
            return None
        return super().__torch_function__(func, types, args, kwargs)


def refuse_write(layer: torch.nn.Module) -> None:
    """Raise a RuntimeError for whoever would write into a product of cores."""
    raise RuntimeError(
        f"the weight of a {type(layer).__name__} is a product of its cores and cannot be written "
        "into; call tqlearn.bake(model, dense=True) first, or keep an adapter unmerged"
    )


def _dense(layer: torch.nn.Module) -> Tensor:
    return layer.product() if layer.dense_like is None else layer.product().T
