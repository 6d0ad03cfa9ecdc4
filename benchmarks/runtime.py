"""What compression is worth when it runs: load, memory, latency, bytes, in torch and onnxruntime.

    python benchmarks/runtime.py --only files        # minutes, no times: what is timed later
    python benchmarks/runtime.py --headline   # BERT-base, 1 x 128, 1 thread; agreement, verbs
    python benchmarks/runtime.py --minutes 30        # all cells; what is done already is kept
    python benchmarks/runtime.py --only latency --shapes MiniLM --again

A cell is measured once and written as soon as it is (``--folder``); the table has what is there.
Each contestant is a process of its own (``engines.py``) that holds one model in one engine; in a
cell of latencies they take turns, a turn is one call to warm up and one that counts, and "speedup"
is the median over turns of torch's FP32 seconds over theirs in the same turn: what slows the
machine for a while slows both.

Cells: "files" (can be written on a machine as busy as you like), "load" (seconds, and the resident
memory above what the engine has once it is imported, after a call of 1 x 128), "latency" by
threads, batch and tokens, "profile" (milliseconds by operator), "step" (the training step of a
whole model: 8 x 64 tokens, forward, backward, AdamW), "agreement" (predictions on ATIS, of
onnxruntime against the student in torch, and of torch in double precision; MiniLM's alone) and
"verbs" (the peak of ``compress(inplace=True)`` and of ``pack`` above a model of 1 GiB).

"BERT-base" is a random encoder of that shape with ids alone, no padding; its students are
calibrated. "MiniLM" is all-MiniLM-L6-v2 taught ATIS for two epochs, with a mask; its students are
calibrated, and taught for an epoch with its answers (``runtime_students.py``).
``runtime_models.py`` says what each plan is.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import runtime_cells as others
from common import parser, write
from pareto_lessons import Lessons
from runtime_models import CONTESTANTS, QUICK, calibrated, dense_model, place_of, written
from runtime_students import TASK, learned
from runtime_table import rows_of
from runtime_turns import loads, profiles, turns
from torch import nn

from tqlearn.writing import write as write_file

THREADS, BATCHES, LENGTHS = (1, 2), (1, 8), (32, 128, 384)
KINDS = ("files", "load", "latency", "profile", "step", "agreement", "verbs")
TAUGHT = "MiniLM"
RECIPE = {"data": "atis", "source": "local", "teacher": "minilm", "num_train_epochs": 2,
          "learning_rate": 2e-4, "warmup_steps": 0.06, "disable_tqdm": True}  # fmt: skip


class Shape:
    """A model, its contestants' files, and the cells that need them."""

    def __init__(self, name: str, args: object) -> None:
        self.name, self.args, self.folder = name, args, args.folder / name.replace(" ", "_")
        self.made, self.lessons = None, None

    def student(self, plan: str) -> nn.Module:
        """Return the student of a plan's name: calibrated; MiniLM's are taught as well."""
        student = calibrated(plan, *self.model()[:2])
        if self.name != TAUGHT:
            return student
        file = place_of(self.folder / "taught", plan) / "weights.pt"
        if self.lessons is None and not file.exists():
            model, _, tokenizer = self.model()
            self.lessons = Lessons(TASK, model, tokenizer)
        return learned(student, file, self.lessons, self.args.seed)

    def model(self) -> tuple:
        """Return (model, batches to calibrate on, tokenizer)."""
        if self.made is None:
            self.made = taught(self.args) if self.name == TAUGHT else random_model(self.name)
        return self.made

    def specs(self) -> dict[str, dict]:
        """Return what each process must know; files that are missing are written."""
        found = {}
        for name in QUICK if self.args.quick else CONTESTANTS:
            file = place_of(self.folder, name) / "spec.json"
            if not file.exists():
                begin = time.perf_counter()
                written(name, self.folder, *self.model()[:2], self.student)
                print(
                    f"{self.name}: {name} written, {time.perf_counter() - begin:.0f} s", flush=True
                )
            found[name] = json.loads(file.read_text())
        return found

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each contestant's files."""
        return {name: spec["bytes"] for name, spec in self.specs().items()}


def random_model(shape: str) -> tuple:
    """Return a random model, ids to calibrate on, and no tokenizer."""
    import torch

    model = dense_model(shape)
    return model, [{"input_ids": torch.randint(5, 1000, (4, 48))}], None


