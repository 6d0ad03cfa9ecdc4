"""What stages (masks, quantizers, packed codes) make of a tensor: a write into it goes to the
numbers behind it.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

LOOKS = {getattr(Tensor, name).__get__ for name in (
    *("dtype", "device", "shape", "ndim", "layout", "requires_grad", "is_leaf"),
    *("is_cuda", "is_meta", "is_cpu", "is_sparse", "is_nested", "is_quantized", "itemsize"),
)}  # fmt: skip
LOOKS |= {Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.get_device}
LOOKS |= {Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.ndimension}
READS = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__}
WRITES = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__")
NO_WRITES = {"requires_grad_", "detach_", "rename_", "share_memory_", "retain_grad_"}
SWITCHES = {Tensor.requires_grad_, Tensor.requires_grad.__set__}
HOOKS = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook}


class Computed(Tensor):
    """A weight as its stages give it. What is written into it, or into a view of it, by whatever
    function, becomes the weight behind the stages, which quantize and mask it anew.

    A write shows in torch's count of versions.
    """

    _is_hf_initialized = True  # transformers' random starts leave it alone: the stages have values
    _home: Callable[..., None]  # takes the new values of the whole weight, or ``learns``
    _whole: Tensor  # plain, of which this is a view

    @classmethod
    def of(cls, values: Tensor, home: Callable[..., None]) -> Tensor:
        """Return the values with the way to the numbers behind them."""
        if type(values) is not Tensor or torch.compiler.is_compiling():
            return values  # nobody writes into what a compiler or a functional transform looks at
        return cls._view(values, home, values)

    @classmethod
    def _view(cls, values: Tensor, home: Callable[..., None], whole: Tensor) -> Tensor:
        new = values.as_subclass(cls)
        new._home, new._whole = home, whole
        return new

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if any(hasattr(kind, "numbers") for kind in types):
            return NotImplemented  # a deferred weight makes its numbers first, with their gradients
        with torch._C.DisableTorchFunctionSubclass():
            if func in READS or func in LOOKS:
                return func(*args, **(kwargs or {}))
            found, told = _watched(func, args, kwargs or {})
        for tell in told:
            with torch.no_grad():
                tell()
        return found

    @property
    def data(self) -> Tensor:
        """The values without their gradient; a write reaches the weight behind the stages."""
        return self.detach()  # the real one has a count of versions of its own

    @data.setter
    def data(self, new: Tensor) -> None:
        if new.shape != self.shape:
            raise ValueError(
                f"a weight under a mask or quantizer keeps its shape {(*self.shape,)}, got "
                f"{(*new.shape,)}; call tqlearn.bake(model) first"
            )
        with torch.no_grad():
            self.copy_(new)

    def _alone(self) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            plain = self.detach().as_subclass(Tensor).clone()
            return plain.requires_grad_(self.requires_grad)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self._alone()

    def __format__(self, spec: str) -> str:  # torch formats numbers of plain tensors alone
        return format(self.item(), spec) if spec and not self.dim() else super().__format__(spec)

    def __reduce_ex__(self, protocol: int) -> object:
        return self._alone().__reduce_ex__(protocol)


def _watched(func: Callable, args: tuple, kwargs: dict) -> tuple[object, list[Callable]]:
    """Call a function of computed weights; return what it returns, views of them with the way home,
    and what is to be told at home of those that it has written into.
    """
    given = (*args, *kwargs.values())
    given += tuple(t for part in given if isinstance(part, list | tuple) for t in part)
    ours = [t for t in given if isinstance(t, Computed)]
    if func in SWITCHES:
        learns = (*args, *kwargs.values(), True)[1]
        return ours[0], [partial(ours[0]._home, learns=learns)]
    if func in HOOKS:
        raise RuntimeError(
            "a hook on a weight under a mask or quantizer would see this one look alone; put it on "
            "layer.parametrizations.weight.original, or call tqlearn.bake(model) first"
        )
    before = [(_version(t), t.requires_grad) for t in ours]
    found, told = func(*args, **kwargs), []
    for weight, (version, learns) in zip(ours, before, strict=True):
        if _version(weight) == version and (version is not None or not _writes(func, kwargs)):
            continue
        if learns and torch.is_grad_enabled() and not _without_gradients(func):
            raise RuntimeError(
                f"{func.__name__} on a weight under a mask or quantizer would be lost; write under "
                "torch.no_grad(), or call tqlearn.bake(model) first"
            )
        told.append(partial(weight._home, weight._whole.detach()))
    return _shown(found, ours), told


def _without_gradients(func: Callable) -> bool:
    """Say whether a function of torch switches gradients off before it writes."""
    return getattr(func, "__module__", "") == "torch.nn.init" or func is F.embedding


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _writes(func: Callable, kwargs: dict) -> bool:
    """Say by its name whether a function writes: under inference_mode torch counts no versions.

    >>> _writes(Tensor.add_, {}), _writes(Tensor.add, {}), _writes(Tensor.__iadd__, {})
    (True, False, True)
    """
    name = func.__name__.removeprefix("_foreach_")
    inside = name.endswith("_") and not name.startswith("_") and name not in NO_WRITES
    return inside or name in WRITES or bool(kwargs.get("inplace") or "out" in kwargs)


def _shown(found: object, ours: list[Computed]) -> object:
    """Return a result as a reader may have it: views lead home, arrays of numpy cannot."""
    if type(found) is Tensor:
        for weight in ours:
            if torch._C._is_alias_of(found, weight):
                return Computed._view(found, weight._home, weight._whole)
    elif type(found) in (list, tuple):
        return type(found)(_shown(part, ours) for part in found)
    elif type(found).__name__ == "ndarray":
        found.flags.writeable = False
    return found
