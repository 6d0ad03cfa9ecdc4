"""The classes that a saved model may name; loading never imports anything a file asks for."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import nn

REGISTRY: dict[str, type] = {}
RESIZED = "Linear"  # the name of a resized linear layer in a layout


def register(cls: type) -> type:
    """Make a layer or quantizer class known to ``describe`` and ``rebuild``; use it as a decorator.

    The class needs ``config()``, which returns the keyword arguments that rebuild it.

    Raises:
        TypeError: the class has no ``config`` method.
        ValueError: another class is registered under that name.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register takes a class, as @tqlearn.register above it, got {cls!r}")
    if not callable(getattr(cls, "config", None)):
        raise TypeError(f"{cls.__name__} needs a config() method that returns its arguments")
    known = REGISTRY.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{cls.__name__!r} is taken by {known.__module__}; rename your class")
    REGISTRY[cls.__name__] = cls  # a notebook cell that is run again registers its new version
    return cls


def build(spec: dict) -> object:
    """Return an instance from {"class": name, "args": {...}}.

    Raises:
        ValueError: the class is not registered.
    """
    if spec["class"] not in REGISTRY:
        raise ValueError(
            f"the layout names the class {spec['class']!r}, known are {sorted(REGISTRY)}; import "
            "the module that defines it and decorate it with @tqlearn.register before loading"
        )
    return REGISTRY[spec["class"]](**spec["args"])


def spec_of(module: object) -> dict:
    """Return {"class": name, "args": {...}} of an instance of a registered class."""
    return {"class": registered_name(module), "args": module.config()}


def registered_name(module: object) -> str | None:
    """Return the name under which an instance's class is registered, or None."""
    cls = type(module)
    if cls.__name__.startswith("Parametrized"):  # parametrize puts a class of its own in front
        cls = cls.__mro__[1]
    return cls.__name__ if REGISTRY.get(cls.__name__) is cls else None


def resized_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer that carries its size in the layout.

    >>> size_of(resized_linear(8, 3)), size_of(nn.Linear(8, 3))
    ({'in_features': 8, 'out_features': 3, 'bias': True}, None)
    """
    layer = nn.Linear(in_features, out_features, bias=bias)
    layer.tqlearn_resized = True
    return layer


def size_of(module: nn.Module) -> dict | None:
    """Return the arguments of ``resized_linear`` that made a layer, or None for any other."""
    if not (isinstance(module, nn.Linear) and getattr(module, "tqlearn_resized", False)):
        return None
    bias = module.bias is not None
    return {"in_features": module.in_features, "out_features": module.out_features, "bias": bias}


def resize(module: nn.Module, sizes: Mapping[str, int | Sequence[int]]) -> nn.Module:
    """Give a module other sizes, in place, so that the layout carries them, and return it.

    Args:
        sizes: name of a number -> its new value, name of a parameter -> its new shape; such a
            parameter is empty afterwards.

    Raises:
        ValueError: the module has no such number or parameter, or a parameter would grow.

    >>> resize(nn.Embedding(8, 4), {"embedding_dim": 3, "weight": [8, 3]}).weight.shape
    torch.Size([8, 3])
    """
    for name, size in sizes.items():
        old = module._parameters.get(name) if isinstance(size, Sequence) else vars(module).get(name)
        known = isinstance(old, nn.Parameter) or type(old) is int
        if not known or isinstance(size, Sequence) and prod(size) > old.numel():
            raise ValueError(
                f"{type(module).__name__} has no {name!r} that could have the size {size}; the "
                "layout was written for another model"
            )
    for name, size in sizes.items():
        old = getattr(module, name)
        if isinstance(old, nn.Parameter):
            size = [int(n) for n in size]
            empty = torch.empty(size, dtype=old.dtype, device=old.device)
            setattr(module, name, nn.Parameter(empty, requires_grad=old.requires_grad))
        else:
            setattr(module, name, int(size))
    module.tqlearn_sizes = {**getattr(module, "tqlearn_sizes", {}), **sizes}
    return module


REGISTRY[RESIZED] = resized_linear  # ``build`` calls it; a plain nn.Linear stays undescribed
