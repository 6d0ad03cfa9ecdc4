"""Verbs on whole models. Each returns a new one.

- ``plan``: which layers a plan names; preview
- ``verbs``: compress, pack, unpack, bake
- ``compaction``: survey, compact: what masks emptied goes
- ``refill``: fill: zeros become numbers that can learn again
"""

from .compaction import Cut, Survey, compact, survey
from .plan import Preview, match, preview
from .refill import fill
from .verbs import bake, compress, pack, unpack

__all__ = [
    "Cut",
    "Preview",
    "Survey",
    "bake",
    "compact",
    "compress",
    "fill",
    "match",
    "pack",
    "preview",
    "survey",
    "unpack",
]
