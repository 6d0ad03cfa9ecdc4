"""Run recipes as commands, one folder each, so that a killed benchmark goes on where it stopped."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path


def run_recipe(recipe: str, folder: Path, **options: object) -> dict:
    """Run ``python -m tqlearn.recipes.<recipe>`` with options and return its metrics.json.

    A folder whose metrics.json came from the same command (wherever the folders lay then) is not
    run again; one with checkpoints resumes from the newest.

    Raises:
        RuntimeError: the command failed.
    """
    flags = [word for k, v in options.items() for word in (f"--{k}", str(v))]
    flags += ["--output_dir", str(folder), "--resume_from_checkpoint", "last"]
    wanted = " ".join([f"python -m tqlearn.recipes.{recipe}", *flags])
    record = folder / "metrics.json"
    if record.exists() and _settings(json.loads(record.read_text())["command"]) == _settings(
        wanted
    ):
        print(f"{folder}: done before, kept")
        return json.loads(record.read_text())
    print(wanted)
    done = subprocess.run(
        [sys.executable, "-m", f"tqlearn.recipes.{recipe}", *flags], env=os.environ, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{wanted} ended with exit code {done.returncode}")
    return json.loads(record.read_text())


def _settings(command: str) -> list[str]:
    """Return a command's options in alphabetical order, without the places of its folders."""
    bare = re.sub(r"--(output_dir|teacher|student) \S*/\S*", "", command)
    return sorted(option.strip() for option in bare.split(" --"))


def row(model: str, role: str, record: dict, note: str = "") -> dict:
    """Return one row of the benchmark JSON from a recipe's record."""
    found = {"model": model, "role": role, "metrics": record["metrics"]}
    found |= {key: record[key] for key in ("bytes", "ratio") if key in record}
    return found | ({"note": note} if note else {})
