"""A folder's model without its numbers, and its safetensors files read one tensor at a time."""

import copy
import json
import re
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..storage.digests import checksum
from ..storage.tied import ties
from .sealing import untied_state


def class_of(config: PreTrainedConfig) -> type:
    """Return the class that a config was saved with; ``AutoModel`` where transformers has none."""
    kinds = [getattr(transformers, kind, None) for kind in config.architectures or ()]
    return next((kind for kind in kinds if kind is not None), transformers.AutoModel)


class Slices:
    """The tensors of a folder that ``save_pretrained`` wrote, in one safetensors file or in shards.

    Every file is opened for one tensor and closed again: what has been read leaves memory.

    Raises:
        ValueError: the folder has no config.json or no safetensors file, or lacks a shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} has no config.json, so it is no folder of a model; give the path of one "
                "(a model of the hub is fetched first: huggingface_hub.snapshot_download(name))"
            )
        index = folder / SAFE_WEIGHTS_INDEX_NAME
        if (folder / SAFE_WEIGHTS_NAME).is_file():  # as transformers, which takes it first
            names = {SAFE_WEIGHTS_NAME}
        elif index.is_file():
            names = set(json.loads(index.read_text())["weight_map"].values())
        else:
            raise ValueError(
                f"{folder} has no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}; other "
                "formats cannot be read in slices: save the model once with save_pretrained"
            )
        self.home: dict[str, Path] = {}
        for name in sorted(names):
            self.home |= dict.fromkeys(self._names_in(folder / name), folder / name)

    def _names_in(self, file: Path) -> list[str]:
        if not file.is_file():
            raise ValueError(f"{self.folder} lacks its shard {file.name!r}; get the folder again")
        try:
            with safe_open(str(file), "pt") as opened:
                return list(opened.keys())
        except SafetensorError as error:
            raise ValueError(
                f"{file} is not a whole safetensors file ({error}); get the folder again"
            ) from error

    def read(self, name: str) -> Tensor:
        """Return a tensor in memory of its own."""
        with safe_open(str(self.home[name]), "pt") as opened:
            return opened.get_slice(name)[...].clone()

    def stamps(self) -> dict[str, list[int | str]]:
        """Return what tells whether a file has changed: size, time, header; of configs the text."""
        found: dict[str, list[int | str]] = {}
        for file in sorted(set(self.home.values())):
            with open(file, "rb") as opened:
                head = opened.read(int.from_bytes(opened.read(8), "little"))
            state = file.stat()
            found[file.name] = [state.st_size, state.st_mtime_ns, checksum(head.decode())]
        for file in sorted(self.folder.glob("*config.json")):
            found[file.name] = [checksum(file.read_text())]
        return found


def skeleton(slices: Slices) -> PreTrainedModel:
    """Return the model of a folder on meta, in evaluation mode, as ``from_pretrained`` builds it.

    Raises:
        ValueError: it is quantized already.
    """
    config = transformers.AutoConfig.from_pretrained(slices.folder)
    if hasattr(config, "quantization_config"):
        method = config.quantization_config
        method = method.get("quant_method") if isinstance(method, dict) else method.quant_method
        raise ValueError(
            f"{slices.folder} is quantized by {getattr(method, 'value', method)!r} already; start "
            "from the model in floats"
        )
    model = class_of(config).from_pretrained(slices.folder, device_map="meta").eval()
    _settle_ties(model, slices)
    return model


def _settle_ties(model: PreTrainedModel, slices: Slices) -> None:
    """Tie tables that a config ties where both are in the files and equal, as transformers does
    once it has their numbers; others stay apart.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for target, source in list(tied.items()):
        names = [in_file(model, name, model.get_parameter(name)) for name in (target, source)]
        if not slices.home.keys() >= set(names):
            continue
        one, other = map(slices.read, names)
        if one.dtype == other.dtype and torch.equal(one, other):
            front, _, key = target.rpartition(".")
            setattr(model.get_submodule(front), key, model.get_parameter(source))
        else:
            del tied[target]


def names_in_files(model: PreTrainedModel, slices: Slices) -> dict[str, str]:
    """Return the name in the files of every tensor that a model's own file would hold.

    Raises:
        ValueError: a tensor is not there, is built of several, or is not of the model.
    """
    found = {name: in_file(model, name, t) for name, t in untied_state(model).items()}
    for name, there in found.items():
        if there not in slices.home:
            raise ValueError(
                f"the files of {slices.folder} have no {there!r}, which {name!r} of "
                f"{type(model).__name__} is read from; it would be random, or is made of several "
                "tensors, which cannot be streamed: compress this model in memory"
            )
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    shared = [[".".join(place) for place in places] for places in ties(model)]
    twice = {in_file(model, n, model.get_parameter(n)) for names in shared for n in names}
    for name in sorted(slices.home.keys() - set(found.values()) - twice):
        if not any(re.search(pattern, name) for pattern in ignored):
            raise ValueError(
                f"{slices.home[name]} has {name!r}, for which {type(model).__name__} has no place; "
                "it is damaged or of another model: get the folder again or save the model anew"
            )
    for names in shared:
        first = next(name for name in names if name in found)
        found |= dict.fromkeys(names, found[first])
    return found


def in_file(model: PreTrainedModel, name: str, tensor: Tensor) -> str:
    """Return the name that a tensor has in a file."""
    names = [*revert_weight_conversion(model, {name: tensor})]
    return names[0] if len(names) == 1 else name


def filled(model: nn.Module, name: str, slices: Slices, there: dict[str, str]) -> nn.Module:
    """Return a copy of a module of a skeleton with its numbers, in the types of the skeleton.

    Args:
        there: as ``names_in_files``.
    """
    layer = copy.deepcopy(model.get_submodule(name))
    values = {}
    for key, tensor in layer.state_dict().items():
        values[key] = slices.read(there[f"{name}.{key}"]).to(tensor.dtype)
        if values[key].shape != tensor.shape:
            raise ValueError(
                f"{there[f'{name}.{key}']} is {(*values[key].shape,)} in the files, "
                f"{(*tensor.shape,)} by config.json; get the folder again"
            )
    layer.load_state_dict(values, assign=True)
    return layer
