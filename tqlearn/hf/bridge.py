"""The way through transformers' own quantizer hook: from_pretrained rebuilds a compressed model.

A compressed model's ``config.json`` holds ``quantization_config`` with ``quant_method`` "tqlearn"
and the layout. After ``import tqlearn.hf`` any ``AutoModel...from_pretrained`` reads it: the dense
skeleton gets its compressed layers before the weights arrive, so no SVD is repeated and nothing is
guessed.
"""

import json

import torch
from torch import nn
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..stages import is_quantizer
from ..storage.layout import rebuild
from .attention import attention_kind

METHOD = "tqlearn"


class TqlearnConfig(QuantizationConfigMixin):
    """What config.json says of a compressed model; ``layout`` is ``tqlearn.describe`` as JSON."""

    def __init__(self, layout: str = "", quant_method: str = METHOD, **_: object) -> None:
        try:
            json.loads(layout)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"the tqlearn layout in config.json is missing or damaged ({error}); "
                "save the model anew, or get the folder again"
            ) from error
        self.quant_method, self.layout = quant_method, layout

    def to_dict(self) -> dict:
        """Return the plain form that is written to config.json."""
        return {"quant_method": self.quant_method, "layout": self.layout}


class TqlearnQuantizer(HfQuantizer):
    """Rebuild the structure on the empty model; values then load like any other weights."""

    requires_calibration = True  # a folder comes calibrated; ``compress`` is the way to make one

    def _process_model_before_weight_loading(self, model: nn.Module, **_: object) -> nn.Module:
        with torch.device("meta"):
            rebuild(model, _for_model(model, json.loads(self.quantization_config.layout)))
        for module in model.modules():  # a scale that follows its weight waits until it is there
            if is_quantizer(module):
                module.eval()
        model.set_attn_implementation(attention_kind(model, model.config._attn_implementation))
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: object) -> nn.Module:
        """Refuse a file that lacks codes, scales or cores; transformers would make them up."""
        state = model.state_dict(keep_vars=True)
        marked = {name for name, t in state.items() if getattr(t, "_is_hf_initialized", False)}
        loaded = marked | {
            name for name, t in state.items() if t.is_meta
        }  # offloaded by accelerate
        layers = _for_model(model, json.loads(self.quantization_config.layout))["modules"]
        lost = [n for n in state if n not in loaded and any(n.startswith(k + ".") for k in layers)]
        if marked and lost:  # no marks at all: a sharded start that fills the weights in later
            raise ValueError(
                f"the file lacks {len(lost)} tensors of compressed layers, the first is "
                f"{lost[0]!r}; it is damaged or of another model: save it anew or get it again"
            )
        return model

    def is_serializable(self) -> bool:
        """Say that save_pretrained may write the model as it is."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that a Trainer may train it."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Say that fake-quantized weights learn."""
        return True


def _for_model(model: nn.Module, layout: dict) -> dict:
    """Fit the names to a model loaded with another head, or none, than the one that was saved.

    A part that this model does not have at all (a head, a pooler) is left out, as transformers does
    with its weights; a layer missing inside a part that it has stays, for ``rebuild`` to refuse.
    """
    prefix = model.base_model_prefix + "."
    names, has = layout["modules"], {name for name, _ in model.named_modules()}
    if len(prefix) > 1 and not set(names) <= has:
        if prefix.rstrip(".") not in has:  # the bare encoder, from a folder with a head
            names = {n.removeprefix(prefix): e for n, e in names.items() if n.startswith(prefix)}
        elif not any(n.startswith(prefix) for n in names):  # with a head, from a bare encoder
            names = {prefix + n: e for n, e in names.items()}
    parts = {n: prefix * n.startswith(prefix) + n.removeprefix(prefix).split(".")[0] for n in names}
    return layout | {"modules": {n: e for n, e in names.items() if parts[n] in has}}


if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:  # a notebook may reload this module
    register_quantization_config(METHOD)(TqlearnConfig)
    register_quantizer(METHOD)(TqlearnQuantizer)
