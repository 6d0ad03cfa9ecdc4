"""What a layer loses under edits: of its weight, and of its outputs on rows it has really seen.

Every number is that of the layer which the library's own edits make. It is made once for both.
"""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...factors import LowRank
from ...factors.sizing import Structure
from ...kinds import linear_of
from ...quantizers.calibration import calibrate, calibrated_weights, checked_batches
from ...quantizers.edits import Inputs
from ...quantizers.inputs import INPUT
from ...stages import is_quantizer, strip
from ...surgery.asked import naming
from ...writing import write
from .distances import apart, distance, norm, norm_of, read_in_pieces, weights_in
from .samples import sampled
from .spectra import Shelf, Spectrum, digest

KEPT = "errors.json"
PAIRS = 2**25  # bytes of the pairs that wait for other bits


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
        self.norms: dict[str, float] = {}  # of the weights
        self.weights: dict[str, float] = _read(folder)
        self.outputs: dict[tuple, float] = {}
        self.resolved: dict[tuple, list] = {}
        self.seen = None if batches is None else sampled(model, checked_batches(batches))
        self.empty: dict[tuple, nn.Module] = {}  # pairs without numbers
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}  # each layer's last one
        self.dense: dict[str, Tensor] = {}  # outputs of the layers as they are, for these rows

    def key(self, name: str, edits: Sequence) -> str:
        """Return what an error of a weight is kept by: digest of the layer, edits of its weight."""
        if name not in self.digests:
            layer = self.model.get_submodule(name)
            self.digests[name] = digest(weights_in(layer))
        kind = type(self.model.get_submodule(name)).__name__
        return f"{self.digests[name]} {kind} {_of_weights(edits)}"

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
        return not self._seen(name) or (name, str(edits)) in self.outputs

    def _seen(self, name: str) -> bool:
        return self.seen is not None and name in self.seen

    def find(self, name: str, edits: Sequence) -> tuple[float, float | None]:
        """Return the relative errors of a layer: of its weights, in the Frobenius norm, and of its
        outputs, biases included, on rows that enter it in the dense model.

        The second is None without batches, or where none of them reached the layer.

        Raises:
            ValueError, TypeError: what an edit refuses.
        """
        key, told, new = self.key(name, edits), (name, str(edits)), None
        with naming(name):
            ranked = self.resolve(name, edits)
            if key not in self.weights:
                rank = self._rank(name, ranked)
                new = self.made(name, ranked) if rank is None else None
                exact = self.spectrum(name).error(rank) if new is None else self._off(name, new)
                self.weights[key] = exact
            if self._seen(name) and told not in self.outputs:
                new = settle(self.made(name, ranked)) if new is None else new
                self.outputs[told] = self._apart(name, new)
        return self.weights[key], self.outputs.get(told)

    def _off(self, name: str, new: nn.Module) -> float:
        layer = self.model.get_submodule(name)
        pieces = {} if self._seen(name) else read_in_pieces(new)
        return distance(layer, new if pieces else settle(new), self._norm(name), pieces)

    def _rank(self, name: str, edits: Sequence) -> int | None:
        """Return the rank where the weight becomes a nearest pair and nothing else."""
        inner = _of_weights(edits)
        if len(inner) != 1 or type(inner[0]) is not LowRank or inner[0].init != "svd":
            return None
        return inner[0].resolve(linear_of(self.model.get_submodule(name))).rank

    def _norm(self, name: str) -> float:
        if name not in self.norms:
            self.norms[name] = norm_of(self.model.get_submodule(name))
        return self.norms[name]

    @torch.no_grad()
    def _apart(self, name: str, new: nn.Module) -> float:
        x = self.seen[name]
        if name not in self.dense:
            self.dense[name] = self.model.get_submodule(name)(x)
        quantizers = [module for module in new.eval().modules() if is_quantizer(module)]
        if quantizers == [getattr(new, INPUT, None)]:
            quantizers[0].calibrate(x)  # it meets x itself: the layer need not be called for that
        else:
            calibrate(new, [(x,)])
        whole = norm([self.dense[name]])
        return apart(new(x), self.dense[name]) ** 0.5 / whole if whole else 0.0

    @torch.no_grad()
    def made(self, name: str, edits: Sequence) -> nn.Module:
        """Return what edits make of a layer, not calibrated yet."""
        layer = self.model.get_submodule(name)
        first = edits[0].resolve(linear_of(layer)) if edits and type(edits[0]) is LowRank else None
        if first is not None and first.init == "svd":
            new, edits = self._pair(name, first), edits[1:]
        else:
            own = {id(p): p for p in layer.parameters()}  # no edit writes into them
            new = copy.deepcopy(layer, own)
        for edit in edits:
            new = edit(new)
        return new

    def _pair(self, name: str, edit: LowRank) -> nn.Module:
        """Return the nearest pair of a rank, in a copy of an empty one: no random number is drawn
        in the background.
        """
        layer = self.model.get_submodule(name)
        linear = linear_of(layer)
        key = edit.rank, *linear.weight.shape, linear.bias is None
        if key not in self.empty:
            self.empty[key] = edit.skeleton(linear)
        new = copy.deepcopy(self.empty[key]).to(linear.weight.dtype)
        new = new.to_empty(device=linear.weight.device)
        new.set_cores(self._factors(name, edit.rank))
        if new.bias is not None:
            new.bias.data.copy_(linear.bias)
        new.dense_like = None if linear is layer else type(layer)
        return new

    def _factors(self, name: str, rank: int) -> tuple[Tensor, Tensor]:
        """Return the factors of the nearest pair, kept while there is room: a quantizer's dial asks
        for them again and again.
        """
        found = self.pairs.get(name)
        if found is None or found[0].shape[1] != rank:
            self.pairs.pop(name, None)
            weight = linear_of(self.model.get_submodule(name)).weight.detach()
            found = self.spectrum(name).pair(weight, rank)
            held = sum(x.nbytes for pair in [*self.pairs.values()] for x in pair)
            if held + sum(x.nbytes for x in found) <= PAIRS:
                self.pairs[name] = found
        return found

    def save(self) -> None:
        """Keep the errors of weights on disk, beside the decompositions."""
        if self.shelf.folder is None or self.shelf.trouble:
            return
        try:
            self.shelf.folder.mkdir(parents=True, exist_ok=True)
            write(self.shelf.folder / KEPT, json.dumps(dict(self.weights)))
        except OSError as error:
            self.shelf.trouble = f"errors are not kept on disk: {error}"


def _of_weights(edits: Sequence) -> list:
    return [edit for edit in edits if not isinstance(edit, Inputs)]


@torch.no_grad()
def settle(layer: nn.Module) -> nn.Module:
    """Calibrate the weights of a layer and multiply them out, in place: no later look at them
    computes them again.
    """
    for module, key, values in [*calibrated_weights(layer)]:
        strip(module, key, values)
    return layer


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
