"""Verbs on whole models. Each returns a new one.

- ``plan``: which layers a plan names; preview
- ``verbs``: compress, pack, unpack, bake
- ``compaction``: survey, compact: what masks emptied goes
- ``compensation``: compensate: GPTQ and SparseGPT, layer by layer, without training
- ``refill``: fill: zeros become numbers that can learn again
"""

from .compaction import Cut, Survey, compact, survey
from .compensation import compensate, sweep
from .plan import Preview, match, preview
from .refill import fill
from .verbs import bake, compress, pack, unpack

__all__ = [
    "Cut",
    "Preview",
    "Survey",
    "bake",
    "compact",
    "compensate",
    "compress",
    "fill",
    "match",
    "pack",
    "preview",
    "survey",
    "sweep",
    "unpack",
]
