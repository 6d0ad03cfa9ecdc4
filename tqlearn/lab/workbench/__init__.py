"""A workbench for a model of one's own: dials over its layers, what they cost and what they lose.

    from tqlearn.lab import workbench
    workbench(model, batches=[...], score=accuracy)

- ``rows``: a plan as rows of dials, and as code
- ``sizes``: bytes, as ``tq.report`` counts them
- ``spectra``: one decomposition of each matrix
- ``distances``, ``samples``, ``errors``: what a layer loses
- ``layers``, ``positions``: what there is to tell, and where dials can stand
- ``bench``: all of it for one model, without widgets
- ``threads``, ``worker``: two layers at a time, in the background
- ``dials``, ``tables``, ``front``, ``view``: what the reader sees
- ``opening``: a folder or a name in the place of a model
"""

import sys
import types

from .bench import Bench
from .distances import distance
from .errors import Errors
from .layers import Answer, Layer
from .rows import Row, code, plan_of
from .sizes import Sizes
from .view import Workbench, workbench

__all__ = [
    "Answer",
    "Bench",
    "Errors",
    "Layer",
    "Row",
    "Sizes",
    "Workbench",
    "code",
    "distance",
    "plan_of",
    "workbench",
]


class _Verb(types.ModuleType):
    """The package is called like what it offers, and can be called like it."""

    __call__ = staticmethod(workbench)


sys.modules[__name__].__class__ = _Verb
