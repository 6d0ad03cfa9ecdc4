"""A tensor on a grid of 2 to 8 bits.

- ``rounding``: the one rounding step, with its straight-through gradients
- ``initial_scales``: where a scale starts: max, least squares, KL, percentile ...
- ``grid``: what all quantizers share: codes, scales, zero points
- ``lsq``: LSQ and LSQ+: the scale is learned
- ``clips``: LearnedClip and PACT: the clip is learned
- ``sawb``: SAWB and Ternary: the clip follows the weights
- ``ranges``: Uniform: between extremes (and ``running_ranges``: over batches)
- ``named_points``: places between layers that a plan may name
- ``inputs``: quantizers of a layer's input and of attention's tensors
- ``calibration``: start values from batches
- ``integers``: products, softmax, GELU and LayerNorm in integers
- ``edits``: the edits (on ``weight_edit``; ``minmax`` has FullyQT's)
"""

from . import edits, integers, minmax  # noqa: F401  (edits share the names of their quantizers)
from .calibration import calibrate, calibrate_weights, real
from .clips import PACT, LearnedClip
from .grid import Quantizer, decode, grid_is_a_scale, require_calibrated, uncalibrated
from .initial_scales import (
    histogram_kl,
    parse_rule,
    require_finite,
    start_bounds,
    start_scale,
    truncation,
)
from .lsq import LSQ, LSQPlus
from .named_points import Point, Positions, Spot, Vector
from .ranges import Uniform
from .rounding import fake_quantize, hold, integer_range, positive, round_ste
from .running_ranges import RunningRange, clamp_rates, switch, synchronize
from .sawb import SAWB, Ternary
from .weight_edit import WeightEdit, groups_of, weights_to_quantize

__all__ = [
    "LSQ",
    "LSQPlus",
    "LearnedClip",
    "PACT",
    "Point",
    "Positions",
    "Quantizer",
    "RunningRange",
    "SAWB",
    "Spot",
    "Ternary",
    "Uniform",
    "Vector",
    "WeightEdit",
    "calibrate",
    "calibrate_weights",
    "clamp_rates",
    "decode",
    "fake_quantize",
    "grid_is_a_scale",
    "groups_of",
    "histogram_kl",
    "hold",
    "integer_range",
    "integers",
    "parse_rule",
    "positive",
    "real",
    "require_calibrated",
    "require_finite",
    "round_ste",
    "start_bounds",
    "start_scale",
    "switch",
    "synchronize",
    "truncation",
    "uncalibrated",
    "weights_to_quantize",
]
