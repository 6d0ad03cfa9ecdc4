"""The cells of ``runtime.py`` that are no latency: training steps, predictions, memory of verbs."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import runtime_turns
import torch
from engines import forget_peak, peak, resident, session
from runtime_models import BARES, PLANS, STEPS
from torch import nn

import tqlearn as tq
from tqlearn.writing import write

GIB = 2**30
MODELS = ("layers", "table")
CODE = "import sys, runtime_cells; runtime_cells.verb(*sys.argv[1:])"


def steps(shape: str, args: object) -> dict[str, list[float]]:
    """Return the seconds of a training step by what is trained, in turns."""
    size, names = ((2, 8), STEPS) if args.quick else ((8, 64), (*STEPS, *BARES))
    specs = {name: {"engine": "step", "shape": shape, "plan": name} for name in names}
    return runtime_turns.turns(specs, 1, size, max(1, args.repeats // 2))


class Called:
    """What ``predict_joint`` asks; it keeps the slot logits of all tokens that are no padding.

    Args:
        call: a batch -> what has ``intent_logits`` and ``slot_logits``.
    """

    training, device = False, torch.device("cpu")

    def __init__(self, call: Callable, config: object) -> None:
        self.call, self.config, self.kept = call, config, []

    def eval(self) -> "Called":
        """Return itself."""
        return self

    def train(self, mode: bool) -> "Called":
        """Return itself."""
        return self

    def __call__(self, **batch: torch.Tensor) -> object:
        output = self.call(**batch)
        self.kept.append(output.slot_logits[batch["attention_mask"].bool()])
        return output

    def logits(self) -> torch.Tensor:
        """Return (tokens, slots) of all calls."""
        return torch.cat(self.kept).double()


def in_onnxruntime(file: str) -> Callable:
    """Return what calls a session of onnxruntime as a joint model of transformers is called."""
    engine = session(file)
    names = [value.name for value in engine.get_outputs()]
    wanted = {value.name for value in engine.get_inputs()}

    def call(**batch: torch.Tensor) -> object:
        found = engine.run(None, {k: x.numpy() for k, x in batch.items() if k in wanted})
        return SimpleNamespace(**dict(zip(names, map(torch.from_numpy, found), strict=True)))

    return call


def agreement(shape: object) -> dict[str, dict]:
    """Return ``compared`` of each student; what is in its folder already is read."""
    model, _, tokenizer = shape.model()
    specs, found = shape.specs(), {}
    students = {"ORT FP32": lambda: model} | {
        f"{name} in ORT": lambda name=name: shape.student(name) for name in PLANS
    }
    for name in (name for name in students if name in specs):
        file = Path(specs[name]["file"]).with_name("agreement.json")
        if not file.exists() or shape.args.again:
            engine = in_onnxruntime(specs[name]["file"])
            write(file, json.dumps(compared(students[name](), engine, tokenizer)))
        found[name] = json.loads(file.read_text())
        print(name, found[name], flush=True)
    return found


def compared(student: nn.Module, engine: Callable, tokenizer: object) -> dict:
    """Return what torch and onnxruntime say of ATIS's test sentences, and how often the same.

    "double" is torch in double precision beside torch in single: what rounding alone does, with no
    other engine in it.
    """
    from tqlearn import data
    from tqlearn.hf import joint_metrics, predict_joint

    split = data.load("atis", "local")["test"]
    calls = {"torch": student, "ort": engine, "double": copy.deepcopy(student).double()}
    models = {name: Called(call, student.config) for name, call in calls.items()}
    with torch.no_grad():
        said = {k: predict_joint(model, tokenizer, split["tokens"]) for k, model in models.items()}
    gold = [*split["intent"]], [*split["slots"]]
    scores = {k: joint_metrics(gold[0], one[0], gold[1], one[1]) for k, one in said.items()}
    logits = models["torch"].logits()
    other = {
        name: same(said["torch"], said[name]) | apart(logits, models[name].logits())
        for name in ("ort", "double")
    }
    both = {"torch": scores["torch"], "ort": scores["ort"], **other["ort"]}
    return both | {"double": scores["double"] | other["double"]}


def apart(mine: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """Return how far logits are from each other, and what that decides.

    "apart" is the percentage of tokens with a logit that differs by more than 0.001, "difference"
    the largest; "other_slots" counts tokens with another largest logit, "margin" is by how much
    the largest of ``mine`` led there, at most.
    """
    difference = (mine - theirs).abs().amax(-1)
    first, second = mine.topk(2).values.unbind(-1)
    other = mine.argmax(-1) != theirs.argmax(-1)
    return {
        "apart": 100 * (difference > 1e-3).double().mean().item(),
        "difference": difference.max().item(),
        "other_slots": int(other.sum()),
        "margin": (first - second)[other].max().item() if other.any() else 0.0,
    }


def same(mine: tuple[list, list], theirs: tuple[list, list]) -> dict[str, float]:
    """Return the percentage of equal intents and of equal slots."""
    return {
        "same_intents": equal(mine[0], theirs[0]),
        "same_slots": equal(sum(mine[1], []), sum(theirs[1], [])),
    }


def equal(mine: list, theirs: list) -> float:
    """Return the percentage of equal entries."""
    return 100 * sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(mine)


def verbs(quick: bool) -> dict[str, dict[str, float]]:
    """Return the peak of each verb over the bytes of the model, in a fresh process."""
    size, found = 2**22 if quick else GIB, {}
    for kind in MODELS:
        command = [*runtime_turns.PYTHON, "-c", CODE, kind, str(size)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=runtime_turns.HERE
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    return found


def verb(kind: str, size: str) -> None:
    """Print the peaks of the verbs on a model of so many bytes, above what was there before it."""
    torch.set_num_threads(1)
    numbers = int(size) // 4
    empty, found = resident(), {}
    width = 4096 if numbers > 2**22 else 256
    if kind == "table":
        model = torch.nn.Sequential(torch.nn.Embedding(numbers // 1024, 1024))
    else:
        layers = [torch.nn.Linear(width, width, bias=False) for _ in range(numbers // width**2)]
        model = torch.nn.Sequential(*layers)
    own = resident() - empty
    for name, do in {
        "compress": lambda: tq.compress(model, {"*": [tq.LSQ(4)]}, inplace=True),
        "calibrate": lambda: tq.calibrate(model),
        "pack": lambda: tq.pack(model),
    }.items():
        forget_peak()
        do()
        found[name] = (peak() - empty) / own
    print(json.dumps(found | {"bytes": own}))
