"""Weights that are computed from other numbers: what a look at them gives, where a write into them
goes.

``Computed`` is what stages (masks, quantizers, packed codes) make of a tensor: a write goes to the
numbers behind it. A ``Deferred`` weight is computed when somebody wants its numbers: ``Product``,
the dense weight of a factored layer, is multiplied then, and nobody can write into it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

WRITES = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__")
NO_WRITES = {"requires_grad_", "detach_", "rename_", "share_memory_", "retain_grad_"}
VIEWS = (
    *("__getitem__", "detach", "view", "view_as", "reshape", "flatten", "unflatten", "t", "select"),
    *("transpose", "permute", "movedim", "narrow", "squeeze", "unsqueeze", "split", "chunk"),
)


def writes(name: str) -> bool:
    """Say whether a method of a tensor changes its numbers.

    >>> writes("add_"), writes("add"), writes("__iadd__"), writes("requires_grad_")
    (True, False, True, False)
    """
    ends = name.endswith("_") and not name.startswith("_") and name not in NO_WRITES
    return ends or name in WRITES


class Computed(Tensor):
    """A weight as its stages give it. What is written into it, or into a view of it, becomes the
    weight behind the stages, which quantize and mask it anew.

    Costs nothing in a forward pass: torch's functions take it for the plain tensor that it is.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl
    _is_hf_initialized = True  # transformers' random starts leave it alone: the stages have values
    _home: Callable[[Tensor], None]  # takes the new values of the whole weight
    _whole: Tensor  # plain, of which this is a view

    @classmethod
    def of(cls, values: Tensor, home: Callable[[Tensor], None]) -> Tensor:
        """Return the values with the way to the numbers behind them."""
        if type(values) is not Tensor or torch.compiler.is_compiling():
            return values  # nobody writes into what a compiler or a functional transform looks at
        new = values.as_subclass(cls)
        new._home, new._whole = home, values
        return new

    def _view(self, values: object) -> object:
        """Return a view, or several, from which a write still finds its way."""
        if isinstance(values, tuple | list):
            return type(values)(self._view(value) for value in values)
        if values.data_ptr() == 0 or values.untyped_storage().data_ptr() != self._storage():
            return values  # a copy
        new = values.as_subclass(Computed)
        new._home, new._whole = self._home, self._whole
        return new

    def _storage(self) -> int:
        return self._whole.untyped_storage().data_ptr()

    @property
    def data(self) -> Tensor:
        """The values without their gradient; a write reaches the weight behind the stages."""
        return self._view(Tensor.data.__get__(self))

    @data.setter
    def data(self, new: Tensor) -> None:
        if new.shape != self.shape:
            raise ValueError(
                f"a weight under a mask or quantizer keeps its shape {(*self.shape,)}, got "
                f"{(*new.shape,)}; call tqlearn.bake(model) first"
            )
        with torch.no_grad():
            self.copy_(new)

    T = property(lambda self: self._view(Tensor.T.__get__(self)))
    mT = property(lambda self: self._view(Tensor.mT.__get__(self)))


def _writing(name: str) -> Callable:
    method = getattr(Tensor, name)

    def write(self: Computed, *args: object, **kwargs: object) -> Computed:
        if torch.is_grad_enabled() and self.requires_grad:
            raise RuntimeError(
                f"{name} on a weight under a mask or quantizer would be lost; write under "
                "torch.no_grad(), or call tqlearn.bake(model) first"
            )
        with torch.no_grad():
            method(Tensor.detach(self), *args, **kwargs)
            self._home(self._whole.detach())
        return self

    return write


def _viewing(name: str) -> Callable:
    method = getattr(Tensor, name)
    return lambda self, *args, **kwargs: self._view(method(self, *args, **kwargs))


for _name in filter(writes, dir(Tensor)):
    setattr(Computed, _name, _writing(_name))
for _name in VIEWS:
    setattr(Computed, _name, _viewing(_name))


LOOKS = {getattr(Tensor, name).__get__ for name in (
    *("dtype", "device", "shape", "ndim", "layout", "requires_grad", "is_leaf"),
    *("is_cuda", "is_meta", "is_cpu", "is_sparse", "is_nested", "is_quantized", "itemsize"),
)}  # fmt: skip
LOOKS |= {Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.get_device}
LOOKS |= {Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.ndimension}


class Deferred(Tensor):
    """A weight whose numbers are made when they are wanted; type, device and shape cost nothing."""

    _is_hf_initialized = True  # as in ``Computed``

    def numbers(self) -> Tensor:
        """Make them."""
        raise NotImplementedError(f"{type(self).__name__} needs a way to make its numbers")

    def looked_up(self, ids: Tensor, **options: object) -> Tensor | None:
        """Return what ``F.embedding`` would, without the whole table; None where it takes that."""

    @classmethod
    def _other(cls, func: Callable, args: tuple, kwargs: dict) -> object:
        args, kwargs = tree_map(plain_numbers, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        if func is F.embedding and isinstance(args[1], Deferred):
            found = args[1].looked_up(args[0], **(kwargs or {}))
            if found is not None:
                return found
        return cls._other(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(plain_numbers, (args, kwargs or {}))  # what passed by the above
        return func(*args, **kwargs)


def plain_numbers(value: object) -> object:
    """Return a deferred weight's numbers, anything else as it is."""
    return value.numbers() if isinstance(value, Deferred) else value


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

    @classmethod
    def _other(cls, func: Callable, args: tuple, kwargs: dict) -> object:
        name = getattr(func, "__name__", "")
        if func == Tensor.data.__get__:
            return Product.of(args[0]._layer, learns=False)
        if func == Tensor.grad.__get__:
            return None
        if (name == "__set__" or writes(name)) and isinstance(args[0], Product):
            raise RuntimeError(
                f"the weight of a {type(args[0]._layer).__name__} is a product of its cores and "
                "cannot be written into; call tqlearn.bake(model, dense=True) first, or keep an "
                "adapter unmerged"
            )
        return super()._other(func, args, kwargs)


def _dense(layer: torch.nn.Module) -> Tensor:
    return layer.product() if layer.dense_like is None else layer.product().T


def recomputing() -> bool:
    """Say whether this forward pass is one that gradient checkpointing repeats within backward.

    What follows batches has moved in the first one already: one update per step.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint itself asks


def count_reads(chain: torch.nn.Module) -> None:
    """Tell stages that run after their weight whether it is still what they have seen last."""
    if not chain.training or torch.compiler.is_compiling():
        return
    for stage in chain:
        if hasattr(stage, "read_before"):
            now = chain.original.data_ptr(), chain.original._version
            stage.read_before, stage._stamp = now == getattr(stage, "_stamp", None), now
