"""``stream``: compress a folder that does not fit in memory, layer by layer, into a packed folder.

The model stands on meta; of the numbers there is never more in memory than one layer takes. What is
finished lies beside, in a hidden folder of ``out`` with a journal, until everything is there.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import nn
from transformers import PreTrainedModel

from ..arguments import require
from ..quantizers.calibration import calibrate_weights
from ..sparsity.blocks import BlockMask, RowMask
from ..stages import is_quantizer
from ..storage.digests import Stored
from ..storage.layout import attach_layout
from ..storage.pack import pack_tensors
from ..storage.shards import Shard
from ..storage.tied import replace
from ..surgery.asked import check_plan, edited, naming
from ..surgery.plan import left_out, match
from ..surgery.sketch import sketch
from ..surgery.verbs import say_left
from .sealing import file_of, untied_state
from .slices import Slices, filled, in_file, names_in_files, skeleton
from .unfinished import Unfinished, alone, told

Progress = Callable[[str, int, int], object]


def stream(
    folder: str | PathLike,
    plan: Mapping[str, Sequence],
    out: str | PathLike,
    *,
    max_shard_size: int | str = "5GB",
    progress: Progress | None = None,
) -> Path:
    """Compress, calibrate, pack and save a model that need not fit in memory, layer by layer.

    ``out`` then holds what ``pack(calibrate(compress(model, plan))).save_pretrained(out)`` writes,
    the same tensors to the bit. Memory is that of the largest layer and its edits. A call that was
    killed is made again with the same arguments, and goes on behind the last layer that was
    finished. What ``out`` held before stays until the new files are whole. One call at a time: a
    second one, of any process, is refused while the first runs.

    Args:
        folder: that ``save_pretrained`` wrote: safetensors, in one file or in shards.
        plan: as of ``compress``.
        out: another folder; a tokenizer is saved there by itself.
        max_shard_size: of a file, in bytes or as "5GB"; a larger tensor has a file of its own.
        progress: is called after every layer with its name, how many are done, and of how many.

    Returns:
        The path of ``out``.

    Raises:
        ValueError: the plan is refused as by ``compress``, or needs more than one layer: inputs to
            calibrate with batches, blocks whose scores learn, sizes found by an error. The folder
            cannot be read tensor by tensor. An unfinished call had another plan or other files.
            Another call writes to ``out`` at this moment.
        OSError: the disk is too small or cannot be written to.
    """
    require("stream: folder", folder, str | PathLike)
    require("stream: out", out, str | PathLike)
    require("stream: max_shard_size", max_shard_size, int | str)
    require("stream: progress", progress, Callable | None)
    folder, out = Path(folder), Path(out)
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"{out} is in the folder that is read; write to another place")
    job = prepared(folder, plan, max_shard_size)
    with alone(out):
        work = Unfinished(out, job.shards, job.identity)
        work.begin()
        parts = job.parts()
        for number, (name, tensors) in enumerate(parts.items(), 1):
            if not work.has(tensors):
                work.put(job.made(name))
            if progress is not None:
                progress(name, number, len(parts))
        work.finish(job.packed, job.notes, job.index)
    return out


@dataclass
class Job:
    """A stream that was checked: what is read, what becomes of it, and where that stands.

    ``dense`` and ``packed`` are on meta. ``there`` has the name in the files of each tensor of the
    one, ``names`` that of each tensor of the other; ``chosen`` the edits of each layer.
    """

    slices: Slices
    dense: PreTrainedModel
    packed: PreTrainedModel
    chosen: dict[str, Sequence]
    there: dict[str, str]
    names: dict[str, str]
    notes: dict[str, str]
    shards: list[Shard]
    index: dict | None
    identity: dict

    def parts(self) -> dict[str, list[str]]:
        """Return layers, and tensors that stay as they are, with the file's tensors of each."""
        found: dict[str, list[str]] = {}
        places = {there: name for name, there in self.names.items()}
        for there in (name for shard in self.shards for name in shard.tensors):
            name = places[there]
            fronts = (name[:i] for i, sign in enumerate(name) if sign == ".")
            owner = next((front for front in fronts if front in self.chosen), name)
            found.setdefault(owner, []).append(there)
        return found

    def made(self, name: str) -> dict[str, Stored]:
        """Return the tensors of a layer as the result has them, or one that stays as it is."""
        if name not in self.chosen:
            kind = self.packed.state_dict()[name].dtype
            return {self.names[name]: Stored.of(self.slices.read(self.there[name]).to(kind))}
        holder = nn.Module()
        holder.layer = old = filled(self.dense, name, self.slices, self.there)
        shared = {id(p): p for p in old.parameters()}
        new = edited(copy.deepcopy(old, shared), self.chosen[name], name)
        replace(holder, {"layer": new})
        with naming(name):
            calibrate_weights(holder)
            pack_tensors(holder)
        state = holder.layer.state_dict()
        for module in (*old.modules(), *holder.modules()):  # cycles of classes and closures would
            module._parameters.clear()  # keep the numbers until the next collection
            module._buffers.clear()
        return {self.names[f"{name}.{key}"]: Stored.of(state[key]) for key in state}


