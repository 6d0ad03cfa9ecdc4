"""How long a workbench takes on a BERT-base with random weights: the first look, then every move.

A move is timed twice: until the bytes and what is known of the errors are on the page, and until
every error is. Both as seconds of the clock and of the processor.

    python benchmarks/workbench.py
"""

import tempfile
import time

import torch
from common import parser, write
from transformers import BertConfig, BertModel

from tqlearn.lab.workbench import Bench, Row

MOVES = {
    "rank of all pairs": [Row("encoder*", structure="LowRank", amount=a) for a in (64, 96, 256)],
    "ratio of queries": [
        Row("*.query", structure="LowRank", by="ratio", amount=a) for a in (4, 8, 16)
    ],
    "error of all pairs": [
        Row("encoder*", structure="LowRank", by="error", amount=a) for a in (0.7, 0.6, 0.5)
    ],
    "bits of everything": [Row("*", quantizer="LSQ", bits=b) for b in (4, 3, 2)],
    "bits of queries": [Row("*.query", quantizer="LSQ", bits=b) for b in (4, 3, 2)],
    "rank of pairs at 4 bits": [
        Row("encoder*", structure="LowRank", amount=a, quantizer="LSQ") for a in (64, 96, 128)
    ],
    "2:4 of everything": [Row("encoder*", nm=p) for p in ("2:4", "1:4")],
    "rank of trains, queries": [Row("*.query", structure="TT", amount=a) for a in (16, 32, 64)],
}


def timed(function):
    """(seconds of the clock, seconds of the processor) of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def main(argv=None):
    """Measure, print and write."""
    options = parser("workbench", __doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    size = {"num_hidden_layers": 1} if args.quick else {}
    model, rows = BertModel(BertConfig(**size)).eval(), []

    def tell(what, seconds, note):
        clock, processor = seconds
        print(f"{what:44} {clock:7.2f} s, {processor:7.2f} CPU-s  {note}", flush=True)
        note = f"{note}; {processor:.2f} CPU-seconds"
        rows.append({"model": what, "role": "ablation", "speed": {"seconds": clock}, "note": note})

    with tempfile.TemporaryDirectory() as folder:
        made = []
        tell("open", timed(lambda: made.append(Bench(model, cache=folder))), "structure alone")
        (bench,) = made
        tell("first answer: bytes", timed(bench.answer), "what stands on the page at once")
        tell(
            "first look: errors of the first plan", timed(bench.wait), "and digests of all weights"
        )

        def decompose():
            while bench.step():
                pass

        tell("every matrix decomposed", timed(decompose), "in the background")
        for name, steps in MOVES.items():
            bench.rows = steps[:1]
            bench.wait()
            for row in steps[1:]:

                def move(row=row):
                    bench.rows = [row]
                    bench.answer()

                value = {"nm": row.nm, "bits": row.bits}.get(name.split()[0], row.amount)
                tell(f"{name}: {value}", timed(move), "bytes, known errors")
                tell(f"{name}: {value}", timed(bench.wait), "all errors")
    write("workbench", "none: a tool of this course", rows, args)


if __name__ == "__main__":
    main()
