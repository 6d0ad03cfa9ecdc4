"""Start values for every quantizer of a model: weights look at themselves, activations at batches.

Padding is no data. Where a batch comes with an ``attention_mask``, quantizers of activations see
the real positions only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Number

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import require_gathered, require_model, require_numbers
from ..precision import is_finite
from ..stages import is_quantizer


def calibrate(model: nn.Module, batches: Iterable | None = None) -> nn.Module:
    """Give every quantizer its start scale, in place, and return the model.

    Quantizers of weights and cores look at their tensor; those of activations look at the batches,
    and take the mean of what each batch asks for. All see what they will see in use: a layer's
    input comes from layers that are quantized already, in evaluation mode. A scale that is already
    set is set anew.

    Args:
        model: a compressed model.
        batches: what the model is called with: dicts (keywords), tuples (positions) or tensors.
            Of a dict's masks, (batch, tokens) with 1 for real tokens, the one that fits a tensor
            says which of its positions count.

    Raises:
        ValueError: activation quantizers but no batches, or one that no batch reached; a model or
            a batch on meta; a quantizer refuses its tensor, which is named. Scales are what they
            were before.
        TypeError: no model; ``batches`` is one batch, or none.
    """
    require_model("calibrate", model)
    require_gathered("calibrate", model)
    require_numbers("calibrate", model, whole=False)
    if isinstance(batches, Sequence):
        batches = list(checked_batches(batches))  # all of them, before anything changes
    elif batches is not None:
        batches = checked_batches(batches)
    places = [module for module in model.modules() if is_quantizer(module)]
    before = [(t, t.detach().clone()) for module in places for t in _numbers(module)]
    try:
        return _calibrate(model, batches)
    except BaseException:
        for tensor, old in before:
            tensor.detach().copy_(old)
        raise


def checked_batches(batches: Iterable) -> Iterator:
    """Give the batches one by one; refuse what is none, or holds no numbers.

    Raises:
        TypeError: no iterable of dicts, tuples and tensors; one batch in the place of a list.
        ValueError: a tensor on meta.
    """
    if isinstance(batches, Mapping | Tensor):
        raise TypeError(
            f"batches are several, and one {type(batches).__name__} came; write [batch] for a "
            "single one"
        )
    several = isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
    if isinstance(batches, str) or not several:
        raise TypeError(f"batches are a list of what the model is called with, got {batches!r}")
    return _each(batches)


def _each(batches: Iterable) -> Iterator:
    for number, batch in enumerate(batches):
        if batch is None or isinstance(batch, str | bytes | Number):
            raise TypeError(
                f"batch {number} is a {type(batch).__name__}; a batch is a dict (keywords), a "
                "tuple (positions) or a tensor"
            )
        values = batch.values() if isinstance(batch, Mapping) else batch
        for value in values if isinstance(batch, Mapping | tuple | list) else [values]:
            if isinstance(value, Tensor) and value.is_meta:
                raise ValueError(
                    f"batch {number} has a tensor of {(*value.shape,)} on meta, which holds no "
                    "numbers; give real data"
                )
        yield batch


def _calibrate(model: nn.Module, batches: Iterable | None) -> nn.Module:
    on_weights = calibrate_weights(model)
    on_inputs = {
        module: name
        for name, module in model.named_modules()
        if is_quantizer(module) and module not in on_weights
    }
    if on_inputs:
        _calibrate_inputs(model, on_inputs, batches)
    return model


def calibrate_weights(model: nn.Module) -> set[nn.Module]:
    """Let the quantizers of weights look at their tensors, in place, and return what stands there.

    After training this gives a range that follows its weight the weight's last values.
    """
    on_weights = set()
    for module in model.modules():
        for chain in getattr(module, "parametrizations", {}).values():
            on_weights.update(part for stage in chain for part in stage.modules())
    for _ in calibrated_weights(model):
        pass
    return on_weights


def calibrated_weights(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Calibrate the weights one after the other, in place, and give each one's module, name and
    values: those that a look at the weight would compute anew.
    """
    for place, module in model.named_modules():
        for name, chain in getattr(module, "parametrizations", {}).items():
            if chain.is_tensor:  # weight_norm has two tensors behind one: no place of ours
                yield module, name, _calibrate_chain(f"{place}.{name}".lstrip("."), chain)


