"""Edits that put masks on a layer: ``TwoFour`` (N:M) and ``BlockPrune`` (scores that learn).

A mask comes before the quantizer: ``[TwoFour(), LSQ(bits=4)]``. What spans layers is in the plan:
``BlockPrune`` edits with the same ``group`` share scores, as the two matrices of a FFN do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..arguments import require, require_model, settle
from ..kinds import input_axis, linear_of
from ..spaces import Edit
from ..stages import Cores, attach, is_mask, is_quantizer, weights_of
from .anatomy import ATTENTION, TransformerLayer, transformer_layers
from .blocks import BlockMask, RowMask
from .movement import FINAL
from .nm import UPDATES, NMMask
from .patterns import Pattern

VARIANTS = ("block", "struct", "hybrid")


@dataclass(frozen=True)
class TwoFour(Edit):
    """Keep two of every four neighbors along the input of a weight; the rest is exactly zero.

    Args:
        pattern: "2:4", "1:2", "4:8" or any "N:M"; "4:8 pairs" keeps adjacent pairs.
        update: "fixed": the smallest magnitudes go now, once, and get no gradient. "ste" and
            "sr-ste" choose anew in every forward; see ``nm.NMMask``.
        decay: SR-STE's lambda.
        pad: allow a short last group where the width is not divisible.
        only: names of the weights to mask, such as ("core_0",); None for all of the layer's.

    On a tensor train, a Kronecker product or a low-rank pair every factor is masked along its own
    input, so the ranks or modes on that side must be divisible.

    Source: spec sheet Deep Compression, section 6; a fixed mask by magnitude is its default.

    >>> layer = TwoFour()(nn.Linear(24, 36))
    >>> int((layer.weight != 0).sum()), layer.parametrizations.weight[0]
    (432, NMMask('2:4', shape=(36, 24), axis=-1, update='fixed'))
    """

    pattern: str = "2:4"
    update: str = "fixed"
    decay: float | int = 2e-4
    pad: bool = False
    only: Sequence[str] | None = None

    def __post_init__(self) -> None:
        require("TwoFour: pattern", self.pattern, str)
        require("TwoFour: decay", self.decay, float)
        Pattern.of(self.pattern)
        if self.update not in UPDATES:
            raise ValueError(f"update is 'fixed', 'ste' or 'sr-ste', got {self.update!r}")
        if not self.decay >= 0:
            raise ValueError(f"a decay is at least 0, got {self.decay}")
        if self.only is not None and (not self.only or isinstance(self.only, str)):
            raise ValueError(f"only lists names of weights, such as ('core_0',), got {self.only!r}")
        settle(self)

    def __call__(self, module: nn.Module) -> nn.Module:
        """Put the masks on, in place, and return the layer.

        Raises:
            TypeError: the layer has no weight.
            ValueError: a width without whole groups, a weight that is masked or quantized already,
                an unknown name in ``only``, or a NaN.
        """
        names = weights_of(module, "TwoFour", "mask")
        if unknown := [name for name in self.only or () if name not in names]:
            raise ValueError(f"{type(module).__name__} has no weight {unknown[0]!r}, only {names}")
        masks = {name: self._mask(module, name) for name in self.only or names}
        for name, mask in masks.items():
            attach(module, name, mask)
        return module

    def _mask(self, module: nn.Module, name: str) -> NMMask:
        where, weight = f"{type(module).__name__}.{name}", getattr(module, name).detach()
        chains = getattr(module, "parametrizations", {})
        for stage in chains[name] if name in chains else ():
            if is_quantizer(stage):
                raise ValueError(
                    f"{where} is quantized already; put TwoFour before the quantizer in the plan, "
                    "or call tqlearn.bake(model) before"
                )
            if is_mask(stage):
                raise ValueError(f"{where} has a mask already; call tqlearn.bake(model) before")
        axis, group = input_axis(module, weight), Pattern.of(self.pattern).group
        if weight.shape[axis] % group and not self.pad:
            ways = "leave the layer out"
            if isinstance(module, Cores):
                ways = "choose ranks and modes that are, name the cores that fit in only=(...)"
            raise ValueError(
                f"TwoFour({self.pattern!r}) needs a width divisible by {group}, but {where} with "
                f"shape {(*weight.shape,)} has {weight.shape[axis]} along its input; {ways}, or "
                "allow a short last group with pad=True"
            )
        shape = list(weight.shape)
        mask = NMMask(shape, self.pattern, axis, self.pad, self.update, self.decay)
        return mask.remask(weight) if self.update == "fixed" else mask


@dataclass(frozen=True)
class BlockPrune(Edit):
    """Prune a linear layer in blocks whose scores learn.

    Args:
        block: (rows, columns) of a block; None is the whole side. (32, 32) are square blocks,
            (1, None) output features, (None, 1) input features, (64, None) heads of a query.
        group: layers whose edits have the same group share their scores, one per block.
        kind: what the penalty weighs together: "attention", "dense" or a name of one's own.
        bias: mask the bias of an output feature that has no block left; without it compaction
            changes the outputs unless it folds the bias.
        threshold, minimum, repeat: as in ``blocks.BlockMask``.

    GPT-2's ``Conv1D`` becomes a linear layer. ``block_plan`` makes the paper's three variants for a
    whole model.

    Source: spec sheet Block Pruning, sections 2 and 3.

    >>> layer = BlockPrune((4, None))(nn.Linear(8, 12))
    >>> layer.parametrizations.weight[0]
    BlockMask(shape=[12, 8], block=[4, 8])
    """

    block: Sequence[int | None] = (32, 32)
    group: str | None = None
    kind: str = "dense"
    bias: bool = True
    threshold: float | int = FINAL
    minimum: float | int = 0.0
    repeat: int = 1

    def __post_init__(self) -> None:
        settle(self)
        if len(self.block) != 2 or any(b is not None and b < 1 for b in self.block):
            raise ValueError(
                f"a block is (rows, columns), None for a whole side, got {self.block!r}"
            )
        BlockMask([1, 1], [1, 1], self.group, self.kind, self.threshold, self.minimum)

    def __call__(self, module: nn.Module) -> nn.Module:
        """Put the masks on, in place, and return the layer.

        Raises:
            TypeError: another layer than a linear one.
            ValueError: the blocks do not divide the weight, or it is masked or quantized already.
        """
        module = as_linear(module)
        if not isinstance(module, nn.Linear):
            raise TypeError(
                f"BlockPrune takes linear layers, got {type(module).__name__}; leave it out of "
                "the plan"
            )
        chains = getattr(module, "parametrizations", {})
        for stage in chains["weight"] if "weight" in chains else ():
            what = "quantized" if is_quantizer(stage) else "masked"
            if not (is_quantizer(stage) or is_mask(stage)):
                what = f"computed by {type(stage).__name__.strip('_')}"
            raise ValueError(
                f"the weight is {what} already; put BlockPrune first in the plan, or call "
                "tqlearn.bake(model) before"
            )
        shape = module.weight.shape
        block = [n if b is None else b for n, b in zip(shape, self.block, strict=True)]
        settings = self.group, self.kind, self.threshold, self.minimum, self.repeat
        mask = BlockMask(list(shape), block, *settings)
        attach(module, "weight", mask)
        if self.bias and module.bias is not None:
            attach(module, "bias", RowMask().follow(mask))
        return module


def as_linear(module: nn.Module) -> nn.Module:
    """Return GPT-2's Conv1D as a linear layer that the layout carries; any other layer itself."""
    linear = linear_of(module)
    if linear is not module:
        linear.tqlearn_resized = True
    return linear


