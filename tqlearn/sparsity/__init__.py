"""Zeros with a structure.

- ``patterns``: N:M patterns as integers: places and bytes
- ``nm``: N:M masks, fixed or chosen anew (STE, SR-STE)
- ``wanda``: masks that know the inputs
- ``movement``: scores against a threshold and its schedule
- ``blocks``: block masks whose scores learn
- ``anatomy``: where a Transformer's matrices are
- ``transitions``: LayerNorm and GELU on their way to cheaper ones
- ``edits``: TwoFour, BlockPrune, and plans of it
"""

from .anatomy import EncoderLayer, encoder_layers, encoder_weights, layer_sizes
from .blocks import BlockMask, RowMask, block_density, block_masks, score_penalty, tie
from .edits import BlockPrune, TwoFour, block_plan, input_axis
from .movement import CubicThreshold, Straight, blocks_kept
from .nm import NMMask, grouped, magnitude, nm_mask, ungrouped
from .patterns import Pattern, sparse_model_bytes
from .transitions import FadingNorm, FadingReLU, NoNorm
from .wanda import activation_aware, input_norms, remask

__all__ = [
    "BlockMask",
    "BlockPrune",
    "CubicThreshold",
    "EncoderLayer",
    "FadingNorm",
    "FadingReLU",
    "NMMask",
    "NoNorm",
    "Pattern",
    "RowMask",
    "Straight",
    "TwoFour",
    "activation_aware",
    "block_density",
    "block_masks",
    "block_plan",
    "blocks_kept",
    "encoder_layers",
    "encoder_weights",
    "grouped",
    "input_axis",
    "input_norms",
    "layer_sizes",
    "magnitude",
    "nm_mask",
    "remask",
    "score_penalty",
    "sparse_model_bytes",
    "tie",
    "ungrouped",
]
