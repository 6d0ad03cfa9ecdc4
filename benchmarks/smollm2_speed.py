"""SmolLM2-135M when it writes: tokens per second, memory, seconds of loading, bytes of the file.

    TQLEARN_DATA=FOLDER python benchmarks/smollm2_speed.py       # 40 minutes on a quiet machine
    TQLEARN_DATA=FOLDER python benchmarks/smollm2_speed.py --only writes --threads 1 --again
    pip install --no-deps torchao==0.18.0 optimum-quanto==0.2.7 llama-cpp-python==0.3.16 diskcache

Each contestant is a process of its own (``smollm2_engines.py``) that holds one model in one engine.
In a cell they take turns: a turn is one greedy text of 64 tokens behind a prompt of 64, batch 1,
with a cache of keys and values. Tokens per second are those behind the first; "prompt" is the time
to the first. A speed-up is the median over turns of torch's FP32 time over theirs in the same turn:
what slows the machine for a while slows both. "loaded" is the resident memory above what an engine
has once it is imported, "resident" the same when a text has been written, "peak" the most until
then; loading is measured with one thread, in fresh processes.

"W4" are 4 bits with a scale of 16 bits per 64, to nearest, in all matrices of the decoder's layers;
"with the table" has the table of words, which is the output layer too, in the same bits. torchao,
quanto and torch's int8 have the same layers in codes and the table in floats. torchao's int4 is a
model in bfloat16, for which alone its kernel is quick here; torch's bf16 and llama.cpp's own GGUF
have nothing in float32, either. "same_tokens" is how many tokens of the text, from
its beginning, are those of the student in torch; of the model in floats for those that are not
ours.

Cells are kept in ``--folder``, so a run that was stopped goes on. A peer that is not installed is
named, and left out. ``--quick`` takes a tiny random Llama.
"""

import json
import shutil
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median

import common
import torch
from runtime_models import bytes_of, place_of
from runtime_table import speed
from runtime_turns import Process
from smollm2 import LAYERS, TABLE, smollm2, tiny
from smollm2_engines import greedy
from smollm2_peers import VERSIONS, by_quanto, by_torchao, missing_peers
from torch import nn
from transformers import LlamaForCausalLM

import tqlearn as tq
from tqlearn.hf.files import inside
from tqlearn.hf.smollm2 import FILE, PACKAGE
from tqlearn.writing import beside
from tqlearn.writing import write as write_file

ENGINES = "smollm2_engines.py"
INSTALLED = VERSIONS | {"llama-cpp-python": "0.3.16"}
FOUR = tq.LSQ(bits=4, init="mse", per=64, scale_dtype="float16")
PLANS = {"W4": {LAYERS: [FOUR]}, "W4 with the table": {LAYERS: [FOUR], TABLE: [FOUR]}}
CODERS = {  # name -> (a layer -> a peer's, the module that its classes come from)
    "torchao int4": (lambda layer: by_torchao(layer, 4, 64, zero=True),
                     "torchao.prototype.quantization.int4"),
    "torchao int8": (lambda layer: by_torchao(layer, 8, None), "torchao.quantization"),
    "quanto qint4": (lambda layer: by_quanto(layer, 4, 64), "optimum.quanto"),
}  # fmt: skip
CONTESTANTS = {  # name -> (engine, package that it needs)
    "torch FP32": ("torch", None),
    "torch bf16": ("torch bf16", None),
    "torch dynamic int8": ("torch int8", None),
    "W4 packed in torch": ("packed", None),
    "W4 packed in torch, floats kept": ("packed, floats kept", None),
    "W4 in ORT": ("onnx", None),
    "W4 with the table, packed in torch": ("packed", None),
    "W4 with the table in ORT": ("onnx", None),
    "torchao int4": ("whole", "torchao"),
    "torchao int8": ("whole", "torchao"),
    "quanto qint4": ("whole", "optimum-quanto"),
    "llama.cpp Q4_1": ("llama.cpp", "llama-cpp-python"),
}
QUICK = ("torch FP32", "W4 packed in torch", "W4 with the table, packed in torch")
KINDS = ("files", "load", "writes")


