"""A layout is checked against itself and against the tensors before anything is built from it.

Whatever a file says is tried on the meta device, where nothing is allocated: a few bytes cannot
ask for gigabytes. ``load`` and ``from_pretrained`` both pass through ``check``.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import torch
from torch import nn

from ..precision import HALF
from ..quantizers.inputs import PLACES
from ..sparsity.blocks import BlockMask
from ..stages import Cores, is_mask, is_quantizer
from .codes import unpack_bits
from .digests import TYPES, Stored
from .packed import Packed
from .packed_nm import PackedNM
from .specs import CANNOT, made, refuse

OURS = re.compile(r"(?:^|\.)((?:parametrizations\..+|core_\d+|quant_\w+\..+))$")
SCALES = re.compile(r"(.*parametrizations\.[^.]+\.)0\.(scale|grid\..+)")
FREE = 2**24  # bytes of tables that a layer may compute by itself, as sinusoids
Wanted = tuple[str, str, tuple[int, ...] | None]  # name, kind of numbers, shape if it is known


def check(layout: dict, tensors: Mapping[str, Stored], dense: Iterable[str] = ()) -> None:
    """Refuse a layout that contradicts itself, or the tensors that it came with.

    Names in a file may be older ones than those of the layout, so what follows the name of a layer
    is counted, with its shape.

    Args:
        dense: names of the tensors that the dense model has, with parametrizations of its own.

    Raises:
        ValueError: with the name of the layer or tensor.
    """
    _check_values(tensors)
    need, may = Counter(), Counter(m[1] for name in dense if (m := OURS.search(name)))
    names: dict[str, list[str]] = {}
    with torch.device("meta"):
        for name, entry in layout["modules"].items():
            for wanted, optional in _wanted(name, entry, tensors):
                _check_tensor(wanted, tensors)
                if tail := OURS.search(wanted[0]):
                    (may if optional else need)[tail[1]] += 1
                    names.setdefault(tail[1], []).append(wanted[0])
    there = Counter(tail[1] for name in tensors if (tail := OURS.search(name)))
    if lost := need - there:
        named = [name for tail in lost for name in names[tail]]
        named.sort(key=lambda name: name in tensors)
        refuse(
            f"the file lacks {lost.total()} tensors of compressed layers, the first is "
            f"{named[0]!r}; it is damaged or of another model"
        )
    if extra := there - need - may:
        first = next(n for n in tensors if (m := OURS.search(n)) and m[1] in extra)
        refuse(
            f"the file holds {extra.total()} tensors of compressed layers that its layout does not "
            f"name, the first is like {first!r}; layout and weights are not of one model"
        )


def fits(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    """Say whether a stored shape is the wanted one: scales of one element once were scalars."""
    return tuple(stored) == tuple(wanted) or (tuple(stored), tuple(wanted)) == ((), (1,))


def unsaved(module: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that a module computes by itself and no file holds."""
    saved = set(module.state_dict())
    return [tensor for name, tensor in module.named_buffers() if name not in saved]


def _check_values(tensors: Mapping[str, Stored]) -> None:
    """Refuse packed codes whose scales are no positive numbers: pack never leaves such."""
    for name, stored in tensors.items():
        if (found := SCALES.fullmatch(name)) and stored.floats and len(stored.data):
            codes = tensors.get(found[1] + "original")
            plain = found[2] == "scale"
            if plain and (codes is None or codes.floats):
                continue  # of a quantizer that learns; it may still be NaN
            values = stored.tensor()
            if not (values.isfinite().all() and (not plain or (values > 0).all())):
                refuse(f"{name!r} has a scale that is no positive number")


def _wanted(name: str, entry: dict, tensors: Mapping[str, Stored]) -> Iterator[tuple[Wanted, bool]]:
    """Yield the tensors that a layer of a layout has in a file, and whether it may be without."""
    front, own = f"{name}." if name else "", {}
    if "class" in entry:
        layer = made({key: entry[key] for key in ("class", "args")}, name)
        own = {key: tensor for key, tensor in layer.state_dict().items()}
        free = sum(tensor.nbytes for tensor in unsaved(layer))
        if free > max(FREE, sum(len(stored.data) for stored in tensors.values())):
            refuse(f"the {entry['class']} {name!r} wants {free:,} bytes that no file holds")
        if name.rpartition(".")[2] in PLACES and not is_quantizer(layer):
            refuse(f"{name!r} is the place of a quantizer, the layout puts {entry['class']} there")
        if isinstance(layer, Packed) or is_mask(layer):
            refuse(f"{entry['class']} stands on a tensor, the layout makes it the layer {name!r}")
    chains = entry.get("parametrizations", {})
    for key, tensor in own.items():
        if key not in chains:
            yield (front + key, _kind(tensor), tuple(tensor.shape)), False
    for key, specs in chains.items():
        if "class" in entry and key not in own:
            refuse(f"the {entry['class']} {name!r} has no tensor {key!r} to put stages on")
        stages = [made(spec, f"{name}.{key}") for spec in specs]
        inside = f"{front}parametrizations.{key}."
        known = tensors.get(inside + "original")
        shape = tuple(own[key].shape) if key in own else known and known.shape
        last = stages[-1]
        if isinstance(last, Packed):
            shape = tuple(own[key].shape) if key in own else last.shape
            check_chain(f"{name}.{key}", stages, shape)
            try:
                codes = last.blank(torch.empty(()))
            except CANNOT as error:
                refuse(f"no codes can be of shape {shape}, as {name}.{key} has it ({error})")
            yield (inside + "original", _kind(codes), tuple(codes.shape)), False
            if isinstance(last, PackedNM):
                _check_places(last, f"{inside}0.places", tensors)
        else:
            check_chain(f"{name}.{key}", stages, shape)
            yield (inside + "original", "F", shape), False
        for i, stage in enumerate(stages):
            shared = isinstance(stage, BlockMask) and stage.group is not None
            for inner, tensor in stage.state_dict().items():
                short = isinstance(stage, Packed) and inner == "scale" and tensor.dtype in HALF
                kind = TYPES[tensor.dtype] if short else _kind(tensor)
                yield (f"{inside}{i}.{inner}", kind, tuple(tensor.shape)), shared


