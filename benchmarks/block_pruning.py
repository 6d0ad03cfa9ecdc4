"""Block Pruning of a fine-tuned encoder: how much goes at which lambda, at what cost, how fast.

    TQLEARN_DATA=... python benchmarks/block_pruning.py sst2 --work runs/block_sst2
    TQLEARN_DATA=... python benchmarks/block_pruning.py atis --work runs/block_atis
    TQLEARN_DATA=... python benchmarks/block_pruning.py squad --work runs/block_squad
    TQLEARN_DATA=... python benchmarks/block_pruning.py squad_long --work runs/block_squad_long

The encoder is sentence-transformers/all-MiniLM-L6-v2 ("MiniLM" in the rows; see
``tqlearn.teachers``), which has read SQuAD's training questions before.

Hybrid: 16 x 16 blocks in attention (half a head), dimensions in the FFN; distilled from the
fine-tuned model, which is also what is pruned. Every lambda gives two rows: "hybrid", compacted,
and "filled", tuned once more without masks (SQuAD has the latter alone, and for speed no dropout of
attention). "density" is the share of the encoder's weights that the masks keep, "compacted_density"
the share that is left in memory; "heads" and "dimensions" are sums over the six layers. "retention"
is the score as a percentage of the teacher's, "loss" the points it lies below. "speedup" is end to
end: the same real rows, batch 8, one thread, teacher and students interleaved, medians. No
checkpoint is chosen: every row is the last step of its training, and every lambda is shown.

SST-2 learns from GLUE's phrases, tested on its 872 validation sentences; ATIS on its test split;
SQuAD from 3,547 questions of it and TyDiQA's English ones, on the whole dev set of v1.1.
"squad_long" is one lambda for twice as many steps, filled for as many at the rate of the pruning,
and compacted by the authors' rule. Its teacher is that of "squad", trained again.

Hours on one core; a killed run goes on when the command is given again. ``--arms`` takes some of
the lambdas; with ``--train_only`` it writes no table, so that two cores can share the work.
"""

from pathlib import Path

import latency
import torch
from common import write
from kdlsq import TEACHERS, evaluated
from runs import row, run_recipe, score, settle, task_parser, tuned_teacher
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from tqlearn import data, teachers
from tqlearn.hf.tasks import prepare

STUDENT = {
    "source": "local",
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.05,
    "bf16": True,
    "use_cpu": True,
    "save_strategy": "steps",
    "save_steps": 200,
    "logging_strategy": "steps",
    "logging_steps": 50,
    "disable_tqdm": True,
}
PHASES = {"compact": "hybrid", "filled": "filled"}
# lambda times steps, over the size of a score's gradient, decides the density: ATIS's student
# begins as good as its teacher and hears little from the task
LAMBDAS = {"sst2": (10, 20, 40, 80), "atis": (0.5, 1, 3, 10), "squad": (60, 90, 120, 240)}
LAMBDAS["squad_long"] = (47,)  # 1,840 steps where lambda 90 had 920
TASKS: dict[str, dict] = {
    "sst2": {
        "data": "sst2_phrases",
        "num_train_epochs": 2,
        "filled_epochs": 0.5,
        "save_steps": 600,
    },
    "atis": {"data": "atis", "num_train_epochs": 20, "filled_epochs": 6},
    "squad": {
        "data": "squad_tydiqa",
        "num_train_epochs": 2,
        "filled_epochs": 1,
        "per_device_train_batch_size": 16,
        "attention_dropout": 0.0,  # torch's fast attention on a CPU has none
        "save_steps": 50,
        "every_phase": False,
    },
}
TASKS["squad_long"] = TASKS["squad"] | {
    "num_train_epochs": 4.0,
    "train_sampling_strategy": "group_by_length",  # less padding
    "rule": "authors",  # heads without queries or keys go too, and filling has to mend it
    "filled_epochs": 4.0,
    "filled_learning_rate": 1e-4,
}


def student(arm: str, teacher: Path, args) -> dict:
    """Train one lambda and return its record."""
    steps = {"max_steps": 12, "score_learning_rate": 1.0} if args.quick else {}
    options = STUDENT | TASKS[args.task] | steps | {"penalty": arm, "seed": args.seed}
    return run_recipe("block_pruning", args.work / f"lambda_{arm}", **options, teacher=teacher)


