"""Half of the encoder's weights at zero: patterns and scores as pruned, and three ways to train.

    python benchmarks/two_four_training.py

The embedded teacher with an N:M mask on every matrix of its encoder. First as pruned, by magnitude
and by |w| times the norm of the input. Then after 300 steps of soft labels from the dense teacher,
with a fixed mask, straight through, and with SR-STE at its default and at a hundred times its
decay; a dense copy takes the same lessons for comparison.
Accuracies are means over three seeds; ``flips`` counts pairs of weights that changed places from
one step to the next, ``moved`` those between the first mask and the last. ``--quick`` takes one
pattern, one seed and 3 steps.
"""

import common
import torch

import tqlearn as tq
from tqlearn.distill import soft_labels
from tqlearn.hf import JointCollator, encode_joint, evaluate_joint
from tqlearn.sparsity.wanda import input_norms, remask
from tqlearn.stages import mask_of

PATTERNS = ("1:2", "2:4", "4:8", "8:16", "4:8 pairs", "1:4")
TRAINED = ("2:4", "1:4")
UPDATES = {
    "fixed": {"update": "fixed"},
    "STE": {"update": "ste"},
    "SR-STE 0.0002": {"update": "sr-ste", "decay": 2e-4},
    "SR-STE 0.02": {"update": "sr-ste", "decay": 2e-2},
}
RATE = 5e-4  # of Adam; it falls to a twentieth


class Lessons:
    """Teacher, its answers to all training batches, and the loop."""

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

    def student(self, pattern: str, **options) -> torch.nn.Module:
        """The teacher with masks on its encoder."""
        edit = tq.TwoFour(pattern, **options)
        return tq.compress(self.teacher, {"*.encoder.*": [edit]}).eval()

    def distill(self, model: torch.nn.Module, steps: int, seed: int) -> dict:
        """Soft labels for ``steps`` batches in random order; count what changes places."""
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        generator = torch.Generator().manual_seed(seed)
        first = last = masks(model)
        flips = 0
        for k in torch.randint(len(self.batches), (steps,), generator=generator).tolist():
            batch, answer = self.batches[k], self.answers[k]
            mine = model(batch["input_ids"], attention_mask=batch["attention_mask"])
            words = batch["slot_labels"] != -100
            loss = soft_labels(mine.slot_logits, answer.slot_logits, mask=words)
            loss = loss + soft_labels(mine.intent_logits, answer.intent_logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            now = masks(model)
            flips, last = flips + changed(last, now), now
        return self.scores(model) | {"flips": flips, "moved": changed(first, last)}


def masks(model: torch.nn.Module) -> list[torch.Tensor]:
    """Every mask of a model, as it stands at this moment."""
    found = [mask_of(module) for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return [mask for mask in found if mask is not None]


def changed(before: list[torch.Tensor], after: list[torch.Tensor]) -> int:
    """Pairs of weights that have changed places: one came, one went."""
    return sum(int((a != b).sum()) for a, b in zip(before, after, strict=True)) // 2


def as_pruned(lessons: Lessons, patterns: tuple[str, ...]) -> list[dict]:
    """Every pattern by both scores, without a lesson."""
    norms, rows = input_norms(lessons.teacher, lessons.batches), []
    for pattern in patterns:
        student = lessons.student(pattern)
        rows.append(common.averaged(f"{pattern}, magnitude", "ablation", [lessons.scores(student)]))
        aware = lessons.scores(remask(student, norms))
        rows.append(common.averaged(f"{pattern}, activation-aware", "ablation", [aware]))
    return rows


def main():
    """Measure both tables and write them."""
    parser = common.parser("two_four_training", __doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = 3 if args.quick else args.steps
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    lessons = Lessons()
    rows = [common.averaged("teacher", "baseline", [lessons.scores(lessons.teacher)])]
    rows += as_pruned(lessons, ("2:4",) if args.quick else PATTERNS)
    for pattern in ("2:4",) if args.quick else TRAINED:
        for name, options in UPDATES.items():
            found = [lessons.distill(lessons.student(pattern, **options), steps, s) for s in seeds]
            rows.append(common.averaged(f"{pattern}, {name}, {steps} steps", "student", found))
            print(rows[-1], flush=True)
    dense = {"*.encoder.*": []}
    found = [lessons.distill(tq.compress(lessons.teacher, dense).eval(), steps, s) for s in seeds]
    rows.append(common.averaged(f"dense, {steps} steps", "peer", found))
    common.write("two_four_training", "Deep Compression", rows, args)


if __name__ == "__main__":
    main()
