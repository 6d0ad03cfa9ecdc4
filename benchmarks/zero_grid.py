"""A place for zero or none: the embedded teacher pruned 2:4, then 4 or 2 bits, trained a little.

    python benchmarks/zero_grid.py

Twelve matrices of the encoder are pruned by magnitude and quantized with SAWB, on the grid with a
zero and on the one without, each behind a line fitted for 2:4 weights and behind the published
one, which is for dense weights. Every student is measured as calibrated and after 100 steps of soft
labels (means over three seeds), and in two ways: as the training sees it, and with every pruned
weight at exactly zero, as hardware for sparse matrices would run it. ``answers_changed`` is the
share of test sentences on which these two differ in the intent or a slot. ``--quick`` takes one
seed, 4 bits and 2 steps.
"""

from copy import deepcopy
from statistics import mean

import common
import torch

import tqlearn as tq
from tqlearn.distill import soft_labels
from tqlearn.hf import JointCollator, encode_joint, evaluate_joint, predict_joint
from tqlearn.stages import mask_of

RATE = 5e-4  # falls to a twentieth
# for 2:4 weights, zeros in the statistics; all but the first fitted as in notebook 05
LINES = {
    (4, True): tq.quantizers.sawb.MASKED["masked"],
    (4, False): (12.4, -15.7),
    (2, True): (2.46, -1.54),
    (2, False): (2.30, -1.45),
}


class Lessons:
    """Teacher, its answers to all training batches, the students and their training."""

    def __init__(self) -> None:
        self.teacher, self.tokenizer = tq.teachers.load("embedded")
        flights = tq.data.load("flights")
        config, collate = self.teacher.config, JointCollator(self.tokenizer)
        encoded = encode_joint(flights, self.tokenizer, config.intent_labels, config.slot_labels)
        rows = sorted(encoded["train"], key=lambda row: row["length"])
        self.batches = [collate(rows[k : k + 32]) for k in range(0, len(rows) - 31, 32)]
        with torch.no_grad():
            self.answers = [self.teacher(**batch) for batch in self.batches]
        self.test = flights["test"]

    def student(self, edits: list) -> torch.nn.Module:
        """The teacher with these edits on the matrices of its encoder."""
        return tq.calibrate(tq.compress(self.teacher, {"bert.encoder.*": edits})).eval()

    def distill(self, model: torch.nn.Module, steps: int, seed: int) -> None:
        """Soft labels for ``steps`` batches in random order; clips follow, no dropout."""
        for module in model.modules():
            if isinstance(module, tq.quantizers.SAWB):
                module.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        generator = torch.Generator().manual_seed(seed)
        for k in torch.randint(len(self.batches), (steps,), generator=generator).tolist():
            batch, answer = self.batches[k], self.answers[k]
            mine = model(batch["input_ids"], attention_mask=batch["attention_mask"])
            loss = soft_labels(mine.intent_logits, answer.intent_logits)
            words = batch["slot_labels"] != -100
            loss = loss + soft_labels(mine.slot_logits, answer.slot_logits, mask=words)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()

    def measure(self, model: torch.nn.Module) -> dict:
        """Scores as the training sees the model and as deployed, and how many answers differ."""
        sparse = deployed(model)
        tokens = self.test["tokens"]
        seen, run = (
            list(zip(*predict_joint(m, self.tokenizer, tokens), strict=True))
            for m in (model, sparse)
        )
        found, there = (evaluate_joint(m, self.tokenizer, self.test) for m in (model, sparse))
        return {
            "intent_accuracy": found["intent_accuracy"],
            "slot_f1": found["slot_f1"],
            "slot_f1_deployed": there["slot_f1"],
            "answers_changed": 100 * mean(float(a != b) for a, b in zip(seen, run, strict=True)),
        }


def deployed(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with plain weights in which every pruned one is exactly zero."""
    masks = {name: mask_of(module) for name, module in model.named_modules()}
    plain = tq.bake(deepcopy(model))
    with torch.no_grad():
        for name, mask in masks.items():
            if mask is not None:
                plain.get_submodule(name).weight.mul_(mask)
    return plain


def students(bits: tuple[int, ...]) -> dict[str, list]:
    """Name -> edits of every student."""
    found = {"2:4": [tq.TwoFour()]}
    for b in bits:
        for zero in (True, False):
            grid = f"2:4, {b} bits {'with' if zero else 'without'} a zero"
            own = tq.SAWB(b, zero, coefficients=LINES[b, zero])
            found[f"{grid}, line for 2:4"] = [tq.TwoFour(), own]
            found[f"{grid}, dense line"] = [
                tq.TwoFour(),
                tq.SAWB(b, zero, statistics="dense"),
            ]
    return found


def main():
    """Measure and write the table."""
    parser = common.parser("zero_grid", __doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = 2 if args.quick else args.steps
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    lessons = Lessons()
    rows = [common.averaged("teacher", "baseline", [lessons.measure(lessons.teacher)])]
    for zero in (True, False):
        name = f"dense, 4 bits {'with' if zero else 'without'} a zero"
        student = lessons.student([tq.SAWB(4, zero)])
        rows.append(
            common.averaged(f"{name}, as calibrated", "ablation", [lessons.measure(student)])
        )
    for name, edits in students((4,) if args.quick else (4, 2)).items():
        student = lessons.student(edits)
        rows.append(
            common.averaged(f"{name}, as calibrated", "ablation", [lessons.measure(student)])
        )
        scores = []
        for seed in seeds:
            student = lessons.student(edits)
            lessons.distill(student, steps, seed)
            scores.append(lessons.measure(student))
        rows.append(common.averaged(f"{name}, trained", "student", scores))
        print(rows[-2], rows[-1], sep="\n", flush=True)
    common.write("zero_grid", "Deep Compression", rows, args)


if __name__ == "__main__":
    main()
