"""What factored layers share beside ``stages.Cores``: ids, biases, ways to and from dense ones."""

from collections.abc import Sequence
from math import sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..stages import Cores


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


def new_bias(out_features: int) -> nn.Parameter:
    """Return a random bias within 1 / sqrt(out_features), as in QTC's code."""
    limit = 1 / sqrt(out_features)
    return nn.Parameter(torch.empty(out_features).uniform_(-limit, limit))


def with_cores(layer: Cores, cores: Sequence[Tensor], linear: nn.Linear) -> Cores:
    """Return a factored layer with these cores, and the bias and number format of a dense one."""
    layer.set_cores(cores)
    if layer.bias is not None:
        layer.bias.data.copy_(linear.bias)
    return layer.to(linear.weight.dtype)


def looked_up(
    rows: Float[Tensor, "... width"], ids: Int[Tensor, "..."], padding_idx: int | None
) -> Float[Tensor, "... width"]:
    """Return rows of a table; those of the padding index teach it nothing, as in nn.Embedding."""
    if padding_idx is None:
        return rows
    return torch.where((ids == padding_idx)[..., None], rows.detach(), rows)  # models write into it


class Table(Cores):
    """Base of factored tables: what has ``look_up``, ``num_embeddings`` and ``padding_idx``.

    In the place of a subclass of nn.Embedding, such as a table that scales its rows or adds an
    offset to its ids, the forward of that subclass goes on, with the factored weight.
    """

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        inner = self._modules.get("around", self.look_up)
        return inner(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        own = vars(self).get("_modules", {}).get("around")
        if own is None or name in ("around", "factored") or hasattr(type(self), name):
            return super().__getattr__(name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(own, name)  # a method of the subclass, such as ProphetNet's _forward

    def look_up(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """Return the rows of ids, without building the table."""
        raise NotImplementedError(f"{type(self).__name__} needs a look_up of its cores")

    def wrap(self, table: nn.Module) -> "Table":
        """Keep the forward of a table whose place this one takes, in place."""
        if type(table).forward is not nn.Embedding.forward and "around" not in self._modules:
            cls = type(table)
            own = {"weight": property(lambda self: self.factored[0].weight)}
            self.around = _without_weight(table)
            self.around.__class__ = type(cls.__name__, (cls,), own | {"__module__": cls.__module__})
            self.around.factored = (self,)  # in a tuple: no child
        return self

    @torch.no_grad()
    def dense(self) -> nn.Embedding:
        """Return the ordinary table, without padded rows, of the class that it was."""
        weight, frozen, padding_idx = self.product(), self.is_frozen, self.padding_idx
        if "around" not in self._modules:
            return nn.Embedding.from_pretrained(weight, freeze=frozen, padding_idx=padding_idx)
        table = _without_weight(self.around)
        table.__class__ = type(self.around).__bases__[0]
        del table.factored
        table.weight = nn.Parameter(weight, requires_grad=not frozen)
        return table


def keeps_forward(table: nn.Module) -> bool:
    """Say whether ``Table.wrap`` can keep a forward: that of the class, and nothing else stored."""
    return "forward" not in vars(table) and [*table.state_dict()] == ["weight"]


def _without_weight(table: nn.Module) -> nn.Module:
    """Return a table that shares everything but its weight and its hooks."""
    new = object.__new__(type(table))
    nn.Module.__init__(new)
    fresh = vars(new).copy()
    vars(new).update(vars(table) | {k: v for k, v in fresh.items() if k != "training"})
    for name, buffer in table._buffers.items():
        new.register_buffer(name, buffer, persistent=False)
    return new


def dense_linear(layer: Cores, weight: Float[Tensor, "out in"]) -> nn.Module:
    """Return an ordinary layer with this weight, and the bias of a factored one."""
    rows, columns = weight.shape
    if layer.dense_like is None:
        linear = nn.Linear(columns, rows, bias=layer.bias is not None).to(weight)
    else:  # GPT-2's Conv1D
        linear, weight = layer.dense_like(rows, columns).to(weight), weight.T
    linear.weight.data.copy_(weight)
    linear.weight.requires_grad_(not layer.is_frozen)
    if layer.bias is not None:
        linear.bias.data.copy_(layer.bias)
        linear.bias.requires_grad_(layer.bias.requires_grad)
    return linear
