"""How large a file will be, without writing it: of a model on meta, to the byte.

``report`` writes the file and measures it. Whoever moves a slider cannot wait for that.
"""

import json
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from .digests import TYPES
from .pack import pack_tensors
from .report import Report, rows_of
from .tied import ties

ORDER = (  # of safetensors: the widest types come first
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)


def file_size(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> int:
    """Return the bytes of a safetensors file with these tensors and notes in its header.

    >>> import torch
    >>> file_size({"weight": torch.ones(4, 8), "bias": torch.ones(4)}, {"format": "pt"})
    304
    """
    head, places = header(tensors, notes)
    return max((end for _, end in places.values()), default=len(head))


def header(
    tensors: Mapping[str, Tensor], notes: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return how a safetensors file begins, and the bytes of it (from, to) that each tensor takes.

    That is its length in 8 bytes and a line of JSON: name, type, shape and place of every tensor.
    Spaces fill it up to a multiple of 8.

    Args:
        tensors: may be on meta.
    """
    kinds = {name: TYPES[tensor.dtype] for name, tensor in tensors.items()}
    entries: dict[str, dict] = {"__metadata__": dict(notes)} if notes else {}
    end, places = 0, {}
    for name in sorted(tensors, key=lambda name: (ORDER.index(kinds[name]), name)):
        start, tensor = end, tensors[name]
        end += tensor.numel() * tensor.element_size()
        places[name] = start, end
        entries[name] = {
            "dtype": kinds[name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    line = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    line += b" " * (-len(line) % 8)
    head = len(line).to_bytes(8, "little") + line
    return head, {name: (len(head) + a, len(head) + b) for name, (a, b) in places.items()}


def plain_file(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that ``report`` writes of a torch model on meta, and the header's notes.

    Of several names for one tensor the first in the alphabet is written, the others are noted.
    """
    state, notes = model.state_dict(), {"format": "pt"}
    for places in ties(model):
        plain = [".".join(filter(None, place)) for place in places]
        first, *others = sorted(name for name in plain if name in state) or [""]  # one is computed
        for name in others:
            del state[name]
            notes[name] = first
    return state, notes


def weigh(model: nn.Module, file_of: Callable[[nn.Module], tuple] = plain_file) -> Report:
    """Return what ``report`` will say of a model that is on meta, such as ``surgery.sketch``.

    Args:
        model: is packed, in place.
        file_of: packed model -> tensors and notes of its file; ``tqlearn.hf.sealing.file_of`` for
            one of transformers.

    >>> weigh(nn.Linear(8, 4, device="meta")).file
    304
    """
    rows = rows_of(model)
    return Report(
        parameters=sum(row["parameters"] for row in rows),
        nominal=sum(row["nominal"] for row in rows),
        with_metadata=sum(row["bytes"] for row in rows),
        file=file_size(*file_of(pack_tensors(model))),
        rows=rows,
    )
