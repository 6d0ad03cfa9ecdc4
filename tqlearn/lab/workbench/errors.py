"""What a layer loses under edits: of its weight, and of its outputs on rows it has really seen.

Every number is that of the layer which the library's own edits make.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...factors import LowRank
from ...factors.sizing import Structure
from ...factors.svd import squares
from ...kinds import is_conv1d, linear_of
from ...quantizers.calibration import (
    calibrate,
    calibrate_weights,
    checked_batches,
    real,
    run_hooked,
)
from ...quantizers.edits import Inputs
from ...stages import Cores, weight_names
from ...surgery.asked import naming
from ...writing import write
from .spectra import Shelf, Spectrum, digest

SAMPLE, PICTURES = 256, 4  # of each layer's inputs
ONE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, Cores)  # take one tensor
KEPT = "errors.json"


class Errors:
    """Relative errors of a model's layers under edits; what was found once is remembered.

    Args:
        model: is not changed.
        folder: where decompositions and errors are kept; None for this session only.
        batches: what the model is called with; without them outputs have no errors.
    """

    def __init__(
        self, model: nn.Module, folder: Path | None = None, batches: Iterable | None = None
    ) -> None:
        self.model, self.shelf = model, Shelf(folder)
        self.digests: dict[str, str] = {}
        self.weights: dict[str, float] = _read(folder)
        self.outputs: dict[tuple, float] = {}
        self.resolved: dict[tuple, list] = {}
        self.seen = None if batches is None else sampled(model, checked_batches(batches))

    def key(self, name: str, edits: Sequence) -> str:
        """Return what an error of a weight is kept by: digest of the layer, and its edits."""
        if name not in self.digests:
            layer = self.model.get_submodule(name)
            self.digests[name] = digest(weights_in(layer))
        return f"{self.digests[name]} {type(self.model.get_submodule(name)).__name__} {[*edits]}"

    def spectrum(self, name: str) -> Spectrum:
        """Return the decomposition of a linear layer's weight."""
        self.key(name, ())
        key, layer = self.digests[name], self.model.get_submodule(name)
        if (found := self.shelf.get(key)) is None:
            found = self.shelf.put(key, Spectrum.of(linear_of(layer).weight.detach()))
        return found

    def decomposed(self, name: str) -> bool:
        """Say whether the decomposition of a layer is there."""
        self.key(name, ())
        return self.shelf.get(self.digests[name]) is not None

    def resolve(self, name: str, edits: Sequence) -> list:
        """Return the edits with ranks in the place of errors, as they are for this layer.

        Raises:
            ValueError: the error needs more numbers than the weight has.
        """
        key = name, str(edits)
        if key not in self.resolved:
            layer = self.model.get_submodule(name)
            with naming(name):
                self.resolved[key] = [self._resolved(name, layer, edit) for edit in edits]
        return self.resolved[key]

    def _resolved(self, name: str, layer: nn.Module, edit: object) -> object:
        if getattr(edit, "error", None) is None or not isinstance(edit, Structure):
            return edit
        if isinstance(edit, LowRank):
            linear = linear_of(layer)
            edit.limit(linear)  # what does not fit is refused first
            rank = edit.paying(linear, self.spectrum(name).rank(edit.error))
            return replace(edit, rank=rank, error=None)
        return edit.resolve(layer)

    def ready(self, name: str, edits: Sequence) -> bool:
        """Say whether errors and ranks of a layer are known."""
        if (name, str(edits)) not in self.resolved:
            return False
        if self.key(name, edits) not in self.weights:
            return False
        return self.seen is None or name not in self.seen or (name, str(edits)) in self.outputs

    def weight_error(self, name: str, edits: Sequence) -> float:
        """Return the relative error of a layer's weights, in the Frobenius norm."""
        key = self.key(name, edits)
        if key not in self.weights:
            layer, ranked = self.model.get_submodule(name), self.resolve(name, edits)
            inner = [edit for edit in ranked if not isinstance(edit, Inputs)]
            if len(inner) == 1 and isinstance(inner[0], LowRank) and inner[0].init == "svd":
                rank = inner[0].resolve(linear_of(layer)).rank
                self.weights[key] = self.spectrum(name).error(rank)
            else:
                self.weights[key] = distance(layer, self.made(name, inner))
        return self.weights[key]

    def output_error(self, name: str, edits: Sequence) -> float | None:
        """Return the relative error of a layer's outputs, biases included, on rows of its inputs.

        The inputs are those of the dense model. None: no batches, or none that reached the layer.
        """
        if self.seen is None or name not in self.seen:
            return None
        if (key := (name, str(edits))) not in self.outputs:
            x, layer = self.seen[name], self.model.get_submodule(name)
            new = calibrate(self.made(name, self.resolve(name, edits)).eval(), [(x,)])
            with torch.no_grad():
                y = layer(x)
                self.outputs[key] = _ratio([new(x) - y], [y])
        return self.outputs[key]

    @torch.no_grad()
    def made(self, name: str, edits: Sequence) -> nn.Module:
        """Return what edits make of a layer, weights calibrated."""
        layer = self.model.get_submodule(name)
        first = edits[0].resolve(linear_of(layer)) if edits and type(edits[0]) is LowRank else None
        with naming(name):
            if first is not None and first.init == "svd":
                new, edits = self.spectrum(name).layer(first, layer), edits[1:]
            else:
                own = {id(p): p for p in layer.parameters()}  # no edit writes into them
                new = copy.deepcopy(layer, own)
            for edit in edits:
                new = edit(new)
            calibrate_weights(new)
        return new

    def save(self) -> None:
        """Keep the errors of weights on disk, beside the decompositions."""
        if self.shelf.folder is None or self.shelf.trouble:
            return
        try:
            self.shelf.folder.mkdir(parents=True, exist_ok=True)
            write(self.shelf.folder / KEPT, json.dumps(dict(self.weights)))
        except OSError as error:
            self.shelf.trouble = f"errors are not kept on disk: {error}"


