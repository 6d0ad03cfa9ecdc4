"""Fit what a folder says of a compressed model to the model that is being loaded.

Names may have another prefix there, a head may be of another size, a part may not be there at all.
Whatever is neither placed nor left out for such a reason is refused.
"""

from collections.abc import Iterator
from difflib import get_close_matches

import torch
from torch import nn

from ..precision import Fine
from ..quantizers.grid import Quantizer
from ..quantizers.inputs import PLACES
from ..registry import RESIZED, build
from ..storage.checks import OURS


def names_here(model: nn.Module, layout: dict) -> dict[str, str | None]:
    """Return, for every name of a layout, the name in a dense model that is loaded with its head,
    another one, or none; or None for a part (a head, a pooler) that the model does not have.

    A layer missing inside a part that it has keeps its name, for ``rebuild`` to refuse.
    """
    prefix, names = model.base_model_prefix + ".", layout["modules"]
    has = {name for name, _ in model.named_modules()}
    parts = {name.rpartition(".")[0] for name in has}  # another kind of head may be one layer
    found: dict[str, str | None] = {}
    for name in names:
        owner, child = _split(name, names)
        bare = owner.removeprefix(prefix)
        ways = [owner, bare, prefix + bare] if len(prefix) > 1 else [owner]
        here = next((way for way in ways if way in has), None)
        if here is None and any(_part(way, prefix) in parts for way in ways):
            here = owner
        found[name] = None if here is None else here + child
    return found


def _split(name: str, names: dict) -> tuple[str, str]:
    """Return a name as (layer of the dense model, what compression put below it)."""
    parts = name.split(".")
    for k in range(1, len(parts)):
        above = ".".join(parts[:k])
        if "class" in names.get(above, {}) or parts[k] in PLACES:
            return above, "." + ".".join(parts[k:])
    return name, ""


def _part(name: str, prefix: str) -> str:
    """Return the part of a model that a layer belongs to, such as ``bert.pooler``."""
    return prefix * name.startswith(prefix) + name.removeprefix(prefix).split(".")[0]


def refuse_misplaced(lost: list[str], absent: list[str]) -> None:
    """Refuse a model with random weights where a layer of the layout found no place.

    Args:
        lost: tensors of the model that the file did not have.
        absent: layers of the layout that were left out.

    Raises:
        ValueError: two of them end alike, such as ``layer.0.query``.
    """
    tails = {tuple(name.split(".")[-2:]): name for name in absent if "." in name}
    for tensor in lost:
        *_, above, layer, _ = ("", "", *tensor.split("."))
        if (above, layer) in tails:
            raise ValueError(
                f"the folder has a compressed {tails[above, layer]!r}, for which this model has no "
                f"place, and {tensor!r} would be random; load it with the class that saved it"
            )


def refuse_unused(lost: list[str], state: dict, tensors: dict) -> None:
    """Refuse a file whose tensor nobody took where a tensor of nearly that name would be random.

    Args:
        lost: tensors of the model that the file did not have.
        state: all of the model's.
        tensors: all of the file's.

    Raises:
        ValueError: two of them differ by a letter or two, and agree in their shape.
    """
    unused = [name for name in tensors if name not in state]
    for name in lost:
        alike = [n for n in unused if tensors[n].shape == tuple(state[name].shape)]
        if near := get_close_matches(name, alike, 1, cutoff=0.93):
            raise ValueError(
                f"the file has {near[0]!r}, for which this model has no place, and {name!r} would "
                "be random; it is damaged or of another model: save it anew or get it again"
            )


def other_sizes(model: nn.Module, layout: dict, here: dict, shapes: dict) -> dict[str, str]:
    """Return saved name -> name here of the layers that have another size in the model.

    Such as a head for another number of labels. A layer that ``compact`` made smaller is as it
    should be.
    """
    found = {}
    for name, entry in layout["modules"].items():
        if here[name] is None or entry.get("class") == RESIZED or "sizes" in entry:
            continue
        try:
            layer = model.get_submodule(here[name])
        except AttributeError:
            continue  # a quantizer of activations; or ``rebuild`` refuses it
        size = _size(name, entry, shapes)
        if isinstance(layer, nn.Linear | nn.Embedding) and size not in (
            None,
            (*layer.weight.shape,),
        ):
            found[name] = here[name]
    return found


