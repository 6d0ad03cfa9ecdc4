"""Weights that are computed from other numbers: what a look at them gives, where a write into them
goes.

``Computed`` is what stages (masks, quantizers, packed codes) make of a tensor: a write goes to the
numbers behind it. ``Product`` is the dense weight of a factored layer: it is multiplied only when
somebody wants its numbers, and nobody can write into it.
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


class Product(Tensor):
    """The dense weight of a factored layer, multiplied out when its numbers are wanted.

    Its type, device and shape cost nothing; functions of it get the product, with its gradients.
    """

    _is_hf_initialized = True  # as in ``Computed``
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

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        name = getattr(func, "__name__", "")
        setter = name == "__set__"
        if func == Tensor.data.__get__:
            return Product.of(args[0]._layer, learns=False)
        if func == Tensor.grad.__get__:
            return None
        if (setter or writes(name)) and isinstance(args[0], Product):
            raise RuntimeError(
                f"the weight of a {type(args[0]._layer).__name__} is a product of its cores and "
                "cannot be written into; call tqlearn.bake(model, dense=True) first, or keep an "
                "adapter unmerged"
            )
        if func is F.embedding and isinstance(args[1], Product) and hasattr(
            args[1]._layer, "num_embeddings"
        ):  # fmt: skip
            return args[1]._layer(args[0])
        args, kwargs = tree_map(_numbers, (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(_numbers, (args, kwargs or {}))  # what passed by the above
        return func(*args, **kwargs)


def _numbers(value: object) -> object:
    if not isinstance(value, Product):
        return value
    dense = _dense(value._layer)
    return dense if value._learns else dense.detach()


def _dense(layer: torch.nn.Module) -> Tensor:
    return layer.product() if layer.dense_like is None else layer.product().T


def recomputing() -> bool:
    """Say whether this forward pass is one that gradient checkpointing repeats within backward.

    What follows batches has moved in the first one already: one update per step.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint itself asks
