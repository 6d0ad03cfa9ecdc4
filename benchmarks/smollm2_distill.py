"""SmolLM2-135M at 2 and 3 bits, taught again by its float self: perplexity, steps and hours.

    export TQLEARN_DATA=FOLDER
    python benchmarks/smollm2_distill.py --rows "2 bits, distilled" "2 bits, start" float
    python benchmarks/smollm2_distill.py --rows "3 bits, distilled" "3 bits, start"
    python benchmarks/smollm2_distill.py --rows "2 bits, on labels" "float, on labels"

A student starts from ``smollm2.py``'s "rescaled GPTQ by size": the matrices of the layers at so
many bits per 64, scales for the inputs, then error compensation; the table of words, which is the
output layer too, stays in floats and does not learn. Error compensation leaves every weight in the
middle of its step, and it takes half a step to give it another code: so rates are larger than those
for floats, and at first scales and norms do most. A student learns for a number of steps, one walk
through the text, that was fixed beforehand, for an hour of one core with all that belongs to a row:
AdamW on SQuAD's training paragraphs, KL of the next token from the float model's
(``CausalLosses``), in bfloat16. "On labels" are the controls: the same steps with the text's own
next words and no teacher, for the start at 2 bits and for the float model, which tells what the
text itself is worth. Each arm's learning rate is the one of the least loss after a few steps (rows
"..., rate R"), on training paragraphs that are held out. All rows are judged as in ``smollm2.py``,
by text that nothing is chosen by; KL is from the float model.

``--minutes N`` stops in time: a run lies in ``--work`` with a checkpoint every few steps, and the
next call goes on from there, to the bit. Rows that the JSON holds with the same settings are kept.
Hours are those of the processor, of one thread. ``--quick`` takes a tiny Llama and 4 steps.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import common
import torch
from smollm2 import LAYERS, Subject, kept, smollm2, tiny
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments, set_seed

import tqlearn as tq
from tqlearn import writing
from tqlearn.hf import CausalLosses, DistillTrainer, evaluate_language
from tqlearn.hf.resuming import newest_checkpoint

PER = 64
SOFT, LABELS = CausalLosses(), CausalLosses(soft=0, task=1)
ARMS = {  # name -> (bits, losses, role): None for floats, None for no training
    "float": (None, None, "baseline"),
    "2 bits, start": (2, None, "ablation"),
    "2 bits, distilled": (2, SOFT, "student"),
    "3 bits, start": (3, None, "ablation"),
    "3 bits, distilled": (3, SOFT, "student"),
    "2 bits, on labels": (2, LABELS, "ablation"),
    "float, on labels": (None, LABELS, "ablation"),
}


@dataclass
class Lessons:
    """How long students learn, and from what; sizes of a batch in windows, of windows in tokens."""

    window: int = 512
    batch: int = 2
    steps: int = 128
    held_out: int = 16  # windows at the end of the training text
    rates: tuple = (3e-4, 1e-3, 3e-3)
    pilot: int = 12  # steps for each rate
    scale_share: float = 0.25  # of the rate, for scales
    save_every: int = 16


QUICK = Lessons(64, 2, steps=4, held_out=2, rates=(1e-3, 1e-2), pilot=2, save_every=2)


class OutOfTime(Exception):
    """The minutes are over; what was done lies in a checkpoint."""


class Clock(TrainerCallback):
    """Keep a run's hours beside its checkpoints, and stop with a checkpoint at a deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.before, self.begin = deadline, 0.0, 0.0

    def hours(self) -> float:
        """Hours of the processor for the steps so far, those before a stop included."""
        return self.before + (time.process_time() - self.begin) / 3600

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin where the checkpoint was."""
        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "clock.json"
        self.before = json.loads(file.read_text())["hours"] if file.exists() else 0.0
        self.begin = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop in time."""
        if time.monotonic() > self.deadline:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        """Write the hours down."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        writing.write(folder / "clock.json", json.dumps({"hours": self.hours()}) + "\n")


@dataclass
class School:
    """The teacher, the windows it teaches with, and where students are kept."""

    subject: Subject
    taught: torch.Tensor  # (windows, tokens)
    held_out: torch.Tensor
    lessons: Lessons
    work: Path
    deadline: float
    seed: int

    def start(self, bits: int | None) -> torch.nn.Module:
        """The student before its lessons, made once."""
        if bits is None:
            student = tq.compress(self.subject.model, {"*": []})
        else:
            folder = self.work / f"start-{bits}"
            if not folder.exists():
                made = started(self.subject, bits)
                with writing.folder_beside(folder) as new:
                    made.save_pretrained(new)
            student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for table in (student.get_input_embeddings(), student.get_output_embeddings()):
            table.weight.requires_grad_(False)
        return student

    def learned(self, name: str, rate: float, steps: int) -> tuple[torch.nn.Module, dict]:
        """The student of an arm after so many steps at a rate, and what that took.

        Raises:
            OutOfTime: it is not finished yet.
        """
        bits, losses, _ = ARMS[name]
        student, lessons = self.start(bits), self.lessons
        folder = self.work / f"{name.replace(', ', '-').replace(' ', '_')}-{rate:g}-{steps}"
        training = TrainingArguments(
            str(folder), max_steps=steps, learning_rate=rate, lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 16), weight_decay=0.0, seed=self.seed, bf16=True,
            per_device_train_batch_size=lessons.batch, save_steps=lessons.save_every,
            save_total_limit=2, logging_steps=1, use_cpu=True, report_to="none",
            disable_tqdm=True, dataloader_pin_memory=False, resume_from_checkpoint="last",
        )  # fmt: skip
        clock, rows = Clock(self.deadline), [{"input_ids": row} for row in self.taught]
        set_seed(self.seed)
        trainer = DistillTrainer(
            student, training, train_dataset=rows, losses=losses, attention=None,
            teacher=self.subject.model if losses.soft else None, callbacks=[clock],
            scale_learning_rate=lessons.scale_share * rate,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=newest_checkpoint(training))
        if trainer.state.global_step < steps:
            raise OutOfTime(f"{name}: {trainer.state.global_step} of {steps} steps")
        terms = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        few = max(1, steps // 16)
        record = {
            "steps": steps,
            "tokens_seen": steps * lessons.batch * lessons.window,
            "hours": round(clock.hours(), 3),
            "learning_rate": rate,
            "first_loss": round(sum(terms[:few]) / few, 4),
            "last_loss": round(sum(terms[-few:]) / few, 4),
        }
        return student.eval(), record

    def pilot(self, name: str, rate: float) -> dict:
        """The row of a rate: the loss of held-out windows after a few steps."""
        student, record = self.learned(name, rate, self.lessons.pilot)
        found, plain = [], tq.bake(student)
        soft = ARMS[name][1].soft
        reference = {"reference": self.subject.model} if soft else {}
        for row in self.held_out:
            found.append(evaluate_language(plain, row, window=len(row) - 1, **reference))
        key = "kl" if soft else "nll"
        metrics = {f"held_out_{key}": round(sum(one[key] for one in found) / len(found), 4)}
        return {"model": f"{name}, rate {rate:g}", "role": "ablation", "metrics": metrics | record}

    def row(self, name: str, rate: float | None) -> dict:
        """The row of an arm, judged."""
        bits, losses, role = ARMS[name]
        if losses is None:
            student, record = self.start(bits), {}
        else:
            student, record = self.learned(name, rate, self.lessons.steps)
        subject, size = self.subject, tq.report(student).file
        sizes = {key: subject.settings[key] for key in ("window", "stride")}
        apart = {} if name == "float" else {"reference": subject.model}
        found = evaluate_language(tq.bake(student), subject.ids, subject.text, **sizes, **apart)
        metrics = {key: round(float(value), 4) for key, value in found.items()} | record
        return {"model": name, "role": role, "metrics": metrics, "bytes": {"file": size}}


def started(subject: Subject, bits: int) -> torch.nn.Module:
    """Scales for the inputs and error compensation, as in ``smollm2.py``."""
    ids, edit = subject.looked_at, tq.LSQ(bits=bits, init="mse", per=PER)
    window = min(512, len(ids))
    batches = [{"input_ids": ids[None, k : k + window]} for k in range(0, len(ids), window)]
    student = tq.calibrate(tq.compress(subject.model, {LAYERS: [edit]}))
    tq.rescale(student, batches)
    tq.compensate(student, batches, by_size=True)
    return student


def texts(quick: bool, tokens: int) -> tuple[Subject, torch.Tensor]:
    """The subject, and the ids of all training text."""
    if quick:
        text = "\n".join(tq.data.load("flight_text")["train"]["text"])[:1999]
        return tiny(), torch.tensor([*text.encode()])
    _, tokenizer = tq.teachers.load("smollm2")
    text = "\n\n".join(tq.data.load("squad_paragraphs", source="local")["train"]["text"])
    return smollm2(tokens), torch.tensor(tokenizer(text, verbose=False)["input_ids"])


def main():
    """Measure what is missing, and write the table after each row."""
    parser = common.parser("smollm2_distill", __doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, help="stop after this time, with a checkpoint")
    parser.add_argument("--work", type=Path, default=Path("runs/smollm2_distill"))
    args = parser.parse_args()
    names = args.rows or [*ARMS]
    if unknown := set(names) - set(ARMS):
        parser.error(f"no such rows: {sorted(unknown)}; there are {[*ARMS]}")
    deadline = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
    torch.set_num_threads(1)
    subject, ids = texts(args.quick, args.tokens)
    lessons = QUICK if args.quick else Lessons()
    windows = ids[: len(ids) // lessons.window * lessons.window].view(-1, lessons.window)
    taught, held_out = windows[: -lessons.held_out], windows[-lessons.held_out :]
    settings = subject.settings | {"per": PER}  # windows of the text that judges, and of lessons
    settings["lessons"] = vars(lessons) | {"rates": [*lessons.rates]}
    settings |= {"taught": f"{len(taught)} windows", "precision": "bfloat16 in training"}
    rows = kept(args, settings)
    school = School(subject, taught, held_out, lessons, args.work, deadline, args.seed)
    try:
        for name in names:
            fill(name, rows, school, args, settings)
    except OutOfTime as stop:
        print(f"{stop}; not finished within {args.minutes:g} minutes, call again", flush=True)


def fill(name: str, rows: dict, school: School, args: object, settings: dict) -> None:
    """Bring in the rows of an arm that are missing."""
    if name in rows:
        print(f"{name}: measured before, kept", flush=True)
        return
    rates = {}
    for rate in school.lessons.rates if ARMS[name][1] else ():
        tried = f"{name}, rate {rate:g}"
        if tried not in rows:
            add(rows, school.pilot(name, rate), args, settings)
            for folder in school.work.glob(f"*-{rate:g}-{school.lessons.pilot}"):
                shutil.rmtree(folder)  # 2 GB
        rates[rate] = min(v for k, v in rows[tried]["metrics"].items() if "held_out" in k)
    if time.monotonic() > school.deadline:
        raise OutOfTime(f"{name}: not begun")
    add(rows, school.row(name, min(rates, key=rates.get) if rates else None), args, settings)


def add(rows: dict, row: dict, args: object, settings: dict) -> None:
    """Write the table with one more row, in the order of the arms."""
    print(row, flush=True)
    rows[row["model"]] = row
    order = sorted(rows, key=lambda name: [name.startswith(arm) for arm in ARMS].index(True))
    common.write("smollm2_distill", None, [rows[n] for n in order], args, settings=settings)


if __name__ == "__main__":
    main()
