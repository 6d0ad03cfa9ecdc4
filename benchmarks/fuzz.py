"""Damaged models: what comes of ten thousand loads, and what the digests cost.

    python benchmarks/fuzz.py

Each load is of a file of ``tqlearn.save`` or a folder of ``save_pretrained`` with one thing wrong:
a bit, a tensor, a header, a layout, a config, a shard. Counts are of: refused (by tqlearn,
safetensors or transformers), same (outputs as undamaged), warned, silent (other outputs, no word),
raw (an error that tqlearn ran into), memory (above 1 GiB), hang (above 20 s). "no digests" and
"layout with digests of its own" are what nobody can notice in full, files of older versions and
such that were written wrong; they must not crash, and "silent" there is the reason for digests.

The cost is that of digests within ``from_pretrained``, which computes them in a thread beside the
reading: medians of 5, of a compressed MiniLM and of a random encoder in a folder of about 500 MB,
half of it in 8-bit codes. In seconds of the processor: others may use the machine.
"""

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import transformers
from common import parser, write

import tqlearn as tq
from tqlearn.hf import bridge
from tqlearn.recipes import qtc
from tqlearn.storage import digests

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))
from loads import KINDS, fuzz  # noqa: E402

TIMES = {"file, payload": 4000, "file, layout": 2500, "folder, payload": 1500,
         "folder, layout": 1200, "folder, config": 400, "folder, shards": 400,
         "layout with digests of its own": 150, "no digests": 150}  # fmt: skip
REPEATS = 5


def counted(kind, times, seed):
    """A row of outcomes."""
    worst = Counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(kind, Path(folder), times, seed,
                      lambda how, i, what, error: worst.update([f"{what}: {how}"]))  # fmt: skip
    row = {"model": kind, "role": "ablation", "metrics": {"loads": times, **counts}}
    if worst:
        row["note"] = ", ".join(f"{name} {n}" for name, n in worst.most_common(6))
    print(row, flush=True)
    return row


def costs(name, model):
    """A row with what digests take of ``from_pretrained``.

    "percent_of_processor" is all of their work; "percent_of_loading" what the main thread does of
    it, and what it would wait for the other thread, which has a core of its own.
    """
    spent = {"main": [], "aside": []}

    def timed(function, where):
        def call(*args):
            start = time.thread_time()
            try:
                return function(*args)
            finally:
                spent[where][-1] += time.thread_time() - start

        return call

    before = bridge.stored_in, digests.verify
    bridge.stored_in, digests.verify = timed(before[0], "main"), timed(before[1], "aside")
    whole, longer, all_of_it = [], [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
            for _ in range(REPEATS):
                for times in spent.values():
                    times.append(0.0)
                start, everywhere = time.thread_time(), time.process_time()
                type(model).from_pretrained(folder)
                whole.append(time.thread_time() - start)
                mine, aside = spent["main"][-1], spent["aside"][-1]
                waits = max(0.0, aside - (whole[-1] - mine))
                longer.append(100 * (mine + waits) / (whole[-1] + waits))
                all_of_it.append(100 * (mine + aside) / (time.process_time() - everywhere))
    finally:
        bridge.stored_in, digests.verify = before
    row = {
        "model": name,
        "role": "student",
        "metrics": {
            "percent_of_loading": round(statistics.median(longer), 2),
            "percent_of_processor": round(statistics.median(all_of_it), 2),
            "load_seconds": round(statistics.median(whole), 3),
            "digest_seconds": round(statistics.median(spent["aside"]), 4),
        },
        "bytes": {"file": size},
    }
    print(row, flush=True)
    return row


def student(quick):
    """MiniLM under QTC's plan, packed; the embedded teacher, if it shall be quick."""
    if quick:
        teacher, _ = tq.teachers.load("embedded")
    else:
        encoder, tokenizer = tq.teachers.load("minilm")
        labels = [[f"l{i}" for i in range(n)] + ["UNK"] for n in (21, 120)]
        teacher = tq.teachers.joint_from_encoder(encoder, tokenizer, *labels)
    plan = qtc.plan(teacher.config.hidden_size, qtc.QTCArguments(bits=4, rest_bits=8))
    return tq.pack(tq.calibrate(tq.compress(teacher, plan)).eval())


def large_encoder(layers=22):
    """A random BERT whose folder holds about 500 MB, half of it in 8-bit codes."""
    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=1024, num_hidden_layers=layers,
                                     num_attention_heads=16, intermediate_size=4096,
                                     vocab_size=8192)  # fmt: skip
    model = transformers.BertModel(config).eval()
    plan = {f"encoder.layer.{i}.*": [tq.LSQ(8, init="max")] for i in range(3 * layers // 4 + 1)}
    student = tq.calibrate(tq.compress(model, plan, inplace=True))
    return tq.storage.attach_layout(tq.storage.pack_tensors(student))


def kept(args):
    """Rows that a run wrote before it was stopped; none where all are there, or with --quick."""
    if args.quick or not args.out.exists():
        return []
    before = json.loads(args.out.read_text())
    whole = {row["model"] for row in before["rows"]} >= set(KINDS)
    return [] if whole or before["seed"] != args.seed else before["rows"]


def main():
    options = parser("fuzz", __doc__)
    options.add_argument("--only", choices=["loads", "costs"])
    args = options.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(transformers.logging.CRITICAL)
    torch.set_num_threads(1)
    rows = kept(args)
    done = {row["model"] for row in rows}
    if args.only != "loads" and "digests, MiniLM student" not in done:
        rows.append(costs("digests, MiniLM student", student(args.quick)))
        if not args.quick:
            rows.append(costs("digests, folder of 500 MB", large_encoder()))
    if args.only != "costs":
        for kind in [kind for kind in KINDS if kind not in done]:
            rows.append(counted(kind, 8 if args.quick else TIMES[kind], args.seed))
            write("fuzz", None, rows, args)  # after each: it takes a while
    write("fuzz", None, rows, args)


if __name__ == "__main__":
    main()
