"""Deep Compression on BERT, ViT and Wav2Vec2: 4-bit weights and inputs, 2:4, against FP32.

    TQLEARN_DATA=... python benchmarks/deep_compression.py bert_sst2
    TQLEARN_DATA=... python benchmarks/deep_compression.py bert_atis
    TQLEARN_DATA=... python benchmarks/deep_compression.py vit_cifar10
    TQLEARN_DATA=... python benchmarks/deep_compression.py wav2vec2_fsdd

Every arm trains for the same number of epochs from the same start, in two phases with the same
schedule: the baseline is dense in both, the student is pruned in the first and quantized in the
second. Three more arms, tried where the student falls short, have a clip for every row of a weight,
three quarters of the epochs for the second phase, and both. BERT is the pre-trained sentence
encoder sentence-transformers/all-MiniLM-L6-v2. The ViT and the Wav2Vec2 are small models from
scratch: no pre-trained checkpoint was at hand, so one training per seed stands in for it, from
which all arms go on. The spoken digits have their authors' test split, takes 0 to 4 of every
speaker; of CIFAR-10 it is a sample, 9,000 pictures to train on and 2,000 to test.

Of several seeds the rows hold the mean, and the largest minus the smallest as "..._spread".
"retention" is the accuracy (the mean of intent accuracy and slot F1) as a percentage of the
baseline's.

A killed run goes on when the command is given again, and finished parts are kept. ``--arms`` takes
some of them, ``--seeds`` other seeds; with ``--train_only`` it writes no table, so that two cores
can share the work.
"""

import re
from statistics import mean

from common import write
from runs import row, run_recipe, score, settle, task_parser

SHARED = {
    "source": "local",
    "weight_decay": 0.01,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "disable_tqdm": True,
}
TASKS = {
    "bert_sst2": {"data": "sst2", "teacher": "minilm", "num_train_epochs": 6,
                  "learning_rate": 1e-4, "max_length": 64},
    "bert_atis": {"data": "atis", "teacher": "minilm", "num_train_epochs": 24,
                  "learning_rate": 2e-4},
    "vit_cifar10": {"data": "cifar10", "num_train_epochs": 16, "learning_rate": 1e-3,
                    "per_device_train_batch_size": 64, "augment": "shift_mirror"},
    "wav2vec2_fsdd": {"data": "fsdd", "num_train_epochs": 24, "learning_rate": 1e-3},
}  # fmt: skip
STARTS = {
    "vit_cifar10": {
        "num_train_epochs": 40,
        "hidden_size": 128,
        "num_layers": 4,
        "patch_size": 8,
    },
    "wav2vec2_fsdd": {
        "num_train_epochs": 48,
        "learning_rate": 2e-3,
        "hidden_size": 96,
        "num_layers": 3,
    },
}
ARMS = {
    "FP32": {"phases": ["dense", "dense"]},
    "W4A4 2:4": {"phases": ["prune", "quantize"]},
    "W4A4 2:4, per channel": {"phases": ["prune", "quantize"], "per": "channel"},
    "W4A4 2:4, longer quantized": {"phases": ["prune", "quantize"], "shares": [1, 3]},
    "W4A4 2:4, both": {"phases": ["prune", "quantize"], "shares": [1, 3], "per": "channel"},
}
QUICK = {"max_steps": 6, "learning_rate": 1e-2, "eval_strategy": "no", "save_strategy": "no",
         "load_best_model_at_end": False}  # fmt: skip


def start(args, seed: int) -> dict:
    """Return the model that all arms of a seed start from, as an option of the recipe."""
    if args.task not in STARTS:
        return {}
    options = SHARED | TASKS[args.task] | STARTS[args.task] | (QUICK if args.quick else {})
    folder = args.work / f"start_{seed}"
    run_recipe("finetune", folder, **options, teacher="scratch", seed=seed)
    return {"teacher": folder}


def trained(arm: str, args, seed: int) -> dict:
    """Train an arm with a seed and return its record."""
    options = SHARED | TASKS[args.task] | ARMS[arm] | (QUICK if args.quick else {})
    folder = args.work / f"{'_'.join(re.sub('[:,]', '', arm).split())}_{seed}"
    return run_recipe("deep_compression", folder, **(options | start(args, seed)), seed=seed)


def averaged(records: list[dict]) -> dict:
    """Return the mean of every metric over the seeds, and how far they lie apart."""
    keys = records[0]["metrics"]
    found = {key: round(mean(r["metrics"][key] for r in records), 3) for key in keys}
    if len(records) > 1:
        for key in keys:
            values = [record["metrics"][key] for record in records]
            found[f"{key}_spread"] = round(max(values) - min(values), 3)
    return found


def rows_of(records: dict[str, list[dict]]) -> list[dict]:
    """Return one row per arm; the first, FP32, is what the others are measured by."""
    found, base = [], score(averaged(records["FP32"]))
    for arm, runs in records.items():
        metrics = averaged(runs)
        one = runs[0] | {"metrics": metrics}
        if arm == "FP32":
            one = {key: value for key, value in one.items() if key != "ratio"}
        else:
            metrics["retention"] = 100 * score(metrics) / base
        each = ", ".join(f"{score(run['metrics']):.2f}" for run in runs)
        found.append(row(arm, "baseline" if arm == "FP32" else "student", one, f"seeds: {each}"))
    return found


def main() -> None:
    """Run every arm with every seed, then write the table."""
    options = task_parser("deep_compression", __doc__, TASKS)
    options.add_argument("--arms", nargs="+", default=[*ARMS][:2], help=f"out of {[*ARMS]}")
    options.add_argument("--seeds", nargs="+", type=int, help="else --seed, from scratch 3 of them")
    args = options.parse_args()
    if unknown := [arm for arm in args.arms if arm not in ARMS]:
        raise ValueError(f"arms are {[*ARMS]}, got {unknown[0]!r}")
    name = settle("deep_compression", args)
    several = args.task in STARTS and not args.quick
    seeds = args.seeds or range(args.seed, args.seed + (3 if several else 1))
    records = {arm: [trained(arm, args, seed) for seed in seeds] for arm in args.arms}
    if args.train_only:
        return
    if "FP32" not in records:
        raise ValueError("a table needs the arm FP32, which the others are measured by")
    write(name, "Deep Compression", rows_of(records), args, seeds=[*seeds])


if __name__ == "__main__":
    main()
