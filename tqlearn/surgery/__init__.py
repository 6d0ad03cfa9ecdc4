"""Verbs on whole models. Each returns a new one.

- ``plan``: which layers a plan names; preview
- ``verbs``: compress, pack, unpack, bake
- ``cuts``: what goes of a layer, and the slicing
- ``compaction``: survey, compact: what masks emptied goes
- ``refill``: fill: zeros become numbers that can learn again
- ``sketch``: what compress would build, without the numbers
"""

from .compaction import Survey, compact, survey
from .cuts import Cut
from .plan import Preview, match, preview
from .refill import fill
from .sketch import skeleton_of, sketch
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
    "skeleton_of",
    "sketch",
    "survey",
    "unpack",
]