class Bench:
    """A model, a prompt, and the files of its contestants."""

    def __init__(self, args: object) -> None:
        self.args, self.folder = args, args.folder
        for made in ("model", "student", "wanted"):  # each once for the same arguments
            setattr(self, made, cache(getattr(self, made)))
        left_out = missing_peers(INSTALLED) if not args.quick else set()
        names = QUICK if args.quick else CONTESTANTS
        self.names = [name for name in names if CONTESTANTS[name][1] not in left_out]

    def model(self) -> tuple[nn.Module, list[int]]:
        """Return the model in floats and the prompt."""
        subject = tiny() if self.args.quick else smollm2(self.args.prompt)
        model = subject.model
        if self.args.quick:  # SmolLM2's output layer is its table
            model.config.tie_word_embeddings = True
            torch.manual_seed(0)
            model = LlamaForCausalLM(model.config).eval()
        return model, subject.ids[: self.args.prompt].tolist()

    def student(self, plan: str) -> nn.Module:
        """Return the calibrated student of a plan's name."""
        return tq.calibrate(tq.compress(self.model()[0], PLANS[plan]))

    def wanted(self, plan: str | None) -> list[int]:
        """Return what a student writes in this process, baked; None for the model in floats."""
        model, prompt = self.model()
        ids = torch.tensor([prompt])
        model = model if plan is None else tq.bake(self.student(plan))
        with torch.inference_mode():
            return model.generate(ids, **greedy(ids, self.args.new))[0, len(prompt) :].tolist()

    def specs(self) -> dict[str, dict]:
        """Return what each process must know; files that are missing are written."""
        found = {}
        for name in self.names:
            file = place_of(self.folder, name) / "spec.json"
            if not file.exists():
                write_file(file, json.dumps(self.written(name, file.parent)))
                print(f"{name}: written", flush=True)
            found[name] = json.loads(file.read_text())
        return found

    def written(self, name: str, folder: Path) -> dict:
        """Write what a contestant runs; return its spec, with the text that it should write."""
        engine, (model, prompt) = CONTESTANTS[name][0], self.model()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan = next((p for p in sorted(PLANS, key=len)[::-1] if name.startswith(p)), None)
        file, spec = folder, {"engine": engine, "prompt": prompt, "wanted": self.wanted(plan)}
        if engine == "llama.cpp":
            file = Path(inside(PACKAGE, FILE))
        elif engine == "whole":
            coder, room = CODERS[name]
            spec["imports"], file = [room], folder / "model.pt"
            dtype = torch.bfloat16 if name == "torchao int4" else torch.float32
            with beside(file) as new:
                torch.save(coded(model, coder, dtype), new)
        elif engine == "onnx":
            file = folder / "model.onnx"
            exported(self.student(plan), file, prompt)
        elif engine.startswith("packed"):
            tq.pack(self.student(plan)).save_pretrained(folder)
        else:
            half = engine == "torch bf16"
            (tq.bake(model).bfloat16() if half else model).save_pretrained(folder)
        size = file.stat().st_size if file.is_file() else bytes_of(folder, "model.*")
        return spec | {"file": str(file), "bytes": size}


def coded(model: nn.Module, coder: object, dtype: torch.dtype) -> nn.Module:
    """Return a copy in ``dtype`` whose layers' matrices a peer holds."""
    model = tq.bake(model).to(dtype)
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, nn.Linear) and fnmatch(name, LAYERS):
            held = coder(layer.requires_grad_(False))
            vars(held).pop("extra_repr", None)  # torchao's, which pickle cannot load
            model.set_submodule(name, held)
    return model


