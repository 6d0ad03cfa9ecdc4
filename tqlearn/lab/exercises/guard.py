"""What judges answers is out of their reach: what they replace is put back, and told.

An answer runs in the same process as what judges it. So the names that judging uses are noted when
this module is imported: those of ``torch``, of ``builtins``, and of the exercises themselves. They
are these while an answer is judged, whatever a cell or an answer has put in their place. This is no
sandbox: it holds against slips and against patching, not against whoever takes Python apart.
"""

import builtins
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch.utils import _python_dispatch as dispatch
from torch.utils.flop_counter import FlopCounterMode

SHARED = (
    torch,
    torch.Tensor,
    torch.nn.functional,
    torch.linalg,
    torch.autograd,
    torch.random,
    torch.testing,
    FlopCounterMode,
    math,
)
# torch itself replaces these two (torch.compile, set_default_dtype), notebooks the others
LEFT_ALONE = {"manual_seed", "Storage", "_", "display", "input", "open", "print", "__import__"}
MISSING, WRAPPED = object(), "__wrapped__"

_builtins = vars(builtins)
_plain = {name: value for name, value in _builtins.items() if name not in LEFT_ALONE}


class Sealed(ModuleType):
    """A module whose names stay what they are; it may get new ones."""

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse(name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse(name, None)

    def _refuse(self, name: str, value: Any) -> None:
        if name in vars(self) and not name.startswith("__") and not isinstance(value, ModuleType):
            raise AttributeError(f"{self.__name__}.{name} judges answers and cannot be replaced")


class Noted:
    """The attributes of some modules, classes and objects as they are now."""

    def __init__(self, *owners: Any):
        self.names: list[tuple[Any, list[str], list[Any]]] = []
        self.codes: list[tuple[FunctionType, Any, Any]] = []
        for owner in owners:
            # of a class the inherited names as well: a new one of its own would hide them
            names = dir(owner) if isinstance(owner, type) else vars(owner)
            names = [n for n in names if n not in LEFT_ALONE]
            there = [vars(owner).get(n, MISSING) for n in names]
            self.names.append((owner, names, there))
            functions = [value for value in there if isinstance(value, FunctionType)]
            functions += [inspect.unwrap(value) for value in functions if hasattr(value, WRAPPED)]
            functions = [value for value in functions if isinstance(value, FunctionType)]
            self.codes += [(f, f.__code__, f.__defaults__) for f in functions]

    def put_back(self) -> list[tuple[Any, str, Any]]:
        """Undo all changes; return (owner, name, what stood there) for each."""
        undone = []
        for owner, names, there in self.names:
            now = [*map(vars(owner).get, names, repeat(MISSING))]
            if all(map(is_, now, there)):  # as nearly always: no line of Python for each name
                continue
            for name, found, value in zip(names, now, there, strict=True):
                if found is not value:
                    undone.append((owner, name, found))
                    put(owner, name, value)
        for function, code, defaults in self.codes:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                undone.append((function, "__code__", function.__code__))
                function.__code__, function.__defaults__ = code, defaults
        return undone


def put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute past seals and frozen classes; MISSING takes it away."""
    if isinstance(owner, type):
        delattr(owner, name) if value is MISSING else setattr(owner, name, value)
    elif value is MISSING:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = value


_shared, _own = Noted(*SHARED), []


def seal(module: ModuleType, *objects: Any) -> None:
    """Fix the names of a module that judges, of its classes, and of some objects."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    _own.append(Noted(module, *classes, *objects))
    module.__class__ = Sealed


def restore() -> list[tuple[Any, str, Any]]:
    """Put everything back as it was noted; return what stood there.

    No name of ``builtins`` is used before they are right themselves.
    """
    undone = [(builtins, name, _builtins.get(name, MISSING)) for name in _plain
              if _builtins.get(name, MISSING) is not _plain[name]]  # fmt: skip
    _builtins.update(_plain)
    for noted in (_shared, *_own):
        undone += noted.put_back()
    return undone


@contextmanager
def pristine() -> Iterator[None]:
    """The block sees what was noted; afterwards what a reader put in its place is back.

    What judges answers is not given back to anybody.
    """
    undone = restore()
    try:
        yield
    finally:
        for owner, name, value in undone:
            if any(owner is one for one in (builtins, *SHARED)):
                put(owner, name, value)


@contextmanager
def kept() -> Iterator[list[str]]:
    """Run an answer in the block; the list then holds the names of what it had replaced.

    Modes of torch that it left switched on, the default type and whether gradients are recorded
    are put back, too.
    """
    replaced: list[str] = []
    functions = torch._C._len_torch_function_stack()
    dispatches = torch._C._len_torch_dispatch_stack()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield replaced
    finally:
        undone = restore()
        replaced += [f"{_called(owner)}.{name}" for owner, name, _ in undone]
        while torch._C._len_torch_function_stack() > functions:
            torch._C._pop_torch_function_stack()
            replaced.append("all of torch's functions by a mode")
        while torch._C._len_torch_dispatch_stack() > dispatches:
            dispatch._pop_mode()
            replaced.append("all of torch's functions by a mode")
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


def _called(owner: Any) -> str:
    if isinstance(owner, ModuleType):
        return owner.__name__
    if isinstance(owner, type | FunctionType):
        return f"{owner.__module__}.{owner.__qualname__}"
    return f"{type(owner).__name__} {getattr(owner, 'id', '')}".rstrip()
