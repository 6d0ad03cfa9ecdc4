"""Where a training that was stopped goes on: checkpoints that are whole, and a word on all others.

A checkpoint is whole if everything is there that makes the next steps those of an unbroken run, and
no file was cut short: a kill in the middle of a save leaves a folder that looks like one.
"""

import json
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from transformers import TrainingArguments

from ..storage.digests import read, verify

LAST = ("last", "true", "True", True)
NOT = (None, "", "false", "False", False)
STATE = "trainer_state.json"  # written last
PARTS = {  # what a training needs, and the names that transformers or a backend give it
    "weights": ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json", "adapter_model.safetensors", "adapter_model.bin",
                "*/adapter_model.safetensors", "pytorch_model_fsdp*", "global_step*"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*", "rank*-of-*"),
    "learning rate schedule": ("scheduler.pt", "global_step*"),
    "state of the random numbers": ("rng_state.pth", "rng_state_*.pth"),
}  # fmt: skip


def newest_checkpoint(training: TrainingArguments) -> str | None:
    """Return where to resume: "last" is the newest whole checkpoint, if any; a path stays a path.

    Says which one it takes, and which newer ones it passes by and why.

    Raises:
        ValueError: the path, or every checkpoint of a finished save, lacks what a training needs.
    """
    wanted, told = training.resume_from_checkpoint, training.process_index == 0
    if wanted in NOT:
        return None
    if wanted not in LAST:
        require_whole(wanted, training.world_size)
        return wanted
    found, passed = search(training.output_dir)
    if told:
        for folder, faults in passed.items():
            print(f"{folder} is passed by: {faults[0]}", flush=True)
    if found is None:
        finished = [folder for folder in passed if not cut_short(folder)]
        if finished:
            raise ValueError(
                f"{finished[0]}: {missing(finished[0])[0]}, so a training cannot go on from it as "
                "if it had never stopped; leave --resume_from_checkpoint out to begin anew (this "
                "overwrites it), and --save_only_model out to have checkpoints to resume from"
            )
        if passed and told:
            print("no whole checkpoint is left: the training begins anew", flush=True)
        return None
    if told:
        print(f"resuming from {found}", flush=True)
    _warn_of_other_processes(found, training.world_size)
    return str(found)


def last_checkpoint(folder: str | Path, parts: Iterable[str] = PARTS) -> Path | None:
    """Return a run's newest whole checkpoint, or the newest that has the given parts."""
    return search(folder, parts)[0]


def search(
    folder: str | Path, parts: Iterable[str] = PARTS
) -> tuple[Path | None, dict[Path, list[str]]]:
    """Return a run's newest whole checkpoint, and the faults of those that are newer."""
    places = {int(n): f for f in Path(folder).glob("checkpoint-*")
              if (n := f.name.removeprefix("checkpoint-")).isdigit() and f.is_dir()}  # fmt: skip
    passed = {}
    for step in sorted(places, reverse=True):
        if not (faults := [*cut_short(places[step]), *missing(places[step], parts)]):
            return places[step], passed
        passed[places[step]] = faults
    return None, passed


def require_whole(folder: str | Path, processes: int = 1) -> None:
    """Raise a ValueError unless a folder is a whole checkpoint.

    Args:
        processes: of this run; another number than the checkpoint's is warned of.
    """
    folder = Path(folder)
    if not (folder / STATE).is_file():
        raise ValueError(
            f"{folder} is no checkpoint of a Trainer, it has no {STATE}; name a folder "
            'checkpoint-N, or "last" for the newest whole one of --output_dir'
        )
    if faults := [*cut_short(folder), *missing(folder)]:
        raise ValueError(
            f"{folder}: {faults[0]}, so a training cannot go on from it as if it had never "
            "stopped; name another checkpoint, or begin a new training"
        )
    _warn_of_other_processes(folder, processes)


def missing(folder: Path, parts: Iterable[str] = PARTS) -> list[str]:
    """Say which parts a checkpoint does not have."""
    lost = [part for part in parts
            if not any(next(folder.glob(name), None) for name in PARTS[part])]  # fmt: skip
    return [f"it has no {part} ({PARTS[part][0]})" for part in lost]


def cut_short(folder: Path) -> list[str]:
    """Say which files of a checkpoint are not as they were saved."""
    if not (folder / STATE).is_file():
        return [f"its save was cut short, {STATE} is missing"]
    return [*_damaged(folder)]


def _damaged(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*")):
        if file.suffix == ".json":
            try:
                json.loads(file.read_text("utf-8"))
            except ValueError as error:
                yield f"{file.name} was cut short or damaged ({error})"
        elif file.suffix in (".pt", ".pth", ".bin") and file.is_file() and not _is_whole(file):
            yield f"{file.name} was cut short or damaged"
    index = folder / "model.safetensors.index.json"
    names = {file.name for file in folder.glob("*.safetensors")}
    try:
        if index.is_file():
            names |= set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        tensors, notes = {}, []
        for name in sorted(names):
            found, note = read(folder / name)
            tensors, notes = tensors | found, [*notes, note]
        config = folder / "config.json"
        known = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        if layout := (known.get("quantization_config") or {}).get("layout"):
            verify(tensors, notes, layout)
    except (ValueError, LookupError) as error:
        yield f"its weights were cut short or damaged ({error})"


def _is_whole(file: Path) -> bool:
    """Say whether a file of ``torch.save`` is all there; a plain pickle is not looked at."""
    with open(file, "rb") as opened:
        if opened.read(1) == b"\x80":
            return True
    try:
        with zipfile.ZipFile(file) as opened:
            return opened.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError):
        return False


def _warn_of_other_processes(folder: str | Path, processes: int) -> None:
    before = max(1, len([*Path(folder).glob("rng_state_*.pth")]))
    if before != processes:
        warnings.warn(
            f"{folder} has the random state of {before} processes, this run has {processes}: its "
            "batches and random numbers will not be those of an unbroken run",
            stacklevel=3,
        )
