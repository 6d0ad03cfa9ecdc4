"""Method against method at five sizes of the whole file: who wins where, and by how much?

    python benchmarks/pareto.py flights --minutes 60
    TQLEARN_DATA=... python benchmarks/pareto.py atis --teacher runs/pareto_atis/teacher
    TQLEARN_DATA=... python benchmarks/pareto.py sst2 --workers 2
    python benchmarks/pareto.py flights --tell

The sizes are those of the teacher at 2, 3, 4 and 8 bits, with 3 % of room for what other formats
must write down, and half of the smallest. ``pareto_arms`` says what an arm is, and which of its
forms fills a size; what none fills is written down with the reason. All students have the same
lessons, steps and search for a learning rate: three rates with seed 0, the best on a held-out part
of the training sentences (``pareto_lessons``). The reported split is read once at the end of a run.

A run is an arm, a size, a rate and a seed. Its scores and counts per test sentence are in the JSON
as soon as it ends, and the command goes on with the first run that is missing, whatever ended the
last one. Every arm at the middle size comes first. ``--tell`` prints what the finished runs say;
``pareto_summary`` says how that is worked out. ``--quick`` is a few arms, 2 steps, 64 sentences.
"""

import hashlib
import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import common
import kdlsq
import pareto_summary
import torch
from pareto_arms import ARMS, FILLED, Arm, Shop, importance
from pareto_lessons import CHECKS, HELD, Lessons, Task
from pareto_scores import coded, percent
from runs import settle, task_parser, tuned_teacher

import tqlearn as tq
from tqlearn import teachers
from tqlearn.hf.running import word_counts
from tqlearn.locks import locked

TASKS = {
    "flights": Task("flights", "embedded", "test", steps=400, seeds=5, copies=4),
    "atis": Task("atis", "local", "test", steps=600, seeds=5, copies=4),
    "sst2": Task("sst2", "local", "validation", steps=600, seeds=3),
}
UNSEEN = {  # a teacher whose epoch is not chosen on the split that is reported
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
}  # fmt: skip
TEACHERS = {"atis": kdlsq.TEACHERS["atis"], "sst2": kdlsq.TEACHERS["sst2"] | UNSEEN}
KEPT = ("rules", "digest", "sizes", "sentences", "cells", "teacher", "gold", "runs")
ROOM = 1.03  # of a size: scales and places that the dense model does not write
SCORED = 50  # batches that say which heads and dimensions matter
QUICK = [Arm("dense", 2), Arm("low rank", 4), Arm("narrow", 4), Arm("2:4", 32)]


