"""Places where a number per channel moves from one layer into its neighbor, and no output changes.

Where y = W2 (f(x)) and f passes channels on one by one, f(x) / s and W2 diag(s) give the same y.
The divisor goes into whoever makes the channels: the gain of a norm, or the rows of a matrix.

- a norm, for the matrices that read it, if nothing else does: not in a BERT, whose residual sum
  reads the norm's output as well
- the value's rows, for the output projection: attention mixes tokens, not channels. Query heads
  that share a value share its numbers
- the rows of a gated FFN's first matrix, for its last: down(act(gate(x)) * up(x))
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..kinds import is_conv1d
from ..sparsity.anatomy import TransformerLayer, transformer_layers
from ..sparsity.matching import model_type


@dataclass(frozen=True)
class Stream:
    """The residual stream of a family whose norms stand in front of attention and FFN.

    Args:
        norms: in front of attention and of the FFN, within a layer; nothing else reads them.
        final: the norm behind the last layer, within the base model; "" where we do not rotate.
        tables: embeddings that write into the stream, within the base model.
    """

    norms: tuple[str, str]
    final: str = ""
    tables: tuple[str, ...] = ()


_LLAMA = Stream(("input_layernorm", "post_attention_layernorm"), "norm", ("embed_tokens",))
STREAMS: dict[str, Stream] = {  # by the model_type of the configs that it was tried on
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _LLAMA),
    "gpt2": Stream(("ln_1", "ln_2"), "ln_f", ("wte", "wpe")),
    "vit": Stream(("layernorm_before", "layernorm_after")),
}


@dataclass(frozen=True)
class Fold:
    """One such place: who makes the channels, who reads them.

    Args:
        producer: name of a norm or of a linear layer.
        readers: names of the linear layers that read the channels; one input for all.
        rows: of the producer, one for each channel.
        channel: of each input of the readers; heads that share a value repeat its channels.
    """

    producer: str
    readers: tuple[str, ...]
    rows: Int[Tensor, " channels"]
    channel: Int[Tensor, " inputs"]

    def gathered(self, values: Float[Tensor, " inputs"]) -> Float[Tensor, " channels"]:
        """Return the largest of the values that belong to each channel."""
        empty = values.new_zeros(len(self.rows))
        return empty.scatter_reduce(0, self.channel.to(values.device), values, "amax")

    @torch.no_grad()
    def apply(self, model: nn.Module, scale: Float[Tensor, " channels"]) -> None:
        """Divide the channels by a scale and multiply what reads them, in place."""
        made_by = model.get_submodule(self.producer)
        rows, scale = self.rows.to(scale.device), scale.double()
        weight = made_by.weight.data if is_norm(made_by) else matrix(made_by)
        shape = (-1,) if weight.dim() == 1 else (-1, 1)
        weight[rows] = (weight[rows].double() / scale.view(shape)).to(weight)
        if getattr(made_by, "bias", None) is not None:
            made_by.bias.data[rows] = (made_by.bias.data[rows].double() / scale).to(weight)
        for name in self.readers:
            read = matrix(model.get_submodule(name))
            read.copy_(read.double() * scale[self.channel.to(scale.device)])


def is_norm(module: nn.Module) -> bool:
    """Say whether a module's weight is one gain per channel."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 1


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """Return the numbers of a linear layer as (out, in), to write into: a Conv1D's turned round,
    and under a quantizer those behind it.
    """
    chains = getattr(module, "parametrizations", {})
    weight = chains["weight"].original if "weight" in chains else module._parameters["weight"]
    return weight.data.T if is_conv1d(module) else weight.data


def stream_of(model: nn.Module, layer: TransformerLayer) -> Stream | None:
    """Return the stream that a layer belongs to, if its family is in the table."""
    modules = dict(model.named_modules())
    stream = STREAMS.get(model_type(layer.name, modules) or "")
    there = stream and all(f"{layer.name}.{norm}" in modules for norm in stream.norms)
    return stream if there else None


def folds_of(model: nn.Module) -> list[Fold]:
    """Return all such places of a model, in the order of its layers.

    Raises:
        ValueError: no layer that ``sparsity.ANATOMIES`` describes, or none with such a place.
    """
    found = []
    for layer in transformer_layers(model):
        stream = stream_of(model, layer)
        if layer.query and stream:
            readers = dict.fromkeys((layer.query, layer.key, layer.value))
            found.append(_behind_norm(model, f"{layer.name}.{stream.norms[0]}", readers))
        if layer.query and not layer.entry.value_bias:
            found.append(_behind_value(model, layer))
        if layer.up and stream:
            readers = dict.fromkeys(filter(None, (layer.gate, layer.up)))
            found.append(_behind_norm(model, f"{layer.name}.{stream.norms[1]}", readers))
        if layer.gate:
            inputs = torch.arange(_sides(model, layer.down)[1])
            rows = layer.gates(len(inputs))[1].nonzero().flatten()
            found.append(Fold(layer.up, (layer.down,), rows, inputs))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no place for scales: no attention whose value is a layer, "
            "no gated FFN, and no norm that tqlearn.posttraining.STREAMS names"
        )
    return found


def _behind_norm(model: nn.Module, norm: str, readers: Iterable[str]) -> Fold:
    every = torch.arange(len(model.get_submodule(norm).weight))
    return Fold(norm, tuple(readers), every, every)


def _behind_value(model: nn.Module, layer: TransformerLayer) -> Fold:
    heads = _sides(model, layer.output)[1] // layer.head_size
    own = torch.arange(heads // layer.group * layer.head_size).view(-1, layer.head_size)
    rows = layer.rows("value", len(own)).flatten()
    channel = own.repeat_interleave(layer.group, 0).flatten()
    return Fold(layer.value, (layer.output,), rows, channel)


def _sides(model: nn.Module, name: str) -> tuple[int, int]:
    module = model.get_submodule(name)
    require_linear(name, module)
    return tuple(matrix(module).shape)


def require_linear(name: str, module: nn.Module) -> None:
    """Raise a ValueError for a layer that is factored or packed."""
    if not (isinstance(module, nn.Linear) or is_conv1d(module)):
        raise ValueError(
            f"{name} is a {type(module).__name__}, not a linear layer; scale and rotate the model "
            "before it is factored"
        )


def require_plain(verb: str, model: nn.Module) -> None:
    """Raise a ValueError for a model with masks, quantizers or codes: what is folded are floats."""
    for name, module in model.named_modules():
        if getattr(module, "parametrizations", None) is not None:
            raise ValueError(
                f"{verb} changes floats, but {name} carries masks, a quantizer or codes; call "
                f"tqlearn.posttraining.{verb} first and compress what it returns"
            )
