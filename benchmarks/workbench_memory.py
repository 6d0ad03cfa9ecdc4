"""How much memory a workbench takes beside a model of one gigabyte, by the resident set.

Twice: on a model in memory, and on a folder, which finds the decompositions of the first. Each in a
process of its own, whose resident set is read before there is a model, and at its peak in every
phase. Of every decomposition the singular values stay in memory, and nothing else.

    OMP_NUM_THREADS=1 python benchmarks/workbench_memory.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import parser, resident, write
from transformers import BertConfig, BertModel
from transformers.utils import logging

from tqlearn.lab.workbench import Bench, Row
from tqlearn.lab.workbench.opening import opened

SIZE = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "num_hidden_layers": 18,
}
TINY = {
    "hidden_size": 256,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "vocab_size": 8000,
}
MOVES = {
    "8 bits": [Row("*", quantizer="LSQ", bits=8)],
    "2:4 with 4 bits": [Row("*", nm="2:4", quantizer="LSQ")],
    "pairs of six layers, decomposed": [
        Row("encoder.layer.[0-5].*", structure="LowRank", amount=64, quantizer="LSQ")
    ],
    "pairs of six layers, at another rank": [
        Row("encoder.layer.[0-5].*", structure="LowRank", amount=256, quantizer="LSQ")
    ],
}


def peak():
    """The peak since the last call."""
    found = resident("HWM")
    Path("/proc/self/clear_refs").write_text("5")
    return found


def part(place, folder, quick):
    """Open the model of a folder, or build it, and put it through everything; print the peaks."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    before, found = resident("RSS"), {}
    peak()
    if folder:
        model = opened(place)
    else:
        torch.manual_seed(0)
        model = BertModel(BertConfig(**(TINY if quick else SIZE))).eval()
    found["the model alone"] = peak() - before
    bench = Bench(model, cache=Path(place).parent / "cache")
    bench.answer()
    found["bytes of a plan"] = peak() - before
    for name, rows in MOVES.items():
        bench.rows = rows
        bench.wait()
        found[name] = peak() - before
    if not folder:
        model.save_pretrained(place)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    print(json.dumps({"size": size, "found": found}))


def main(argv=None):
    """Measure in processes of their own, print and write."""
    options = parser("workbench_memory", __doc__.splitlines()[0])
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--place", help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.part:
        return part(args.place, args.part == "folder", args.quick)
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in ("memory", "folder"):
            command = [sys.executable, __file__, "--part", name, "--place", f"{home}/model"]
            run = subprocess.run(
                command + ["--quick"] * args.quick, stdout=subprocess.PIPE, check=True
            )
            told = json.loads(run.stdout.splitlines()[-1])
            for phase, most in told["found"].items():
                times = round(most / told["size"], 3)
                print(f"{name}: {phase:38} {most / 1e6:8.1f} MB, {times:.2f} times the model")
                found = {"model_bytes": told["size"], "resident_bytes": most, "times": times}
                rows.append({"model": f"from {name}: {phase}", "role": "student", "metrics": found})
    write("workbench_memory", "none: a tool of this course", rows, args)


if __name__ == "__main__":
    main()
