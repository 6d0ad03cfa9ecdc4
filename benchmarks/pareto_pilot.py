"""How many steps do the arms of ``pareto.py`` need, and from which sentences do they learn best?

    python benchmarks/pareto_pilot.py

A few arms of flights at the middle size, with one seed and one rate, for 100 to 800 steps, from
the training sentences alone and with copies that have other values. All scores are of the held-out
part of the training sentences; the test split is not read. ``--quick`` is two arms, 2 and 4 steps.
"""

from dataclasses import replace

import common
import torch
from pareto import Table
from pareto_arms import Arm
from pareto_lessons import Lessons

ARMS = [Arm("dense", 3), Arm("low rank", 4), Arm("narrow", 4)]
STEPS, COPIES, RATES = (100, 200, 400, 800), (4, 0), (1e-3,)


def main() -> None:
    """Teach every arm for as many steps as are tried, and write the rows."""
    args = common.parser("pareto_pilot", __doc__.splitlines()[0]).parse_args()
    args.task, args.teacher = "flights", None
    torch.set_num_threads(1)
    table = Table(args)
    lessons, shop = table.lessons, table.shop
    arms, steps, copies, rates = ARMS, STEPS, COPIES, RATES
    if args.quick:
        arms, steps, copies, rates = ARMS[:2], (2, 4), COPIES[:1], RATES[:1]
    size = table.size(3)
    cells = {arm: shop.fit(arm, size) for arm in arms}
    rows = []
    for many in copies:
        own = lessons
        if many != table.task.copies:
            task = replace(table.task, copies=many)
            own = Lessons(task, lessons.teacher, lessons.tokenizer, 64 if args.quick else None)
        for arm in arms:
            for long in steps:
                for rate in rates:
                    student = shop.start(arm, cells[arm])
                    found = own.teach(student, rate, long, args.seed)
                    model = f"{arm.name} / {many} copies / {long} steps / rate {rate}"
                    metrics = {
                        name: found[name] for name in ("intent_accuracy", "slot_f1", "score")
                    }
                    rows.append({"model": model, "role": "ablation", "metrics": metrics,
                                 "bytes": {"file": cells[arm]["file"]}})  # fmt: skip
                    print(model, metrics, flush=True)
    common.write("pareto_pilot", None, rows, args)


if __name__ == "__main__":
    main()
