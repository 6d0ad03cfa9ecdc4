"""Zeros with a structure.

- ``patterns``: N:M patterns as integers: places and bytes
- ``nm``: N:M masks, fixed or chosen anew (STE, SR-STE)
- ``wanda``: masks that know the inputs
- ``movement``: scores against a threshold and its schedule
- ``blocks``: block masks whose scores learn
- ``entries``: what the table of anatomies says of a family
- ``families``: the table, one entry per family
- ``anatomy``: the layers of a model, by that table
- ``transitions``: LayerNorm and GELU on their way to cheaper ones
- ``edits``: TwoFour, BlockPrune, and plans of it
"""

from .anatomy import TransformerLayer, encoder_weights, layer_sizes, transformer_layers
from .blocks import BlockMask, RowMask, block_density, block_masks, score_penalty, tie
from .edits import BlockPrune, TwoFour, block_plan, input_axis
from .entries import FFN, Anatomy, Attention
from .families import ANATOMIES
from .movement import CubicThreshold, Straight, blocks_kept
from .nm import NMMask, grouped, magnitude, nm_mask, ungrouped
from .patterns import Pattern, sparse_model_bytes
from .transitions import FadingNorm, FadingReLU, NoNorm
from .wanda import activation_aware, input_norms, remask

__all__ = [
    "ANATOMIES",
    "Anatomy",
    "Attention",
    "BlockMask",
    "BlockPrune",
    "CubicThreshold",
    "FFN",
    "FadingNorm",
    "FadingReLU",
    "NMMask",
    "NoNorm",
    "Pattern",
    "RowMask",
    "Straight",
    "TransformerLayer",
    "TwoFour",
    "activation_aware",
    "block_density",
    "block_masks",
    "block_plan",
    "blocks_kept",
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
    "transformer_layers",
    "ungrouped",
]
