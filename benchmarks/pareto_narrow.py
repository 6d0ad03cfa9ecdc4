"""Smaller dense students that start from a teacher's own numbers: fewer channels, fewer layers.

A channel of the residual stream matters by what the layers read from it: its mean square there
is 1 after a norm, so the squares of the columns that multiply it count, times the norm's gain. Of a
head, of a FFN and in front of a classifier the channels with the largest product of the
squared norms on both sides stay.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

FINE = 8  # of FFN dimensions
SAVES = 1.1  # as many times narrower than the teacher, or it is no narrow student


def dial(config: PretrainedConfig, structure: str, times: float) -> list[tuple[int, int]]:
    """Return (width, FFN dimensions) from small to large.

    Args:
        times: FFN dimensions of a width, in units of the teacher's share; a little more than that
            fills the way to the next width. The last one of "shallow" is the teacher's.

    >>> small = PretrainedConfig(hidden_size=16, intermediate_size=64, num_attention_heads=4)
    >>> dial(small, "narrow", 1)
    [(4, 16), (4, 24), (8, 32), (8, 40), (12, 48), (12, 56)]
    """
    width, heads, ffn = config.hidden_size, config.num_attention_heads, config.intermediate_size
    step, share = heads, times * ffn / width
    found = []
    for w in range(step, int(width / SAVES) + 1, step):
        most = min(round(share * (w + step)), ffn + 1)  # a teacher has no more to give
        found += [(w, f) for f in range(round(share * w), most, FINE)]
    return found + ([(width, ffn)] if structure == "shallow" and times == 1 else [])


def student(teacher: nn.Module, width: int, ffn: int, structure: str) -> nn.Module:
    """Return a dense student of a width; "shallow" has every second layer, from the first on.

    Args:
        teacher: a BERT of transformers with a head.
        width: divided by the number of heads, which stays.
    """
    config = deepcopy(teacher.config)
    layers = [*range(config.num_hidden_layers)][:: 2 if structure == "shallow" else 1]
    config.hidden_size, config.intermediate_size = width, ffn
    config.num_hidden_layers = len(layers)
    made = type(teacher)(config).eval()
    old, new = teacher.state_dict(), made.state_dict()
    stream = _best(_stream(teacher), width)
    for layer in range(len(layers)):
        here, there = (f"bert.encoder.layer.{k}." for k in (layer, layers[layer]))
        for name in [name for name in new if name.startswith(here)]:
            old[f"new {name}"] = old[there + name.removeprefix(here)]
    for name in new:
        source = old.get(f"new {name}", old.get(name))
        places = _places(name, teacher, layers, stream, width, ffn)  # a bias has the first alone
        for axis, chosen in enumerate(places[: source.dim()]):
            source = source if chosen is None else source.index_select(axis, chosen)
        new[name] = source.clone()
    made.load_state_dict(new)
    return made


def _stream(teacher: nn.Module) -> Tensor:
    """Return how much the layers read from each channel of the residual stream."""
    total = torch.zeros(teacher.config.hidden_size)
    layers = teacher.bert.encoder.layer
    gains = [teacher.bert.embeddings.LayerNorm, *(one.output.LayerNorm for one in layers)]
    for gain, layer in zip(gains, layers, strict=False):
        attention = layer.attention.self
        for reader in (attention.query, attention.key, attention.value):
            total += (reader.weight.detach() * gain.weight.detach()).square().sum(0)
        inner = layer.attention.output.LayerNorm.weight.detach()
        total += (layer.intermediate.dense.weight.detach() * inner).square().sum(0)
    for reader, _ in _heads(teacher):
        total += (reader.weight.detach() * gains[-1].weight.detach()).square().sum(0)
    return total


def _heads(teacher: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return (layer in front, classifier) of every head."""
    if hasattr(teacher, "slot_dense"):
        return [(teacher.intent_dense, teacher.intent_classifier),
                (teacher.slot_dense, teacher.slot_classifier)]  # fmt: skip
    return [(teacher.bert.pooler.dense, teacher.classifier)]


def _places(
    name: str, teacher: nn.Module, layers: list[int], stream: Tensor, width: int, ffn: int
) -> list[Tensor | None]:
    """Return which entries of a teacher's tensor a student's tensor takes, by axis."""
    if ".encoder.layer." in name:
        layer = teacher.bert.encoder.layer[layers[int(name.split(".")[3])]]
        attention, heads = layer.attention.self, teacher.config.num_attention_heads
        if ".attention.self." in name:
            pair = (attention.query, attention.key)
            if ".value." in name:
                return [_in_heads(attention.value, None, layer, heads, width), stream]
            return [_in_heads(*pair, layer, heads, width), stream]
        if name.endswith("attention.output.dense.weight"):
            return [stream, _in_heads(attention.value, None, layer, heads, width)]
        inner = _best(_both(layer.intermediate.dense, layer.output.dense), ffn)
        if ".intermediate." in name:
            return [inner, stream]
        return [stream, inner] if name.endswith(".output.dense.weight") else [stream]
    if "embeddings.LayerNorm" in name:
        return [stream]
    if "_embeddings." in name:
        return [None, stream]
    names = {module: name for name, module in teacher.named_modules()}
    for front, classifier in _heads(teacher):
        chosen = _best(_both(front, classifier), width)
        parts = {front: [chosen, stream], classifier: [None, chosen]}
        if front is getattr(teacher, "slot_dense", None):
            parts[teacher.slot_norm] = [chosen]
        for module, axes in parts.items():
            if name.rpartition(".")[0] == names[module]:
                return axes
    raise ValueError(f"{name} of {type(teacher).__name__} has no place in a narrow student")


def _in_heads(
    one: nn.Module, other: nn.Module | None, layer: nn.Module, heads: int, width: int
) -> Tensor:
    """Return the rows of a projection that stay, as many in every head."""
    rows = one.weight.detach().square().sum(1)
    if other is not None:
        rows = rows * other.weight.detach().square().sum(1)
    else:
        rows = rows * layer.attention.output.dense.weight.detach().square().sum(0)
    by_head, size = rows.reshape(heads, -1), width // heads
    best = by_head.argsort(dim=1, descending=True, stable=True)[:, :size].sort(1).values
    return (best + torch.arange(heads)[:, None] * by_head.shape[1]).flatten()


def _both(front: nn.Module, behind: nn.Module) -> Tensor:
    """Return the squared norms of the rows of a layer times those of the next one's columns."""
    return front.weight.detach().square().sum(1) * behind.weight.detach().square().sum(0)


def _best(scores: Tensor, number: int) -> Tensor:
    return scores.argsort(descending=True, stable=True)[:number].sort().values
