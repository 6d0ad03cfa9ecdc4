"""Better numbers without training: a few batches say what rounding will cost, layer by layer.

    model -> rotate | smooth | awq -> compress -> calibrate -> rescale -> compensate -> pack

- ``layerwise``: layers in the order of the forward pass, with what is known of their inputs
- ``rescaling``: rescale: scales for the inputs that a layer is given
- ``compensation``: compensate: GPTQ and SparseGPT on a student
- ``folds``: places where channels may be scaled, and the families whose stream may turn
- ``scaling``: smooth (SmoothQuant) and awq (AWQ): scales, folded into neighbors
- ``hadamard``: matrices that spread an outlier
- ``rotation``: rotate: the residual stream and the values of heads, turned
- ``mixing``: mixed_precision: bits for each layer under a limit of bytes
"""

from .compensation import compensate, sweep
from .folds import STREAMS, Fold, Stream, folds_of
from .hadamard import hadamard, spread
from .layerwise import Moments, walk
from .mixing import knapsack, mixed_precision
from .rescaling import rescale
from .rotation import rotate
from .scaling import awq, awq_scale, best_power, smooth, smooth_scale

__all__ = [
    "Fold",
    "Moments",
    "STREAMS",
    "Stream",
    "awq",
    "awq_scale",
    "best_power",
    "compensate",
    "folds_of",
    "hadamard",
    "knapsack",
    "mixed_precision",
    "rescale",
    "rotate",
    "smooth",
    "smooth_scale",
    "spread",
    "sweep",
    "walk",
]