def check_chain(name: str, stages: Sequence[nn.Module], shape: Sequence[int] | None) -> None:
    """Refuse stages that do not go together, or not on a tensor of a shape.

    Raises:
        ValueError: with the name.
    """
    for i, stage in enumerate(stages):
        kind = type(stage).__name__
        if isinstance(stage, Cores | nn.Linear):
            refuse(f"a {kind} is a layer, the layout puts it on the tensor {name!r}")
        if isinstance(stage, Packed) and len(stages) > 1:
            refuse(f"{name!r} has packed codes and other stages; codes stand alone")
        if is_quantizer(stage) and i < len(stages) - 1:
            refuse(f"{name!r} has stages behind its quantizer; the quantizer is the last")
        own = getattr(stage, "shape", None)
        if shape is not None and own is not None and tuple(own) != tuple(shape):
            refuse(f"the {kind} of {name!r} is for shape {(*own,)}, the tensor has {(*shape,)}")
        if isinstance(stage, Packed):
            _check_packed(name, stage)
        elif is_quantizer(stage):
            _check_groups(name, stage, shape)


def _check_packed(name: str, packed: Packed) -> None:
    if packed.quantizer is not None:
        q = made(packed.quantizer, name)
        if not is_quantizer(q):
            refuse(f"{name!r} was packed by {packed.quantizer['class']}, which is no quantizer")
        if (q.bits, q.qmin) != (packed.bits, packed.qmin):
            refuse(
                f"{name!r} has codes of {packed.bits} bits from {packed.qmin}, its "
                f"{packed.quantizer['class']} makes {q.bits} bits from {q.qmin}"
            )
        _check_groups(name, q, packed.shape)
    elif not isinstance(packed, PackedNM):
        refuse(f"{name!r} has packed codes without a quantizer")
    if isinstance(packed, PackedNM):
        mask = made(packed.mask, name)
        if tuple(getattr(mask, "shape", ())) != packed.shape:
            refuse(f"the mask of {name!r} is for another shape than {packed.shape}")


def _check_places(packed: PackedNM, name: str, tensors: Mapping[str, Stored]) -> None:
    """Refuse kept numbers outside of their group, which some patterns could write down."""
    form = packed.form
    runs = form.group // form.run
    if name in tensors and runs < 2**form.place_bits and len(tensors[name].data):
        shape = (packed.groups * form.keep // form.run,)
        found = unpack_bits(tensors[name].tensor(), form.place_bits, 0, shape)
        if (found >= runs).any():
            refuse(f"{name!r} keeps number {int(found.max())} of a group of {runs}")


def _check_groups(name: str, q: nn.Module, shape: Sequence[int] | None) -> None:
    groups = getattr(q, "groups", 1)
    if shape is not None and (not all(n >= 0 for n in shape) or prod(shape) % groups):
        refuse(f"{name!r} has {groups} scales, which do not divide a tensor of {(*shape,)}")


def _kind(tensor: torch.Tensor) -> str:
    if tensor.is_floating_point():
        return "F"
    return {torch.uint8: "U8", torch.bool: "BOOL"}.get(tensor.dtype, str(tensor.dtype))


def _check_tensor(wanted: Wanted, tensors: Mapping[str, Stored]) -> None:
    name, kind, shape = wanted
    found = tensors.get(name)
    if found is None:  # conversions of transformers may have given it another name
        alike = [n for n, t in tensors.items() if n.endswith(name.rpartition(".")[2])
                 and (shape is None or fits(t.shape, shape))]  # fmt: skip
        if not alike and not OURS.search(name):
            refuse(f"the file has no {name!r} of {shape}, which the layout needs")
        return
    if not found.floats if kind == "F" else found.dtype != kind:
        refuse(f"{name!r} is of type {found.dtype}, the layout needs {kind}")
    if shape is not None and not fits(found.shape, shape):
        refuse(f"{name!r} has shape {found.shape} in the file, {shape} by the layout")
