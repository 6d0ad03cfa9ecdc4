"""One-token mutants of every exercise's reference: which of them pass their check?

    python benchmarks/mutants.py            # minutes; --all for exercises that have not changed

A mutant is the reference with one operator, number, name, argument, call or line changed, by the
rules of ``tests/course/one_token.py``. Each is judged with the learner's seed and both hidden ones,
in a process of its own with a limit of time. What passes is equal to the reference, for the reason
that a comment beside its exercise gives; ``tests/course/survivors.json`` lists these, and a mutant
that passes and is not listed is printed and ends the script with an error.
"""

import json
import sys
from pathlib import Path

from common import parser, write

from tqlearn.lab import exercises, teach

COURSE = Path(__file__).parents[1] / "tests" / "course"
sys.path.insert(0, str(COURSE))
from one_token import HARD, Worker, digest, mutants  # noqa: E402

SEEDS = (0, *teach.HIDDEN_SEEDS)
QUICK = {"00.2"}


def judged(exercise, worker):
    """A row of counts, and the mutants that pass."""
    counts = {"tried": 0, "survived": 0, "wrong": 0, "raised": 0, "stopped": 0}
    survivors, hard = [], HARD if exercise.goal is None else 20 * HARD  # a goal may build a model
    for mutant in mutants(exercise.solution):
        line = worker.judge(exercise.id, mutant.source, SEEDS, hard)
        counts["tried"] += 1
        if line.startswith("PASS"):
            counts["survived"] += 1
            survivors.append(mutant.what)
        elif " was stopped after " in line or " ended " in line:
            counts["stopped"] += 1
        elif " raises " in line:
            counts["raised"] += 1
        else:
            counts["wrong"] += 1
    return counts, survivors


def kept(args):
    """Exercise -> row and digest of an earlier run, where nothing that judges it has changed."""
    if args.quick or args.all or not args.out.exists():
        return {}
    before = json.loads(args.out.read_text("utf-8"))
    rows = {row["model"]: row for row in before["rows"]}
    return {id: rows[id] for id, old in before["digests"].items()
            if old == digest(exercises.find(id))}  # fmt: skip


def main():
    options = parser("mutants", __doc__)
    options.add_argument(
        "--all", action="store_true", help="judge unchanged exercises anew as well"
    )
    args = options.parse_args()
    listed = json.loads((COURSE / "survivors.json").read_text("utf-8"))
    every = [e for number in exercises.lessons() for e in exercises.of(number)]
    every = [e for e in every if e.id in QUICK] if args.quick else every
    worker, done, rows, surprises = Worker(), kept(args), [], []
    for exercise in every:
        row = done.get(exercise.id)
        if row is None:
            counts, survivors = judged(exercise, worker)
            row = {"model": exercise.id, "role": "ablation", "metrics": counts}
            row |= {"note": "; ".join(survivors)} if survivors else {}
            print(exercise.id, counts, *survivors, sep="\n    ", flush=True)
        rows.append(row)
        found = filter(None, row.get("note", "").split("; "))
        surprises += [f"{exercise.id} {what}" for what in found if what not in listed[exercise.id]]
    worker.close()
    digests = {exercise.id: digest(exercise) for exercise in every}
    total = {key: sum(row["metrics"][key] for row in rows) for key in rows[0]["metrics"]}
    rows.append({"model": "all exercises", "role": "ablation", "metrics": total})
    write("mutants", None, rows, args, digests=digests)
    if surprises:
        sys.exit("\n".join(["passed, and no comment says why:", *surprises]))


if __name__ == "__main__":
    main()
