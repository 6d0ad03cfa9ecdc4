"""The cells of ``runtime.py`` that are no latency: training steps, predictions, memory of verbs."""

import json
import subprocess

import runtime_turns
import torch
from engines import forget_peak, peak, resident, session
from runtime_models import BARES, PLANS, STEPS, compressed, pruned

import tqlearn as tq

GIB = 2**30
MODELS = ("layers", "table")
CODE = "import sys, runtime_cells; runtime_cells.verb(*sys.argv[1:])"


def steps(shape: str, args: object) -> dict[str, list[float]]:
    """Return the seconds of a training step by what is trained, in turns."""
    size, names = ((2, 8), STEPS) if args.quick else ((8, 64), (*STEPS, *BARES))
    specs = {name: {"engine": "step", "shape": shape, "plan": name} for name in names}
    return runtime_turns.turns(specs, 1, size, max(1, args.repeats // 2))


class Engine:
    """A session of onnxruntime that is called as a joint model of transformers is."""

    training, device = False, torch.device("cpu")

    def __init__(self, file: str, config: object) -> None:
        self.engine, self.config = session(file), config

    def eval(self) -> "Engine":
        """Return itself."""
        return self

    def train(self, mode: bool) -> "Engine":
        """Return itself."""
        return self

    def __call__(self, **batch: torch.Tensor) -> object:
        names = [value.name for value in self.engine.get_outputs()]
        wanted = {value.name for value in self.engine.get_inputs()}
        found = self.engine.run(None, {k: x.numpy() for k, x in batch.items() if k in wanted})
        return type("Output", (), dict(zip(names, map(torch.from_numpy, found), strict=True)))


def agreement(shape: object) -> dict[str, dict]:
    """Return the metrics of each student in torch and in onnxruntime, and how often they agree."""
    from tqlearn import data
    from tqlearn.hf import joint_metrics, predict_joint

    model, batches, tokenizer = shape.model()
    split = data.load("atis", "local")["test"]
    gold = [*split["intent"]], [*split["slots"]]
    found, specs = {}, shape.specs()
    students = {"ORT FP32": lambda: model} | {
        f"{name} in ORT": lambda name=name: compressed(
            pruned(model) if name.startswith("block") else model, PLANS[name], batches
        )
        for name in PLANS
    }
    for name, make in students.items():
        if name not in specs:
            continue
        engine = Engine(specs[name]["file"], model.config)
        pairs = [predict_joint(one, tokenizer, split["tokens"]) for one in (make(), engine)]
        (intents, slots), (their_intents, their_slots) = pairs
        found[name] = {
            "torch": joint_metrics(gold[0], intents, gold[1], slots),
            "ort": joint_metrics(gold[0], their_intents, gold[1], their_slots),
            "same_intents": equal(intents, their_intents),
            "same_slots": equal(sum(slots, []), sum(their_slots, [])),
        }
        print(name, found[name], flush=True)
    return found


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
