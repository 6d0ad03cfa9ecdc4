"""Error compensation after training (GPTQ, SparseGPT): what rounding one column of a weight costs,
the columns that are still to be rounded make up for.

A layer gives y = x W^T. With H the mean of x^T x over its inputs, tr(D H D^T) is the mean squared
error of the outputs when W moves by D. Once some columns are fixed, the others have an exact best
answer; ``sweep`` takes it column by column.

Sources: GPTQ (Frantar et al. 2022, arXiv 2210.17323), SparseGPT (arXiv 2301.00774).
"""

import copy
import warnings
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import require, require_model
from ..kinds import is_conv1d
from ..quantizers.calibration import checked_batches
from ..quantizers.grid import Quantizer, require_calibrated
from ..sparsity.nm import NMMask, nm_mask
from ..stages import chain_of, is_quantizer
from .folds import matrix
from .layerwise import Moments, walk

BLOCK = 128  # columns between two updates of all that are left
NAMED = 5  # weights that a warning lists by name


@torch.no_grad()
def sweep(
    weight: Float[Tensor, "out in"],
    hessian: Float[Tensor, "in in"],
    rounded: Callable[[Tensor, int], Tensor],
    *,
    pattern: str | None = None,
    damping: float = 0.01,
    by_size: bool = False,
    block: int = BLOCK,
) -> Float[Tensor, "out in"]:
    """Return a weight on its grid, near to the given one in what it does to the inputs.

    Args:
        weight: of a linear layer.
        hessian: H, the mean of x^T x over the inputs x, up to a factor.
        rounded: puts a column (out, 1) on the grid; also told which column it is.
        pattern: "N:M" for a mask beside the grid, chosen group by group from what is left to round.
        damping: this share of H's mean diagonal is added to the diagonal.
        by_size: round the columns with the largest inputs first ("act-order"); without a pattern.
        block: columns between two updates of the rest; changes the speed, not the result.

    Raises:
        ValueError: ``by_size`` together with a pattern, whose groups are neighbors; H has a NaN.

    Source: spec sheet post-training methods, sections 1 and 2.
    """
    if by_size and pattern:
        raise ValueError("columns in order of size tear the groups of a pattern apart; choose one")
    w, h = weight.double().T.clone(), hessian.double().clone()  # a row for each input
    if not torch.isfinite(h).all():
        raise ValueError("the inputs' Hessian holds a NaN or infinite entry; look at the batches")
    if (dead := h.diagonal() == 0).all():
        dead, h = ~dead, torch.eye(len(h), dtype=h.dtype, device=h.device)  # to the nearest step
    h.diagonal()[dead] = h.diagonal()[~dead].mean()
    w[dead] = 0
    order = (
        h.diagonal().argsort(descending=True) if by_size else torch.arange(len(h), device=h.device)
    )
    w, h = w[order], h[order][:, order]
    h.diagonal().add_(damping * h.diagonal().mean())
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    group = int(pattern.split()[0].partition(":")[2]) if pattern else 1
    block, done = -(-block // group) * group, torch.empty_like(w)
    for start in range(0, len(h), block):
        end = min(start + block, len(h))
        errors = w.new_zeros(end - start, w.shape[1])
        for k in range(start, end):
            if pattern and k % group == 0:
                last = min(k + group, end)
                keep = nm_mask((w[k:last].T / u.diagonal()[k:last]).square(), pattern, pad=True)
            column = rounded(w[k, :, None].to(weight.dtype), int(order[k])).to(w.dtype)[:, 0]
            if pattern:
                column = column * keep[:, k % group]
            errors[k - start] = error = (w[k] - column) / u[k, k]
            w[k + 1 : end].addr_(u[k, k + 1 : end], error, alpha=-1)
            done[k] = column
        w[end:].addmm_(u[start:end, end:].T, errors, alpha=-1)
    return done[order.argsort()].T.to(weight.dtype).contiguous()


def compensate(
    model: nn.Module,
    batches: Iterable,
    *,
    damping: float = 0.01,
    by_size: bool = False,
) -> dict[str, tuple[float, float]]:
    """Move the quantized and N:M-masked weights of linear layers so that the outputs suffer less.

    GPT-2's Conv1D is one, with its weight the other way round: its scales are those of input rows.
    Other quantized weights (tables, convolutions, factors, experts) are named in a warning.

    No training: each layer in the order of the forward pass, with the inputs that the compressed
    layers before it give. Scales stay as calibrated; fixed masks are chosen anew. In place.

    Args:
        model: a student after ``calibrate``; its weights move, so start from trained ones.
        batches: what the model is called with, as for ``calibrate``; held together with what one
            block makes of them. Hundreds of sentences, none of them from what will be judged.
        damping, by_size: see ``sweep``; layers under a mask keep their order.

    Returns:
        Name -> squared error of the layer's outputs on the batches, as a share of their squares:
        (with weights rounded to nearest, compensated).

    Raises:
        ValueError: a quantizer has no scale, no layer can be compensated, or no batch reached one;
            a batch on meta; damping that is not above 0.
        TypeError: ``batches`` is one batch, or none.

    Example::

        student = tq.calibrate(tq.compress(model, {"*": [tq.LSQ(bits=3, per=64)]}))
        tq.compensate(student, batches)
    """
    require_model("compensate", model)
    require("compensate: by_size", by_size, bool)
    if not require("compensate: damping", damping, float) > 0:
        raise ValueError(f"damping is above 0, a share of the Hessian's mean, got {damping}")
    require_calibrated(model)
    batches = list(checked_batches(batches))
    layers, left = targets(model)
    if not layers:
        raise ValueError(
            "no linear layer has a quantizer of tqlearn or an N:M mask on its weight; compress and "
            "calibrate first"
        )
    if left:
        warnings.warn(
            f"{len(left)} weights stay rounded to nearest, {named(left)}: compensation takes "
            "linear layers under an N:M mask, or a quantizer with whole groups in each row",
            stacklevel=2,
        )
    found, training = {}, {module: module.training for module in model.modules()}
    try:
        model.eval()  # a clip that follows its weight stays as calibrated
        for names, moments in walk(model, layers, batches):
            for name in names:
                found[name] = _compensate(layers[name], moments, damping, by_size)
    finally:
        for module, mode in training.items():
            module.training = mode
    return found


def named(weights: list[str]) -> str:
    """Return what a warning says of weights that are left: the first few names."""
    more = f" and {len(weights) - NAMED} more" if len(weights) > NAMED else ""
    return ", ".join(map(repr, weights[:NAMED])) + more


def targets(model: nn.Module) -> tuple[dict[str, nn.Module], list[str]]:
    """Return the linear layers that can be compensated, and the names of other coded weights."""
    layers, left = {}, []
    for name, module in model.named_modules():
        for key, chain in getattr(module, "parametrizations", {}).items():
            stages = [*chain]
            masks = [stage for stage in stages if isinstance(stage, NMMask)]
            grids = [stage for stage in stages if isinstance(stage, Quantizer)]
            shape = getattr(chain, "original", torch.empty(0)).shape
            whole = all(q.groups == 1 or q.groups % shape[0] == 0 for q in grids)
            linear = isinstance(module, nn.Linear) or is_conv1d(module)
            fits = linear and key == "weight" and whole
            if fits and stages == [*masks[:1], *grids[:1]]:
                layers[name] = module
            elif masks or any(map(is_quantizer, stages)):
                left.append(f"{name}.{key}")
    return layers, left


@torch.no_grad()
def _compensate(
    layer: nn.Module, moments: Moments, damping: float, by_size: bool
) -> tuple[float, float]:
    stages, original = chain_of(layer), matrix(layer)
    masks = [stage for stage in stages if isinstance(stage, NMMask)]
    grids = [stage for stage in stages if isinstance(stage, Quantizer)]
    weight, before = original.clone(), upright(layer).clone()
    rounded = _by_column(grids[0], layer) if grids else lambda column, k: column
    pattern = masks[0].pattern if masks else None
    order = by_size and not masks  # the groups of a mask are neighbors
    new = sweep(weight, moments.square, rounded, pattern=pattern, damping=damping, by_size=order)
    if masks and masks[0].mask is not None:
        mask = nm_mask(new.abs(), pattern, pad=masks[0].pad)
        masks[0].mask = mask.T.contiguous() if is_conv1d(layer) else mask
    original.copy_(new)
    whole = moments.error(weight) or 1.0  # inputs that are all zero: no error, and no size
    return tuple(moments.error(weight - now) / whole for now in (before, upright(layer)))


def upright(layer: nn.Module) -> Float[Tensor, "out in"]:
    """Return the weight of a linear layer as its forward pass takes it, a Conv1D's turned round."""
    weight = layer.weight.detach()
    return weight.T if is_conv1d(layer) else weight


def _by_column(q: Quantizer, layer: nn.Module) -> Callable[[Tensor, int], Tensor]:
    """Return what puts column k, the weights of input k, on the grid of its groups."""
    q = copy.deepcopy(q).eval()  # scales stay, also of one that follows
    if q.groups == 1:
        return lambda column, k: q(column)
    rows, width = layer.weight.shape  # as they are stored, and so are the groups
    each, turned, views = q.groups // rows, is_conv1d(layer), {}

    def rounded(column: Tensor, k: int) -> Tensor:
        place = k if turned else k * each // width
        if place not in views:
            view = copy.deepcopy(q)
            view.groups = each if turned else rows
            for tensor in (*view.parameters(), *view.buffers()):
                if tensor.dim() and len(tensor) == q.groups:
                    scales = tensor.data.reshape(rows, each)
                    scales = scales[place] if turned else scales[:, place]
                    tensor.data = scales[:, None].clone()
            views[place] = view
        return views[place](column)

    return rounded
