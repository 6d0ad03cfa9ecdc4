"""Digests in what ``save_pretrained`` writes, through the hook that transformers has for a header.

The hook is asked before transformers renames tensors and leaves out tied ones, so the same is done
here on a copy of the dict of tensors.
"""

import json
import os
import re
import warnings
from functools import wraps
from pathlib import Path

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.modeling_utils import load_state_dict, remove_tied_weights_from_state_dict

from ..storage.digests import KEY, TYPES, Stored, blank_seal, checksum, read, seal
from ..writing import folder_beside
from .card import remove_card, write_card

SHARD = re.compile(r"-\d{5}-of-\d{5}$")
FREE = {  # of config.json: may differ without another result, or is not settled when we are asked
    *("dtype", "torch_dtype", "architectures", "_name_or_path", "transformers_version"),
    *("quantization_config", "id2label", "label2id"),
}


def guard_saving(cls: type) -> None:
    """Let ``save_pretrained`` of a class tell the model's quantizer what it was called with, and
    write beside: what the folder holds stays until the new files are whole.

    transformers drops a ``state_dict`` that it is given where a quantizer stands; ours hands it
    back. A model card follows, see ``card``.
    """
    method = cls.save_pretrained
    if hasattr(method, "tqlearn_guard"):
        return

    @wraps(method)
    def save_pretrained(self, save_directory, *args, **kwargs):
        quantizer = getattr(self, "hf_quantizer", None)
        if not hasattr(quantizer, "given"):  # none, or of another method
            out = method(self, save_directory, *args, **kwargs)
            remove_card(save_directory)
            return out
        quantizer.given = kwargs
        try:
            if args or os.path.isfile(save_directory) or _not_alone(kwargs):
                out = method(self, save_directory, *args, **kwargs)
            else:
                with folder_beside(save_directory) as new:
                    out = method(self, new, **kwargs)
                    names = {file.name for file in new.iterdir()}
                remove_shards(Path(save_directory), names)
        finally:
            quantizer.given = {}
        if _writes_card(self, kwargs.get("is_main_process", args[0] if args else True)):
            write_card(self, save_directory)
        return out

    save_pretrained.tqlearn_guard = method  # for who has nothing to guard
    cls.save_pretrained = save_pretrained
    guard_upload(cls)


def guard_upload(cls: type) -> None:
    """Let our card go to the hub where transformers would send one that nobody has written."""
    method = cls._upload_modified_files

    @wraps(method)
    def upload(self, working_dir, *args, **kwargs):
        if hasattr(getattr(self, "hf_quantizer", None), "given") and _writes_card(self):
            write_card(self, working_dir)
        return method(self, working_dir, *args, **kwargs)

    cls._upload_modified_files = upload


def _writes_card(model: nn.Module, main: bool = True) -> bool:
    """Say whether a card is to be written by this process: an adapter has one of its own."""
    return main and not getattr(model, "_hf_peft_config_loaded", False)


def _not_alone(given: dict) -> bool:
    """Say whether others write to the folder, or read from it, during the call."""
    away = not given.get("is_main_process", True)
    return away or bool(given.get("push_to_hub") or given.get("distributed_checkpoint"))


def remove_shards(folder: Path, fresh: set[str]) -> None:
    """Remove the shards of an earlier save of the same file, as transformers does."""
    stems = {SHARD.sub("", Path(name).stem) for name in fresh if name.endswith(".safetensors")}
    for file in folder.glob("*.safetensors"):
        if file.name not in fresh and SHARD.search(file.stem) and SHARD.sub("", file.stem) in stems:
            file.unlink()


def seal_of(model: nn.Module, given: dict) -> dict[str, str]:
    """Return the line for the header of what will be written; none where only parts are at hand.

    Args:
        given: what ``save_pretrained`` was called with.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        return {}  # an adapter is written, not this model
    state = dict(given.get("state_dict") or model.state_dict())
    if any(isinstance(tensor, DTensor) for tensor in state.values()):
        return {}
    state = untied_state(model, state)
    state = {name: _at_hand(model, name, tensor) for name, tensor in state.items()}
    if given.get("save_original_format", True):
        state = revert_weight_conversion(model, state)
    layout = model.config.quantization_config
    layout = layout["layout"] if isinstance(layout, dict) else layout.layout
    stored = {name: Stored.of(tensor) for name, tensor in state.items()}
    return {KEY: seal(stored, layout, settled(json.loads(model.config.to_json_string())))}


def untied_state(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the tensors that a file of a model holds: none twice, and none that is not saved."""
    state = dict(model.state_dict() if state is None else state)
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    return remove_tied_weights_from_state_dict(state, model)


def as_saved(
    model: nn.Module, state: dict[str, Tensor], sealed: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors by the names that ``save_pretrained`` gives them, and the header's notes.

    Args:
        sealed: with digests, as blanks of their length.
    """
    state, notes = revert_weight_conversion(model, state), {"format": "pt"}
    return state, notes | ({KEY: " " * blank_seal(len(state))} if sealed else {})


def file_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what ``save_pretrained`` would write of a model on meta: tensors and notes."""
    sealed = hasattr(getattr(model, "hf_quantizer", None), "given")
    return as_saved(model, untied_state(model), sealed)


def _at_hand(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    return load_offloaded_parameter(model, name) if tensor.is_meta else tensor


def settled(config: dict) -> str:
    """Return what a digest of a config.json covers."""
    return json.dumps({k: v for k, v in config.items() if k not in FREE}, sort_keys=True)


def compare_config(was: str, file: Path) -> None:
    """Warn of a config.json that is not the one of the weights beside it.

    Args:
        was: its checksum when they were saved.
    """
    if file.is_file() and was != checksum(settled(json.loads(file.read_text()))):
        warnings.warn(
            "config.json is not the one that was saved with these weights, and may compute "
            "something else with them; get the folder again, or save the model anew if it was "
            "changed on purpose",
            stacklevel=4,
        )


def stored_in(files: list[str] | None) -> tuple[dict[str, Stored], list[dict[str, str]]]:
    """Return all tensors in the files of a folder, and the notes in each header."""
    found: dict[str, Stored] = {}
    notes = []
    for file in files or ():
        if str(file).endswith(".safetensors"):
            tensors, note = read(file)
        else:
            state = load_state_dict(file, map_location="meta")
            tensors, note = (
                {n: Stored(TYPES[t.dtype], (*t.shape,), b"") for n, t in state.items()},
                {},
            )
        found |= tensors
        notes.append(note)
    return found, notes
