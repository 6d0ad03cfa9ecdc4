"""Size against accuracy of the embedded teacher's students: four ranks, four numbers of bits.

    python benchmarks/embedded_tradeoff.py

The QTC recipe on ``flights`` for each of them, 300 steps. Notebook 09 shows the rows beside what
the same students can do before any training. ``--quick`` trains two of them for 10 steps.
"""

from pathlib import Path

import common
import runs

from tqlearn.lab.explorers import BITS, RANKS


def main():
    """Train the grid, one folder each, and write one row each."""
    parser = common.parser("embedded_tradeoff", __doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/embedded_tradeoff"))
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    rows = []
    for rank in RANKS[:1] if args.quick else RANKS:
        for bits in BITS[:2] if args.quick else BITS:
            name = f"rank {rank}, {bits} bits"
            record = runs.run_recipe(
                "qtc",
                args.folder / f"rank{rank}_bits{bits}",
                teacher="embedded",
                rank=rank,
                embedding_rank=3 * rank,
                bits=bits,
                rest_bits=8,
                scale_init="mse",
                scale_learning_rate=1e-4,
                max_steps=10 if args.quick else args.steps,
                steps_per_stage=40,
                learning_rate=2e-3,
                lr_scheduler_type="cosine",
                eval_strategy="no",
                save_strategy="no",
                load_best_model_at_end=False,
                disable_tqdm=True,
                seed=args.seed,
            )
            rows.append(runs.row(name, "student", record))
    common.write("embedded_tradeoff", "QTC", rows, args)


if __name__ == "__main__":
    main()
