"""What the structure edits share: a size by rank, by ratio or by error, and what they refuse."""

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..arguments import settle
from ..kinds import computes_as, freeze_like, is_conv1d, keep_hooks, linear_of, require_editable
from ..shapes import Ranks
from ..spaces import Edit
from ..stages import is_quantizer
from .cores import Table, keeps_forward

SLACK = 1.005  # a table of eighths and a row of 8 numbers are eight times smaller, we say


@dataclass(frozen=True, repr=False)
class Structure(Edit):
    """Replace a layer by a factored one, as large as one of three arguments says.

    Args:
        rank: the rank itself.
        ratio: the largest rank with at least so many times fewer numbers than the weight has (half
            a percent of slack; biases are left out).
        error: the smallest rank whose relative error, in the Frobenius norm, is at most this.

    A ratio or an error is turned into a rank for each layer, when the edit meets it: ``resolve``.
    A subclass says what it makes: ``limit``, ``numbers``, ``rank_of_error``, ``empty``,
    ``nearest``.

    Raises:
        ValueError: not exactly one of the three, or one outside its range.
        TypeError: a number of another kind, such as a rank of 1.5.
    """

    rank: Ranks | None = None
    ratio: float | int | None = field(default=None, kw_only=True)
    error: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        settle(self)
        name, init = type(self).__name__, getattr(self, "init", "svd")
        said = {key: getattr(self, key) for key in ("rank", "ratio", "error")}
        if sum(value is not None for value in said.values()) != 1:
            raise ValueError(f"{name} needs one of rank, ratio and error, got {said}")
        if self.ratio is not None and not self.ratio > 1:
            raise ValueError(f"a ratio is above 1 (times smaller), got {self.ratio}")
        if self.error is not None and not 0 < self.error < 1:
            raise ValueError(f"a relative error lies between 0 and 1, got {self.error}")
        if init not in ("svd", "random"):
            raise ValueError(f"init is 'svd' or 'random', got {init!r}")
        if init == "random" and self.error is not None:
            raise ValueError("an error is that of a start from the weight: use init='svd'")

    def __repr__(self) -> str:
        shown = [(f.name, getattr(self, f.name), f.default) for f in fields(self) if f.repr]
        words = [f"{name}={value!r}" for name, value, default in shown if value != default]
        return f"{type(self).__name__}({', '.join(words)})"

    def resolve(self, layer: nn.Module) -> "Structure":
        """Return this edit with the rank (and shape) that its ratio or error means for a layer.

        Raises:
            ValueError: no rank reaches the ratio, or the error needs more numbers than the weight.

        >>> from tqlearn import LowRank
        >>> LowRank(ratio=4).resolve(nn.Linear(768, 768))
        LowRank(rank=96)
        """
        layer = linear_of(layer)
        if self.rank is not None:
            return self
        rank = self._by_error(layer) if self.ratio is None else self._by_ratio(layer)
        return replace(self, rank=rank, ratio=None, error=None)

    def __call__(self, layer: nn.Module) -> nn.Module:
        """Return the new layer: ``nearest`` to the weight, or ``empty`` with the bias copied."""
        old, layer = layer, linear_of(layer)
        edit = self.resolve(layer)
        if getattr(self, "init", "svd") == "svd":
            new = edit.nearest(layer)
        else:
            new = edit.empty(layer).to(layer.weight)
            if getattr(layer, "bias", None) is not None:
                new.bias.data.copy_(layer.bias)
        new.dense_like = None if old is layer else type(old)
        new = new.wrap(old) if isinstance(new, Table) else new
        return keep_hooks(old, freeze_like(layer, new))

    def skeleton(self, layer: nn.Module) -> nn.Module:
        """Return the new layer without its values, for a preview."""
        layer = linear_of(layer)
        edit = self.resolve(layer)
        with torch.device("meta"):
            return edit.empty(layer)

    def _by_ratio(self, layer: nn.Module) -> int:
        budget, limit = SLACK * layer.weight.numel() / self.ratio, self.limit(layer)
        rank = bisect_right(range(1, limit + 1), budget, key=lambda r: self.numbers(layer, r))
        if rank == 0:
            least = self.numbers(layer, 1)
            raise ValueError(
                f"{self!r} cannot be reached: {self.words(layer)} has {least:,} numbers at rank 1, "
                f"only {layer.weight.numel() / least:.2f} times fewer; ask for a smaller ratio"
            )
        return rank

    def _by_error(self, layer: nn.Module) -> Ranks:
        self.limit(layer)  # what does not fit is refused first
        if layer.weight.is_meta:
            raise ValueError(f"{self!r} needs the values of the weight, which is on meta")
        return self.paying(layer, self.rank_of_error(layer))

    def paying(self, layer: nn.Module, rank: Ranks) -> Ranks:
        """Return the rank that the error needs, unless it has as many numbers as the weight.

        Raises:
            ValueError: it does not pay.
        """
        if (count := self.numbers(layer, rank)) >= layer.weight.numel():
            raise ValueError(
                f"{self!r} needs rank {rank} in {self.words(layer)}: {count:,} numbers, where the "
                f"weight has {layer.weight.numel():,}; allow a larger error or leave the layer out"
            )
        return rank

    def words(self, layer: nn.Module) -> str:
        """Return a layer in a few words, for a message."""
        return f"a {' x '.join(map(str, layer.weight.shape))} {type(layer).__name__}"


def check_plain(edit: str, module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Raise unless the module computes what one of ``kinds`` does, with nothing on its weight."""
    if not isinstance(module, kinds) and not is_conv1d(module):
        wanted = " or ".join(f"nn.{kind.__name__}" for kind in kinds)
        raise TypeError(f"{edit} takes an {wanted}, got {type(module).__name__}")
    kind = next((kind for kind in kinds if isinstance(module, kind)), None)
    kept = kind is nn.Embedding and keeps_forward(module)  # see ``cores.Table``
    if kind is not None and not kept and not computes_as(module, kind):
        raise TypeError(
            f"{edit} takes an nn.{kind.__name__}, but {type(module).__name__} has a forward of its "
            f"own, which gives something else than nn.{kind.__name__} (a scale, an offset, other "
            "arguments?) and would be lost; quantize it with LSQ or leave it out"
        )
    require_editable(edit, module)
    if parametrize.is_parametrized(module) or any(map(is_quantizer, module.children())):
        raise ValueError(
            f"{edit} replaces the layer and would drop the mask or quantizer on it; put "
            f"{edit} first in the plan, or call tqlearn.bake(model) before"
        )


def say_clipped(edit: str, words: str, clipped: Ranks) -> None:
    """Warn that a rank lies above the admissible one."""
    warnings.warn(f"{edit}: {words}, using {clipped}", stacklevel=5)


def fitting(edit: Structure, layer: nn.Module) -> int:
    """Return the rank of an edit, clipped with a warning to what is exact."""
    limit = edit.limit(layer)
    if isinstance(edit.rank, Sequence) or edit.rank < 1:
        raise ValueError(f"{type(edit).__name__} takes one rank of at least 1, got {edit.rank}")
    if edit.rank > limit:
        words = f"rank {edit.rank} is more than {edit.words(layer)} can use"
        say_clipped(type(edit).__name__, words, limit)
    return min(edit.rank, limit)
