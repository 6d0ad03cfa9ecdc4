"""A tiny random model of any family of transformers, from its own config with small numbers."""

import inspect
from collections.abc import Iterable
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import transformers
from torch.nn.modules.module import register_module_parameter_registration_hook
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
    "max_source_positions": 20,
    "window_size": 4,
    "sliding_window": 4,
    "local_attention": 4,
    "attention_chunk_size": 4,
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


@cache
def families() -> dict[str, str]:
    """Return folder -> source of every model that calls transformers' attention registry."""
    found = {}
    for folder in sorted(FOLDER.iterdir()):
        text = "".join(f.read_text() for f in sorted(folder.glob("modeling_*.py")))
        if "ALL_ATTENTION_FUNCTIONS" in text:
            found[folder.name] = text
    return found


def small(config_class: type, known: dict | None = None, layers: int = 2) -> object:
    """Return a config with small numbers, its parts included.

    Args:
        known: options that stand as they are.
        layers: 1 or 2 of each kind.

    Raises:
        whatever the config says against them.
    """
    default, options = config_class(), {}
    sizes = SIZES | {"layers": layers, "n_layer": layers}
    for name, value in vars(default).items():
        if name == "head_dim" and value is None:
            options[name] = 8
        elif type(value) is int and "feat_extract" not in name:
            if name in TOKENS:
                options[name] = 1
            elif size := next((n for part, n in sizes.items() if part in name), None):
                options[name] = min(size, value)
    heads = [vars(default).get(f"num_{kind}_heads") for kind in ("attention", "key_value")]
    if heads[0] is not None and heads[0] == heads[1]:
        options["num_key_value_heads"] = options["num_attention_heads"]
    for name, part in getattr(config_class, "sub_configs", {}).items():
        here = getattr(default, name, None)
        if part is AutoConfig and here is not None:
            part = type(here)
        if inspect.isclass(part) and part is not AutoConfig:
            options[name] = small(part, layers=layers).to_dict()
    kinds = vars(default).get("layer_types")
    if isinstance(kinds, list):
        options["layer_types"] = [*kinds[:1], *kinds[-1:]][-layers:]
    return config_class(**options | (known or {}))


def tiny(family: str) -> tuple[torch.nn.Module, dict, torch.Tensor]:
    """Return (model in evaluation mode, inputs, what it makes of them with eager attention).

    Raises:
        whatever transformers says of a config or of inputs that do not fit together.
    """
    kinds = (family, family.replace("_", "-"), *sorted(CONFIG_MAPPING.keys()))
    kind = next((k for k in kinds if k in CONFIG_MAPPING and _plain(k).startswith(family)), None)
    if kind is None:
        raise ValueError(f"no config is called {family!r}")
    config = small(CONFIG_MAPPING[kind])
    torch.manual_seed(0)
    with _at_most(6_000_000):
        model = AutoModel.from_config(config, attn_implementation="eager").eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():  # random weights are small, and attention nearly uniform: make it matter
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            elif not bool(parameter.any()):
                parameter.normal_()
    *others, last = _inputs(model, config)
    for inputs in others:
        try:
            return model, inputs, output(model, inputs)
        except Exception:  # it wants more than its main input, or less
            continue
    return model, last, output(model, last)


@contextmanager
def _at_most(size: int):
    """Refuse a model while it is built: a second one without numbers would take as long."""
    left = size

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise ValueError(f"has more than {size:,} parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def output(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    """Return the first tensor of floats that a model returns."""
    torch.manual_seed(0)  # some models draw noise
    with torch.no_grad():
        return _first(model(**inputs))


def _first(found: object) -> torch.Tensor | None:
    if isinstance(found, torch.Tensor):
        return found if found.is_floating_point() else None
    inside = found.values() if hasattr(found, "values") else found if found is not None else ()
    inside = inside if isinstance(inside, Iterable) else ()
    return next((t for t in map(_first, inside) if t is not None), None)


def _plain(kind: str) -> str:
    return kind.replace("-", "_")


def _inputs(model: torch.nn.Module, config: object) -> list[dict]:
    """Return what a model may be called with: its main input, with the decoder's, with all."""
    names = inspect.signature(model.forward).parameters
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 32)
    size = size if isinstance(size, int) else 32
    audio = getattr(config, "audio_config", config)
    mels, wide = getattr(audio, "num_mel_bins", 80), "feature_projection_input_dim"
    frames = 2 * min(getattr(audio, "max_source_positions", 20), 1500)
    sound = (2, 40, getattr(audio, wide)) if hasattr(audio, wide) else (2, mels, frames)
    ids = torch.randint(3, 90, (2, 7))
    given = {
        "input_ids": ids,
        "pixel_values": torch.randn(2, getattr(vision, "num_channels", 3), size, size),
        "input_values": torch.randn(2, 2000),
        "input_features": torch.randn(sound),
        "decoder_input_ids": ids,
        "use_cache": False,  # states of other kinds of layers would need a cache of their own
    }
    given = {name: given[name] for name in given if name in names}
    few = {model.main_input_name, "use_cache"}
    if getattr(config, "is_encoder_decoder", False):
        few.add("decoder_input_ids")
    wanted = few, few | {"input_ids", "pixel_values"}, few | {"input_features"}, set(given)
    return [{name: given[name] for name in given if name in part} for part in wanted]
