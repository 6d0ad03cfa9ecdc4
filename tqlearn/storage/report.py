"""Honest sizes: three ways to count, side by side, and where the bytes are.

``nominal`` is the papers' way: every quantized number at its bits, the rest at 32, nothing else;
under an N:M mask the kept numbers alone. ``with_metadata`` adds what decoding needs: scales, and
the places of kept numbers.
``file`` is the size of the safetensors file that was really written, header included.
"""

import contextlib
import copy
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..arguments import require_model, require_numbers
from ..quantizers.grid import require_calibrated
from ..shapes import packed_bytes
from ..stages import is_quantizer
from .pack import behind_stages, pack_tensors, stored_bits, stored_bytes
from .packed import Packed


@dataclass(frozen=True)
class Report:
    """Sizes in bytes of a model and, if one was given, of its reference.

    ``rows`` has one entry per layer with weights: name, kind, parameters, bits, bytes (with
    scales).
    """

    parameters: int
    nominal: int
    with_metadata: int
    file: int
    rows: list[dict]
    reference: "Report | None" = None

    @property
    def ratios(self) -> dict[str, float]:
        """How many times smaller than the reference: parameters, nominal, with_metadata, file."""
        if self.reference is None:
            raise ValueError("ratios need a reference; call report(student, reference=teacher)")
        names = ("parameters", "nominal", "with_metadata", "file")
        return {name: getattr(self.reference, name) / getattr(self, name) for name in names}

    def summary(self) -> dict:
        """Return {"parameters", "bytes", "ratio", "reference_bytes"} for a benchmark's JSON."""
        kinds = ("nominal", "with_metadata", "file")
        found = {"parameters": self.parameters, "bytes": {k: getattr(self, k) for k in kinds}}
        if self.reference is not None:
            found["ratio"] = {k: round(self.ratios[k], 3) for k in kinds}
            found["reference_bytes"] = {k: getattr(self.reference, k) for k in kinds}
        return found

    @property
    def table(self) -> list[tuple[str, ...]]:
        """Lines of (what, this model, reference, ratio), as they are printed."""
        labels = {
            "parameters": "parameters",
            "nominal": "nominal bytes",
            "with_metadata": "with scales and metadata",
            "file": "whole file",
        }
        lines = []
        for name, label in labels.items():
            line = [label, f"{getattr(self, name):,}"]
            if self.reference is not None:
                line += [f"{getattr(self.reference, name):,}", f"{self.ratios[name]:.2f}x"]
            lines.append(tuple(line))
        return lines

    def __str__(self) -> str:
        heads = ("", "this model", "reference", "smaller by")
        lines = [heads[: len(self.table[0])], *self.table]
        return "\n".join(
            f"{line[0]:<26}" + "".join(f"{cell:>16}" for cell in line[1:]) for line in lines
        )

    def _repr_html_(self) -> str:
        heads = ("", "this model", "reference", "smaller by")[: len(self.table[0])]
        head = "".join(f"<th>{h}</th>" for h in heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in self.table
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def report(model: nn.Module, reference: nn.Module | None = None) -> Report:
    """Count a model's parameters and bytes, fake-quantized or packed.

    The file is written to a temporary folder in packed form and measured; both models are left as
    they are. Numbers that several layers share count once.

    Raises:
        ValueError: a quantizer has no scale yet.

    >>> print(report(nn.Linear(8, 4)))
                                    this model
    parameters                              36
    nominal bytes                          144
    with scales and metadata               144
    whole file                             304
    """
    require_model("report", model)
    if reference is not None:
        require_model("report: reference", reference)
    require_numbers("report", model)
    require_calibrated(model)
    rows = rows_of(model)
    weights = file_bytes(model)
    return Report(
        parameters=sum(row["parameters"] for row in rows),
        nominal=sum(row["nominal"] for row in rows),
        with_metadata=sum(row["bytes"] for row in rows),
        file=weights,
        rows=rows,
        reference=None if reference is None else report(reference),
    )


def rows_of(model: nn.Module) -> list[dict]:
    """Return what ``Report.rows`` has: one entry per layer with weights, shared numbers once."""
    rows, seen = [], set()
    for name, module in model.named_modules():
        if isinstance(module, ParametrizationList) or ".parametrizations." in f".{name}.":
            continue
        if row := _row(name, module, seen):
            rows.append(row)
    return rows


def _row(name: str, module: nn.Module, seen: set[int]) -> dict | None:
    """Count one module's own tensors: plain parameters at 32 bits, parametrized ones at theirs."""
    count = nominal = metadata = 0
    kinds = set()
    if is_quantizer(module):  # of activations: no parameter of the model, but stored with it
        stored = [*module.parameters(), *module.buffers()]
        metadata = sum(t.numel() * t.element_size() for t in stored)
        return _line(name, module, 0, {module.bits}, 0, metadata)
    for parameter in module.parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        count += parameter.numel()
        nominal += packed_bytes(parameter.numel(), 8 * parameter.element_size())
        kinds.add(8 * parameter.element_size())
    for chain in getattr(module, "parametrizations", {}).values():
        if not chain.is_tensor:  # weight_norm: stored as the tensors behind it
            plain = list(chain.parameters(recurse=False))
            count += sum(t.numel() for t in plain)
            nominal += sum(t.numel() * t.element_size() for t in plain)
            kinds |= {8 * t.element_size() for t in plain}
            continue
        if id(chain.original) in seen:
            continue
        seen.add(id(chain.original))
        packed = isinstance(chain[-1], Packed)
        numel = torch.Size(chain[-1].shape).numel() if packed else chain.original.numel()
        numbers, needed = stored_bytes(chain, numel)
        count, nominal, metadata = count + numel, nominal + numbers, metadata + needed
        kinds.add(stored_bits(chain))
    return _line(name, module, count, kinds, nominal, metadata) if count else None


def _line(name: str, module: nn.Module, count: int, kinds: set, nominal: int, extra: int) -> dict:
    return {
        "name": name,
        "kind": type(module).__name__.removeprefix("Parametrized"),
        "parameters": count,
        "bits": sorted(kinds),
        "nominal": nominal,
        "bytes": nominal + extra,
    }


def file_bytes(model: nn.Module) -> int:
    """Write the packed model to a temporary safetensors file and return its size in bytes.

    A transformers model is written by its own ``save_pretrained``, which may rename tensors.
    """
    packed = pack_tensors(copy.deepcopy(model, {id(t): t for t in behind_stages(model)}))
    with tempfile.TemporaryDirectory() as folder:
        if hasattr(packed, "save_pretrained"):
            # no card, and nothing that has to reach the disk: only the size is looked at
            plain = getattr(packed.save_pretrained, "tqlearn_guard", None)
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                plain(packed, folder) if plain else packed.save_pretrained(folder)
        else:
            path = Path(folder) / "model.safetensors"
            save_model(packed, str(path), metadata={"format": "pt"})
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))  # shards
