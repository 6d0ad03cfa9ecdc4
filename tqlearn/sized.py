"""Ordinary linear layers of another size than a model's config says, as compaction leaves them.

They are plain ``nn.Linear`` to every tool; a mark on the instance tells ``describe`` to write their
size into the layout, and ``rebuild`` makes them anew from there.
"""

from torch import nn

from .registry import REGISTRY

NAME = "Linear"  # in a layout


def sized_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer that carries its size in the layout.

    >>> size_of(sized_linear(8, 3)), size_of(nn.Linear(8, 3))
    ({'in_features': 8, 'out_features': 3, 'bias': True}, None)
    """
    layer = nn.Linear(in_features, out_features, bias=bias)
    layer.tqlearn_sized = True
    return layer


def size_of(module: nn.Module) -> dict | None:
    """Return the arguments of ``sized_linear`` that made a layer, or None for any other."""
    if not (isinstance(module, nn.Linear) and getattr(module, "tqlearn_sized", False)):
        return None
    bias = module.bias is not None
    return {"in_features": module.in_features, "out_features": module.out_features, "bias": bias}


REGISTRY[NAME] = sized_linear  # ``build`` calls it; a plain nn.Linear stays undescribed
