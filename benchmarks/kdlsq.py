"""KDLSQ-BERT on SST-2, ATIS or SQuAD: a fine-tuned encoder and itself at 8, 4, 3 and 2 bits.

    TQLEARN_DATA=... python benchmarks/kdlsq.py sst2 --work runs/kdlsq_sst2
    TQLEARN_DATA=... python benchmarks/kdlsq.py atis --work runs/kdlsq_atis
    TQLEARN_DATA=... python benchmarks/kdlsq.py squad --work runs/kdlsq_squad

The encoder is sentence-transformers/all-MiniLM-L6-v2 ("MiniLM" in the rows; see
``tqlearn.teachers``), which has read SQuAD's training questions before.

"2-2-8": weights, word table, activations. Each setting is trained with and without the term of the
ground truth. The last rows start 2-2-8 from other clips and tell how many steps each needs to the
loss that the default start reaches at the end of a short training ("steps_to_loss"; left out where
it never does). "retention" is the accuracy, the F1, or the mean of intent accuracy and slot
F1, as a percentage of the teacher's.

"phrases" learns from GLUE's 67,349 phrases of the same SST-2 sentences in place of the 6,920, and
from the teacher's answers to them alone.

"9 epochs" is 2-2-8 on ATIS for three times as long.

SQuAD is one row, 4-4-8, from the 3,547 training questions that lie in the folder and TyDiQA's 3,696
English ones, tested on the whole dev set of v1.1. The teachers of ATIS and SQuAD train in bfloat16,
for speed.

Hours on one core; a killed run goes on when the command is given again, and finished parts are
kept. ``--arms`` takes some of them; with ``--train_only`` it writes no table, so that two cores
can share the work.
"""

from pathlib import Path

from common import write
from runs import row, run_recipe, score, settle, task_parser, tuned_teacher

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
        "bf16": True,
        "use_cpu": True,
        "disable_tqdm": True,
    },
    "squad": {
        "data": "squad_tydiqa",
        "source": "local",
        "teacher": "minilm",
        "num_train_epochs": 2,
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 16,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "bf16": True,
        "use_cpu": True,
        "eval_strategy": "no",  # the dev set takes a quarter of an hour
        "load_best_model_at_end": False,
        "save_strategy": "steps",
        "save_steps": 100,
        "save_total_limit": 1,
        "logging_strategy": "steps",
        "logging_steps": 20,
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
QUESTIONS = {
    "bits": "4-4-8",
    "data": "squad_tydiqa",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "max_length": 384,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 1,
}
LABELS = {f"{bits}": {"bits": bits} for bits in SETTINGS}
LABELS |= {f"{bits}, no ground truth": {"bits": bits, "ground_truth": False} for bits in SETTINGS}
PHRASES = {"bits": "2-2-8", "ground_truth": False, "data": "sst2_phrases", "num_train_epochs": 1}
ARMS = {
    "sst2": LABELS
    | {"2-2-8, phrases": PHRASES}
    | {
        f"2-2-8, start {init}": {"bits": "2-2-8", "init": init, "max_steps": 150} for init in STARTS
    },
    "atis": LABELS | {"2-2-8, 9 epochs": {"bits": "2-2-8", "num_train_epochs": 9}},
    "squad": {"4-4-8": QUESTIONS},
}


def student(arm: str, teacher: Path, args) -> dict:
    """Train one arm and return its record."""
    steps = {"max_steps": 4, "logging_steps": 2} if args.quick else {}
    if "start" in arm:  # short, for its losses: no epoch ends in it
        steps |= {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
    folder = args.work / "_".join(arm.replace(",", "").split())
    fine = {"num_train_epochs": 2} if arm.startswith(("8", "4")) else {}
    options = STUDENT | {"data": args.task} | fine | ARMS[args.task][arm]
    return run_recipe("kdlsq_bert", folder, **(options | steps), teacher=teacher, seed=args.seed)


def evaluated(folder: Path, task: str) -> dict:
    """Return the metrics of a teacher that was trained elsewhere."""
    model, tokenizer = teachers.load(str(folder))
    dd = data.load(TEACHERS[task]["data"], "local")
    job = prepare(dd, tokenizer, model.config)
    return job.evaluate(model, tokenizer, dd[job.split])


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
    if not histories:
        return []
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
    options = task_parser("kdlsq", __doc__, TEACHERS)
    options.add_argument("--teacher", type=Path, help="a folder that the finetune recipe wrote")
    options.add_argument("--arms", nargs="+", help='such as "4-4-8" or "2-2-8, no ground truth"')
    args = options.parse_args()
    name = settle("kdlsq", args)
    folder, note, found = tuned_teacher(args, TEACHERS[args.task])
    arms = args.arms or ARMS[args.task]
    if unknown := [arm for arm in arms if arm not in ARMS[args.task]]:
        raise ValueError(f"{args.task} has arms {[*ARMS[args.task]]}, got {unknown[0]!r}")
    records = {arm: student(arm, folder, args) for arm in arms}
    if args.train_only:
        return
    base = {"metrics": found or evaluated(folder, args.task)}
    base["bytes"] = next(iter(records.values()))["reference_bytes"]
    rows = [row("MiniLM fine-tuned", "baseline", base, note)]
    for arm, record in records.items():
        if "start" not in arm:
            found = record["metrics"]
            found["retention"] = 100 * score(found) / score(base["metrics"])
            rows.append(row(f"KDLSQ {arm}", "student", record, f"{record['steps']} steps"))
    write(name, "KDLSQ-BERT", rows + start_rows(records), args)


if __name__ == "__main__":
    main()