def real_batches(folder: Path, task: str, rows: int) -> list[dict]:
    """Return the first rows of the evaluated split, batch 8, without labels."""
    model, tokenizer = teachers.load(str(folder))
    dd = data.load(TASKS[task]["data"], "local")
    for split, rest in dd.items():  # a few rows are enough, and questions encode slowly
        dd[split] = rest.select(range(rows))
    job = prepare(dd, tokenizer, model.config)
    encoded, collate = job.trainer["eval_dataset"], job.trainer["data_collator"]
    wanted = {"input_ids", "attention_mask", "token_type_ids"}
    if collate is None:
        collate = DataCollatorWithPadding(tokenizer)
        encoded = encoded.select_columns([c for c in encoded.column_names if c in wanted])
    loader = DataLoader(encoded.select(range(rows)), batch_size=8, collate_fn=collate)
    return [{k: v for k, v in batch.items() if k in wanted} for batch in loader]


def speeds(folders: dict[str, Path], task: str, args) -> dict[str, dict]:
    """Return {"seconds", "speedup"} per model, all timed in one run on one thread."""
    torch.set_num_threads(1)
    batches = real_batches(folders["teacher"], task, 16 if args.quick or "squad" in task else 64)
    models = {name: teachers.load(str(folder))[0].eval() for name, folder in folders.items()}
    found = latency.seconds(models, batches, 2 if args.quick else 9)
    whole = found["teacher"]
    return {n: {"seconds": float(f"{s:.4g}"), "speedup": float(f"{whole / s:.4g}")}
            for n, s in found.items()}  # fmt: skip


def folders_of(arm: str, record: dict, work: Path) -> dict[str, Path]:
    """Return the folders of one lambda's models that have a row, by the row's name."""
    whole = work / f"lambda_{arm}"
    places = {"compact": whole / "compact" if "filled" in record["phases"] else whole}
    places["filled"] = whole
    return {f"{n}, lambda {arm}": places[p] for p, n in PHASES.items() if p in record["phases"]}


def rows_of(arm: str, record: dict, base: dict, speed: dict[str, dict]) -> list[dict]:
    """Return the rows of one lambda."""
    sizes = {
        "lambda": float(arm),
        "density": record["density"]["all"],
        "compacted_density": record["compacted_density"],
        "heads": sum(record["heads"]),
        "dimensions": sum(record["dimensions"]),
    }
    rows = []
    for phase, word in PHASES.items():
        if phase in record["phases"]:
            found = dict(record["phases"][phase])
            if score(base):  # a teacher of a few steps may know nothing yet
                found["retention"] = 100 * score(found) / score(base)
            found["loss"] = score(base) - score(found)
            made = {**record, "metrics": found | sizes}
            layers = f"heads {record['heads']}, dimensions {record['dimensions']}"
            name = f"{word}, lambda {arm}"
            rows.append(row(name, "student", made, layers) | {"speed": speed[name]})
    return rows


def main() -> None:
    """Run the teacher and every lambda, then write the table."""
    options = task_parser("block_pruning", __doc__, TASKS)
    options.add_argument("--teacher", type=Path, help="a folder that the finetune recipe wrote")
    options.add_argument("--arms", nargs="+", type=float, help="default: the lambdas of the task")
    args = options.parse_args()
    name = settle("block_pruning", args)
    whole = args.task.removesuffix("_long")
    folder, note, found = tuned_teacher(args, TEACHERS[whole])
    arms = [f"{arm:g}" for arm in args.arms or LAMBDAS[args.task]]
    records = {arm: student(arm, folder, args) for arm in arms}
    if args.train_only:
        return
    base = found or evaluated(folder, whole)
    folders = {"teacher": folder}
    for arm, record in records.items():
        folders |= folders_of(arm, record, args.work)
    speed = speeds(folders, args.task, args)
    first = {"metrics": base, "bytes": next(iter(records.values()))["reference_bytes"]}
    rows = [row("MiniLM fine-tuned", "baseline", first, note) | {"speed": speed["teacher"]}]
    for arm, record in records.items():
        rows += rows_of(arm, record, base, speed)
    write(name, "Block Pruning", rows, args)


if __name__ == "__main__":
    main()