def prepared(folder: Path, plan: Mapping[str, Sequence], max_shard_size: int | str) -> Job:
    """Return what is to be done, on meta: nothing is computed and nothing written.

    Raises:
        ValueError, TypeError: as ``stream``.
    """
    plan = check_plan(plan)
    slices = Slices(folder)
    dense = skeleton(slices)
    there = names_in_files(dense, slices)
    chosen = match(dense, plan)
    if not chosen:
        raise ValueError("the plan leaves every layer as it is, so there is nothing to write")
    _require_sizes(chosen)
    student = sketch(dense, plan)
    made = {name: student.get_submodule(name) for name in chosen}
    _require_alone(student, made)
    say_left(left_out(dense, plan, made), dense)
    packed = attach_layout(pack_tensors(student))
    tensors, notes = file_of(packed)
    names = {name: in_file(packed, name, t) for name, t in untied_state(packed).items()}
    if sorted(names.values()) != sorted(tensors):
        raise ValueError(
            f"{type(packed).__name__} is saved with tensors that are made of several, which cannot "
            "be streamed; compress this model in memory"
        )
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    shards = [
        Shard(Path(file), {name: tensors[name] for name in inside}, notes)
        for file, inside in split.filename_to_tensors.items()
    ]
    index = None
    if split.is_sharded:
        totals = {"total_parameters": packed.num_parameters(), **split.metadata}
        index = {"metadata": totals, "weight_map": split.tensor_to_filename}
    identity = {
        "plan": {at: f"[{', '.join(map(told, edits))}]" for at, edits in plan.items()},
        "source": slices.stamps(),
        "file": {str(shard.path): shard.size for shard in shards},
        "package": {"torch": torch.__version__},
    }
    return Job(slices, dense, packed, chosen, there, names, notes, shards, index, identity)


def _require_sizes(chosen: Mapping[str, Sequence]) -> None:
    """Refuse edits that look at the numbers before anybody knows how large they will be."""
    for name, edits in chosen.items():
        for edit in edits:
            if getattr(edit, "error", None) is not None:
                raise ValueError(
                    f"{name}: {edit!r} finds its size by an error, and a stream lays out its files "
                    "before it reads a number; give rank= or ratio="
                )
        inside = [other for other in chosen if other.startswith(f"{name}.")]
        if inside:
            raise ValueError(
                f"{name} and {inside[0]} in it both have edits, and a stream takes one layer at a "
                "time; name one of them"
            )


def _require_alone(student: PreTrainedModel, made: Mapping[str, nn.Module]) -> None:
    """Refuse what one layer's numbers alone do not settle."""
    on_weights = {
        part
        for module in student.modules()
        for chain in getattr(module, "parametrizations", {}).values()
        for stage in chain
        for part in stage.modules()
    }
    for name, module in student.named_modules():
        if is_quantizer(module) and module not in on_weights:
            raise ValueError(
                f"{name} is a quantizer of activations, which is calibrated with batches through "
                "the whole model; leave Inputs out, or compress and calibrate the model in memory"
            )
        if isinstance(module, BlockMask | RowMask):
            raise ValueError(
                f"{name} is a mask whose scores are learned in training; a stream packs at once: "
                "leave BlockPrune out, or compress the model in memory"
            )
