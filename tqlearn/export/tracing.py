"""A model as a graph in which codes are still codes: ``Decode`` and ``Round`` nodes."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping

import onnx
import torch
from torch import Tensor, nn

from ..stages import Cores, is_quantizer
from ..storage.packed import Packed
from .attention import as_one_node
from .grids import Rounding, Weight, rounding_of, weight_of

OPSET = 21
PAST = "past_key_values"


class Decode(nn.Module):
    """Stand in the place of a packed tensor: one node of the graph."""

    def __init__(self, packed: Packed, key: str) -> None:
        super().__init__()
        self.shape, self.dtype, self.key = packed.shape, packed.dtype, key

    def forward(self, stream: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "tqlearn::Decode", (stream,), {"key": self.key},
            dtype=self.dtype, shape=self.shape, version=1,
        )  # fmt: skip


class Round(nn.Module):
    """Stand in the place of a quantizer of activations: one node of the graph."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        return torch.onnx.ops.symbolic(
            "tqlearn::Round", (x,), {"key": self.key}, dtype=x.dtype, shape=x.shape, version=1
        )


def opened(model: nn.Module) -> tuple[dict[str, Weight], dict[str, Rounding]]:
    """Take the codes out of a packed model, in place; return them by the key of their nodes.

    Raises:
        ValueError: with the name, for what no other engine could read.
    """
    weights, roundings = {}, {}
    for name, module in [*model.named_modules()]:
        for key, chain in getattr(module, "parametrizations", {}).items():
            packed = chain[-1]
            if isinstance(packed, Packed):
                full = f"{name}.{key}" if name else key
                weights[full] = weight_of(full, packed, chain.original, isinstance(module, Cores))
                chain[len(chain) - 1] = Decode(packed, full)
        for key, child in [*module.named_children()]:
            if is_quantizer(child) and ".parametrizations." not in f".{name}.":
                full = f"{name}.{key}" if name else key
                roundings[full] = rounding_of(full, child)
                setattr(module, key, Round(full))
    return weights, roundings


class Found:
    """The names of a model's outputs; on the module itself, a trace would take them back."""

    names: list[str]


class Called(nn.Module):
    """A model that takes its inputs as a line of tensors and returns its outputs as one.

    Args:
        names: of the inputs; those of a cache are ``past_key_values.0.key`` and so on.
    """

    def __init__(self, model: nn.Module, names: list[str], by_name: bool) -> None:
        super().__init__()
        self.model, self.names, self.by_name = model, names, by_name
        self.found = Found()

    def forward(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Call the model; ``found`` has the names of what comes back."""
        inputs = dict(zip(self.names, given, strict=True))
        past = [inputs.pop(name) for name in self.names if name.startswith(PAST)]
        if past:
            inputs[PAST] = _cache(self.model, past)
            inputs["use_cache"] = True
        found = self.model(**inputs) if self.by_name else self.model(*inputs.values())
        named = dict(_named("output" if isinstance(found, Tensor) else "", found, bool(past)))
        self.found.names = [*named]
        return tuple(named.values())


def _cache(model: nn.Module, past: list[Tensor]) -> object:
    from transformers import DynamicCache  # only a model of transformers has one

    return DynamicCache([*zip(past[::2], past[1::2], strict=True)], config=model.config)


def _named(name: str, found: object, cache: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an output by name; a cache only where one was given."""
    if isinstance(found, Tensor):
        yield name, found
    elif hasattr(found, "layers") and hasattr(found, "get_seq_length"):
        for i, layer in enumerate(found.layers if cache else ()):
            yield f"present.{i}.key", layer.keys
            yield f"present.{i}.value", layer.values
    elif isinstance(found, Mapping):
        for key, inner in found.items():
            yield from _named(f"{name}.{key}" if name else key, inner, cache)
    elif isinstance(found, tuple | list):
        for i, inner in enumerate(found):
            yield from _named(f"{name}.{i}" if name else f"output_{i}", inner, cache)


def lined_up(inputs: object) -> tuple[dict[str, Tensor], bool]:
    """Return the inputs as a dict of tensors, and whether the model takes them by name.

    Raises:
        TypeError: something that is no tensor.
    """
    by_name = isinstance(inputs, Mapping)
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    pairs = inputs.items() if by_name else ((f"input_{i}", x) for i, x in enumerate(inputs))
    found = {}
    for name, x in pairs:
        if name == PAST:
            for i, (key, value) in enumerate(_pairs(x)):
                found |= {f"{PAST}.{i}.key": key, f"{PAST}.{i}.value": value}
        elif not isinstance(x, Tensor):
            raise TypeError(
                f"inputs are tensors by the names of the model's arguments, {name} is a "
                f"{type(x).__name__}; leave it out, or make it a tensor"
            )
        else:
            found[name] = x
    return found, by_name


def _pairs(past: object) -> list[tuple[Tensor, Tensor]]:
    """Return a cache as pairs of tensors, whatever it comes as."""
    if layers := getattr(past, "layers", None):
        past = [(layer.keys, layer.values) for layer in layers]
    if isinstance(past, list | tuple) and all(
        len(pair) == 2 and all(isinstance(x, Tensor) for x in pair) for pair in past
    ):
        return [*past]
    raise TypeError(
        f"{PAST} is a cache of a decoder or a pair of tensors for each layer, got a "
        f"{type(past).__name__}; export without it"
    )


def axes_of(inputs: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    """Return the names of the axes that may have another size later: the batch, and lengths.

    The second axis of whatever has two is a length; that of a mask beside a cache counts both.
    """
    cached = any(name.startswith(PAST) for name in inputs)
    found = {}
    for name, x in inputs.items():
        axes = {0: "batch"} if x.dim() else {}
        if name.startswith(PAST):
            axes[2] = "past_length"
        elif x.dim() == 2:
            axes[1] = "total_length" if cached and "mask" in name else "length"
        found[name] = axes
    return found


def traced(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    by_name: bool,
    axes: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """Return the graph of an opened model.

    Raises:
        ValueError: an axis that shall vary is 1 in the example, or torch cannot trace the model.
    """
    shapes = tuple({axis: name for axis, name in axes.get(n, {}).items()} for n in inputs)
    for (name, x), dynamic in zip(inputs.items(), shapes, strict=True):
        ones = [axis for axis in dynamic if x.shape[axis] < 2]
        if ones:
            raise ValueError(
                f"axis {ones[0]} of {name} shall vary ({dynamic[ones[0]]!r}), and a trace cannot "
                "tell a size below 2 from a fixed one; give an example with two rows and tokens"
            )
    called = Called(model, [*inputs], by_name).eval()
    with torch.no_grad(), quiet(), as_one_node():
        try:
            program = torch.onnx.export(
                called, (), None, kwargs={"given": tuple(inputs.values())}, dynamo=True,
                dynamic_shapes={"given": shapes}, input_names=[*inputs], opset_version=OPSET,
                verbose=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            words = (str(error.__cause__ or error).strip().splitlines() or [str(error)])[0]
            raise ValueError(
                f"torch cannot trace this {type(model).__name__}: {words}; if that is about sizes, "
                "say in axes which ones may vary: {input: {axis: name}}"
            ) from error
    graph = program.model_proto
    for value, new in zip(graph.graph.output, called.found.names, strict=True):
        graph.graph.node.append(onnx.helper.make_node("Identity", [value.name], [new]))
        value.name = new
    return graph


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's remarks on packages that are not installed, and on itself, to itself."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
