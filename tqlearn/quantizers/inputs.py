"""Quantizers of what flows between weights: a layer's input, and the tensors of an attention.

They stand as children named in ``PLACES`` on the module whose tensor they quantize, so that a
layout can describe them and ``rebuild`` can put them back.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

INPUT = "quant_input"
ATTENTION = ("quant_query", "quant_key", "quant_value", "quant_probabilities")
PLACES = (INPUT, *ATTENTION)
QUANTIZED = "tqlearn_quantized"  # the attention function that uses them, see ``hf.attention``


def quantize_input(module: nn.Module, inputs: tuple) -> tuple:
    """Forward hook: quantize the first argument of a layer."""
    return (module.quant_input(inputs[0]), *inputs[1:])


def require_attention(module: nn.Module, inputs: tuple) -> None:
    """Forward hook: refuse an attention function that would pass the quantizers by.

    Raises:
        ValueError: another function than ours is set.
    """
    kind = module.config._attn_implementation
    if not str(kind).startswith("tqlearn_"):
        raise ValueError(
            f"{type(module).__name__} has quantizers that {kind!r} attention would not use; call "
            f"model.set_attn_implementation({QUANTIZED!r})"
        )


def place(module: nn.Module, name: str, quantizer: nn.Module) -> nn.Module:
    """Put a quantizer of activations on a module, in place, and return the module.

    A ``TTLinear`` has such places and uses them itself; any other layer gets a hook for its input.
    Attention modules use theirs through ``hf.attention``.

    Raises:
        ValueError: a name that is no place, or a place that is taken.
        TypeError: the output layer of ``nn.MultiheadAttention``, which is never called.
    """
    if name not in PLACES:
        raise ValueError(f"quantizers of activations stand at one of {PLACES}, got {name!r}")
    if isinstance(module, NonDynamicallyQuantizableLinear):
        raise TypeError(
            "torch's MultiheadAttention multiplies with the weight of its out_proj and never calls "
            "the layer, so what enters it cannot be quantized; leave activations out there and "
            "quantize its weight alone"
        )
    there = getattr(module, name, None)
    if there is not None and not isinstance(there, nn.Identity):
        raise ValueError(
            f"{type(module).__name__}.{name} has a quantizer already; start from the teacher"
        )
    setattr(module, name, quantizer.train(module.training))
    if there is None and name == INPUT:
        module.register_forward_pre_hook(quantize_input)
    hooks = module._forward_pre_hooks.values()
    if name in ATTENTION and require_attention not in hooks:
        module.register_forward_pre_hook(require_attention)
    return module


def lift(module: nn.Module) -> nn.Module:
    """Take the quantizers of activations off a module again, in place."""
    for name in PLACES:
        if isinstance(getattr(module, name, None), nn.Module):
            delattr(module, name)
    hooks = module._forward_pre_hooks
    ours = (quantize_input, require_attention)
    for key in [key for key, hook in hooks.items() if hook in ours]:
        del hooks[key]
    return module


def attended(module: nn.Module, name: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return an attention's tensor as its quantizer leaves it, unchanged where there is none."""
    quantizer = getattr(module, name, None)
    return x if quantizer is None else quantizer(x)
