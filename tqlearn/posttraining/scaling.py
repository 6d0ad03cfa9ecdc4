"""Scales per channel, folded into neighbors: SmoothQuant for quantized inputs, AWQ for weights.

With y = (x / s) (W diag(s))^T a channel of the inputs shrinks and its column of the weight grows,
and nothing is lost before something is rounded. SmoothQuant meets in the middle, so that outliers
of x fit a grid. AWQ lets the columns grow that meet large inputs, so that they lose less when the
weight is rounded, and tries how much.

Sources: SmoothQuant (Xiao et al. 2022, arXiv 2211.10438), AWQ (Lin et al. 2023, arXiv 2306.00978);
spec sheet post-training methods, section 3.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import require, require_model
from ..kinds import is_conv1d
from ..precision import widened
from ..quantizers.calibration import calibrate_weights, checked_batches, real, run_hooked
from ..stages import chain_of, is_quantizer
from ..surgery import compress
from .folds import Fold, folds_of, is_norm, matrix, require_plain
from .layerwise import Moments, walk

SMALL = 1e-5  # channels below this size are scaled as if they had it
POWERS = [k / 20 for k in range(20)]  # AWQ's grid; the power 0 scales nothing


def smooth_scale(
    inputs: Float[Tensor, " channels"], columns: Float[Tensor, " channels"], alpha: float | int
) -> Float[Tensor, " channels"]:
    """Return SmoothQuant's s = max|x|^alpha / max|W|^(1 - alpha) of each channel.

    Args:
        inputs: the largest |x| of each channel; columns: the largest |W| of its columns.

    With alpha 0.5 both have the largest size sqrt(max|x| max|W|) afterwards. A channel without
    inputs or without weights keeps its scale.

    >>> smooth_scale(torch.tensor([16.0, 0.0]), torch.tensor([1.0, 1.0]), 0.5).tolist()
    [4.0, 1.0]
    """
    x, w = inputs.clamp_min(SMALL), columns.clamp_min(SMALL)
    alive = (inputs > 0) & (columns > 0)
    return torch.where(alive, x**alpha / w ** (1 - alpha), 1.0)


def awq_scale(size: Float[Tensor, " channels"], power: float) -> Float[Tensor, " channels"]:
    """Return AWQ's s = mean|x|^power, with the product of its largest and smallest number at 1.

    >>> awq_scale(torch.tensor([1.0, 16.0]), 0.5).tolist()
    [0.5, 2.0]
    """
    s = size.clamp_min(SMALL) ** power
    return s / (s.max() * s.min()).sqrt()


def best_power(
    size: Float[Tensor, " channels"], error: Callable[[Tensor], float]
) -> tuple[float, Float[Tensor, " channels"]]:
    """Return the power of AWQ's grid, and its scale, whose error is least.

    Args:
        size: mean|x| of each channel. error: of a scale.
    """
    found = [(error(awq_scale(size, power)), power) for power in POWERS]
    power = min(found)[1]
    return power, awq_scale(size, power)


def smooth(model: nn.Module, batches: Iterable, alpha: float | int = 0.5) -> nn.Module:
    """Return a model whose layers get inputs without outliers (SmoothQuant); equal outputs.

    For plans with ``Inputs``: compress what this returns. Layers without a place for a scale (see
    ``folds``) stay; in a BERT that is all but the output projections.

    Args:
        model: in floats, of a family in ``sparsity.ANATOMIES``; unchanged.
        batches: what it is called with, as for ``calibrate``.
        alpha: from 0 to 1; how much of the outliers goes into the weights.

    Raises:
        ValueError: no place for a scale, a compressed model, no batches, alpha outside 0 to 1.
        TypeError: no model; ``batches`` is one batch, or none.

    Example::

        student = tq.compress(smooth(model, batches), {"*.layers.*": [tq.LSQ(8), Inputs(LSQ(8))]})
    """
    require_model("smooth", model)
    if not 0 <= require("smooth: alpha", alpha, float) <= 1:
        raise ValueError(f"alpha is a share from 0 to 1, got {alpha}")
    require_plain("smooth", model)
    batches, folds = list(checked_batches(batches)), folds_of(model)
    made = copy.deepcopy(model)
    largest = _largest(made, [fold.readers[0] for fold in folds], batches)
    for fold in folds:
        columns = [matrix(made.get_submodule(name)).abs().amax(0) for name in fold.readers]
        column = widened(torch.stack(columns).amax(0))
        x = fold.gathered(largest[fold.readers[0]])
        fold.apply(made, smooth_scale(x, fold.gathered(column), alpha))
    return made


def _largest(model: nn.Module, names: Sequence[str], batches: list) -> dict[str, Tensor]:
    """Return the largest |x| of each input of the layers, at real positions."""
    found: dict[str, Tensor] = {}
    layers, masks = {model.get_submodule(name): name for name in names}, []

    def look(module: nn.Module, inputs: tuple) -> None:
        x = widened(real(inputs[0], masks).flatten(0, -2)).abs()
        if len(x):
            top, name = x.amax(0), layers[module]
            found[name] = torch.maximum(found[name], top) if name in found else top

    run_hooked(model, batches, dict.fromkeys(layers, look), masks)
    if missing := set(names) - set(found):
        raise ValueError(
            f"no batch reached {len(missing)} layers, the first is {min(missing)!r}; give batches "
            "that use them"
        )
    return found


@torch.no_grad()
def awq(model: nn.Module, batches: Iterable, plan: Mapping[str, Sequence]) -> nn.Module:
    """Return a model whose weights lose less when a plan rounds them (AWQ); equal outputs.

    For each place in ``folds``, in order, with the inputs that the layers before give when they are
    scaled and rounded. A scale is taken by the error of what reads it: queries, keys and values
    together. AWQ's paper judges by the outputs of the whole attention.

    Args:
        model: in floats, of a family in ``sparsity.ANATOMIES``; unchanged.
        batches: what it is called with, as for ``calibrate``.
        plan: what it will be compressed with; edits that quantize weights.

    Raises:
        ValueError: no place for a scale under the plan, a compressed model, or a plan with inputs
            quantized.
        TypeError: no model; ``batches`` is one batch, or none.

    Example::

        plan = {"*.layers.*": [tq.LSQ(bits=4, init="mse", per=64)]}
        student = tq.calibrate(tq.compress(awq(model, batches, plan), plan))
    """
    require_model("awq", model)
    require_plain("awq", model)
    batches, folds = list(checked_batches(batches)), folds_of(model)
    student = compress(model, plan)
    on_weights = calibrate_weights(student)
    if others := [n for n, m in student.named_modules() if is_quantizer(m) and m not in on_weights]:
        raise ValueError(
            f"awq looks at weights alone, but the plan quantizes inputs, {others[0]!r} first; take "
            "Inputs(...) out of the plan, and call smooth for quantized inputs"
        )
    places, layers = {}, {}
    for fold in folds:
        modules = {name: student.get_submodule(name) for name in (fold.producer, *fold.readers)}
        known = [isinstance(m, nn.Linear) or is_conv1d(m) or is_norm(m) for m in modules.values()]
        if all(known) and any(chain_of(modules[name]) for name in fold.readers):
            places[fold.readers[0]] = fold
            layers |= {name: modules[name] for name in fold.readers}
    if not layers:
        raise ValueError(
            "the plan rounds no layer whose inputs can be scaled; such layers are "
            f"{[name for fold in folds for name in fold.readers][:4]} ..."
        )
    made = copy.deepcopy(model)
    for names, moments in walk(student, layers, batches):
        for fold in [places[name] for name in names if name in places]:
            scale = _best(student, fold, moments)
            fold.apply(made, scale)
            fold.apply(student, scale)
            for name in (fold.producer, *fold.readers):
                _calibrate(student.get_submodule(name))
    return made


def _best(student: nn.Module, fold: Fold, moments: Moments) -> Tensor:
    """Return the scale that makes the readers of a place err least."""
    readers = [student.get_submodule(name) for name in fold.readers]

    def error(scale: Tensor) -> float:
        columns = scale[fold.channel.to(scale.device)]
        return sum(
            moments.error(matrix(reader) - _rounded(reader, columns) / columns.to(matrix(reader)))
            for reader in readers
            if chain_of(reader)
        )

    return best_power(fold.gathered(moments.size), error)[1]


def _rounded(layer: nn.Module, columns: Tensor) -> Tensor:
    """Return (out, in) what the stages make of a weight with scaled columns."""
    x = (matrix(layer) * columns).to(matrix(layer))
    x = x.T if is_conv1d(layer) else x
    for stage in chain_of(layer):
        x = (stage.calibrate(x) if is_quantizer(stage) else stage)(x)
    return x.T if is_conv1d(layer) else x


def _calibrate(layer: nn.Module) -> None:
    """Let the quantizers on a layer's weight look at it anew."""
    if chain_of(layer):
        calibrate_weights(layer)
