"""Folders that plain transformers reads, without tqlearn: dense floats, and codes of linear layers.

- ``dense``: every layer an ordinary one, as large as the teacher
- ``compressed-tensors``: codes of 2 to 8 bits in the format of that package, linear layers only

Source: the format "pack-quantized" of compressed-tensors, which transformers and vLLM read.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..stages import Cores, is_quantizer
from ..storage.files import state_of
from ..storage.layout import describe
from ..storage.packed import Packed
from ..surgery import bake, pack
from ..writing import folder_beside, write
from .grids import Weight, weight_of

METHOD = "compressed-tensors"


def to_dense(model: nn.Module, folder: Path) -> Path:
    """Write what ``bake(dense=True)`` gives as a folder of transformers.

    Raises:
        ValueError: quantizers of activations, or layers whose sizes no config says.
        TypeError: no model of transformers.
    """
    require_transformers(model, "dense")
    refuse_inputs(model, "dense")
    plain = bake(model, dense=True)
    if left := describe(plain)["modules"]:
        raise ValueError(
            f"{next(iter(left))} has sizes that no config.json of {type(model).__name__} can say; "
            "save_pretrained keeps them, for tqlearn.hf to read"
        )
    plain.save_pretrained(folder)
    return folder


def require_transformers(model: nn.Module, target: str) -> None:
    """Raise a TypeError for a model that has no config to write."""
    if not hasattr(getattr(model, "config", None), "to_json_string"):
        raise TypeError(
            f"{target!r} is a folder of transformers, and a {type(model).__name__} has no config; "
            "export it to 'onnx', or tqlearn.save it"
        )


def refuse_inputs(model: nn.Module, target: str) -> None:
    """Raise a ValueError for quantizers of activations, by name."""
    for name, module in model.named_modules():
        if is_quantizer(module) and ".parametrizations." not in f".{name}.":
            raise ValueError(
                f"{name} quantizes activations, which {target!r} has no place for; export to "
                "'onnx', or leave it out of the plan"
            )


def to_compressed_tensors(model: nn.Module, folder: Path) -> Path:
    """Write codes of linear layers as compressed-tensors packs them; the rest stays in floats.

    What an N:M mask has dropped is the code of zero. Tables and grids with another zero than code 0
    are refused: the format has both, but transformers 5 does not load them.

    Raises:
        ValueError: with the name, for what the format cannot hold.
        TypeError: no model of transformers.
        ImportError: compressed-tensors is not installed.
    """
    require_transformers(model, METHOD)
    refuse_inputs(model, METHOD)
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    weights = _weights(pack(model))
    plain = bake(model)
    if left := describe(plain)["modules"]:
        raise ValueError(
            f"{next(iter(left))} has a form that {METHOD!r} does not know; leave it out of the "
            "plan, or call tqlearn.bake(model, dense=True) and quantize the weights alone"
        )
    state = {name: tensor.detach().clone() for name, tensor in state_of(plain)[0].items()}
    groups: dict[str, dict] = {}
    for name, weight in weights.items():
        scheme, tensors = _packed(weight, pack_to_int32)
        del state[f"{name}.weight"]
        state |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        key = json.dumps(scheme, sort_keys=True)
        groups.setdefault(key, {"targets": [], "weights": scheme})["targets"].append(name)
    config = json.loads(plain.config.to_json_string())
    config["quantization_config"] = {
        "quant_method": METHOD, "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups.values())},
        "ignore": [],
    }  # fmt: skip
    with folder_beside(folder) as new:
        save_file(state, new / "model.safetensors", metadata={"format": "pt"})
        write(new / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        if getattr(plain, "generation_config", None) is not None:
            plain.generation_config.save_pretrained(new)
    return folder


def _weights(packed: nn.Module) -> Mapping[str, Weight]:
    """Return the codes of a packed model by the name of their layer; refuse what is no such."""
    found = {}
    for name, module in packed.named_modules():
        if isinstance(module, Cores):
            raise ValueError(
                f"{name} is a {type(module).__name__}, and {METHOD!r} knows dense layers alone; "
                "export it to 'onnx', or call tqlearn.bake(model, dense=True) before quantizing"
            )
        for key, chain in getattr(module, "parametrizations", {}).items():
            if not isinstance(chain[-1], Packed) or chain[-1].bits is None:
                continue
            if key != "weight" or type(module).__bases__[0] is not nn.Linear:
                kind = type(module).__name__.removeprefix("Parametrized")
                raise ValueError(
                    f"{name}.{key} belongs to a {kind}, and a folder of {METHOD!r} holds codes of "
                    "Linear alone; leave it out of the plan"
                )
            found[name] = weight_of(f"{name}.{key}", chain[-1], chain.original)
    return found


def _packed(weight: Weight, pack_to_int32: object) -> tuple[dict, dict[str, Tensor]]:
    """Return the scheme of a weight and its tensors."""
    bits, (rows, width), half = weight.bits, weight.shape, 2 ** (weight.bits - 1)
    signed = weight.codes().reshape(weight.groups, -1) - weight.zero[:, None]
    if (weight.zero != np.rint(weight.zero)).any() or signed.min() < -half or signed.max() >= half:
        raise ValueError(
            f"{weight.name} has a zero that is not in the middle of its codes, which {METHOD!r} "
            "cannot load; choose a symmetric grid, such as LSQ or SAWB"
        )
    codes = torch.from_numpy(signed.reshape(rows, width).astype(np.int8))
    scheme = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    scale = torch.from_numpy(weight.scale)
    if weight.groups == 1:
        scheme |= {"strategy": "tensor"}
    elif weight.run % width == 0:
        scheme |= {"strategy": "channel"}
        scale = scale.repeat_interleave(rows // len(scale)).reshape(rows, 1)
    else:
        scheme |= {"strategy": "group", "group_size": weight.run}
        scale = scale.reshape(rows, -1)
    return scheme, {
        "weight_packed": pack_to_int32(codes, bits),
        "weight_scale": scale.contiguous(),
        "weight_shape": torch.tensor([rows, width]),
    }
