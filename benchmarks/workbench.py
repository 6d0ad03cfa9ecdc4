"""How long a workbench takes on a BERT-base with random weights, and how far its numbers are off.

A move is timed until every error of the new plan is known. First moves: after the first look a
dial moves for the first time, nearly always to where the workbench has not looked ahead. Then dials
that move on: one step at once, and one after a pause in which it looks ahead. Then plans are
printed and executed, and what the page has shown is held against what ``tq.report`` and the
student's own weights say.

The workbench takes two layers at a time. On two cores that nobody else uses, a move lasts half of
its seconds of the processor; seconds of the clock count what else the machine does, too.

    OMP_NUM_THREADS=1 python benchmarks/workbench.py
"""

import tempfile
import time
from dataclasses import replace

import torch
from common import parser, write
from transformers import BertConfig, BertModel

import tqlearn as tq
from tqlearn.lab.workbench import Bench, Row, distance
from tqlearn.lab.workbench.rows import PATTERNS, QUANTIZERS

BEHIND = "in the background, while nobody moves anything"
PAIRS = {"structure": "LowRank", "quantizer": "LSQ"}
BITS8 = {"quantizer": "LSQ", "bits": 8}
FIRST = {  # moves of one dial, or of two at once, from 8 bits in all layers
    **{f"N:M to {p}": {"nm": p} for p in PATTERNS},
    **{f"N:M to {p}, no bits": {"nm": p, "quantizer": None} for p in PATTERNS},
    **{f"bits to {b}": {"bits": b} for b in (7, 4, 2)},
    "bits to 4, 2:4": {"bits": 4, "nm": "2:4"},
    **{f"a scale per {p}": {"per": p} for p in ("channel", 16, 128)},
    **{f"quantizer to {q}": {"quantizer": q} for q in QUANTIZERS if q != "LSQ"},
    "blocks": {"block": (32, 32)},
    **{f"pairs by {by}": {"structure": "LowRank", "by": by, "amount": a}
       for by, a in (("rank", 64), ("ratio", 4), ("error", 0.6))},
}  # fmt: skip
FIRST_WITH_OUTPUTS = {
    "inputs to 8 bits": {"inputs": 8},
    "inputs to 4 bits": {"inputs": 4},
    "inputs to 8 bits by LSQ": {"inputs": 8, "inputs_by": "LSQ"},
    "inputs to 8 bits, 2:4": {"inputs": 8, "nm": "2:4"},
    "N:M to 2:4": {"nm": "2:4"},
    "bits to 4": {"bits": 4},
    "pairs by rank": {"structure": "LowRank", "amount": 64},
}
CORES = 2  # layers that are found at a time
LONGER = ("pairs by error",)  # first moves, at a second of both cores
MOVES = {  # each from the first to the second, a pause, and on to the third
    "rank of pairs": [Row("encoder*", structure="LowRank", amount=a) for a in (64, 96, 128)],
    "ratio of pairs": [
        Row("encoder*", structure="LowRank", by="ratio", amount=a) for a in (4, 6, 8)
    ],
    "error of pairs": [
        Row("encoder*", structure="LowRank", by="error", amount=a) for a in (0.7, 0.6, 0.5)
    ],
    "bits of everything": [Row("*", quantizer="LSQ", bits=b) for b in (4, 3, 2)],
    "bits of everything, a scale per row": [
        Row("*", quantizer="LSQ", bits=b, per="channel") for b in (4, 3, 2)
    ],
    "bits of everything, a scale per 64": [
        Row("*", quantizer="LSQ", bits=b, per=64) for b in (4, 3, 2)
    ],
    "bits of everything, SAWB": [Row("*", quantizer="SAWB", bits=b) for b in (8, 4, 2)],
    "rank of pairs at 4 bits": [Row("encoder*", amount=a, **PAIRS) for a in (64, 96, 128)],
    "bits of pairs": [Row("encoder*", amount=64, bits=b, **PAIRS) for b in (4, 3, 2)],
    "bits behind 2:4": [Row("encoder*", nm="2:4", quantizer="LSQ", bits=b) for b in (4, 3, 2)],
    "rank of trains, queries": [Row("*.query", structure="TT", amount=a) for a in (16, 20, 24)],
}
WITH_OUTPUTS = {
    "bits of everything, and outputs": MOVES["bits of everything"],
    "rank of pairs, and outputs": MOVES["rank of pairs"],
    "inputs of all layers, and outputs": [
        Row("encoder*", quantizer="LSQ", inputs=b) for b in (8, 7, 6)
    ],
}
PLANS = {  # two rows and more, a 2:4 row, quantized inputs, every way to size a pair
    "pairs by ratio, and bits": [
        Row("*.intermediate.dense", structure="LowRank", by="ratio", amount=4, quantizer="LSQ"),
        Row("*", quantizer="LSQ", bits=8),
    ],
    "2:4 with inputs, pairs by error, trains": [
        Row("*.query", structure="TT", amount=16),
        Row("*.attention.*", nm="2:4", quantizer="SAWB", inputs=8),
        Row("*.layer.?.output.dense", structure="LowRank", by="error", amount=0.6),
        Row("*.intermediate.dense", quantizer="LSQPlus", bits=3, per=64),
        Row("*word_embeddings", quantizer="LSQ", per="channel"),
    ],
}


