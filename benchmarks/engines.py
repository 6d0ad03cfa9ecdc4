"""One model in one engine, as a fresh process holds it: load it, call it, see what it costs.

    python benchmarks/engines.py '{"engine": "onnx", "file": "model.onnx", "threads": 1}'

Reads one JSON from each line of its input and answers with one: {"do": "load"}, {"do": "call",
"batch": 1, "tokens": 128, "calls": 1}, {"do": "profile", ...}. ``runtime.py`` lets several such
processes take turns. Only what an engine needs is imported: onnxruntime's has no torch in it.

Engines: "torch" (a folder of transformers), "torch int8" (the same, dynamic quantization as it is
loaded), "packed" (a folder of tqlearn), "onnx" (a file), "step" (a training step: the model is
built from ``plan`` and ``shape``, and "call" is forward, backward and AdamW).
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident():
    """Bytes of this process that are in memory; Linux alone says so."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def peak():
    """The largest ``resident`` since ``forget_peak``, or since the start."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not count the memory of a process")


def forget_peak():
    """Count ``peak`` from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def session(file, optimized=None, threads=1, profile=None):
    """Return a session of onnxruntime on the CPU.

    Args:
        optimized: gets the graph that it runs.
        profile: beginning of a file's name for the time of every node.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def ids_of(batch, tokens):
    """Return token ids of this size, always the same."""
    return np.random.default_rng(0).integers(5, 1000, (batch, tokens))


class Onnx:
    """onnxruntime; ``inputs`` beside the ids are masks of ones."""

    def __init__(self, spec):
        import onnxruntime  # noqa: F401  (before the clock starts)

        self.spec = spec

    def load(self, **options):
        self.engine = session(self.spec["file"], threads=self.spec["threads"], **options)
        self.names = [value.name for value in self.engine.get_inputs()]

    def given(self, batch, tokens):
        ids = ids_of(batch, tokens)
        return {name: ids if name == "input_ids" else np.ones_like(ids) for name in self.names}

    def call(self, given):
        return self.engine.run(None, given)

    def profile(self, given):
        """Milliseconds of one call by operator, the most first."""
        start = Path(self.spec["file"]).with_suffix(".profile")
        self.load(profile=start)
        for _ in range(7):
            self.call(given)
        file, nodes = Path(self.engine.end_profiling()), {}
        for event in json.loads(file.read_text()):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                key = event["args"]["op_name"], event["name"]
                nodes.setdefault(key, []).append(event["dur"])
        file.unlink()
        spent = {}
        for (name, _), times in nodes.items():
            spent[name] = spent.get(name, 0) + median(times) / 1e3
        return {name: round(ms, 3) for name, ms in sorted(spent.items(), key=lambda p: -p[1])}


class Torch:
    """A folder in torch, as ``from_pretrained`` reads it."""

    def __init__(self, spec):
        import torch
        import transformers

        torch.set_num_threads(spec["threads"])
        transformers.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
        rooms = [transformers]
        if spec["engine"] == "packed" or not hasattr(transformers, spec["kind"]):
            import tqlearn.hf

            rooms.append(tqlearn.hf)
        self.spec, self.torch = spec, torch
        self.kind = next(getattr(r, spec["kind"]) for r in rooms if hasattr(r, spec["kind"]))

    def load(self):
        self.model = self.kind.from_pretrained(self.spec["file"]).eval()
        if self.spec["engine"] == "torch int8":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it announces its successor at every call
                self.model = self.torch.ao.quantization.quantize_dynamic(
                    self.model, {self.torch.nn.Linear}, dtype=self.torch.qint8, inplace=True
                )

    def given(self, batch, tokens):
        ids = self.torch.from_numpy(ids_of(batch, tokens))
        return {name: ids if name == "input_ids" else ids * 0 + 1 for name in self.spec["inputs"]}

    def call(self, given):
        with self.torch.inference_mode():
            return self.model(**given)

    def profile(self, given):
        """Milliseconds of one call by operator, the most first."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as found:
            self.call(given)
        spent = {e.key: round(e.self_cpu_time_total / 1e3, 3) for e in found.key_averages()}
        order = sorted(spent.items(), key=lambda pair: -pair[1])
        return {name: ms for name, ms in order if ms >= 0.05}


class Step(Torch):
    """A training step of a random model: forward, backward, AdamW."""

    def __init__(self, spec):
        import torch

        torch.set_num_threads(spec["threads"])
        self.spec, self.torch = spec, torch

    def load(self):
        from runtime_models import trained

        self.torch.manual_seed(0)
        self.model = trained(self.spec["shape"], self.spec["plan"])
        self.optimizer = self.torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def given(self, batch, tokens):
        ids = self.torch.from_numpy(ids_of(batch, tokens)) % self.model.config.vocab_size
        return {"input_ids": ids, "labels": self.torch.arange(batch) % 2}

    def call(self, given):
        self.optimizer.zero_grad()
        loss = self.model(**given).loss
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


ENGINES = {"onnx": Onnx, "torch": Torch, "torch int8": Torch, "packed": Torch, "step": Step}


def timed(engine, given, calls):
    """Seconds of a call, the mean of some; one before them warms the caches, but of a step."""
    if not isinstance(engine, Step):
        engine.call(given)
    begin = time.perf_counter()
    for _ in range(calls):
        engine.call(given)
    return (time.perf_counter() - begin) / calls


def answer(engine, do, batch=1, tokens=128, calls=1):
    """Return what a request asks for."""
    if do == "load":
        empty, begin = resident(), time.perf_counter()
        engine.load()
        took = time.perf_counter() - begin
        engine.call(engine.given(batch, tokens))
        return {"seconds": took, "resident": resident() - empty, "peak": peak() - empty}
    given = engine.given(batch, tokens)
    if do == "profile":
        return engine.profile(given)
    return timed(engine, given, calls)


def main():
    """Answer until the input ends."""
    spec = json.loads(sys.argv[1])
    engine = ENGINES[spec["engine"]](spec)
    for line in sys.stdin:
        print(json.dumps(answer(engine, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
