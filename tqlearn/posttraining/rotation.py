"""A rotation of the residual stream and of the values, folded into neighbors; equal outputs.

An RMSNorm without a gain commutes with any orthogonal R, for R keeps the length of a row. So with
the gains folded into what reads the norms, the stream may carry x R in the place of x: what reads
it becomes W R, what writes it R^T W with the bias b R, a table E R. A LayerNorm also subtracts a
row's mean. It commutes with those R that keep the vector of ones, and its bias turns with the rest.

Inside attention a second R turns the values of each head, and the output projection turns them
back; rounding sees both turned.

Sources: QuaRot (Ashkboos et al. 2024, arXiv 2404.00456), SpinQuant (arXiv 2405.16406); spec sheet
post-training methods, section 4. SliceGPT turns a LayerNorm into an RMSNorm, by taking the mean out
of what writes; R with kept ones needs no other class.
"""

import copy
import warnings

import torch
from torch import Tensor, nn

from ..arguments import require, require_model
from ..sparsity.anatomy import TransformerLayer, transformer_layers
from ..storage.layout import attach_layout
from ..storage.tied import TABLES, ties
from .folds import STREAMS, Stream, matrix, require_linear, require_plain, stream_of
from .hadamard import spread


@torch.no_grad()
def rotate(
    model: nn.Module, seed: int = 0, *, stream: bool = True, values: bool = True
) -> nn.Module:
    """Return a model in rotated coordinates, whose numbers have fewer outliers; equal outputs.

    Compress what this returns, and ``compensate``: channels that a small gain has damped are spread
    now, and rounding to nearest alone may lose more. ``inputs_embeds`` and hidden states turn, too.

    Args:
        model: in floats, of a family in ``sparsity.ANATOMIES``; unchanged.
        seed: of the random signs.
        stream: turn the residual stream: families in ``STREAMS`` with a ``final`` norm, with a
            head on top. Where the head shares the table of words, and the last norm's gain is not
            the same for all channels, head and table go apart, which a warning says.
        values: turn the values inside each head.

    Raises:
        ValueError: a family whose stream cannot turn, such as a BERT, whose LayerNorms stand on the
            stream itself; a bare model without a head; a compressed model.
        TypeError: no model.

    Example::

        student = tq.calibrate(tq.compress(rotate(model), {"*.layers.*": [tq.LSQ(4, per=64)]}))
    """
    require_model("rotate", model)
    for name, value in (("stream", stream), ("values", values)):
        require(f"rotate: {name}", value, bool)
    require("rotate: seed", seed, int)
    require_plain("rotate", model)
    layers = transformer_layers(model)
    for name in (name for layer in layers for name in layer.matrices):
        require_linear(name, model.get_submodule(name))
    if stream:
        found = _require_stream(model, layers)
    if not stream and not any(_turns(layer) for layer in layers if values):
        raise ValueError("nothing is left to rotate; leave stream or values at True")
    made = copy.deepcopy(model)
    if stream:
        _rotate_stream(made, layers, found, seed)
    for number, layer in enumerate(layers):
        if values and _turns(layer):
            _rotate_values(made, layer, seed + 1 + number)
    return attach_layout(made)


def _turns(layer: TransformerLayer) -> bool:
    return bool(layer.query) and not layer.entry.value_bias


