"""tqlearn: compress Transformers with tensor trains, learned-step quantization and distillation.

    model -> plan -> compress -> calibrate -> train -> report -> pack

Importing tqlearn needs torch alone; ``import tqlearn.hf`` adds transformers.
"""

from . import cores, decompose, distill, embeddings, layers, layout, quantize, registry, shapes
from . import report as _report  # noqa: F401  (the room; the verb of the same name follows)
from .edits import LSQ, TT, TTM
from .embeddings import TTMEmbedding
from .layers import TTLinear
from .layout import describe, load, rebuild, save
from .quantize import calibrate
from .registry import register
from .report import Report, report
from .surgery import bake, compress, pack, preview, unpack

__version__ = "0.1.0"

__all__ = [
    "LSQ",
    "TT",
    "TTM",
    "Report",
    "TTLinear",
    "TTMEmbedding",
    "bake",
    "calibrate",
    "cores",
    "compress",
    "data",
    "decompose",
    "describe",
    "distill",
    "embeddings",
    "layers",
    "layout",
    "load",
    "pack",
    "preview",
    "quantize",
    "rebuild",
    "register",
    "registry",
    "report",
    "save",
    "shapes",
    "teachers",
    "unpack",
]

_LAZY = ("data", "teachers", "hf")  # rooms that need more than torch are imported at first use


def __getattr__(name: str):
    if name in _LAZY:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