@torch.no_grad()
def _calibrate_chain(name: str, chain: nn.Module) -> Tensor:
    x = chain.original
    for stage in chain:
        if is_quantizer(stage):
            try:
                stage.calibrate(x)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        x = stage(x)
    if not is_finite(x):
        raise ValueError(f"{name} is not finite after calibration")
    return x


def _calibrate_inputs(model: nn.Module, quantizers: dict, batches: Iterable | None) -> None:
    if batches is None:
        raise ValueError(
            f"{len(quantizers)} quantizers of activations need batches to look at, such as "
            f"{next(iter(quantizers.values()))!r}; call tqlearn.calibrate(model, batches)"
        )
    seen: dict[nn.Module, list[list[Tensor]]] = {module: [] for module in quantizers}
    masks: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple) -> None:
        pairs = quantizers[module].endswith("quant_probabilities")
        told = len(inputs) > 1  # a point is told which positions are real
        x = module.counted(*inputs) if told else real(inputs[0], masks, pairs)
        if not x.numel():  # an empty batch, or one of padding alone, tells nothing
            return
        module.calibrate(*(inputs if told else (x,)))
        seen[module].append([t.detach().clone() for t in _numbers(module)])

    run_hooked(model, batches, dict.fromkeys(quantizers, look), masks)
    if blind := [quantizers[module] for module, found in seen.items() if not found]:
        raise ValueError(
            f"no batch reached {len(blind)} quantizers, the first is {blind[0]!r}; either these "
            "batches do not use its layer, or the model multiplies with the layer's weight and "
            "never calls it, as torch's MultiheadAttention does: leave activations out there"
        )
    with torch.no_grad():
        for module, found in seen.items():
            for target, values in zip(_numbers(module), zip(*found, strict=True), strict=True):
                target.detach().copy_(torch.stack(values).mean(0))


def run_hooked(
    model: nn.Module, batches: Iterable, looks: Mapping[nn.Module, Callable], masks: list[Tensor]
) -> None:
    """Run batches in evaluation mode while hooks look at what modules are given, then remove them.

    Args:
        looks: module -> what is called with it and its positional inputs, before its forward.
        masks: is filled with the masks of the present batch, for ``real``.
    """
    hooks = [module.register_forward_pre_hook(look) for module, look in looks.items()]
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            for batch in batches:
                masks[:] = _masks(batch)
                if isinstance(batch, Mapping):
                    model(**batch)
                else:
                    model(*batch if isinstance(batch, tuple | list) else (batch,))
    finally:
        for module, mode in training.items():
            module.training = mode
        for hook in hooks:
            hook.remove()


def _numbers(quantizer: nn.Module) -> list[Tensor]:
    """Return what calibration sets: the floats among a quantizer's own tensors."""
    own = [*quantizer.parameters(), *quantizer.buffers()]
    return [t for t in own if t.is_floating_point()]


def _masks(batch: object) -> list[Tensor]:
    if not isinstance(batch, Mapping):
        return []
    found = [v for k, v in batch.items() if k.endswith("attention_mask") and v is not None]
    return [mask.bool() for mask in found if mask.dim() == 2]


def real(x: Float[Tensor, "..."], masks: list[Tensor], pairs: bool = False) -> Float[Tensor, "..."]:
    """Return the entries of a tensor at real positions.

    Args:
        x: (batch, tokens, ...) or (batch * tokens, ...), else it is taken whole. With ``pairs``,
            attention probabilities (batch, heads, queries, keys), where both must be real.
        masks: (batch, tokens), True for real; the first one that fits is taken.

    >>> mask = torch.tensor([[True, False]])
    >>> real(torch.tensor([[[1.0, 2.0], [7.0, 7.0]]]), [mask]).tolist()
    [[1.0, 2.0]]
    """
    if pairs:
        sizes = (x.shape[0], x.shape[2]), (x.shape[0], x.shape[3])
        queries, keys = (
            next((m for m in masks if m.shape == s), x.new_ones(s, dtype=bool)) for s in sizes
        )
        return x[(queries[:, None, :, None] & keys[:, None, None, :]).expand_as(x)]
    for mask in masks:
        if x.dim() > 2 and x.shape[:2] == mask.shape:
            return x[mask]
        if x.dim() == 2 and len(x) == mask.numel() != len(mask):
            return x[mask.flatten()]
    return x
