"""``export``: a compressed model for an engine that knows nothing of tqlearn."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..surgery import pack
from ..writing import folder_beside

TARGETS = ("onnx", "compressed-tensors", "dense")
LARGE = 1_900_000_000  # bytes: one file of ONNX ends at 2 GiB, what is larger has a second one


def export(
    model: nn.Module,
    path: str | Path,
    inputs: object = None,
    target: str = "onnx",
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Path:
    """Write a model for another engine; codes stay codes.

    What block masks have emptied goes with ``compact`` before; without it, zeros are written.

    Everything is checked beforehand: what the target cannot hold is refused by its name, and
    nothing is written then.

    Args:
        model: compressed or packed; it stays as it is, and is exported as in evaluation.
        path: the file to write, or the folder.
        inputs: an example, as the model is called: a dict of tensors by argument, a tensor or a
            tuple. With ``past_key_values`` in it, a cache or pairs of tensors, the graph takes
            ``past_key_values.0.key`` and so on, and returns ``present.0.key``.
        target: "onnx": a file that onnxruntime runs, with operators of its own for products and
            look-ups in codes. "compressed-tensors": a folder that transformers and vLLM read with
            that package, codes of linear layers. "dense": a folder of floats that plain
            transformers reads, as large as the teacher's.
        axes: {input: {axis: name}} of the axes that may have another size later, in place of ours:
            the first of each input, and the second of those that have two.

    Raises:
        ValueError: an unknown target, numbers that are no float32, a quantizer without a scale or
            of another form than code times scale, or a model that torch cannot trace.
        TypeError: no inputs, or inputs that are no tensors.
        ImportError: the extra ``ship`` is not installed.

    >>> from tqlearn import LSQ, calibrate, compress
    >>> student = calibrate(compress(nn.Sequential(nn.Linear(32, 8)), {"*": [LSQ(4)]}))
    >>> file = export(student, "small.onnx", torch.ones(2, 32))  # doctest: +SKIP
    """
    if target not in TARGETS:
        raise ValueError(f"target is one of {TARGETS}, got {target!r}")
    path = Path(path)
    if target == "onnx":
        if path.is_dir():
            raise ValueError(f"{path} is a folder, and ONNX is a file, such as {path}/model.onnx")
        return to_onnx(model, path, inputs, axes or {})
    if path.is_file():
        raise ValueError(f"{path} is a file, and {target!r} is a folder")
    from .folders import to_compressed_tensors, to_dense

    return to_dense(model, path) if target == "dense" else to_compressed_tensors(model, path)


def to_onnx(
    model: nn.Module, path: Path, inputs: object, axes: Mapping[str, Mapping[int, str]]
) -> Path:
    """See ``export``."""
    import onnx
    import onnxscript  # noqa: F401  (torch's exporter is written in it)

    from .lowering import Lowering
    from .tracing import axes_of, lined_up, opened, traced

    if inputs is None:
        raise TypeError(
            "a graph is traced with an example: give inputs, such as a batch of the tokenizer"
        )
    given, by_name = lined_up(inputs)
    if unknown := sorted(set(axes) - set(given)):
        raise ValueError(f"axes are of inputs {sorted(given)}, got {unknown}")
    require_single(model)
    packed = pack(model).eval()
    weights, roundings = opened(packed)
    chosen = axes_of(given) | dict(axes)
    trace = traced(packed, twice(given, chosen), by_name, chosen)
    done = Lowering(trace, weights, roundings).run()
    size = sum(len(tensor.raw_data) for tensor in done.graph.initializer)
    apart = {"save_as_external_data": True, "location": f"{path.name}.data"} if size > LARGE else {}
    with folder_beside(path.parent) as new:  # with its second file, if there is one
        onnx.save(done, str(new / path.name), **apart)
    return path


def require_single(model: nn.Module) -> None:
    """Raise a ValueError for numbers in other floats than float32."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(
                f"{name} is {tensor.dtype}, and a graph for CPUs computes in float32; call "
                "model.float() first"
            )


def twice(inputs: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]) -> dict[str, Tensor]:
    """Return inputs of two rows in place of one: a trace takes one for a fixed size.

    Each is a tensor of its own: a trace takes one that is given twice for one input.
    """
    rows = {x.shape[0] for name, x in inputs.items() if 0 in axes.get(name, ())}
    parts = {name: 2 if rows == {1} and 0 in axes.get(name, ()) else 1 for name in inputs}
    return {name: torch.cat([x] * parts[name]) if x.dim() else x for name, x in inputs.items()}