def block_plan(
    model: nn.Module,
    variant: str = "hybrid",
    block: Sequence[int] = (32, 32),
    minimum: float | int = 0.0,
    bias: bool = True,
) -> dict[str, list[BlockPrune]]:
    """Return the plan of a variant for every layer of a model.

    Args:
        variant: "block": blocks in all matrices; "struct": whole heads and FFN dimensions;
            "hybrid": blocks in attention, FFN dimensions.
        block: of query, key and value, and of the FFN in "block"; the output projection takes it
            transposed. Its rows must divide a head.
        minimum, bias: as in ``BlockPrune``.

    A FFN dimension is a row of the first matrix (and of the gate) and a column of the last, with
    one score: the edits of a layer have the same group. Heads that share key and value are one
    block of query and output in "struct". Where all layers of a stack must keep the same heads (T5,
    MPNet), their scores in "struct" are shared, too.

    Raises:
        ValueError: an unknown variant, a block that straddles heads, or no layer that we know.

    Source: spec sheet Block Pruning, section 2.
    """
    require_model("block_plan", model)
    require("block_plan: block", block, Sequence[int])
    if len(block) != 2:
        raise ValueError(f"a block is (rows, columns), got {block!r}")
    if variant not in VARIANTS:
        raise ValueError(f"variants are {VARIANTS}, got {variant!r}")
    plan: dict[str, list[BlockPrune]] = {}
    for layer in transformer_layers(model):
        shared = {"minimum": minimum, "bias": bias}
        for part in ATTENTION if layer.entry else ():
            rows, columns = _attention_block(layer, part, variant, block)
            shape = (columns, rows) if part == "output" else (rows, columns)
            tied = variant == "struct" and layer.stack
            group = f"{layer.stack}.{part}" if tied else None
            plan[getattr(layer, part)] = [BlockPrune(shape, group, kind="attention", **shared)]
        for name in dict.fromkeys(n for n in (layer.gate, layer.up, layer.down) if n):
            edit = BlockPrune(tuple(block), **shared)
            if variant != "block":
                shape = (None, 1) if name == layer.down else (1, None)
                twice = 2 if name == layer.up == layer.gate else 1
                edit = BlockPrune(shape, f"{layer.name}.ffn", repeat=twice, **shared)
            plan[name] = [edit]
    return plan


def _attention_block(
    layer: TransformerLayer, part: str, variant: str, block: Sequence[int]
) -> tuple[int, int | None]:
    """Return the block of query, key or value; of the output projection before it is turned."""
    rows, columns = block
    if variant == "struct":
        many = layer.group if part in ("query", "output") else 1
        return many * layer.head_size, None
    if layer.head_size % rows:
        raise ValueError(
            f"blocks must divide a head, or one would straddle two: {rows} rows, but heads of "
            f"{layer.name} have {layer.head_size}; choose a divisor"
        )
    return rows, columns
