"""The way through transformers' own quantizer hook: from_pretrained rebuilds a compressed model.

A compressed model's ``config.json`` holds ``quantization_config`` with ``quant_method`` "tqlearn"
and the layout. After ``import tqlearn.hf`` any ``AutoModel...from_pretrained`` reads it: the dense
skeleton gets its compressed layers before the weights arrive, so no SVD is repeated and nothing is
guessed.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..stages import is_quantizer
from ..storage.checks import check
from ..storage.digests import verify_meanwhile
from ..storage.files import warn_of_no_digests
from ..storage.layout import LISTENERS, attach_layout, rebuild
from ..storage.specs import parse, refuse
from .attention import attention_kind
from .loading import (
    as_elements,
    as_scalars,
    guard_dtype,
    names_here,
    other_sizes,
    plant,
    refuse_misplaced,
    refuse_unused,
    settle,
    uproot,
)
from .sealing import compare_config, guard_saving, seal_of, stored_in

METHOD = "tqlearn"


class TqlearnConfig(QuantizationConfigMixin):
    """What config.json says of a compressed model; ``layout`` is ``tqlearn.describe`` as JSON.

    Args:
        part: stands in a part's own config, such as "text_config": alone it is not what was saved.
    """

    def __init__(
        self, layout: str = "", quant_method: str = METHOD, part: str = "", **_: object
    ) -> None:
        if part:
            raise ValueError(
                f"the folder holds a compressed model of which {part} is a part; load the whole "
                "model with its own class and take the part from it"
            )
        parse(layout, "config.json")
        self.quant_method, self.layout = quant_method, layout

    def to_dict(self) -> dict:
        """Return the plain form that is written to config.json."""
        return {"quant_method": self.quant_method, "layout": self.layout}


class TqlearnQuantizer(HfQuantizer):
    """Rebuild the structure on the empty model; values then load like any other weights."""

    given: dict = {}  # what ``save_pretrained`` was called with, while it runs
    requires_calibration = True  # a folder comes calibrated; ``compress`` is the way to make one

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, **_: object
    ) -> nn.Module:
        """Place the layers of the layout, all but those that have another size in this model."""
        layout = parse(text := self.quantization_config.layout, "config.json")
        if not layout["modules"]:
            refuse("the layout in config.json names no layer, and a compressed folder has some")
        self.files, self.verdict = checkpoint_files or [], None
        self.tensors, notes = stored_in(self.files)
        if self.files:
            check(layout, self.tensors, model.state_dict())
            self.verdict = verify_meanwhile(self.tensors, notes, text)
        shapes = {name: stored.shape for name, stored in self.tensors.items()}
        here = names_here(model, layout)
        self.fresh = other_sizes(model, layout, here, shapes)
        self.absent = [name for name, place in here.items() if place is None]
        self.placed = {
            here[name]: entry
            for name, entry in layout["modules"].items()
            if here[name] and not any(f"{name}.".startswith(f"{n}.") for n in self.fresh)
        }
        with torch.device("meta"):
            rebuild(model, layout | {"modules": self.placed})
        for module in model.modules():  # a scale that follows its weight waits until it is there
            if is_quantizer(module):
                module.eval()
        as_scalars(model, shapes)
        kind = model.config._attn_implementation
        if (ours := attention_kind(model, kind)) != kind:  # many models have one kind only
            model.set_attn_implementation(ours)
        plant(model, self.fresh, shapes)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: object) -> nn.Module:
        """Refuse a file that lacks codes, scales or cores; transformers would make them up."""
        config = self.verdict and self.verdict.result()  # or the refusal of a damaged file
        uproot(model, self.fresh)
        settle(model)
        as_elements(model)
        state = model.state_dict(keep_vars=True)
        marked = {name for name, t in state.items() if getattr(t, "_is_hf_initialized", False)}
        loaded = marked | {
            name for name, t in state.items() if t.is_meta
        }  # offloaded by accelerate
        if marked:  # no marks at all: a sharded start that fills the weights in later
            lost = [name for name in state if name not in loaded]
            _refuse_lost([n for n in lost if any(n.startswith(k + ".") for k in self.placed)])
            refuse_misplaced(lost, self.absent)
            if self.files and config is None:
                refuse_unused(lost, state, self.tensors)
        if self.files and config is None:
            warn_of_no_digests(self.files[0])
        elif self.files:
            compare_config(config, Path(self.files[0]).with_name("config.json"))
        self.tensors = self.files = self.verdict = None  # they hold on to the files
        attach_layout(model)  # heads may have gone, and prefixes
        if hasattr(model.config, "quantization_config"):
            self.quantization_config.layout = model.config.quantization_config["layout"]
            model.config.quantization_config = self.quantization_config
        return model

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict | None, dict]:
        """Return what ``save_pretrained`` was given, and digests of it for the header."""
        return self.given.get("state_dict"), seal_of(model, self.given)

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


def _refuse_lost(lost: list[str]) -> None:
    if lost:
        raise ValueError(
            f"the file lacks {len(lost)} tensors of compressed layers, the first is "
            f"{lost[0]!r}; it is damaged or of another model: save it anew or get it again"
        )


def carry(model: nn.Module) -> None:
    """Let ``save_pretrained`` of a model that got a layout ask us for the header, in place."""
    if isinstance(model, PreTrainedModel):
        guard_saving(type(model))
        for cls in {type(part) for part in model.modules() if isinstance(part, PreTrainedModel)}:
            guard_dtype(cls)
        config = TqlearnConfig(model.config.quantization_config["layout"])
        model.hf_quantizer = TqlearnQuantizer(config, pre_quantized=True)


if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:  # a notebook may reload this module
    register_quantization_config(METHOD)(TqlearnConfig)
    register_quantizer(METHOD)(TqlearnQuantizer)
LISTENERS[:] = [carry]
