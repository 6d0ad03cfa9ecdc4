"""What learned scales are worth: the embedded teacher at 2, 3 and 4 bits; and 8 bits from scratch.

    python benchmarks/lsq_training.py

First every start value at every number of bits: as calibrated, then (at 2 and 3 bits) after 100
steps of soft labels in which only the scales learn, only the weights, or both. Then the warning of
the QTC spec sheet, section 7: a new model at 8 bits whose scales learn as fast as its weights, or
at a hundredth of that.
Accuracies are means over three seeds. ``--quick`` takes one seed, one number of bits and 2 steps.
"""

from copy import deepcopy

import common
import torch

import tqlearn as tq
from tqlearn.distill import soft_labels
from tqlearn.hf import BertForJointIntentSlot, JointCollator, encode_joint, evaluate_joint

WEIGHT_RATE, SCALE_RATE = 5e-4, 1e-3  # of the students; both fall to a twentieth
SCRATCH_RATE = 1e-3
LEARNERS = {"scales": (0.0, SCALE_RATE), "weights": (WEIGHT_RATE, 0.0)}
LEARNERS["both"] = (WEIGHT_RATE, SCALE_RATE)


class Lessons:
    """Teacher, its answers to all training batches, and the loops."""

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

    def scores(self, model: torch.nn.Module) -> dict:
        """Intents and slots on the test split."""
        found = evaluate_joint(model.eval(), self.tokenizer, self.test)
        return {key: found[key] for key in ("intent_accuracy", "slot_f1")}

    def student(self, bits: int, init: str) -> torch.nn.Module:
        """The teacher with every table and matrix at ``bits`` bits."""
        return tq.calibrate(tq.compress(self.teacher, {"*": [tq.LSQ(bits, init=init)]}))

    def distill(self, model: torch.nn.Module, rates: tuple, steps: int, seed: int) -> None:
        """Soft labels for ``steps`` batches in random order."""
        model.eval()  # no dropout: the answers were given without it
        optimizer = adam(model, *rates)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        for k in self.order(steps, seed):
            batch, answer = self.batches[k], self.answers[k]
            mine = model(batch["input_ids"], attention_mask=batch["attention_mask"])
            loss = soft_labels(mine.intent_logits, answer.intent_logits)
            words = batch["slot_labels"] != -100
            loss = loss + soft_labels(mine.slot_logits, answer.slot_logits, mask=words)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def scratch(self, bits: int | None, scale_rate: float, steps: int, seed: int) -> tuple:
        """Train a new model on the labels; return it and the loss of every step."""
        torch.manual_seed(seed)
        model = BertForJointIntentSlot(deepcopy(self.teacher.config)).eval()
        if bits:
            model = tq.calibrate(tq.compress(model, {"*": [tq.LSQ(bits, init="max")]})).eval()
        optimizer, losses = adam(model, SCRATCH_RATE, scale_rate), []
        for k in self.order(steps, seed):
            loss = model(**self.batches[k]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return model, losses

    def order(self, steps: int, seed: int) -> list[int]:
        """Which batch each step takes."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(self.batches), (steps,), generator=generator).tolist()


def adam(model: torch.nn.Module, rate: float, scale_rate: float) -> torch.optim.Adam:
    """Adam with a learning rate for the scales and one for the rest."""
    parts: dict[bool, list] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[name.endswith(".scale")].append(parameter)
    groups = [{"params": parts[False], "lr": rate}, {"params": parts[True], "lr": scale_rate}]
    return torch.optim.Adam([group for group in groups if group["params"]])


def main():
    """Measure both tables and write them."""
    parser = common.parser("lsq_training", __doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = 2 if args.quick else args.steps
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    lessons = Lessons()
    rows = [common.averaged("teacher", "baseline", [lessons.scores(lessons.teacher)])]
    for bits in (3,) if args.quick else (2, 3, 4):
        for init in ("lsq", "max", "mse"):
            name = f"{bits} bits, {init} start"
            start = lessons.scores(lessons.student(bits, init))
            rows.append(common.averaged(f"{name}, as calibrated", "ablation", [start]))
            for learner, rates in LEARNERS.items() if bits < 4 else ():
                scores = []
                for seed in seeds:
                    student = lessons.student(bits, init)
                    lessons.distill(student, rates, steps, seed)
                    scores.append(lessons.scores(student))
                role = "student" if learner == "both" else "ablation"
                rows.append(common.averaged(f"{name}, {learner} learn", role, scores))
                print(rows[-1], flush=True)
    for bits, rate in ((None, 0.0), (8, 1e-5), (8, SCRATCH_RATE)):
        runs = [lessons.scratch(bits, rate, 2 * steps, seed) for seed in seeds]
        name = f"from scratch, 8 bits, scales at {rate:g}" if bits else "from scratch, FP32"
        late = [next((k for k, x in enumerate(losses) if x < 2), -1) for _, losses in runs]
        note = f"first step with a loss below 2: {', '.join(map(str, late))}; "
        scores = [lessons.scores(model) for model, _ in runs]
        rows.append(common.averaged(name, "ablation" if bits else "peer", scores, note))
        print(rows[-1], flush=True)
    common.write("lsq_training", "LSQ", rows, args)


if __name__ == "__main__":
    main()
