"""A compressed model describes itself: which layer stands where, and what sits on its tensors.

The description is plain JSON. ``rebuild`` turns a freshly built dense model into the compressed one
without its values, so loading needs no SVD; it works on the meta device too.
"""

import json
from collections.abc import Callable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..arguments import require_model
from ..kinds import freeze_like, relink
from ..quantizers.inputs import PLACES, place
from ..registry import RESIZED, build, registered_name, resize, size_of, spec_of
from ..sparsity.blocks import tie
from ..stages import Cores, is_frozen, put
from .pack import place_packed
from .packed import Packed
from .resizing import guard_resizing
from .specs import VERSION, require_version
from .tied import declared, place_module, retie, ties, untied

LISTENERS: list[Callable[[nn.Module], object]] = []  # called with each model that got a layout


def describe(model: nn.Module) -> dict:
    """Return the layout of a compressed model: {"version", "modules": {name: {...}}}.

    Raises:
        ValueError: a layer with cores, or a parametrization, is of a class that is not registered.

    >>> from tqlearn import TT, LSQ, compress
    >>> student = compress(nn.Sequential(nn.Linear(6, 4)), {"0": [TT(rank=2), LSQ(bits=4)]})
    >>> sorted(describe(student)["modules"]["0"])
    ['args', 'class', 'parametrizations']
    """
    require_model("describe", model)
    modules = {}
    for name, module in model.named_modules():
        if (
            isinstance(module, parametrize.ParametrizationList)
            or ".parametrizations." in f".{name}."
        ):
            continue
        entry = spec_of(module) if registered_name(module) else {}
        if size := size_of(module):
            entry = {"class": RESIZED, "args": size}
        if sizes := getattr(module, "tqlearn_sizes", None):
            entry["sizes"] = dict(sizes)
        if not entry and isinstance(module, Cores):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which no saved model could rebuild; "
                "decorate the class with @tqlearn.register"
            )
        chains = getattr(module, "parametrizations", {})
        stages = {
            key: [_stage(name, key, stage) for stage in stages]
            for key, stages in chains.items()
            if stages.is_tensor  # weight_norm is part of the dense model
        }
        if stages:
            entry["parametrizations"] = stages
        if entry:
            modules[name] = entry
    apart = untied(model)
    return {"version": VERSION, "modules": modules} | ({"untied": apart} if apart else {})


def _stage(name: str, key: str, stage: nn.Module) -> dict:
    if registered_name(stage) is None:
        raise ValueError(
            f"{name}.{key} carries a {type(stage).__name__}, which no saved model could rebuild; "
            "give the class a config() method and decorate it with @tqlearn.register"
        )
    return spec_of(stage)


def rebuild(model: nn.Module, layout: dict) -> nn.Module:
    """Give a dense model the structure of a layout, in place, with values still to be loaded.

    Raises:
        TypeError: no layout.
        ValueError: another layout version, an unknown class, a name the model does not have, codes
            of another shape than its tensor, or a model that is compressed already.
    """
    require_model("rebuild", model)
    if not isinstance(layout, Mapping) or not isinstance(layout.get("modules"), Mapping):
        raise TypeError(f"a layout is what describe returns, got {str(layout)[:60]!r}")
    require_version(layout)
    shared, wanted = ties(model), declared(model, layout.get("untied", ()))
    swapped: dict[nn.Module, nn.Module] = {}
    for name, entry in sorted(layout["modules"].items(), key=lambda item: item[0].count(".")):
        above, _, last = name.rpartition(".")
        try:
            old = model.get_submodule(above if last in PLACES else name)
        except AttributeError as error:
            raise ValueError(
                f"the layout names {name!r}, which {type(model).__name__} does not have; it was "
                "written for another model"
            ) from error
        tensors = (p for p in chain(old.parameters(), model.parameters()) if p.is_floating_point())
        like = next(tensors, torch.zeros(()))
        if "class" in entry:
            with like.device:
                new = build(entry).train(old.training).to(like.dtype)
            if last in PLACES:
                place(old, last, new)
            elif name:
                new = freeze_like(old, new) if isinstance(new, Cores) else new
                swapped[old] = new
                place_module(model, name, new)
            old = new
        if "sizes" in entry:
            resize(old, entry["sizes"])
        for key, stages in entry.get("parametrizations", {}).items():
            if key in getattr(old, "parametrizations", {}):
                raise ValueError(
                    f"{name}.{key} is compressed already; give a freshly built dense model"
                )
            if not isinstance(getattr(old, key, None), Tensor):
                raise ValueError(
                    f"the layout puts stages on {name}.{key}, which {type(old).__name__} does not "
                    "have; it was written for another model"
                )
            for spec in stages:
                with like.device:
                    stage = build(spec).train(old.training).to(like.dtype)
                _require_shape(f"{name}.{key}", stage, getattr(old, key))
                if isinstance(stage, Packed):
                    place_packed(old, key, stage)
                else:
                    frozen = is_frozen(old, key) and not isinstance(stage, Packed)
                    put(old, key, stage.requires_grad_(False) if frozen else stage)
    relink(model, swapped)
    retie(retie(model, shared), wanted, plain=False)
    return tie(model)