def exported(student: nn.Module, file: Path, prompt: list[int]) -> None:
    """Write a student for onnxruntime, with its cache."""
    ids = torch.tensor([prompt[:4]])
    with torch.inference_mode():
        past = student(ids, use_cache=True).past_key_values
    mask = torch.ones(1, 8, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": past}
    tq.export(student, file, inputs)


def loads(specs: dict[str, dict], repeats: int) -> dict[str, dict]:
    """Return seconds and bytes of loading, the median of some fresh processes; who is tied."""
    found: dict[str, dict] = {}
    for name, spec in specs.items():
        every = []
        for _ in range(repeats):
            with Process(spec, 1, ENGINES) as process:
                every.append(process.ask("load", ids=spec["prompt"], new=4))
                if "table" in name and "torch" in name:
                    found.setdefault(name, {}).update(process.ask("tied"))
        numbers = {key: median(one[key] for one in every) for key in every[0]}
        found[name] = found.get(name, {}) | numbers
        print(name, found[name], flush=True)
    return found


def writes(specs: dict[str, dict], threads: int, repeats: int, new: int) -> dict[str, list[dict]]:
    """Return what each contestant has written in each turn, and how quickly."""
    found: dict[str, list[dict]] = {name: [] for name in specs}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(Process(spec, threads, ENGINES))
            for name, spec in specs.items()
        }
        for name, process in running.items():
            process.ask("load", ids=specs[name]["prompt"], new=4)
        for _ in range(repeats):
            for name, process in running.items():
                found[name].append(process.ask("write", ids=specs[name]["prompt"], new=new))
                print(f"{threads} threads, {name}: {found[name][-1]['per_second']:.2f}", flush=True)
    return found


def same(mine: list[int], wanted: list[int]) -> int:
    """Count the words that are equal before the first that is not."""
    pairs = enumerate(zip(mine, wanted, strict=True))
    return next((k for k, (a, b) in pairs if a != b), len(wanted))


def row_of(name: str, spec: dict, threads: int, turns: dict, loaded: dict) -> dict:
    """Return the row of a contestant with so many threads."""
    mine = turns[name]
    seconds = {n: [1 / one["per_second"] for one in turns[n]] for n in (name, "torch FP32")}
    metrics = {
        "threads": threads,
        "tokens_per_second": round(median(one["per_second"] for one in mine), 3),
        "prompt_seconds": round(median(one["prompt"] for one in mine), 4),
        "same_tokens": min(same(one["words"], spec["wanted"]) for one in mine),
    }
    told = dict(loaded.get(name, {}))
    if "seconds" in told:
        metrics["load_seconds"] = round(told.pop("seconds"), 3)
    engine = CONTESTANTS[name][0]
    role = "student" if name.startswith("W4") else "baseline" if engine == "torch" else "peer"
    return {
        "model": f"{name}, {threads} threads",
        "role": role,
        "metrics": metrics | told,
        "bytes": {"file": spec["bytes"]},
        "speed": speed(seconds["torch FP32"], seconds[name]),
    }


def main() -> None:
    """Measure what is missing and write the table."""
    options = common.parser("smollm2_speed", __doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/smollm2_speed"))
    options.add_argument("--only", nargs="+", choices=KINDS, default=[*KINDS])
    options.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options.add_argument("--prompt", type=int, default=64, help="tokens")
    options.add_argument("--new", type=int, default=64, help="tokens")
    options.add_argument("--repeats", type=int, default=5, help="turns of a cell")
    options.add_argument("--loads", type=int, default=3, help="fresh processes for each load")
    options.add_argument("--again", action="store_true", help="these cells also where they are")
    args = options.parse_args()
    if args.quick:
        args.threads, args.prompt, args.new, args.repeats, args.loads = [1], 8, 8, 1, 1
    args.folder = args.folder.resolve()  # the processes run elsewhere
    bench = Bench(args)
    specs, cells = bench.specs(), {}
    todo = {"load.json": lambda: loads(specs, args.loads)} if "load" in args.only else {}
    for n in args.threads if "writes" in args.only else ():
        todo[f"writes_{n}t.json"] = lambda n=n: writes(specs, n, args.repeats, args.new)
    for name, measure in todo.items():
        file = args.folder / name
        if args.again or not file.exists() or {*specs} - {*json.loads(file.read_text())}:
            write_file(file, json.dumps(measure()))
    for file in args.folder.glob("*.json"):
        cells[file.stem] = json.loads(file.read_text())
    rows = [
        row_of(name, specs[name], n, cells[f"writes_{n}t"], cells.get("load", {}))
        for n in args.threads if f"writes_{n}t" in cells
        for name in bench.names
    ]  # fmt: skip
    if rows:
        settings = {"prompt": args.prompt, "new": args.new, "repeats": args.repeats,
                    "loads": args.loads}  # fmt: skip
        common.write("smollm2_speed", None, rows, args, settings=settings)


if __name__ == "__main__":
    main()
