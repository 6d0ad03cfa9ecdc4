"""Without any training: rounded to nearest against GPTQ, magnitude against SparseGPT.

    python benchmarks/compensation.py

The matrices of the embedded teacher's encoder on LSQ's grid, with the least-squares start, and
under a 2:4 mask; then moved by ``tq.compensate``, in the order of the columns or by size of the
inputs. A seed draws the 128 training sentences that are looked at. Nothing is chosen; the test
split is read once for every row. ``--quick`` takes one seed, one grid and 32 sentences.
"""

import random

import common
import torch

import tqlearn as tq
from tqlearn.hf import JointCollator, encode_joint, evaluate_joint
from tqlearn.sparsity import input_norms, remask

PATTERN = "bert.encoder.*"
GRIDS = {
    "4 bits per tensor": [tq.LSQ(bits=4, init="mse")],
    "3 bits per channel": [tq.LSQ(bits=3, init="mse", per="channel")],
    "3 bits per 32": [tq.LSQ(bits=3, init="mse", per=32)],
    "2 bits per channel": [tq.LSQ(bits=2, init="mse", per="channel")],
    "2 bits per 32": [tq.LSQ(bits=2, init="mse", per=32)],
    "2:4": [tq.TwoFour()],
    "2:4, 4 bits per channel": [tq.TwoFour(), tq.LSQ(bits=4, init="mse", per="channel")],
}


class Data:
    """Teacher, training sentences to look at, test sentences to judge by."""

    def __init__(self) -> None:
        self.teacher, self.tokenizer = tq.teachers.load("embedded")
        flights = tq.data.load("flights")
        config = self.teacher.config
        labels = config.intent_labels, config.slot_labels
        self.rows = [*encode_joint(flights, self.tokenizer, *labels)["train"]]
        self.collate, self.test = JointCollator(self.tokenizer), flights["test"]

    def looked_at(self, seed: int, count: int) -> list[dict]:
        """Batches of 32 sentences without their labels."""
        rows = random.Random(seed).sample(self.rows, count)
        batches = [self.collate(rows[k : k + 32]) for k in range(0, count, 32)]
        return [{k: b[k] for k in ("input_ids", "attention_mask")} for b in batches]

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """Intents and slots on the test split."""
        found = evaluate_joint(model.eval(), self.tokenizer, self.test)
        return {key: found[key] for key in ("intent_accuracy", "slot_f1")}


def main():
    """Measure and write the table."""
    parser = common.parser("compensation", __doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    grids, count = (dict([*GRIDS.items()][1:2]), 32) if args.quick else (GRIDS, args.sentences)
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    data = Data()
    rows = [common.averaged("teacher", "baseline", [data.scores(data.teacher)])]
    for name, edits in grids.items():
        student = tq.calibrate(tq.compress(data.teacher, {PATTERN: edits})).eval()
        rows.append(common.averaged(f"{name}, to nearest", "ablation", [data.scores(student)]))
        masked = isinstance(edits[0], tq.TwoFour)
        arms = {"compensated": {}} | ({} if masked else {"by size": {"by_size": True}})
        found = {arm: [] for arm in arms} | ({"norms of inputs": []} if masked else {})
        for seed in seeds:
            batches = data.looked_at(seed, count)
            for arm, options in arms.items():
                student = tq.calibrate(tq.compress(data.teacher, {PATTERN: edits})).eval()
                tq.compensate(student, batches, **options)
                found[arm].append(data.scores(student))
            if masked:
                student = tq.compress(data.teacher, {PATTERN: edits}).eval()
                remask(student, input_norms(data.teacher, batches))
                found["norms of inputs"].append(data.scores(tq.calibrate(student)))
        roles = {"compensated": "student"}
        rows += [common.averaged(f"{name}, {a}", roles.get(a, "ablation"), found[a]) for a in found]
        print(*rows[-1 - len(found) :], sep="\n", flush=True)
    common.write("compensation", None, rows, args)


if __name__ == "__main__":
    main()
