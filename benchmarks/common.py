"""What every benchmark script shares: options, machine, versions, and one shape of JSON.

A script ends in ``write(name, paper, rows, args)``, rows being dicts with the keys model, role
("baseline", "student", "ablation", "peer"), and what applies of metrics, bytes, ratio, speed, note.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean

from tqlearn import writing

RESULTS = Path(__file__).parent / "results"
ROLES = ("baseline", "student", "ablation", "peer")
KEYS = {"model", "role", "metrics", "bytes", "ratio", "speed", "note"}
SIZES = {"nominal", "with_metadata", "file"}
PACKAGES = (
    "tqlearn",
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "safetensors",
    "accelerate",
    "seqeval",
    "sacrebleu",
    "tensorly",
    "tensorly-torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "torchao",
    "optimum-quanto",
    "llama-cpp-python",
)


def parser(name, description=None):
    """An ``ArgumentParser`` with --out, --quick and --seed; add your own options to it."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON to write")
    options.add_argument("--quick", action="store_true", help="minutes, for tests; not a result")
    options.add_argument("--seed", type=int, default=0)
    return options


def machine():
    """One line: processor, cores this process may use, memory, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {size / 2**30:.0f} GiB"
    return f"{_processor()}, {cores} cores{memory}, {platform.system()}"


def resident(key):
    """Bytes of this process's memory on Linux: "RSS" now, "HWM" at its peak, and so on."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^Vm{key}:\s+(\d+)", status, re.M)[1])


def versions():
    """Python and the packages that can change a figure, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an optional peer that this run did not use
    return found


def write(name, paper, rows, args, **extra):
    """Check the rows, write the JSON to ``args.out``, and return its content.

    Args:
        name: of the table; paper: short name of the paper, or None.
        rows: see the module's first lines. ``args``: from ``parser``.
        **extra: further top-level entries, such as a trade-off's settings.

    Raises:
        ValueError: no rows, an unknown key or role, or a size that is not one of the three.
    """
    if not rows:
        raise ValueError(f"{name}: a benchmark writes at least one row")
    for row in rows:
        _check(row)
    record = {
        "name": name,
        "paper": paper,
        "command": command(),
        "seed": args.seed,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "quick": args.quick,
        **extra,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    writing.write(args.out, json.dumps(record, indent=2) + "\n")
    print(f"{name}: {len(rows)} rows -> {args.out}")
    return record


def averaged(model, role, scores, note=""):
    """Return one row: the mean of every score over the seeds, and each seed's slots in the note."""
    metrics = {key: round(mean(float(one[key]) for one in scores), 3) for key in scores[0]}
    slots = ", ".join(f"{one['slot_f1']:.1f}" for one in scores)
    return {"model": model, "role": role, "metrics": metrics, "note": f"{note}slots {slots}"}


def command():
    """The command line, with the script's path relative to the repository.

    Without ``--minutes N``: how long one call went on is not how the numbers are made again.
    """
    script, words = Path(sys.argv[0]).resolve(), sys.argv[1:]
    here = Path(__file__).resolve().parent
    folder = here if here in script.parents else script.parent
    if "--minutes" in words:
        at = words.index("--minutes")
        del words[at : at + 2]
    place = script.relative_to(folder.parent).as_posix()
    return shlex.join(["python", place, *words])


def _check(row):
    unknown = set(row) - KEYS
    if unknown or not {"model", "role"} <= set(row):
        raise ValueError(f"a row has keys model, role and some of {sorted(KEYS)}, got {list(row)}")
    if row["role"] not in ROLES:
        raise ValueError(f"role must be one of {ROLES}, got {row['role']!r}")
    for key in ("bytes", "ratio"):
        if not set(row.get(key, ())) <= SIZES:
            raise ValueError(f"{key} has keys out of {sorted(SIZES)}, got {list(row[key])}")
    if not set(row.get("speed", ())) <= {"seconds", "speedup"}:
        raise ValueError(f"speed has keys seconds and speedup, got {list(row['speed'])}")


def _processor():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
