"""tqlearn: compress Transformers with tensor trains, learned-step quantization and distillation.

    model -> plan -> compress -> calibrate -> train -> report -> pack

Importing tqlearn needs torch alone; ``import tqlearn.hf`` adds transformers.
"""

from . import (
    activations,
    calibration,
    clips,
    cores,
    decompose,
    distill,
    embeddings,
    grid,
    kronecker,
    kronecker_layers,
    layers,
    layout,
    masks,
    patterns,
    peers,
    quantize,
    ranges,
    registry,
    rounding,
    sawb,
    shapes,
    sparsify,
    starts,
    svd,
)
from . import report as _report  # noqa: F401  (the room; the verb of the same name follows)
from .calibration import calibrate
from .edits import (
    LSQ,
    PACT,
    SAWB,
    TT,
    TTM,
    Inputs,
    Kronecker,
    LearnedClip,
    LowRank,
    LSQPlus,
    Ternary,
    Uniform,
)
from .embeddings import TTMEmbedding
from .kronecker_layers import KroneckerEmbedding, KroneckerLinear
from .layers import LowRankLinear, TTLinear
from .layout import describe, load, rebuild, save
from .masks import TwoFour
from .registry import register
from .report import Report, report
from .surgery import bake, compress, pack, preview, unpack

__version__ = "0.1.0"

__all__ = [
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
    "Report",
    "TTLinear",
    "TTMEmbedding",
    "Ternary",
    "TwoFour",
    "Uniform",
    "activations",
    "bake",
    "calibrate",
    "calibration",
    "clips",
    "cores",
    "compress",
    "data",
    "decompose",
    "describe",
    "distill",
    "embeddings",
    "grid",
    "kronecker",
    "kronecker_layers",
    "layers",
    "layout",
    "load",
    "masks",
    "pack",
    "patterns",
    "peers",
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
    "svd",
    "teachers",
    "unpack",
]

_LAZY = ("data", "teachers", "hf")  # rooms that need more than torch are imported at first use


def __getattr__(name: str):
    if name in _LAZY:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