def _read(folder: Path | None) -> dict[str, float]:
    place = None if folder is None else folder / KEPT
    if place is None or not place.is_file():
        return {}
    try:
        found = json.loads(place.read_text("utf-8"))
    except (ValueError, OSError):
        return {}  # damaged: it is found anew
    whole = isinstance(found, dict) and all(isinstance(x, float) for x in found.values())
    return found if whole else {}


def weights_in(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a layer, masked and quantized as they are; of cores their product."""
    if isinstance(layer, Cores):
        return {"weight": layer.product().detach()}
    return {name: getattr(layer, name).detach() for name in weight_names(layer)}


def distance(layer: nn.Module, new: nn.Module) -> float:
    """Return how far the weights of a new layer are from the old ones, relative to these."""
    old, made = weights_in(layer), weights_in(new)
    turned = is_conv1d(layer) and not is_conv1d(new)  # the same matrix, the other way round
    off = [(made[n].T if turned else made[n]).float() - old[n].float() for n in old]
    return _ratio(off, [*old.values()])


def _ratio(off: Sequence[Tensor], whole: Sequence[Tensor]) -> float:
    lost, norm = (float(sum(squares(t.float()) for t in part)) for part in (off, whole))
    return (lost / norm) ** 0.5 if norm else 0.0


def sampled(model: nn.Module, batches: Iterable) -> Mapping[str, Tensor]:
    """Return some of what enters every layer that takes one tensor: ``SAMPLE`` rows, ``PICTURES``
    of a convolution, padding left out.
    """
    found: dict[str, list[Tensor]] = {}
    names = {m: n for n, m in model.named_modules() if isinstance(m, ONE) or is_conv1d(m)}
    masks: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple) -> None:
        if not inputs:  # called by keyword
            return
        kept, x = found.setdefault(names[module], []), inputs[0].detach()
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            most = PICTURES
        else:
            table = isinstance(module, nn.Embedding) or hasattr(module, "num_embeddings")
            most, x = SAMPLE, x.flatten() if table else real(x, masks).reshape(-1, x.shape[-1])
        if (left := most - sum(map(len, kept))) > 0:
            kept.append(x[:left].clone())

    run_hooked(model, batches, dict.fromkeys(names, look), masks)
    return {name: torch.cat(kept) for name, kept in found.items() if kept}
