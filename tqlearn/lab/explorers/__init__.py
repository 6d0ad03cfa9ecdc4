"""Explorers, one file per notebook: a pure function, a drawing of it, sliders over the drawing."""

from . import language_model
from .base import Explorer, choice, sweep
from .block_pruning import block_pruning_explorer, draw_pruning, pruning_table, snapshot
from .budget import budget, budget_explorer, draw_budget
from .deep_compression import deep_compression_explorer, draw_plan, plan_table
from .distillation import distillation_explorer, draw_distillation, endings, over_seeds, runs
from .fully_quantized import draw_kinds, fully_quantized_explorer, kind_table
from .kdlsq_bert import bert_base_bytes, clip_table, draw_clip, kdlsq_bert_explorer, retained
from .kronecker import (
    at,
    draw_kronecker,
    kronecker_explorer,
    kronecker_table,
    sum_costs,
    sum_errors,
)
from .kronecker_bert import (
    draw_settings,
    dropped_squares,
    kronecker_bert_explorer,
    setting_table,
    start_error,
    student_parts,
)
from .language_model import (
    draw_language,
    language_model_explorer,
    language_table,
    layer_bytes,
    plant,
    rounded,
)
from .low_rank import draw_spectrum, low_rank_costs, low_rank_explorer, low_rank_table, spectrum
from .pack_and_ship import (
    EXAMPLE,
    Roof,
    draw_shipping,
    pack_and_ship_explorer,
    served,
    ship_plan,
    ship_sizes,
    ship_table,
)
from .pareto_lab import draw_front, in_words, pareto_lab_explorer
from .quantizer import draw_quantizer, error_parts, quantizer_explorer, quantizer_table
from .sparsity import draw_sparsity, sparsity_costs, sparsity_explorer, sparsity_table
from .structures import best_within, candidates, compare, draw_structures
from .tensor_train import (
    digit_modes,
    draw_trains,
    pair_costs,
    tensor_train_explorer,
    train_costs,
    train_table,
)
from .tradeoff import BITS, RANKS, compressed_bert_explorer, draw_tradeoff, join, untrained
from .zero_grid import draw_zero_grid, grid_parts, zero_grid_explorer, zero_grid_table

__all__ = [
    "BITS",
    "EXAMPLE",
    "RANKS",
    "Explorer",
    "Roof",
    "at",
    "bert_base_bytes",
    "best_within",
    "block_pruning_explorer",
    "budget",
    "budget_explorer",
    "candidates",
    "choice",
    "clip_table",
    "compare",
    "compressed_bert_explorer",
    "deep_compression_explorer",
    "digit_modes",
    "distillation_explorer",
    "draw_budget",
    "draw_clip",
    "draw_distillation",
    "draw_front",
    "draw_kinds",
    "draw_language",
    "draw_kronecker",
    "draw_plan",
    "draw_pruning",
    "draw_quantizer",
    "draw_settings",
    "draw_shipping",
    "draw_sparsity",
    "draw_spectrum",
    "draw_structures",
    "draw_tradeoff",
    "draw_trains",
    "draw_zero_grid",
    "dropped_squares",
    "endings",
    "error_parts",
    "fully_quantized_explorer",
    "grid_parts",
    "in_words",
    "join",
    "kdlsq_bert_explorer",
    "kind_table",
    "kronecker_bert_explorer",
    "kronecker_explorer",
    "kronecker_table",
    "language_model",
    "language_model_explorer",
    "language_table",
    "layer_bytes",
    "low_rank_costs",
    "low_rank_explorer",
    "low_rank_table",
    "over_seeds",
    "pack_and_ship_explorer",
    "pair_costs",
    "pareto_lab_explorer",
    "plan_table",
    "plant",
    "pruning_table",
    "quantizer_explorer",
    "quantizer_table",
    "retained",
    "rounded",
    "runs",
    "served",
    "setting_table",
    "ship_plan",
    "ship_sizes",
    "ship_table",
    "snapshot",
    "sparsity_costs",
    "sparsity_explorer",
    "sparsity_table",
    "spectrum",
    "start_error",
    "student_parts",
    "sum_costs",
    "sum_errors",
    "sweep",
    "tensor_train_explorer",
    "train_costs",
    "train_table",
    "untrained",
    "zero_grid_explorer",
    "zero_grid_table",
]
