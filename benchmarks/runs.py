"""Run recipes as commands, one folder each, so that a killed benchmark goes on where it stopped."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path

from common import parser

# the gradient of a word table is new memory in every step, and Linux hands out small pages slowly
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # torch's own switch; no number changes
INSIDE = False  # True: every recipe runs inside this process, as ``here`` says; for tests


class OutOfTime(Exception):
    """The minutes are over; what was done lies in a checkpoint."""


def task_parser(name: str, doc: str, tasks: Iterable[str]) -> ArgumentParser:
    """Return ``common.parser`` with task, --work and --train_only; ``settle`` reads them."""
    options = parser(name, doc)
    options.add_argument("task", choices=tasks)
    options.add_argument("--work", type=Path)
    options.add_argument("--train_only", action="store_true", help="write no table")
    return options


def settle(name: str, args: Namespace) -> str:
    """Fill in the folder and the file that a task decides; return the result's name."""
    whole = f"{name}_{args.task}"
    args.work = args.work or Path("runs") / whole
    if args.out.stem == name:
        args.out = args.out.with_stem(whole)
    return whole


def tuned_teacher(args: Namespace, options: dict) -> tuple[Path, str, dict | None]:
    """Fine-tune the teacher, unless --teacher names one; return its folder, command and metrics."""
    if args.teacher:
        return args.teacher, "", None
    steps = {"max_steps": 4} if args.quick else {}
    record = run_recipe("finetune", args.work / "teacher", **(options | steps), seed=args.seed)
    return args.work / "teacher", record["command"], record["metrics"]


def score(metrics: dict) -> float:
    """Return what the recipes choose the best epoch by."""
    for name in ("accuracy", "f1"):
        if name in metrics:
            return metrics[name]
    return (metrics["intent_accuracy"] + metrics["slot_f1"]) / 2


def run_recipe(
    recipe: str, folder: Path, here: bool = False, deadline: float | None = None, **options: object
) -> dict:
    """Run ``python -m tqlearn.recipes.<recipe>`` with options and return its metrics.json.

    A folder whose metrics.json came from the same command (wherever the folders lay then) is not
    run again; one with checkpoints resumes from the newest.

    Args:
        here: inside this process, which saves a small model half of its time.
        deadline: ``time.monotonic()`` at which the command is killed; inside this process, the time
            from which none begins. None: it has all the time it takes.

    Raises:
        RuntimeError: the command failed.
        OutOfTime: the deadline has come; given again, the command goes on from a checkpoint.
    """
    flags = [word for k, v in options.items() for word in (f"--{k}", *_words(v))]
    flags += ["--output_dir", str(folder), "--resume_from_checkpoint", "last"]
    wanted = " ".join([f"python -m tqlearn.recipes.{recipe}", *flags])
    record = folder / "metrics.json"
    if record.exists() and _settings(json.loads(record.read_text())["command"]) == _settings(
        wanted
    ):
        print(f"{folder}: done before, kept")
        return json.loads(record.read_text())
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise OutOfTime(f"{folder}: not begun")
    print(wanted, flush=True)
    if here or INSIDE:
        _inside(recipe, flags)
        return json.loads(record.read_text())
    command = [sys.executable, "-m", f"tqlearn.recipes.{recipe}", *flags]
    try:
        env = {**HUGE_PAGES, **os.environ}
        done = subprocess.run(command, env=env, check=False, timeout=left)
    except subprocess.TimeoutExpired as stop:
        raise OutOfTime(f"{folder}: stopped") from stop
    if done.returncode:
        raise RuntimeError(f"{wanted} ended with exit code {done.returncode}")
    return json.loads(record.read_text())


def _inside(recipe: str, flags: list[str]) -> None:
    """Call the recipe's main, with the command line that its record shall name."""
    before = sys.argv
    sys.argv = [recipe, *flags]
    try:
        importlib.import_module(f"tqlearn.recipes.{recipe}").main()
    finally:
        sys.argv = before


def _words(value: object) -> list[str]:
    """Return an option's words: a list gives several."""
    return [str(one) for one in (value if isinstance(value, list | tuple) else [value])]


def _settings(command: str) -> list[str]:
    """Return a command's options in alphabetical order, without the places of its folders."""
    bare = re.sub(r"--(output_dir|teacher|student|start) \S*/\S*", "", command)
    return sorted(option.strip() for option in bare.split(" --"))


def row(model: str, role: str, record: dict, note: str = "") -> dict:
    """Return one row of the benchmark JSON from a recipe's record."""
    found = {"model": model, "role": role, "metrics": record["metrics"]}
    found |= {key: record[key] for key in ("bytes", "ratio") if key in record}
    return found | ({"note": note} if note else {})