def _require_shape(name: str, stage: nn.Module, tensor: Tensor) -> None:
    shape = getattr(stage, "shape", tensor.shape)
    if tuple(shape) != tuple(tensor.shape):
        raise ValueError(
            f"the layout has a {type(stage).__name__} of {tuple(shape)} for {name!r}, the model a "
            f"tensor of {tuple(tensor.shape)}; it was written for another model"
        )


def attach_layout(model: nn.Module) -> nn.Module:
    """Write the layout into ``model.config`` of a transformers model, so that saving carries it.

    It stands there as one line of JSON: spread out, it would outgrow a small model's weights.
    """
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        layout = describe(model)
        method = getattr(config, "quantization_config", None) or {}
        if not isinstance(method, dict):
            method = method.to_dict()
        by = method.get("quant_method", "tqlearn")
        by = getattr(by, "value", by)  # transformers' own are members of an enum
        if by == "gguf" and all(p.is_floating_point() for p in model.parameters()):
            _unmark(model)  # its blocks became floats when the file was read
        elif by != "tqlearn":
            raise ValueError(
                f"the model is quantized by {by!r} already, and a config.json holds one method; "
                "start from the model in floats"
            )
        if layout["modules"]:
            line = json.dumps(layout, separators=(",", ":"))
            config.quantization_config = {"quant_method": "tqlearn", "layout": line}
            _mark_parts(model, layout)
            guard_resizing(model)
            for listener in list(LISTENERS):  # the first one may bring others
                listener(model)
            for module in model.modules():  # as from_pretrained does: some models compute otherwise
                if hasattr(inner := getattr(module, "config", None), "to_dict"):
                    inner._is_quantized = True
        else:
            _unmark(model)
    return model


def _parts(model: nn.Module) -> dict[str, object]:
    """Return the configs of a model's parts, such as ``text_config``, by name."""
    found = {
        name: getattr(model.config, name, None) for name in getattr(model.config, "sub_configs", ())
    }
    return {name: config for name, config in found.items() if hasattr(config, "to_dict")}


def _mark_parts(model: nn.Module, layout: dict) -> None:
    """Let a part with compressed layers be refused where it is loaded without the whole."""
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        owners.setdefault(id(getattr(module, "config", None)), f"{name}.")
    for part, config in _parts(model).items():
        front = owners.get(id(config), "")
        if any(name.startswith(front) for name in layout["modules"]):
            config.quantization_config = {"quant_method": "tqlearn", "part": part}


def _unmark(model: nn.Module) -> None:
    """Take away what ``from_pretrained`` left on a model that is compressed no more, in place."""
    configs = [getattr(module, "config", model) for module in model.modules()]
    for module in model.modules():
        for name in ("is_quantized", "quantization_method", "hf_quantizer"):
            vars(module).pop(name, None)
    for config in (*configs, *_parts(model).values()):
        for name in ("quantization_config", "_is_quantized"):
            vars(config).pop(name, None)
