"""KDLSQ-BERT on SST-2 or ATIS: a fine-tuned MiniLM and itself at 8, 4, 3 and 2 bits.

    TQLEARN_DATA=... python benchmarks/kdlsq.py sst2 --work runs/kdlsq_sst2
    TQLEARN_DATA=... python benchmarks/kdlsq.py atis --work runs/kdlsq_atis

"2-2-8": weights, word table, activations. Each setting is trained with and without the term of the
ground truth. The last rows start 2-2-8 from other clips and tell how many steps each needs to the
loss that the default start reaches at the end of a short training ("steps_to_loss"; left out where
it never does). "retention" is the accuracy, or the mean of intent accuracy and slot F1, as a
percentage of the teacher's.

Hours on one core; a killed run goes on when the command is given again, and finished parts are
kept. ``--arms`` runs some of the trainings and writes no table.
"""

from pathlib import Path

from common import parser, write
from runs import row, run_recipe

from tqlearn import data, teachers
from tqlearn.hf.tasks import prepare

TEACHERS = {  # what ``python -m tqlearn.recipes.finetune`` gets
    "sst2": {
        "data": "sst2",
        "source": "local",
        "teacher": "minilm",
        "num_train_epochs": 4,
        "learning_rate": 1e-4,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "max_length": 64,
        "disable_tqdm": True,
    },
    "atis": {
        "data": "atis",
        "source": "local",
        "teacher": "minilm",
        "num_train_epochs": 22,
        "learning_rate": 2e-4,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "disable_tqdm": True,
    },
}
STUDENT = {
    "source": "local",
    "num_train_epochs": 3,
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "linear",
    "max_length": 64,
    "logging_strategy": "steps",
    "logging_steps": 10,
    "disable_tqdm": True,
}
STARTS = ("truncation", "kl", "mse", "lsq", "max")
SETTINGS = ("8-8-8", "4-4-8", "3-3-8", "2-2-8")
ARMS = {
    **{f"{bits}": {"bits": bits} for bits in SETTINGS},
    **{f"{bits}, no ground truth": {"bits": bits, "ground_truth": False} for bits in SETTINGS},
    **{
        f"2-2-8, start {init}": {"bits": "2-2-8", "init": init, "max_steps": 150} for init in STARTS
    },
}


def student(arm: str, teacher: Path, args) -> dict:
    """Train one arm and return its record."""
    steps = {"max_steps": 4} if args.quick else {}
    if "start" in arm:  # short, for its losses: no epoch ends in it
        steps |= {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
    folder = args.work / "_".join(arm.replace(",", "").split())
    options = STUDENT | ARMS[arm] | steps
    return run_recipe(
        "kdlsq_bert", folder, data=args.task, **options, teacher=teacher, seed=args.seed
    )


def score(metrics: dict) -> float:
    """Return what the recipes choose the best epoch by."""
    if "accuracy" in metrics:
        return metrics["accuracy"]
    return (metrics["intent_accuracy"] + metrics["slot_f1"]) / 2


def steps_to_loss(history: list, loss: float, window: int = 2) -> int | None:
    """Return the first logged step from which ``window`` losses in a row average at or below it."""
    for i in range(window - 1, len(history)):
        here = [entry[1] for entry in history[i - window + 1 : i + 1]]
        if sum(map(float, here)) / window <= loss:
            return history[i][0]
    return None


def start_rows(records: dict) -> list[dict]:
    """Return the rows of the initializers' comparison."""
    histories = {arm: record["history"] for arm, record in records.items() if "start" in arm}
    reference = histories["2-2-8, start truncation"][-2:]
    goal = sum(float(loss) for _, loss in reference) / len(reference)
    rows = []
    for arm, history in histories.items():
        metrics = {"loss": float(history[-1][1])}
        if (steps := steps_to_loss(history, goal)) is not None:
            metrics["steps_to_loss"] = steps
        note = f"{history[-1][0]} steps; goal: loss {goal:.2f}"
        rows.append({"model": f"KDLSQ {arm}", "role": "ablation", "metrics": metrics, "note": note})
    return rows


def main() -> None:
    """Run the teacher and every arm, then write the table."""
    options = parser("kdlsq", __doc__)
    options.add_argument("task", choices=TEACHERS)
    options.add_argument("--work", type=Path)
    options.add_argument("--teacher", type=Path, help="a folder that the finetune recipe wrote")
    options.add_argument("--arms", nargs="+", choices=ARMS, help="train these, write no table")
    args = options.parse_args()
    name = f"kdlsq_{args.task}"
    args.work = args.work or Path("runs") / name
    if args.out.stem == "kdlsq":
        args.out = args.out.with_stem(name)
    folder, note = args.teacher or args.work / "teacher", ""
    if not args.teacher:
        steps = {"max_steps": 4} if args.quick else {}
        wanted = TEACHERS[args.task] | steps
        note = run_recipe("finetune", folder, **wanted, seed=args.seed)["command"]
    records = {arm: student(arm, folder, args) for arm in args.arms or ARMS}
    if args.arms:
        return
    model, tokenizer = teachers.load(str(folder))
    dd = data.load(args.task, "local")
    job = prepare(dd, tokenizer, model.config)
    base = {"metrics": job.evaluate(model, tokenizer, dd[job.split])}
    base["bytes"] = records["2-2-8"]["reference_bytes"]
    rows = [row("MiniLM fine-tuned", "baseline", base, note)]
    for arm, record in records.items():
        if "start" not in arm:
            found = record["metrics"]
            found["retention"] = 100 * score(found) / score(base["metrics"])
            rows.append(row(f"KDLSQ {arm}", "student", record, f"{record['steps']} steps"))
    write(name, "KDLSQ-BERT", rows + start_rows(records), args)


if __name__ == "__main__":
    main()