class Table:
    """The JSON, and what makes its runs."""

    def __init__(self, args: Namespace) -> None:
        self.args, self.task = args, TASKS[args.task]
        self.arms = QUICK if args.quick else ARMS
        if args.quick:
            rates = self.task.rates[:2]
            self.task = replace(self.task, steps=2, seeds=2, rates=rates, batch=8)
        if args.task == "flights":
            teacher, tokenizer = teachers.load("embedded")
        else:
            folder, _, _ = tuned_teacher(args, TEACHERS[args.task])
            teacher, tokenizer = teachers.load(str(folder))
        self.lessons = Lessons(self.task, teacher, tokenizer, 64 if args.quick else None)
        counts = word_counts({"input_ids": self.lessons.rows["input_ids"].tolist()},
                             teacher.config.vocab_size)  # fmt: skip
        counts = torch.tensor(counts)
        counts[tokenizer.pad_token_id] = 0
        self.shop = Shop(teacher, counts, self._importance)

    def _importance(self) -> dict[str, torch.Tensor]:
        batches = self.lessons.order(2 if self.args.quick else SCORED, seed=0)
        return importance(self.lessons.teacher, [self.lessons.batch(ids) for ids in batches])

    def rules(self) -> dict:
        """Return what all runs of a table have in common."""
        task = self.task
        return {"rates": list(task.rates), "seeds": task.seeds, "steps": task.steps,
                "batch": task.batch, "copies": task.copies, "held": round(HELD, 4),
                "checks": CHECKS, "filled": FILLED,
                "arms": [arm.name for arm in self.arms]}  # fmt: skip

    def open(self) -> dict:
        """Return the record as it is on the disk, or a new one: sizes, cells and no run.

        Raises:
            ValueError: what is there has other rules, or another teacher.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.lessons.teacher.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        own = {"rules": self.rules(), "digest": digest.hexdigest()[:16], "seed": self.args.seed}
        if (there := read(self.args.out)) is not None:
            for name, value in own.items():
                if there.get(name) != value:
                    raise ValueError(
                        f"{self.args.out} has {name} {there.get(name)}, this run {value}; name "
                        "the same teacher with --teacher, or another file with --out"
                    )
            return there
        lessons, shop = self.lessons, self.shop
        sizes = [self.size(bits) for bits in (2, 3, 4, 8)]
        sizes = sorted([sizes[0] // 2000 * 1000, *sizes])
        sizes = sizes[:2] if self.args.quick else sizes
        counts = lessons.counts(lessons.teacher, lessons.test)
        teacher = {"metrics": percent(counts),
                   "bytes": {"file": tq.report(lessons.teacher).file}}  # fmt: skip
        gold = coded({name: counts[name] for name in ("gold",) if name in counts})
        cells = {}
        for arm in self.arms:
            cells[arm.name] = {str(size): shop.fit(arm, size) for size in sizes}
            print(f"{arm.name}: {cells[arm.name]}", flush=True)
        return own | {"sizes": sizes, "cells": cells, "teacher": teacher, "gold": gold,
                      "sentences": len(lessons.test), "runs": []}  # fmt: skip

    def size(self, bits: int) -> int:
        """Return the size that a dense teacher at so many bits sets, in whole kilobytes."""
        size = self.shop.largest(Arm("dense", bits))
        return -(-round(ROOM * size) // 1000) * 1000

    def run(self, unit: dict, cell: dict) -> dict:
        """Teach one student and return its run; the reported split is read at its end, once."""
        start, lessons = time.process_time(), self.lessons
        student = self.shop.start(next(a for a in self.arms if a.name == unit["arm"]), cell)
        held = lessons.teach(student, unit["rate"], self.task.steps, unit["seed"])
        size = tq.report(student).file
        counts = lessons.counts(student, lessons.test)
        scores = percent(counts)
        counts.pop("gold", None)
        seconds = round(time.process_time() - start, 1)
        return unit | {"bytes": size, "held": held, "test": scores, "counts": coded(counts),
                       "seconds": seconds}  # fmt: skip


def units(record: dict) -> Iterator[dict]:
    """Give the runs of a table in their order, as far as rates are known.

    The middle size comes first, then its neighbors; at each size the rates with the first seed,
    then the other seeds of every arm.
    """
    rules, sizes = record["rules"], record["sizes"]
    middle = sizes[len(sizes) // 2]
    places = sorted(sizes, key=lambda size: abs(sizes.index(size) - sizes.index(middle)))
    first = record["seed"]
    for size in places:
        arms = [arm for arm in rules["arms"] if "form" in record["cells"][arm][str(size)]]
        for arm in arms:
            for rate in rules["rates"]:
                yield {"arm": arm, "size": size, "rate": rate, "seed": first}
        for seed in range(first + 1, first + rules["seeds"]):
            for arm in arms:
                own = [r for r in record["runs"] if (r["arm"], r["size"]) == (arm, size)]
                rate = pareto_summary.chosen_rate(own, rules["rates"], first)
                if rate is not None:
                    yield {"arm": arm, "size": size, "rate": rate, "seed": seed}


def following(record: dict, worker: int = 0, workers: int = 1) -> dict | None:
    """Return the first run that is missing; of several workers each has arms of its own."""
    done = {(r["arm"], r["size"], r["rate"], r["seed"]) for r in record["runs"]}
    arms = record["rules"]["arms"][worker::workers]
    for unit in units(record):
        if unit["arm"] in arms and tuple(unit.values()) not in done:
            return unit
    return None


def read(path: Path) -> dict | None:
    """Return what a table's JSON holds, None if there is none."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def save(name: str, record: dict, args: Namespace, anew: bool = True) -> dict:
    """Write the record and return it.

    Args:
        anew: work out rows and sentences, which takes seconds; else they stay as they are.
    """
    extra = {key: record[key] for key in KEPT}
    rows = pareto_summary.rows(record) if anew else record["rows"]
    said = pareto_summary.sentences(record) if anew else record["said"]
    return common.write(name, None, rows, args, said=said, **extra)


def work(name: str, table: Table, args: Namespace) -> None:
    """Make runs until none is missing, or the minutes are over."""
    end = time.monotonic() + 60 * args.minutes
    worker = args.worker or 0
    while time.monotonic() < end:
        record = read(args.out)
        unit = following(record, worker, args.workers)
        if unit is None:
            return
        found = table.run(unit, record["cells"][unit["arm"]][str(unit["size"])])
        with locked(args.out):
            record = read(args.out)
            keys = [(r["arm"], r["size"], r["rate"], r["seed"]) for r in record["runs"]]
            if tuple(unit.values()) not in keys:
                record["runs"].append(found)
                save(name, record, args, anew=False)
        print(f"{unit} {found['test']} {found['seconds']} CPU-seconds", flush=True)


def tell(path: Path) -> None:
    """Print what the runs of a table say.

    Raises:
        ValueError: there is no table.
    """
    if (record := read(path)) is None:
        raise ValueError(f"{path} is not there yet; the same command without --tell begins it")
    print("\n".join(pareto_summary.sentences(record)))


def main() -> None:
    """Go on with a table."""
    options = task_parser("pareto", __doc__.splitlines()[0], TASKS)
    options.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after")
    options.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    options.add_argument("--worker", type=int, help="which of them this is; the script says it")
    options.add_argument("--teacher", type=Path, help="a fine-tuned folder, else one is made")
    options.add_argument("--tell", action="store_true", help="print what there is, run nothing")
    args = options.parse_args()
    name = settle("pareto", args)
    if args.tell:
        return tell(args.out)
    torch.set_num_threads(1)
    table = Table(args)
    if args.worker is None:
        record = table.open()
        save(name, record, args)
    if args.workers > 1 and args.worker is None:
        words = [sys.executable, *sys.argv]
        workers = [subprocess.Popen([*words, "--worker", str(k)]) for k in range(args.workers)]
        if any([one.wait() for one in workers]):
            sys.exit("a worker has failed; the runs that have ended are kept")
        save(name, read(args.out), args)
        return None
    work(name, table, args)
    if args.worker is None:
        save(name, read(args.out), args)
    return None


if __name__ == "__main__":
    main()
