"""Trainings that are killed without a word, and where ``--resume_from_checkpoint last`` goes on.

    python benchmarks/kills.py

The embedded teacher is compressed to tensor trains at 4 bits and trained for 8 steps, with a
checkpoint after every second (the recipe ``qtc`` on few rows). The same command is killed by
SIGKILL at one of 20 moments: between two steps; in one, before and after the optimizer; with half
of a file on the disk, for every file of a checkpoint and of the finished model; with half of an old
checkpoint removed. Then it is started once more.

"equal": the resumed run ends with the weights of an unbroken one, to the bit, and with its losses.
"named": it says from which checkpoint it goes on, and which newer ones it passes by. "from_step" is
where that is, 0 if it begins anew. A run is a fork of this process, which has imported everything.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from unittest.mock import patch

import safetensors.torch
import seqeval.metrics  # noqa: F401  # here, and not anew in every fork that evaluates
import torch
import transformers
from common import parser, write
from safetensors.torch import load_file

from tqlearn.data import flights
from tqlearn.recipes import qtc

STEPS, EVERY = 8, 2
ROWS = {"train": 64, "validation": 8, "test": 8}
OPTIONS = [
    *("--teacher", "embedded", "--max_steps", str(STEPS), "--save_strategy", "steps"),
    *("--save_steps", str(EVERY), "--eval_strategy", "no", "--load_best_model_at_end", "False"),
    *("--save_total_limit", "2", "--logging_strategy", "steps", "--logging_steps", "1"),
    *("--per_device_train_batch_size", "8", "--disable_tqdm", "True", "--use_cpu", "True"),
    *("--resume_from_checkpoint", "last"),
]
WRITERS = {  # all take the path second
    "config.json": (transformers.PreTrainedConfig, "to_json_file"),
    "model.safetensors": (safetensors.torch, "serialize_file"),
    "training_args.bin": (torch, "save"),
    "optimizer.pt": (torch, "save"),
    "scheduler.pt": (torch, "save"),
    "rng_state.pth": (torch, "save"),
    "trainer_state.json": (transformers.TrainerState, "save_to_json"),
}
BETWEEN, BEFORE, AFTER = "between two steps", "before the optimizer", "after the optimizer"
REMOVAL = "half of an old checkpoint removed"
MOMENTS = [  # what, and how many times it has happened before
    *((BETWEEN, 0), (BETWEEN, 2), (BETWEEN, 5)),
    *((BEFORE, 1), (BEFORE, 4), (AFTER, 3), (AFTER, 6)),
    *(("model.safetensors", 0), ("optimizer.pt", 0)),
    *((file, 2) for file in WRITERS),
    *((REMOVAL, 0), (REMOVAL, 1)),
    *(("model.safetensors", STEPS // EVERY), ("config.json", STEPS // EVERY)),  # the finished one
]


def die():
    """End this process as the system does when memory runs out: nothing is tidied up."""
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(what, times, folder):
    """Arrange for the death of this process, when something has happened so many times before."""
    left = iter(range(times + 1))

    def now():
        return next(left, None) == times

    def wrap(owner, name, around):
        setattr(owner, name, around(getattr(owner, name)))

    def step(whole):
        def dying(*args, **kwargs):
            if what == BEFORE and now():
                die()
            found = whole(*args, **kwargs)
            if what == AFTER and now():
                die()
            return found

        return dying

    def half(whole):
        def dying(thing, path, *args, **kwargs):
            found = whole(thing, path, *args, **kwargs)
            if Path(path).name == what and folder in Path(path).parents and now():
                os.truncate(path, os.path.getsize(path) // 2)
                die()
            return found

        return dying

    def removal(whole):
        def dying(path, *args, **kwargs):
            if Path(path).name.startswith("checkpoint-") and now():
                files = sorted(Path(path).iterdir())
                for file in files[: len(files) // 2]:
                    file.unlink()
                die()
            return whole(path, *args, **kwargs)

        return dying

    if what == BETWEEN:
        wrap(transformers.DefaultFlowCallback, "on_step_begin",
             lambda _: lambda *_, **__: die() if now() else None)  # fmt: skip
    elif what in (BEFORE, AFTER):
        wrap(torch.optim.AdamW, "step", step)
    elif what == REMOVAL:
        wrap(shutil, "rmtree", removal)
    else:
        wrap(*WRITERS[what], half)


def run(folder, moment=None):
    """Run the recipe in a fork; return how it ended and what it said."""
    said = folder.with_suffix(".txt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return os.waitstatus_to_exitcode(status), said.read_text()
    try:
        with open(said, "w") as file, contextlib.redirect_stdout(file):
            with contextlib.redirect_stderr(io.StringIO()):
                # the threads that load weights would look for OpenMP's, which no fork has
                os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
                if moment:
                    die_at(*moment, folder)
                qtc.main([*OPTIONS, "--output_dir", str(folder)])
        os._exit(0)
    except BaseException:
        said.write_text(f"{said.read_text()}\n{traceback.format_exc()}")
    finally:
        os._exit(1)


def outcome(folder):
    """What a finished run leaves: the packed weights, and the loss of every step."""
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    return load_file(folder / "model.safetensors"), losses


def same(one, two):
    """Say whether two runs ended alike, to the bit."""
    keys = one[0].keys() == two[0].keys()
    return keys and one[1] == two[1] and all(torch.equal(one[0][k], two[0][k]) for k in one[0])


def words_on(folder, said, there):
    """(the step from which a resumed run goes on, whether it named that and all newer ones)."""
    chosen = [line for line in said.splitlines() if line.startswith("resuming from ")]
    step = int(chosen[0].rsplit("-", 1)[1]) if chosen else 0
    newer = [name for name in there if int(name.split("-")[1]) > step]
    passed = all(f"{folder / name} is passed by: " in said for name in newer)
    return step, passed and (bool(chosen) or not newer or "begins anew" in said)


def killed(moment, work, whole):
    """Kill a run at a moment, start it again, and return the row."""
    folder = work / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    code, _ = run(folder, moment)
    if code != -signal.SIGKILL:
        raise RuntimeError(f"{moment} did not come: the run ended with {code}")
    there = [file.name for file in folder.glob("checkpoint-*")]
    code, said = run(folder)
    if code:
        raise RuntimeError(f"killed at {moment}, the run does not go on:\n{said}")
    step, named = words_on(folder, said, there)
    row = {
        "model": f"killed: {moment[0]}, {moment[1]} times before",
        "role": "ablation",
        "metrics": {
            "equal": int(same(outcome(folder), whole)), "named": int(named), "from_step": step,
        },
    }  # fmt: skip
    passed = [line for line in said.splitlines() if " is passed by: " in line]
    if passed:
        row["note"] = "; ".join(line.split(f"{folder}/")[1] for line in passed)
    print(row, flush=True)
    return row


def main():
    args = parser("kills", __doc__).parse_args()
    torch.set_num_threads(1)  # a forked process has none of OpenMP's threads
    few = flights.generate(ROWS)
    with tempfile.TemporaryDirectory() as work, patch.object(flights, "generate", lambda: few):
        work = Path(work).resolve()
        code, said = run(work / "whole")
        if code:
            raise RuntimeError(f"the unbroken run ended with {code}:\n{said}")
        whole = outcome(work / "whole")
        moments = MOMENTS[5:13:7] if args.quick else MOMENTS
        rows = [killed(moment, work, whole) for moment in moments]
    counts = {key: sum(row["metrics"][key] for row in rows) for key in ("equal", "named")}
    first = {"model": "all", "role": "ablation", "metrics": {"kills": len(rows), **counts}}
    write("kills", None, [first, *rows], args)


if __name__ == "__main__":
    main()
