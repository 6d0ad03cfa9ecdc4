"""tqlearn: compress Transformers with tensor trains, learned-step quantization and distillation.

    model -> plan -> compress -> calibrate -> train -> report -> pack

Importing tqlearn needs torch alone; ``import tqlearn.hf`` adds transformers.
"""

from . import (
    activations,
    anatomy,
    blocks,
    buckets,
    calibration,
    clips,
    cores,
    decompose,
    distill,
    embeddings,
    grid,
    integers,
    kronecker,
    kronecker_layers,
    layers,
    layout,
    masks,
    models,
    movement,
    patterns,
    peers,
    points,
    quantize,
    ranges,
    registry,
    rounding,
    sawb,
    shapes,
    sparsify,
    starts,
    svd,
    transitions,
)
from . import compact as _compact  # noqa: F401  (rooms; the verbs of the same names follow)
from . import report as _report  # noqa: F401
from .calibration import calibrate
from .compact import compact, survey
from .edits import (
    LSQ,
    PACT,
    SAWB,
    TT,
    TTM,
    BlockPrune,
    Inputs,
    Kronecker,
    LearnedClip,
    LowRank,
    LSQPlus,
    Ternary,
    Uniform,
)
from .embeddings import TTMEmbedding
from .filled import fill
from .kronecker_layers import KroneckerEmbedding, KroneckerLinear
from .layers import LowRankLinear, TTLinear
from .layout import describe, load, rebuild, save
from .masks import TwoFour
from .minmax import MinMax
from .pruning import block_plan
from .registry import register
from .report import Report, report
from .surgery import bake, compress, pack, preview, unpack

__version__ = "0.1.0"

__all__ = [
    "BlockPrune",
    "LSQ",
    "PACT",
    "SAWB",
    "TT",
    "TTM",
    "Inputs",
    "Kronecker",
    "KroneckerEmbedding",
    "KroneckerLinear",
    "LSQPlus",
    "LearnedClip",
    "LowRank",
    "LowRankLinear",
    "MinMax",
    "Report",
    "TTLinear",
    "TTMEmbedding",
    "Ternary",
    "TwoFour",
    "Uniform",
    "activations",
    "anatomy",
    "bake",
    "block_plan",
    "blocks",
    "buckets",
    "calibrate",
    "calibration",
    "clips",
    "cores",
    "compact",
    "compress",
    "data",
    "decompose",
    "describe",
    "distill",
    "embeddings",
    "fill",
    "grid",
    "integers",
    "kronecker",
    "kronecker_layers",
    "layers",
    "layout",
    "load",
    "masks",
    "models",
    "movement",
    "pack",
    "patterns",
    "peers",
    "points",
    "preview",
    "quantize",
    "ranges",
    "rebuild",
    "register",
    "registry",
    "report",
    "rounding",
    "save",
    "sawb",
    "shapes",
    "sparsify",
    "starts",
    "survey",
    "svd",
    "teachers",
    "transitions",
    "unpack",
]

_LAZY = ("data", "teachers", "hf")  # rooms that need more than torch are imported at first use


def __getattr__(name: str):
    if name in _LAZY:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
