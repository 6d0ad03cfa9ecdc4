"""Which signal teaches what: students of the embedded teacher, one compressed shape, many lessons.

    python benchmarks/embedded_distillation.py

Every student starts as the same tensor-train model (rank 8, floats) and gets the same batches of
``flights``; only its loss differs. One row per student, seed and step; a seed sets the batches and
their order. ``hidden_i`` is D of layer i (0: embeddings), ``attention_i`` is A of layer i, both as
in ``tqlearn.distill``, on the first 100 test sentences. Notebook 08 draws the rows. ``--quick``
trains every student for 4 steps, with one seed.
"""

import time

import common
import torch

import tqlearn as tq
from tqlearn import distill
from tqlearn.hf import JointCollator, encode_joint, evaluate_joint
from tqlearn.hf.running import without_dropout
from tqlearn.recipes.qtc import QTCArguments, plan

EXTRA = {"output_hidden_states": True, "output_attentions": True}
SEEDS, CHECKPOINTS = 3, 8  # seeds per student; rows per student and seed, besides step 0
SHORT, LONG = 200, 600  # steps
ALONE = {
    "labels": ("labels",),
    "soft labels": ("soft",),
    "soft labels, T = 4": ("soft",),
    "soft labels, T = 8": ("soft",),
    "hidden": ("hidden",),
    "attention": ("attention",),
    "hidden + attention": ("hidden", "attention"),
    "labels + soft labels": ("labels", "soft"),
    "everything": ("hidden", "attention", "labels", "soft"),
}
RACERS = ("layer by layer", "everything")


def loss(name, step, steps, s, t, batch):
    """Return the loss of the student ``name`` at a step; s, t are both models' outputs."""
    mask, words = batch["attention_mask"], batch["slot_labels"] != -100
    layers, stage = len(t.attentions), len(t.attentions) + 1
    signals = ALONE.get(name, ALONE["everything"])
    if name == "layer by layer":
        stage = distill.LayerSchedule(layers, steps).stage(step)
        signals = signals if stage == layers + 1 else ALONE["hidden + attention"]
    temperature = float(name.partition("T = ")[2] or 1)
    hidden = [hidden_distance(s, t, mask, i) for i in range(min(stage, layers) + 1)]
    maps = [attention_distance(s, t, mask, i) for i in range(min(stage, layers))]
    terms = {
        "labels": s.loss,
        "soft": distill.soft_labels(s.intent_logits, t.intent_logits, temperature)
        + distill.soft_labels(s.slot_logits, t.slot_logits, temperature, mask=words),
        "hidden": hidden[0] + sum(hidden[1:]) / stage,
        "attention": sum(maps) / stage,
    }
    return sum(terms[signal] for signal in signals)


def hidden_distance(s, t, mask, i):
    """Return D of layer i; 0 is the embeddings."""
    return distill.hidden_states(s.hidden_states[i], t.hidden_states[i], mask)


def attention_distance(s, t, mask, i):
    """Return A of layer i, counted from 0."""
    return distill.attentions(s.attentions[i], t.attentions[i], mask)


class School:
    """A teacher, its sentences, and the one shape that all students have."""

    def __init__(self, size=32):
        self.teacher, self.tokenizer = tq.teachers.load("embedded")
        self.teacher.set_attn_implementation("eager")
        self.flights, self.size = tq.data.load("flights"), size
        labels = self.teacher.config.intent_labels, self.teacher.config.slot_labels
        encoded = encode_joint(self.flights, self.tokenizer, *labels)
        self.rows, collate = list(encoded["train"]), JointCollator(self.tokenizer)
        self.collate = collate
        self.probe = collate(list(encoded["test"])[:100])
        with torch.no_grad():
            self.taught = self.teacher(**self.probe, **EXTRA)

    def student(self):
        """Return a new student: the teacher in tensor trains of rank 8, floats."""
        shape = plan(128, QTCArguments(rank=8, embedding_rank=24, bits=32))
        return without_dropout(tq.compress(self.teacher, shape))

    def batches(self, steps, seed):
        """Return ``steps`` batches of sentences of like length."""
        generator = torch.Generator().manual_seed(seed)
        mixed = torch.randperm(len(self.rows), generator=generator).tolist()
        rows = sorted((self.rows[i] for i in mixed), key=lambda row: row["length"])
        stacks = [rows[i : i + self.size] for i in range(0, len(rows), self.size)]
        picks = torch.randint(len(stacks), (steps,), generator=generator).tolist()
        return [self.collate(stacks[i]) for i in picks]

    @torch.no_grad()
    def metrics(self, student):
        """Return every metric of a model; its mode is as before afterwards."""
        training = student.training
        found = evaluate_joint(student.eval(), self.tokenizer, self.flights["test"])
        s, mask = student(**self.probe, **EXTRA), self.probe["attention_mask"]
        for i in range(len(s.hidden_states)):
            found[f"hidden_{i}"] = float(hidden_distance(s, self.taught, mask, i))
        for i in range(len(s.attentions)):
            found[f"attention_{i + 1}"] = float(attention_distance(s, self.taught, mask, i))
        student.train(training)
        return {name: round(value, 4) for name, value in found.items()}

    def train(self, names, steps, seed, every):
        """Train all students side by side on the same batches; return their rows by step."""
        students = {name: self.student().train() for name in names}
        tools = {}
        for name, student in students.items():
            optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.0)
            decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            tools[name] = (optimizer, decay)
        rows = []
        for step, batch in enumerate(self.batches(steps, seed)):
            with torch.no_grad():
                t = self.teacher(**batch, **EXTRA)
            for name, student in students.items():
                optimizer, decay = tools[name]
                optimizer.zero_grad()
                loss(name, step, steps, student(**batch, **EXTRA), t, batch).backward()
                optimizer.step()
                decay.step()
            if (step + 1) % every == 0:
                rows += [
                    row(name, steps, seed, step + 1, self.metrics(student))
                    for name, student in students.items()
                ]
        return rows


def row(name, steps, seed, step, metrics):
    """Return one row; its name says student, length of the training, seed and step."""
    model = f"{name} / {steps} steps / seed {seed} / step {step}"
    role = "student" if name in RACERS else "ablation"
    return {"model": model, "role": role, "metrics": metrics}


def main():
    """Train the students of every seed and write the JSON."""
    args = common.parser("embedded_distillation", __doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    start, school = time.process_time(), School()
    short, long, seeds = (4, 8, 1) if args.quick else (SHORT, LONG, SEEDS)
    checkpoints = 2 if args.quick else CHECKPOINTS
    rows = [{"model": "teacher", "role": "baseline", "metrics": school.metrics(school.teacher)}]
    rows.append(row("every student", 0, args.seed, 0, school.metrics(school.student())))
    for seed in range(args.seed, args.seed + seeds):
        rows += school.train([*ALONE, RACERS[0]], short, seed, short // checkpoints)
        rows += school.train(RACERS, long, seed, long // checkpoints)
        print(f"seed {seed}: {time.process_time() - start:.0f} CPU-seconds so far", flush=True)
    common.write("embedded_distillation", "QTC", rows, args)


if __name__ == "__main__":
    main()