def _size(name: str, entry: dict, shapes: dict) -> tuple[int, ...] | None:
    if "class" in entry:
        with torch.device("meta"):
            layer = build(entry)
        for pair in (("out_features", "in_features"), ("num_embeddings", "embedding_dim")):
            if all(hasattr(layer, side) for side in pair):
                return tuple(getattr(layer, side) for side in pair)
        return None
    stages = entry["parametrizations"].get("weight", [])
    packed = [tuple(s["args"]["shape"]) for s in stages if s["class"].startswith("Packed")]
    return packed[0] if packed else shapes.get(f"{name}.parametrizations.weight.original")


def plant(model: nn.Module, fresh: dict[str, str], shapes: dict) -> None:
    """Let transformers see that fresh layers differ from the file, in place.

    It then raises without ``ignore_mismatched_sizes=True``, as for any other layer. Each layer gets
    a placeholder under a name that the file has, of no size.

    Raises:
        ValueError: the file has no such name.
    """
    for name, here in fresh.items():
        inside = [k.removeprefix(f"{name}.") for k in shapes if k.startswith(f"{name}.")]
        ours = [key for key in inside if OURS.search(key)]
        if not ours:
            raise ValueError(
                f"{name} has another size in the file than in {type(model).__name__}; load the "
                "folder with the config that it was saved with"
            )
        *above, last = ours[0].split(".")
        owner = model.get_submodule(here)
        for child in above:
            owner.add_module(child, nn.Module())
            owner = getattr(owner, child)
        owner.register_parameter(last, nn.Parameter(torch.empty(0, device="meta")))


def uproot(model: nn.Module, fresh: dict[str, str]) -> None:
    """Take the placeholders away again, in place."""
    for here in fresh.values():
        layer = model.get_submodule(here)
        layer._modules.clear()  # a plain Linear or Embedding has none of its own
        for name in [name for name in layer._parameters if OURS.search(name)]:
            del layer._parameters[name]


def _scales(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (full name, quantizer, name) of the scales and clips that learn, one for a tensor."""
    for place, module in model.named_modules():
        if isinstance(module, Quantizer) and module.groups == 1:
            for name in module._parameters:
                yield f"{place}.{name}", module, name


def as_scalars(model: nn.Module, shapes: dict) -> None:
    """Give a skeleton the scalars that an older file has for scales of one element, in place.

    Args:
        shapes: of the file's tensors, by the names there; what follows the layer's is counted.
    """
    old = {m[1] for name, shape in shapes.items() if shape == () and (m := OURS.search(name))}
    for full, module, name in _scales(model) if old else ():
        if (tail := OURS.search(full)) and tail[1] in old:
            learns = module._parameters[name].requires_grad
            scalar = nn.Parameter(torch.empty((), device="meta"), requires_grad=learns)
            module._parameters[name] = scalar


def as_elements(model: nn.Module) -> None:
    """Undo ``as_scalars`` once the values are there; those that stay on a disk stay as they are."""
    for _, module, name in _scales(model):
        scale = module._parameters[name]
        if not scale.is_meta and scale.dim() == 0:
            scale.data = scale.data[None]


ALIGNED = 64  # bytes, as torch allocates on a processor


def settle(model: nn.Module) -> None:
    """Give floats that lie in a mapped file at an odd place memory of their own, in place.

    Some kernels take another way through such memory and round otherwise: the same numbers would
    not give the same outputs to the bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.is_floating_point():
            if tensor.data_ptr() % ALIGNED:
                tensor.data = tensor.data.clone()


def guard_dtype(cls: type) -> None:
    """Let the models of a class tell the type of their weights, not that of scales on them.

    transformers asks the first parameter, and writes its type into config.json; scales and clips
    are in float32 whatever the model is in.
    """
    plain = cls.dtype
    if hasattr(plain.fget, "tqlearn_guard"):
        return

    def dtype(self) -> torch.dtype:
        for module in self.modules():
            if isinstance(module, Fine):
                if hasattr(module, "dtype"):
                    return module.dtype
                continue
            for parameter in module._parameters.values():
                if parameter is not None and parameter.is_floating_point():
                    return parameter.dtype
        return plain.fget(self)

    dtype.tqlearn_guard = True
    cls.dtype = property(dtype)