def _rotate_values(model: nn.Module, layer: TransformerLayer, seed: int) -> None:
    """Turn the rows of the value and the columns of the output projection, head by head."""
    value, output = (model.get_submodule(name) for name in (layer.value, layer.output))
    r = spread(layer.head_size, seed)
    heads = matrix(output).shape[1] // layer.head_size
    for rows in layer.rows("value", heads // layer.group):
        _turn(value, r, rows)
    read = matrix(output)
    read.copy_(_times(read.unflatten(1, (heads, -1)), r).flatten(1))


def _turn(module: nn.Module, r: Tensor, rows: Tensor | slice = slice(None)) -> None:
    """Let a linear layer write y R in the place of y, in these of its outputs."""
    weight = matrix(module)
    weight[rows] = _times(weight[rows].T, r).T
    if getattr(module, "bias", None) is not None:
        module.bias.data[rows] = _times(module.bias.data[rows], r)


def _times(x: Tensor, r: Tensor) -> Tensor:
    return (x.double() @ r.to(x.device)).to(x.dtype)


def _base(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the model without its head, and the beginning of its names."""
    name = getattr(model, "base_model_prefix", "")
    inner = getattr(model, name, None) if name else None
    return (f"{name}.", inner) if isinstance(inner, nn.Module) else ("", model)


def _require_stream(model: nn.Module, layers: list[TransformerLayer]) -> Stream:
    """Return the stream of a model; all that reads or writes it is known.

    Raises:
        ValueError: it is not, or nobody would turn the outputs back.
    """
    front, base = _base(model)
    streams = {stream_of(model, layer) for layer in layers}
    stream = streams.pop() if len(streams) == 1 else None
    whole = all(layer.query and layer.down for layer in layers)
    if stream is None or not stream.final or not whole:
        names = ", ".join(kind for kind, entry in STREAMS.items() if entry.final)
        raise ValueError(
            f"the residual stream of a {type(model).__name__} cannot turn by itself: only norms in "
            f"front of attention and FFN that nothing else reads let it ({names}; others: an entry "
            "in tqlearn.posttraining.STREAMS); rotate(model, stream=False) turns the values"
        )
    if base is model:
        raise ValueError(
            f"a {type(model).__name__} gives the stream itself as its output, which would come out "
            "turned; rotate the model with its head, or stream=False"
        )
    known = {front + name for name in (stream.final, *stream.tables)}
    for layer in layers:
        known |= {*layer.matrices, *(f"{layer.name}.{norm}" for norm in stream.norms)}
        known |= {f"{layer.attention}.{norm}" for norm in layer.entry.norms}
    heads = _heads(model, front)
    others = [
        n for n, _ in model.named_parameters() if n.rpartition(".")[0] not in (known | {*heads})
    ]
    width = len(base.get_submodule(stream.final).weight)
    others += [n for n in heads if matrix(model.get_submodule(n)).shape[1] != width]
    if others:
        raise ValueError(
            f"{others[0]} of a {type(model).__name__} is no part that reads or writes the stream "
            "as far as we know; rotate(model, stream=False) turns the values alone"
        )
    return stream


def _heads(model: nn.Module, front: str) -> list[str]:
    """Return the linear layers outside the base model: what reads its last norm."""
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    return [name for name, _ in linear if not name.startswith(front)]


def _rotate_stream(
    model: nn.Module, layers: list[TransformerLayer], stream: Stream, seed: int
) -> None:
    front, base = _base(model)
    final, heads = base.get_submodule(stream.final), _heads(model, front)
    centers = isinstance(final, nn.LayerNorm)
    r = spread(len(final.weight), seed, keep_ones=centers)
    if bool((final.weight != final.weight[0]).any()):
        _untie(model, front, stream, heads)
        _fold_gain(final, [model.get_submodule(name) for name in heads], r)
    elif getattr(final, "bias", None) is not None:
        final.bias.copy_(_times(final.bias, r))
    for layer in layers:
        readers = [(layer.query, layer.key, layer.value), (layer.gate, layer.up)]
        for norm, names in zip(stream.norms, readers, strict=True):
            read_by = [model.get_submodule(name) for name in dict.fromkeys(names) if name]
            _fold_gain(model.get_submodule(f"{layer.name}.{norm}"), read_by, r)
            for module in read_by:
                matrix(module).copy_(_times(matrix(module), r))
        for name in (layer.output, layer.down):
            _turn(model.get_submodule(name), r)
    tables = [base.get_submodule(name) for name in stream.tables]
    weights = [module.weight for module in (*tables, *map(model.get_submodule, heads))]
    for weight in {id(w): w for w in weights}.values():  # a shared one turns once
        weight.copy_(_times(weight, r))


def _fold_gain(norm: nn.Module, readers: list[nn.Module], r: Tensor) -> None:
    """Move a norm's gain into what reads it; the bias, in units of the gain, turns.

    Raises:
        ValueError: a channel with a bias and no gain.
    """
    gain, bias = norm.weight.double(), getattr(norm, "bias", None)
    for reader in readers:
        weight = matrix(reader)
        weight.copy_(weight.double() * gain)
    if bias is not None:
        if bool(((gain == 0) & (bias != 0)).any()):
            raise ValueError(
                "a LayerNorm has a channel with a bias and a gain of 0, which nothing can carry; "
                "set its bias to 0 and add its part to the next layers' biases"
            )
        bias.copy_(_times(torch.where(gain == 0, 0.0, bias.double() / gain), r))
    norm.weight.fill_(1.0)


def _untie(model: nn.Module, front: str, stream: Stream, heads: list[str]) -> None:
    """Give heads that share a table of words a weight of their own, in place."""
    tables = {f"{front}{name}" for name in stream.tables}
    for places in ties(model):
        names = [name for name, _ in places]
        for name in set(names) & set(heads):
            if tables & set(names):
                module = model.get_submodule(name)
                module.weight = nn.Parameter(module.weight.clone(), module.weight.requires_grad)
                size = module.weight.numel() * module.weight.element_size()
                warnings.warn(
                    f"{name} and the table of words are two weights now, {size:,} bytes more: the "
                    "last norm's gain stands in one and not in the other",
                    stacklevel=5,
                )
                model.config.tie_word_embeddings = False
                pairs = getattr(model, TABLES[0], {}).items()
                setattr(model, TABLES[0], {k: v for k, v in pairs if k != f"{name}.weight"})
