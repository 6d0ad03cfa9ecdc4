"""A tiny random model of any family of transformers, from its own config with small numbers."""

import inspect
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FOLDER = Path(transformers.__file__).parent / "models"
SIZES = {  # part of an option's name -> its size; the first that fits
    "vocab_size": 99,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "heads": 4,
    "n_head": 4,
    "max_position": 64,
    "window_size": 4,
    "intermediate": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "n_inner": 48,
    "hidden_size": 32,
    "d_model": 32,
    "d_kv": 8,
    "embed_dim": 32,
    "n_embd": 32,
    "hidden_dim": 32,
    "layers": 2,
    "n_layer": 2,
    "top_k": 2,
    "moe_k": 2,
    "num_experts_per_tok": 2,
    "experts": 4,
    "patch_size": 8,
    "image_size": 32,
    "projection_dim": 32,
}
TOKENS = "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"


def families() -> dict[str, str]:
    """Return folder -> source of every model that calls transformers' attention registry."""
    found = {}
    for folder in sorted(FOLDER.iterdir()):
        text = "".join(f.read_text() for f in sorted(folder.glob("modeling_*.py")))
        if "ALL_ATTENTION_FUNCTIONS" in text:
            found[folder.name] = text
    return found


def small(config_class: type) -> object:
    """Return a config with small numbers, its parts included.

    Raises:
        whatever the config says against them.
    """
    default, options = config_class(), {}
    for name, value in vars(default).items():
        if name == "head_dim" and value is None:
            options[name] = 8
        elif type(value) is int and "feat_extract" not in name:
            if name in TOKENS:
                options[name] = 1
            elif size := next((n for part, n in SIZES.items() if part in name), None):
                options[name] = min(size, value)
    if getattr(default, "num_key_value_heads", 0) == getattr(default, "num_attention_heads", None):
        options["num_key_value_heads"] = options["num_attention_heads"]
    for name, part in getattr(config_class, "sub_configs", {}).items():
        here = getattr(default, name, None)
        if part is AutoConfig and here is not None:
            part = type(here)
        if inspect.isclass(part) and part is not AutoConfig:
            options[name] = small(part).to_dict()
    kinds = vars(default).get("layer_types")
    if isinstance(kinds, list):
        options["layer_types"] = [*kinds[:1], *kinds[-1:]]
    return config_class(**options)


def tiny(family: str) -> tuple[torch.nn.Module, dict]:
    """Return (model in evaluation mode, inputs).

    Raises:
        whatever transformers says of a config that does not fit together.
    """
    kinds = (family, family.replace("_", "-"), *sorted(CONFIG_MAPPING.keys()))
    kind = next(k for k in kinds if k in CONFIG_MAPPING and k.replace("-", "_").startswith(family))
    config = small(CONFIG_MAPPING[kind])
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # random weights are small, and attention nearly uniform: make it matter
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            elif not bool(parameter.any()):
                parameter.normal_()
    return model, _inputs(model, config)


def _inputs(model: torch.nn.Module, config: object) -> dict:
    names = inspect.signature(model.forward).parameters
    ids = torch.randint(3, 90, (2, 7))
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 32)
    size = size if isinstance(size, int) else 32
    audio = getattr(config, "audio_config", config)
    given = {
        "input_ids": ids,
        "decoder_input_ids": ids,
        "pixel_values": torch.randn(2, getattr(vision, "num_channels", 3), size, size),
        "input_values": torch.randn(2, 2000),
        "input_features": torch.randn(
            2, getattr(audio, "num_mel_bins", 80), 2 * getattr(audio, "max_source_positions", 20)
        ),
        "use_cache": False,  # states of other kinds of layers would need a cache of their own
    }
    wanted = {model.main_input_name, "use_cache"}
    if "vision_config" in getattr(config, "sub_configs", {}):
        wanted |= {"input_ids", "pixel_values"}
    if getattr(config, "is_encoder_decoder", False):
        wanted.add("decoder_input_ids")
    return {name: given[name] for name in given if name in wanted and name in names}
