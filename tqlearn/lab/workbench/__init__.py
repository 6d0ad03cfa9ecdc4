"""A workbench for a model of one's own: dials over its layers, what they cost and what they lose.

- ``rows``: a plan as rows of dials, and as code
- ``sizes``: bytes, as ``tq.report`` counts them
- ``spectra``: one decomposition of each matrix
- ``errors``: what a layer loses
- ``bench``: all of it for one model, without widgets
"""

from .bench import Answer, Bench, Layer
from .errors import Errors, distance
from .rows import Row, code, plan_of
from .sizes import Sizes

__all__ = ["Answer", "Bench", "Errors", "Layer", "Row", "Sizes", "code", "distance", "plan_of"]
