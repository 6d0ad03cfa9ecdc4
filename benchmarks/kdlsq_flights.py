"""Lesson 11's three students, several seeds on each instruction set: what does a teacher bring?

    python benchmarks/kdlsq_flights.py

The embedded teacher at 2-2-8 learns 120 batches of flights: from the labels alone, from teacher and
labels, from the teacher alone, as on the page. A seed is an order of the batches. Each arm takes
the learning rate whose students (all seeds, this machine's own instruction set) are best on the
validation split; its row is read from the test split. An instruction set changes sums in the
seventh digit, and after a training the second: so a row is a mean over seeds and over the sets that
this machine can play (``tqlearn.lab.portable``), with the lowest and the highest of them.
``--quick`` takes one seed, one set, one arm at two rates and 2 steps.
"""

import json
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from statistics import mean

import common
import torch

import tqlearn as tq
from tqlearn.hf import JointCollator, encode_joint, evaluate_joint
from tqlearn.hf.attention import SCORES
from tqlearn.hf.running import without_dropout
from tqlearn.lab.portable import INSTRUCTION_SETS
from tqlearn.recipes import kdlsq_bert as recipe
from tqlearn.writing import write as write_file

ARMS = {"labels alone": "task", "teacher and labels": "all", "teacher alone": "teacher"}
RATES = (1e-4, 3e-4, 1e-3)  # of weights and clips


class Lessons:
    """The embedded teacher, its answers to every training batch, and the loop of the page.

    With a number of batches, to see whether the script runs, each split has as many (of 32 rows).
    """

    def __init__(self, batches: int | None) -> None:
        self.teacher, self.tokenizer = tq.teachers.load("embedded")
        flights = tq.data.load("flights")
        if batches:
            flights = {name: rows.select(range(32 * batches)) for name, rows in flights.items()}
        config, collate = self.teacher.config, JointCollator(self.tokenizer)
        encoded = encode_joint(flights, self.tokenizer, config.intent_labels, config.slot_labels)
        rows = sorted(encoded["train"], key=lambda row: row["length"])
        self.batches = [collate(rows[k : k + 32]) for k in range(0, len(rows) - 31, 32)]
        self.batches = self.batches[:batches]
        self.few = [
            {name: batch[name] for name in ("input_ids", "attention_mask")}
            for batch in self.batches[::16]
        ]
        self.splits = {split: flights[split] for split in ("validation", "test")}
        self.teacher.set_attn_implementation(SCORES)

    @cached_property
    def answers(self) -> list:
        """What the teacher says to each training batch."""
        with torch.no_grad():
            return [self.look(self.teacher, batch) for batch in self.batches]

    @staticmethod
    def look(model, batch: dict):
        """What the model gives for a batch, with all that the losses compare."""
        return model(**batch, output_hidden_states=True, output_attentions=True)

    def student(self) -> torch.nn.Module:
        """The teacher at 2-2-8, clips where truncation starts them."""
        model = without_dropout(recipe.quantize(self.teacher, self.few, "2-2-8")).eval()
        model.set_attn_implementation(SCORES)
        return model

    def scores(self, model: torch.nn.Module) -> dict:
        """Intents and slots on each split that no batch comes from."""
        return {
            split: {
                key: value
                for key, value in evaluate_joint(model.eval(), self.tokenizer, rows).items()
                if key in ("intent_accuracy", "slot_f1")
            }
            for split, rows in self.splits.items()
        }

    def school(self, wanted: str, rate: float, steps: int, seed: int) -> dict:
        """Train one student; return its scores."""
        model, losses = self.student(), recipe.losses(ground_truth=wanted != "teacher")
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        generator = torch.Generator().manual_seed(seed)
        for k in torch.randint(len(self.batches), (steps,), generator=generator).tolist():
            given = self.look(model, self.batches[k])
            terms = {"task": given.loss}
            if wanted != "task":
                terms = losses(given, self.answers[k], self.batches[k])
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            decay.step()
        return self.scores(model)


def measure(arm: str, rate: float, steps: int, seeds: list[int], batches: int | None) -> list[dict]:
    """One arm's scores, one for each seed, on the instruction set of this process."""
    lessons = Lessons(batches)
    if arm == "teacher":
        return [lessons.scores(lessons.teacher)]
    if arm == "untaught":
        return [lessons.scores(lessons.student())]
    return [lessons.school(ARMS[arm], rate, steps, seed) for seed in seeds]


def elsewhere(arm: str, rate: float, kind: str, work: Path) -> list[dict]:
    """The same in a process of its own on the set ``kind``, or what an earlier one has left."""
    file = work / f"{kind}, {arm}, rate {rate}.json"
    if not file.is_file():
        command = [sys.executable, *sys.argv, "--here", arm, "--rate", str(rate)]
        done = subprocess.run(
            command, env=os.environ | INSTRUCTION_SETS[kind], check=True, stdout=subprocess.PIPE
        )
        work.mkdir(parents=True, exist_ok=True)
        write_file(file, done.stdout.splitlines()[-1])
    return json.loads(file.read_text())


def chosen(arm: str, rates: tuple[float, ...], work: Path) -> tuple[float, str]:
    """The rate that is best on the validation split, and what every rate reached there."""
    slots = {
        rate: mean(run["validation"]["slot_f1"] for run in elsewhere(arm, rate, "native", work))
        for rate in rates
    }
    said = ", ".join(f"{rate}: {found:.1f}" for rate, found in slots.items())
    best = max(slots, key=slots.get)
    return best, f"rate {best}, chosen by slots on validation ({said}); "


def row(arm: str, rates: tuple[float, ...], kinds: tuple[str, ...], work: Path) -> dict:
    """Means over seeds and sets on the test split, the ends of the slots, every run in the note."""
    rate, said = chosen(arm, rates, work) if arm in ARMS else (0.0, "")
    found = {kind: [run["test"] for run in elsewhere(arm, rate, kind, work)] for kind in kinds}
    scores = [score for runs in found.values() for score in runs]
    slots = [score["slot_f1"] for score in scores]
    metrics = {key: round(mean(score[key] for score in scores), 3) for key in scores[0]}
    metrics |= {"slot_f1_low": round(min(slots), 3), "slot_f1_high": round(max(slots), 3)}
    said += "slots " + "; ".join(
        f"{kind} " + ", ".join(f"{score['slot_f1']:.1f}" for score in runs)
        for kind, runs in found.items()
    )
    role = {"teacher": "baseline", "teacher and labels": "student"}.get(arm, "ablation")
    return {"model": arm, "role": role, "metrics": metrics, "note": said}


def main():
    """Measure every arm on every instruction set and write the rows."""
    parser = common.parser("kdlsq_flights", __doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/kdlsq_flights"))
    parser.add_argument("--here", help="measure this arm in this process, and print JSON")
    parser.add_argument("--rate", type=float, help="the learning rate of --here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.here:
        seeds = [*range(args.seed, args.seed + (1 if args.quick else args.seeds))]
        steps, batches = (2, 4) if args.quick else (args.steps, None)
        return print(json.dumps(measure(args.here, args.rate, steps, seeds, batches)))
    kinds, rates, arms = (*INSTRUCTION_SETS,), RATES, ("teacher", "untaught", *ARMS)
    if args.quick:
        kinds, rates, arms = ("native",), RATES[1:], ("untaught", "teacher alone")
    rows = [row(arm, rates, kinds, args.work) for arm in arms]
    common.write("kdlsq_flights", "KDLSQ-BERT", rows, args)


if __name__ == "__main__":
    main()