def timed(function):
    """(seconds of the clock, seconds of the processor) of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def compared(bench):
    """What the page shows of a plan against what the printed lines make: (bytes, errors) off."""
    shown, names = bench.wait(), {"model": bench.model, "batches": bench.batches}
    exec(bench.code(), names)
    real, student = tq.report(names["student"]), names["student"]
    counts = ("parameters", "nominal", "with_metadata", "file")
    off = [abs(getattr(shown.sizes, key) - getattr(real, key)) for key in counts]
    pairs = [(bench.model.get_submodule(n), student.get_submodule(n)) for n in shown.weights]
    errors = [
        abs(error - distance(*pair))
        for error, pair in zip(shown.weights.values(), pairs, strict=True)
    ]
    return max(off), max(errors), len(errors)


class Table:
    """Rows of the result, each printed as soon as it is there."""

    def __init__(self):
        self.rows = []

    def tell(self, what, role, note=None, **metrics):
        print(f"{what:60}", *(f"{value:.4g} {name}" for name, value in metrics.items()), flush=True)
        note = {"note": note} if note else {}
        self.rows.append({"model": what, "role": role, "metrics": metrics} | note)

    def time(self, what, function, role="student", note=None):
        clock, processor = timed(function)
        self.tell(what, role, note, seconds=round(clock, 3), cpu_seconds=round(processor, 3))


def pause(bench):
    """Let the workbench look ahead, as it does while nobody moves anything."""
    bench.work(idle=True)


def move(bench, row):
    """Move a dial, and wait for every error."""
    bench.rows = [row]
    assert bench.wait().whole


def time_first(table, bench, moves, most, what=""):
    """Time first moves of dials."""
    start = Row("encoder*", **BITS8)
    for name, changes in [*moves.items()][:most]:
        move(bench, start)
        row = replace(start, **changes)
        table.time(f"first move: {name}{what}", lambda row=row: move(bench, row))


def time_moves(table, bench, moves, most):
    """Time each move without and with a pause before it."""
    for name, (start, cold, warm) in [*moves.items()][:most]:
        move(bench, start)
        table.time(f"{name}, cold", lambda row=cold: move(bench, row))
        table.time(f"{name}, the pause", lambda: pause(bench), "ablation", BEHIND)
        table.time(f"{name}, after a pause", lambda row=warm: move(bench, row))


def main(argv=None):
    """Measure, print and write."""
    options = parser("workbench", __doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    args = options.parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tiny = {
        "num_hidden_layers": 1,
        "vocab_size": 2000,
        "hidden_size": 128,
        "num_attention_heads": 2,
    }
    most = 1 if args.quick else None
    model, table = BertModel(BertConfig(**tiny if args.quick else {})).eval(), Table()
    batch = {"input_ids": torch.randint(1000, 2000, (2, 64))}
    square = torch.randn(2048, 2048)
    what = "this machine: ten products of 2048 x 2048"
    table.time(what, lambda: [square @ square for _ in range(10)], "baseline")
    with tempfile.TemporaryDirectory() as folder:
        made = []
        table.time("open", lambda: made.append(Bench(model, cache=folder)))
        (bench,) = made
        table.time("first look: bytes", bench.answer)
        table.time("first look: errors of the first plan", bench.wait)
        table.time("first look: all decomposed", lambda: pause(bench), "ablation", BEHIND)
        time_first(table, bench, FIRST, most)
        time_moves(table, bench, MOVES, most)
        bench = Bench(model, [batch], cache=folder)
        time_first(table, bench, FIRST_WITH_OUTPUTS, most, ", and outputs")
        time_moves(table, bench, WITH_OUTPUTS, most)
        for name, plan in PLANS.items():
            bench.rows = plan
            size_off, error_off, layers = compared(bench)
            found = {"layers": layers, "bytes_off": size_off, "error_off": error_off}
            table.tell(f"printed plan: {name}", "student", **found)
    write("workbench", "none: a tool of this course", table.rows, args, threads=args.threads)


if __name__ == "__main__":
    main()