def taught(args: object) -> tuple:
    """Return MiniLM that has learned ATIS, sentences of its training data, and its tokenizer."""
    from runs import run_recipe

    from tqlearn import data, teachers

    run_recipe("finetune", args.folder / "teacher", **RECIPE, seed=args.seed)
    model, tokenizer = teachers.load(str(args.folder / "teacher"))
    words = [list(tokens) for tokens in data.load("atis", "local")["train"]["tokens"][:64]]
    batch = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
    return model, [{name: batch[name] for name in ("input_ids", "attention_mask")}], tokenizer


def profiled(shape: Shape, tokens: int) -> dict:
    """Return the milliseconds by operator of each contestant, for one sentence."""
    return profiles(shape.specs(), (1, tokens))


def cells(args: object) -> Iterator[tuple[str, Path, Callable[[], dict]]]:
    """Yield every cell that is asked for: its kind, its file, and what measures it."""
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes]
    for shape in (Shape(name, args) for name in args.shapes):
        at = shape.folder
        yield "files", at / "files.json", lambda s=shape: s.sizes()
        yield "load", at / "load.json", lambda s=shape: loads(s.specs(), args.loads)
        for n, size in ((n, size) for n in args.threads for size in sizes):
            file = at / f"latency_{n}t_{size[0]}x{size[1]}.json"
            yield (
                "latency",
                file,
                lambda s=shape, n=n, size=size: turns(s.specs(), n, size, args.repeats),
            )
        yield "profile", at / "profile.json", partial(profiled, shape, args.profiled)
        if shape.name != TAUGHT:
            yield "step", at / "step.json", lambda s=shape: others.steps(s.name, args)
    if not args.quick:
        file = args.folder / TAUGHT / "agreement.json"
        yield "agreement", file, lambda: others.agreement(Shape(TAUGHT, args))
    yield "verbs", args.folder / "verbs.json", lambda: others.verbs(args.quick)


def measure(args: object) -> None:
    """Measure what is not there yet, until the minutes are over."""
    end = time.monotonic() + 60 * args.minutes
    for kind, file, run in cells(args):
        if kind not in args.only or (file.exists() and not args.again):
            continue
        if time.monotonic() > end:
            print(f"{args.minutes} minutes are over; the next cell is {file}")
            return
        begin = time.perf_counter()
        found = run()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(found, indent=1) + "\n")
        print(f"{file}: {time.perf_counter() - begin:.0f} s", flush=True)


def main() -> None:
    """Measure and write the table."""
    options = parser("runtime", __doc__)
    options.add_argument("--folder", type=Path, default=Path("runs/runtime"))
    options.add_argument("--only", nargs="+", choices=KINDS, default=[*KINDS])
    options.add_argument("--shapes", nargs="+", default=["BERT-base", "MiniLM"])
    options.add_argument("--threads", nargs="+", type=int, default=[*THREADS])
    sizes = [f"{batch}x{tokens}" for batch in BATCHES for tokens in LENGTHS]
    options.add_argument("--sizes", nargs="+", default=sizes, help="sentences x tokens")
    options.add_argument("--repeats", type=int, default=9, help="turns of a cell")
    options.add_argument("--loads", type=int, default=3, help="fresh processes for each load")
    options.add_argument("--profiled", type=int, default=128, help="tokens of the profile")
    options.add_argument("--minutes", type=float, default=1e9, help="begin no cell after these")
    options.add_argument("--headline", action="store_true", help="see above")
    options.add_argument("--again", action="store_true", help="these cells also where they are")
    args = options.parse_args()
    args.folder = args.folder.resolve()  # the processes run elsewhere
    if args.headline:
        args.shapes, args.sizes, args.threads = ["BERT-base"], ["1x128"], [1]
        args.only = [kind for kind in KINDS if kind != "files"]
    if args.quick:
        args.shapes, args.sizes, args.threads = ["tiny"], ["1x16"], [1]
        args.repeats, args.loads, args.profiled = 1, 1, 16
    measure(args)
    rows, extra = rows_of(args.folder)
    write("runtime", None, rows, args, repeats=args.repeats, **extra)


if __name__ == "__main__":
    main()
