"""``save`` and ``load``: any torch model as one safetensors file with its layout inside."""

import copy
import json
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..arguments import require, require_model, require_numbers
from ..writing import beside
from .checks import check, fits, unsaved
from .digests import KEY, Stored, read, seal, verify
from .layout import describe, rebuild
from .specs import parse


def warn_of_no_digests(place: str | Path) -> None:
    """Warn of files without digests, as tqlearn wrote them before it had any."""
    warnings.warn(
        f"{place} has no digests of its tensors, so a damaged one would not be noticed; save the "
        "model once more and it has them",
        stacklevel=3,
    )


def state_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that a file needs, each once, and the other names of those that have
    several: {other name: first name}.
    """
    found, seen, others = {}, {}, {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        first = seen.setdefault(place, name) if tensor.numel() else name
        if first == name:
            found[name] = tensor.contiguous()
        else:
            others[name] = first
    return found, dict(sorted(others.items()))  # a header has no order


def save(model: nn.Module, path: str | Path) -> Path:
    """Write any torch model as one safetensors file with its layout inside; packed codes stay
    packed.

    Models of transformers have ``save_pretrained`` for this; ``save`` serves all others. The header
    holds digests: ``load`` refuses a file in which anything has changed. A file that is there stays
    until the new one is whole.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    require_model("save", model)
    require("save: path", path, str | PathLike)
    require_numbers("save", model)
    layout, (state, others) = json.dumps(describe(model)), state_of(model)
    line = seal({name: Stored.of(tensor) for name, tensor in state.items()}, layout + str(others))
    notes = others | {"format": "pt", "tqlearn": layout, KEY: line}
    with beside(path) as new:
        save_file(state, str(new), metadata=notes)
    return Path(path)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Rebuild ``model``, a dense one of the same architecture, from a file of ``save``, in place.

    Everything is checked beforehand, on the meta device: either the whole file is loaded or the
    model stays as it is.

    Raises:
        ValueError: the file is no safetensors file, was cut short, or tqlearn did not write it; it
            is not what was saved; its layout contradicts itself or its tensors; or these do not fit
            the model.
    """
    require_model("load", model)
    require("load: path", path, str | PathLike)
    tensors, notes = read(path)
    if "tqlearn" not in notes:
        raise ValueError(f"{path} has no tqlearn layout; it was not written by tqlearn.save")
    others = {k: notes[k] for k in sorted(notes) if k not in ("format", "tqlearn", KEY)}
    config = verify(tensors, [notes], notes["tqlearn"] + str(others))
    layout = parse(notes["tqlearn"], str(path))
    check(layout, tensors, model.state_dict())
    try:
        _check_fit(rebuild(_skeleton(model), layout), model, tensors, others)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not fit this {type(model).__name__}: {error}") from error
    rebuild(model, layout)
    model.load_state_dict(load_file(str(path)), strict=False)  # ``others`` share what is there
    if config is None:
        warn_of_no_digests(path)
    return model


def _skeleton(model: nn.Module) -> nn.Module:
    """Return a copy on the meta device: no number is copied, what was shared is shared."""
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo = {key: _on_meta(t) for key, t in held.items()}
    return copy.deepcopy(model, memo)


def _on_meta(tensor: Tensor) -> Tensor:
    meta = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=tensor.requires_grad)
    return meta


def _check_fit(
    built: nn.Module, dense: nn.Module, tensors: Mapping[str, Stored], others: Mapping[str, str]
) -> None:
    """Refuse tensors that are not exactly those of a rebuilt model.

    Raises:
        ValueError: one is missing, left over, of another shape or type; or the layout wants tables
            that no file holds.
    """
    state = built.state_dict(keep_vars=True)
    there = {id(tensor) for name, tensor in state.items() if name in tensors}
    for name, tensor in state.items():
        stored = tensors.get(name) or tensors.get(others.get(name, ""))
        if stored is None and id(tensor) in there:
            continue
        if stored is None:
            raise ValueError(f"the file has no {name!r}")
        if not fits(stored.shape, tensor.shape) or stored.floats != tensor.is_floating_point():
            raise ValueError(
                f"{name!r} is {stored.dtype} of {stored.shape} in the file, the model needs "
                f"{tensor.dtype} of {tuple(tensor.shape)}"
            )
    if left := [name for name in tensors if name not in state]:
        raise ValueError(f"the model has no place for {left[0]!r} and {len(left) - 1} others")
    sizes = [sum(t.nbytes for t in unsaved(model)) for model in (built, dense)]
    if sizes[0] > sizes[1]:
        raise ValueError(f"its layout wants {sizes[0]:,} bytes of tables that it does not hold")
