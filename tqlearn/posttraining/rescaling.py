"""Scales for what a layer is given: errors of a weight count as much as its inputs are large."""

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from ..arguments import require_model
from ..kinds import is_conv1d
from ..quantizers.calibration import checked_batches
from ..quantizers.grid import require_calibrated
from ..quantizers.lsq import LSQ, LSQPlus
from ..stages import chain_of
from .compensation import named, targets, upright
from .layerwise import Moments, walk

SEEN = 1e-6  # what an input that was always zero counts, as a share of the mean


@torch.no_grad()
def rescale(model: nn.Module, batches: Iterable) -> dict[str, tuple[float, float]]:
    """Choose the scales of LSQ's weights anew, so that the outputs suffer less from rounding.

    With H the mean of x^T x over a layer's inputs, an error of column j costs its outputs H_jj
    times its square, as long as columns are rounded one by one. So the scale of a group is the one
    of 80 fractions of its largest weight with the least sum of H_jj times the squared error, where
    ``init="mse"`` takes the least plain sum. No training, no more bytes, and weights stay: each
    layer in the order of the forward pass, with the inputs that those before it give. In place.

    Args:
        model: a student after ``calibrate``.
        batches: as for ``compensate``, which may follow.

    Returns:
        Name -> squared error of the layer's outputs on the batches, as a share of their squares:
        (with the scales as they were, with the new ones). The second may be larger where errors
        of several columns add up.

    Raises:
        ValueError: a quantizer has no scale, no weight of a linear layer has LSQ's, or no batch
            reached one; a batch on meta; a scale that its ``scale_dtype`` cannot hold.
        TypeError: ``batches`` is one batch, or none.

    Source: the diagonal of the Hessian of GPTQ, spec sheet post-training methods, section 1.

    Example::

        student = tq.calibrate(tq.compress(model, {"*.layers.*": [tq.LSQ(bits=4, per=64)]}))
        tq.rescale(student, batches)
    """
    require_model("rescale", model)
    require_calibrated(model)
    batches = list(checked_batches(batches))
    found, left = targets(model)
    layers = {name: layer for name, layer in found.items() if _takes(chain_of(layer)[-1])}
    left += [f"{name}.weight" for name in found if name not in layers]
    if not layers:
        raise ValueError(
            "no weight of a linear layer has the scales of LSQ; compress with tq.LSQ and calibrate"
        )
    if left:
        warnings.warn(
            f"{len(left)} weights keep their scales, {named(left)}: new ones are found for LSQ "
            "on linear layers, one for the whole weight or whole groups in each row",
            stacklevel=2,
        )
    return {
        name: _rescale(layers[name], moments)
        for names, moments in walk(model, layers, batches)
        for name in names
    }


def _takes(stage: nn.Module) -> bool:
    return isinstance(stage, LSQ) and not isinstance(stage, LSQPlus)


def _rescale(layer: nn.Module, moments: Moments) -> tuple[float, float]:
    *before, q = chain_of(layer)
    weight = layer.parametrizations.weight.original
    for stage in before:
        weight = stage(weight)
    nearest, size = upright(layer).clone(), moments.square.diagonal()
    size = size.clamp_min(SEEN * size.mean()) if size.any() else torch.ones_like(size)
    size = size.to(torch.promote_types(weight.dtype, torch.float32))
    rows, turned = weight.reshape(q.groups, -1), is_conv1d(layer)
    size = size[:, None] if turned else size  # as the weight is stored: inputs are its rows
    q.start_weighted(rows, size.expand_as(weight).reshape(rows.shape))
    exact = weight.detach().T if turned else weight.detach()
    whole = moments.error(exact) or 1.0  # inputs that are all zero: no error, and no size
    return tuple(moments.error(exact - now) / whole for now in (nearest, upright(layer)))
