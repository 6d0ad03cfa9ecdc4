"""One-token mutants of every exercise's reference: which of them pass their check?

    python benchmarks/mutants.py            # minutes

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
from one_token import Worker, digest, mutants  # noqa: E402

SEEDS = (0, *teach.HIDDEN_SEEDS)
QUICK = {"00.2", "01.2"}


def judged(exercise, worker):
    """A row of counts, and the mutants that pass."""
    counts = {"tried": 0, "survived": 0, "wrong": 0, "raised": 0, "stopped": 0}
    survivors = []
    for mutant in mutants(exercise.solution):
        line = worker.judge(exercise.id, mutant.source, SEEDS)
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


def main():
    args = parser("mutants", __doc__).parse_args()
    listed = json.loads((COURSE / "survivors.json").read_text("utf-8"))
    worker, rows, digests, surprises = Worker(), [], {}, []
    for number in exercises.lessons():
        for exercise in exercises.of(number):
            if args.quick and exercise.id not in QUICK:
                continue
            counts, survivors = judged(exercise, worker)
            surprises += [
                f"{exercise.id} {what}" for what in survivors if what not in listed[exercise.id]
            ]
            digests[exercise.id] = digest(exercise)
            rows.append(
                {
                    "model": exercise.id,
                    "role": "ablation",
                    "metrics": counts,
                    "note": "; ".join(survivors),
                }
            )
            print(exercise.id, counts, *survivors, sep="\n    ", flush=True)
    worker.close()
    total = {key: sum(row["metrics"][key] for row in rows) for key in rows[0]["metrics"]}
    rows.append({"model": "all exercises", "role": "ablation", "metrics": total})
    write("mutants", None, rows, args, digests=digests)
    if surprises:
        sys.exit("\n".join(["passed, and no comment says why:", *surprises]))


if __name__ == "__main__":
    main()
