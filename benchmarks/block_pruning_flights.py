"""Movement scores against chance and magnitude, at equal density, on the small embedded model.

    python benchmarks/block_pruning_flights.py

The embedded teacher, hybrid: 16 x 16 blocks in attention, dimensions in the FFN. Movement at four
lambdas, three seeds; then blocks chosen once, at random or by their norm, at the densities that
movement ended with in attention and in the FFN (for each seed its own), trained for equally many
steps with the same losses. "dense" is trained alike with nothing pruned. Metrics are means over the
seeds on the test split, whose values and frames training never shows; "_sd" is their standard
deviation. "speedup" is left to latency.json.
"""

import statistics
from pathlib import Path

from common import parser, write
from runs import run_recipe

LAMBDAS, SEEDS = ("0.3", "1", "5", "20"), 3
SHARED = {
    "num_train_epochs": 10,
    "learning_rate": 3e-4,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}
MEASURED = ("intent_accuracy", "slot_f1", "token_accuracy")


def run(name: str, seed: int, args, **options) -> dict:
    """Run the recipe once, in a folder of its own."""
    steps = {"max_steps": 12, "score_learning_rate": 1.0} if args.quick else {}
    folder = args.work / f"{name.replace(' ', '_')}_{seed}"
    return run_recipe("block_pruning", folder, **(SHARED | steps | options), seed=seed)


def summed_up(model: str, role: str, records: list[dict], note: str = "") -> dict:
    """Return one row: means over the seeds, and spreads."""
    metrics = {}
    for name in MEASURED:
        values = [record["metrics"][name] for record in records]
        metrics[name] = round(statistics.mean(values), 2)
        if len(values) > 1:
            metrics[f"{name}_sd"] = round(statistics.stdev(values), 2)
    for name in ("all", "attention", "dense"):
        kind = "density" if name == "all" else f"density_{name}"
        metrics[kind] = round(statistics.mean(r["density"][name] for r in records), 4)
    shares = [record["compacted_density"] for record in records]
    metrics["compacted_density"] = round(statistics.mean(shares), 4)
    for name in ("heads", "dimensions"):
        metrics[name] = round(statistics.mean(sum(record[name]) for record in records), 1)
    metrics["seeds"] = len(records)
    return {"model": model, "role": role, "metrics": metrics} | ({"note": note} if note else {})


def main() -> None:
    """Run every method at every lambda's density and write the table."""
    options = parser("block_pruning_flights", __doc__)
    options.add_argument("--work", type=Path, default=Path("runs/block_flights"))
    args = options.parse_args()
    lambdas, seeds = (("5",), range(1)) if args.quick else (LAMBDAS, range(SEEDS))
    whole = {"method": "random", "attention_density": 1, "dense_density": 1}
    dense = [run("dense", seed, args, **whole) for seed in seeds]
    rows = [summed_up("dense, trained alike", "baseline", dense)]
    for factor in lambdas:
        moved = [run(f"movement {factor}", s, args, penalty=factor) for s in seeds]
        rows.append(summed_up(f"movement, lambda {factor}", "student", moved))
        for method in ("magnitude", "random"):
            found = []
            for seed, record in zip(seeds, moved, strict=True):
                kinds = ("attention", "dense")
                shares = {f"{k}_density": round(record["density"][k], 4) for k in kinds}
                found.append(run(f"{method} {factor}", seed, args, method=method, **shares))
            note = f"at the densities of lambda {factor}"
            rows.append(summed_up(f"{method}, as lambda {factor}", "ablation", found, note))
    write("block_pruning_flights", "Block Pruning", rows, args)


if __name__ == "__main__":
    main()
