"""A whole BERT-base-shaped model decomposed: seconds, peak extra memory and error, three ways.

    python benchmarks/decompose.py

Random weights (the hardest case: nothing decays), two threads. 48 attention matrices, 24 of the FFN
and the word table, one after the other, as tensor trains (QTC's A4), as Kronecker products
(KroneckerBERT_8) and at low rank (eight times fewer numbers). The contestants:

- tqlearn: ``tt_svd``, ``ttm_svd``, ``nearest_kronecker`` and ``low_rank`` as they come;
- tensorly 0.10 as it comes: ``tensor_train``, ``tensor_train_matrix`` and ``partial_svd``'s
  successor ``svd_interface``, by the rules of the same papers (it has no Kronecker product, so the
  rearranged matrix is what it gets);
- full SVD: our functions with ``method="exact"``.

Each job runs in a process of its own, ``--repeats`` times; the fastest counts, for whatever else
the machine does only adds time. Extra memory is the growth of the process's largest resident size
over the model's, so it includes the work space of LAPACK and the factors themselves; it is given
in multiples of the largest matrix, the word table. "error" is the relative error of all matrices
together, from the singular values that each contestant dropped. ``--quick`` decomposes one
small matrix per job, once, in one process.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from math import sqrt

import tensorly
import torch
from common import parser, write
from tensorly.decomposition import tensor_train, tensor_train_matrix
from tensorly.tenalg import svd_interface

from tqlearn.factors.kronecker import nearest_kronecker, rearrange
from tqlearn.factors.low_rank import low_rank
from tqlearn.factors.peers import tensorly_axes
from tqlearn.factors.trains import tt_svd, ttm_svd

THREADS = 2
SIZES = {"attention": (768, 768), "up": (3072, 768), "down": (768, 3072), "table": (30522, 768)}
SIZES["small"] = (192, 192)  # for --quick
COUNTS = {"attention": 4, "up": 1, "down": 1}  # per layer
TRAINS = {  # modes of a linear layer, ranks
    "attention": ((24, 32, 32, 24), (1, 24, 30, 24, 1)),
    "up": ((64, 48, 24, 32), (1, 30, 30, 30, 1)),
    "down": ((32, 24, 48, 64), (1, 30, 30, 30, 1)),
    "small": ((12, 16, 16, 12), (1, 12, 15, 12, 1)),
}
TABLE = ((16, 20, 10, 10), (4, 4, 8, 6), (1, 20, 20, 20, 1))  # row modes, column modes, ranks
PRODUCTS = {  # out modes, in modes
    "attention": ((384, 2), (384, 2)),
    "up": ((8, 384), (2, 384)),
    "down": ((2, 384), (8, 384)),
    "table": ((30522, 1), (96, 8)),
    "small": ((96, 2), (96, 2)),
}
RANKS = {
    "attention": 48,
    "up": 76,
    "down": 76,
    "table": 93,
    "small": 12,
}  # an eighth of the numbers
KINDS, WAYS = ("TT A4", "Kronecker KB8", "low rank"), ("tqlearn", "tensorly", "full SVD")


def ours(kind: str, part: str, w: torch.Tensor, method: str = "auto") -> float:
    """Decompose one matrix with tqlearn and return the squared error."""
    if kind == "low rank":
        return float(low_rank(w, RANKS[part], method=method)[2]) ** 2
    if kind == "Kronecker KB8":
        return float(nearest_kronecker(w, *PRODUCTS[part], method=method)[1]) ** 2
    if part == "table":
        return float(ttm_svd(w, *TABLE, method=method)[1].norm()) ** 2
    modes, ranks = TRAINS[part]
    return float(tt_svd(w.reshape(modes), ranks, method=method)[1].norm()) ** 2


def theirs(kind: str, part: str, w: torch.Tensor) -> float:
    """Decompose one matrix with tensorly and return minus the squares that were kept."""
    if kind == "low rank":
        return -squares(svd_interface(w, n_eigenvecs=RANKS[part])[1])
    if kind == "Kronecker KB8":
        return -squares(svd_interface(rearrange(w, *PRODUCTS[part]), n_eigenvecs=1)[1])
    if part == "table":
        rows, cols, ranks = TABLE
        cores = tensor_train_matrix(tensorly_axes(w, rows, cols), rank=list(ranks)).factors
    else:
        modes, ranks = TRAINS[part]
        cores = tensor_train(w.reshape(modes), rank=list(ranks)).factors
    return -squares(cores[-1])  # the others are orthonormal: the last one has the norm


def squares(tensor: torch.Tensor) -> float:
    """Return the sum of squares in float64."""
    return sum(float(part.double().square().sum()) for part in tensor.split(4096))


def job(kind: str, way: str, seed: int, layers: int) -> dict:
    """Decompose every matrix once; return seconds, extra bytes and the relative error."""
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    tensorly.set_backend("pytorch")
    names = [part for part, n in COUNTS.items() for _ in range(n * layers)] + ["table"]
    names = names if layers else ["small"]
    model = [(part, torch.empty(SIZES[part]).normal_(std=0.02)) for part in names]
    total = sum(squares(w) for _, w in model)
    run = {"tqlearn": ours, "tensorly": theirs, "full SVD": partial(ours, method="exact")}[way]
    run(kind, *model[0])  # libraries load and threads start here
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1]) * resource.getpagesize()
    begin, left = time.perf_counter(), total if way == "tensorly" else 0.0
    for part, w in model:
        left += run(kind, part, w)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "extra": max(peak - before, 0), "error": sqrt(left / total)}


def measured(kind: str, way: str, args: argparse.Namespace) -> dict:
    """Run a job in processes of its own and return the fastest run, with the least memory seen."""
    command = [sys.executable, __file__, "--job", kind, way, "--seed", str(args.seed)]
    command += ["--layers", str(args.layers)]
    runs = []
    for _ in range(args.repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(runs, key=lambda run: run["seconds"])
    return best | {"extra": min(run["extra"] for run in runs)}


def main() -> None:
    """Measure every job and write the table."""
    options = parser("decompose", __doc__)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--layers", type=int, default=12, help=argparse.SUPPRESS)
    options.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.job:
        print(json.dumps(job(*args.job, args.seed, args.layers)))
        return
    rows, table = [], 4 * SIZES["table"][0] * SIZES["table"][1]
    for kind in KINDS:
        found = {
            way: job(kind, way, args.seed, layers=0) if args.quick else measured(kind, way, args)
            for way in WAYS
        }
        for way, run in found.items():
            speedup = found["tensorly"]["seconds"] / run["seconds"]
            rows.append(
                {
                    "model": f"{kind}, {way}",
                    "role": {"tqlearn": "student", "tensorly": "peer"}.get(way, "baseline"),
                    "metrics": {
                        "relative_error": round(run["error"], 7),
                        "extra_memory": round(run["extra"] / table, 3),
                    },
                    "speed": {
                        "seconds": float(f"{run['seconds']:.4g}"),
                        "speedup": float(f"{speedup:.4g}"),
                    },
                    "note": f"{THREADS} threads, extra memory in copies of the word table",
                }
            )
            print(f"{rows[-1]['model']:<26} {run['seconds']:8.2f} s {speedup:6.2f}x {run}")
    write("decompose", "QTC and KroneckerBERT", rows, args)


if __name__ == "__main__":
    main()
