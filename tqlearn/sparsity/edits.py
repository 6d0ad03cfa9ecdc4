"""``BlockPrune``, the edit that puts a block mask with scores on a layer, and plans of it.

The mask comes before the quantizer: ``[BlockPrune((32, 32)), LSQ(bits=8)]``. What spans layers is
in the plan: edits with the same ``group`` share scores, as the two matrices of a FFN do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .anatomy import ATTENTION, FFN, encoder_layers
from .blocks import BlockMask, RowMask
from .grid import is_quantizer
from .movement import FINAL
from .weights import attach

VARIANTS = ("block", "struct", "hybrid")


@dataclass(frozen=True)
class BlockPrune:
    """Prune a linear layer in blocks whose scores learn.

    Args:
        block: (rows, columns) of a block; None is the whole side. (32, 32) are square blocks,
            (1, None) output features, (None, 1) input features, (64, None) heads of a query.
        group: layers whose edits have the same group share their scores, one per block.
        kind: what the penalty weighs together: "attention", "dense" or a name of one's own.
        bias: mask the bias of an output feature that has no block left; without it compaction
            changes the outputs unless it folds the bias.
        threshold, minimum: as in ``blocks.BlockMask``.

    ``block_plan`` makes the paper's three variants for a whole encoder.

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

    def __post_init__(self) -> None:
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
        if not isinstance(module, nn.Linear):
            raise TypeError(
                f"BlockPrune takes linear layers, got {type(module).__name__}; leave it out of "
                "the plan"
            )
        chains = getattr(module, "parametrizations", {})
        for stage in chains["weight"] if "weight" in chains else ():
            what = "quantized" if is_quantizer(stage) else "masked"
            raise ValueError(
                f"the weight is {what} already; put BlockPrune first in the plan, or call "
                "tqlearn.bake(model) before"
            )
        shape = module.weight.shape
        block = [n if b is None else b for n, b in zip(shape, self.block, strict=True)]
        settings = self.group, self.kind, self.threshold, self.minimum
        mask = BlockMask(list(shape), block, *settings)
        attach(module, "weight", mask)
        if self.bias and module.bias is not None:
            attach(module, "bias", RowMask().follow(mask))
        return module


def block_plan(
    model: nn.Module,
    variant: str = "hybrid",
    block: Sequence[int] = (32, 32),
    minimum: float | int = 0.0,
    bias: bool = True,
) -> dict[str, list[BlockPrune]]:
    """Return the plan of a variant for every encoder layer of a model.

    Args:
        variant: "block": blocks in all six matrices; "struct": whole heads and FFN dimensions;
            "hybrid": blocks in attention, FFN dimensions.
        block: of query, key and value, and of the FFN in "block"; the output projection takes it
            transposed. Its rows must divide a head.
        minimum, bias: as in ``BlockPrune``.

    A FFN dimension is a row of the first matrix and a column of the second, with one score: the
    two edits of a layer have the same group.

    Raises:
        ValueError: an unknown variant, a block that straddles heads, or no encoder we know.

    Source: spec sheet Block Pruning, section 2.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variants are {VARIANTS}, got {variant!r}")
    plan = {}
    for layer in encoder_layers(model):
        rows, columns = block
        if variant == "struct":
            rows, columns = layer.head_size, None
        elif layer.head_size % rows:
            raise ValueError(
                f"blocks must divide a head, or one would straddle two: {rows} rows, but heads of "
                f"{layer.name} have {layer.head_size}; choose a divisor"
            )
        shared = {"minimum": minimum, "bias": bias}
        for name in ATTENTION:
            shape = (columns, rows) if name == "output" else (rows, columns)
            plan[getattr(layer, name)] = [BlockPrune(shape, kind="attention", **shared)]
        for name in FFN:
            edit = BlockPrune((rows, columns), **shared)
            if variant != "block":
                shape = (1, None) if name == "up" else (None, 1)
                edit = BlockPrune(shape, group=f"{layer.name}.ffn", **shared)
            plan[getattr(layer, name)] = [edit]
    return plan
