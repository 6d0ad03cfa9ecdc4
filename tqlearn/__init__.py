"""tqlearn: compress Transformers with tensor trains, learned-step quantization and distillation.

    model -> plan -> compress -> calibrate -> train -> report -> pack

Verbs and edits stand here; everything else is one package down: ``tq.factors.tt_svd``,
``tq.quantizers.Quantizer``, ``tq.sparsity.nm_mask``. Importing tqlearn needs torch alone;
``import tqlearn.hf`` adds transformers, and says what to install where it is missing.
"""

import warnings

from . import (  # noqa: F401  (the rooms, for ``tq.factors`` and so on)
    distill,
    extras,
    factors,
    models,
    posttraining,
    quantizers,
    registry,
    shapes,
    sparsity,
    stages,
    storage,
    surgery,
)
from .export import export  # the verb, in front of its room: tqlearn.export.grids is there, too
from .factors import TT, TTM, Kronecker, LowRank
from .posttraining import compensate, rescale
from .quantizers import calibrate
from .quantizers.edits import LSQ, PACT, SAWB, Inputs, LearnedClip, LSQPlus, Ternary, Uniform
from .quantizers.minmax import MinMax
from .registry import register
from .sparsity import BlockPrune, TwoFour, block_plan
from .storage import describe, load, rebuild, report, save
from .surgery import bake, compact, compress, fill, pack, preview, survey, unpack


def _meet_transformers(model: object) -> None:
    """Bring the bridge once a model of transformers is compressed: it writes digests."""
    try:
        from .hf.bridge import carry
    except ImportError as error:
        warnings.warn(
            f"{type(model).__name__} will be saved without digests ({error}); pip install "
            "'tqlearn[hf]' for them",
            stacklevel=4,
        )
    else:
        carry(model)


storage.layout.LISTENERS.append(_meet_transformers)
extras.install()

__version__ = "0.1.0"

__all__ = [
    "LSQ",
    "PACT",
    "SAWB",
    "TT",
    "TTM",
    "BlockPrune",
    "Inputs",
    "Kronecker",
    "LSQPlus",
    "LearnedClip",
    "LowRank",
    "MinMax",
    "Ternary",
    "TwoFour",
    "Uniform",
    "bake",
    "block_plan",
    "calibrate",
    "compact",
    "compensate",
    "compress",
    "describe",
    "export",
    "fill",
    "load",
    "pack",
    "preview",
    "rebuild",
    "register",
    "report",
    "rescale",
    "save",
    "survey",
    "unpack",
]

_LAZY = ("data", "hf", "teachers")  # rooms that need more than torch are imported at first use


def __getattr__(name: str):
    if name == "stream":
        from .hf.streaming import stream

        return stream
    if name in _LAZY:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
