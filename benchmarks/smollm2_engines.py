"""One decoder in one engine, as a fresh process holds it: load it, let it write, see what it costs.

    python benchmarks/smollm2_engines.py '{"engine": "torch", "file": "FOLDER", "threads": 1}'

Reads one JSON from each line of its input and answers with one: {"do": "load"}, {"do": "write",
"ids": [1, 2, 3], "new": 64}. ``smollm2_speed.py`` lets several such processes take turns. Writing
is greedy, one text, with a cache of keys and values; no word ends it before ``new`` are written.

Engines: "torch" (a folder of transformers), "torch bf16", "torch int8" (the matrices of its layers,
dynamic quantization as it is loaded), "packed" (a folder of tqlearn), "packed, floats kept" (the
same with ``keep_floats``), "whole" (a model as ``torch.save`` has put it into a file, which is how
peers' are kept), "onnx" (a file of ``tqlearn.export`` with its cache), "llama.cpp" (a GGUF file).
"""

import importlib
import json
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
from engines import peak, resident, session


class Clock:
    """What ``generate`` gives its tokens to: each with the time when it came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""


class Torch:
    """A decoder of transformers, by ``generate``."""

    def __init__(self, spec: dict) -> None:
        import torch
        import transformers

        torch.set_num_threads(spec["threads"])
        transformers.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
        warnings.simplefilter("ignore")  # torch's int8 announces its successor at every call
        self.spec, self.torch, self.kind = spec, torch, transformers.AutoModelForCausalLM
        if spec["engine"].startswith("packed"):
            import tqlearn.hf  # noqa: F401  (from_pretrained reads compressed folders)
            from tqlearn.storage.packed import Packed

            self.packed = Packed
        rooms = "models.llama.modeling_llama", "quantizers.auto", "generation.utils"
        for name in (*(f"transformers.{room}" for room in rooms), *spec.get("imports", ())):
            importlib.import_module(name)  # what the first load would, before the clock starts

    def load(self) -> None:
        torch, engine = self.torch, self.spec["engine"]
        if engine == "whole":
            self.model = torch.load(self.spec["file"], weights_only=False).eval()
            return
        dtype = torch.bfloat16 if engine == "torch bf16" else torch.float32
        self.model = self.kind.from_pretrained(self.spec["file"], dtype=dtype).eval()
        if engine == "torch int8":
            torch.ao.quantization.quantize_dynamic(
                self.model.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
            )
        if engine == "packed, floats kept":
            for module in self.model.modules():
                if isinstance(module, self.packed):
                    module.keep_floats = True

    def write(self, ids: list[int], new: int) -> tuple[list[int], list[float]]:
        """Return the words that follow, and when each came, from the beginning of the call."""
        given, clock, begin = self.torch.tensor([ids]), Clock(), time.perf_counter()
        with self.torch.no_grad():  # quanto's layers refuse inference_mode
            found = self.model.generate(given, **greedy(given, new), streamer=clock)
        return found[0, len(ids) :].tolist(), [at - begin for at in clock.times[1:]]

    def tied(self) -> bool:
        """Say whether the output layer multiplies by the table of words."""
        torch, model = self.torch, self.model
        own, other = (
            x.weight for x in (model.get_output_embeddings(), model.get_input_embeddings())
        )
        rows = torch.arange(0, len(own), 97)
        return torch.equal(own[rows] * 1, other[rows] * 1)


def greedy(ids: object, new: int) -> dict:
    """Return what makes ``generate`` write ``new`` words, each the most likely one."""
    return {
        "attention_mask": ids * 0 + 1,
        "max_new_tokens": new,
        "min_new_tokens": new,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }


class Onnx:
    """onnxruntime on a graph with its cache: no torch in the process."""

    def __init__(self, spec: dict) -> None:
        import onnxruntime  # noqa: F401  (before the clock starts)

        self.spec = spec

    def load(self) -> None:
        self.engine = session(self.spec["file"], threads=self.spec["threads"])
        self.outputs = [value.name for value in self.engine.get_outputs()]
        self.empty = {
            value.name: np.zeros(
                [d if isinstance(d, int) else int(k == 0) for k, d in enumerate(value.shape)],
                np.float32,
            )  # one text, no tokens yet
            for value in self.engine.get_inputs() if value.name.startswith("past")
        }  # fmt: skip

    def write(self, ids: list[int], new: int) -> tuple[list[int], list[float]]:
        """See ``Torch``."""
        written, times, begin = [], [], time.perf_counter()
        step, cache, seen = np.array([ids]), self.empty, len(ids)
        for _ in range(new):
            given = {"input_ids": step, "attention_mask": np.ones((1, seen), np.int64)}
            found = dict(zip(self.outputs, self.engine.run(None, given | cache), strict=True))
            step = found["logits"][:, -1:].argmax(-1)
            cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
            written.append(int(step[0, 0]))
            times.append(time.perf_counter() - begin)
            seen += 1
        return written, times


class Llama:
    """llama.cpp by llama-cpp-python."""

    def __init__(self, spec: dict) -> None:
        import llama_cpp

        self.spec, self.kind = spec, llama_cpp.Llama

    def load(self) -> None:
        n = self.spec["threads"]
        self.model = self.kind(
            self.spec["file"], n_ctx=512, n_threads=n, n_threads_batch=n, verbose=False
        )

    def write(self, ids: list[int], new: int) -> tuple[list[int], list[float]]:
        """See ``Torch``."""
        self.model.reset()  # or it would not read again what it has read before
        written, times, begin = [], [], time.perf_counter()
        for word in self._words(ids):
            written.append(int(word))
            times.append(time.perf_counter() - begin)
            if len(written) == new:
                break
        return written, times

    def _words(self, ids: list[int]) -> Iterator[int]:
        return self.model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)


ENGINES = {"onnx": Onnx, "llama.cpp": Llama}


def answer(engine: object, do: str, ids: list[int] = (), new: int = 0) -> dict:
    """Return what a request asks for."""
    if do == "load":
        empty, begin = resident(), time.perf_counter()
        engine.load()
        took = time.perf_counter() - begin
        loaded = resident() - empty
        engine.write(ids, new)
        return {"seconds": took, "loaded": loaded, "resident": resident() - empty,
                "peak": peak() - empty}  # fmt: skip
    if do == "tied":
        return {"tied": engine.tied()}
    words, times = engine.write(ids, new)
    return {"words": words, "prompt": times[0], "per_second": (new - 1) / (times[-1] - times[0])}


def main() -> None:
    """Answer until the input ends."""
    spec = json.loads(sys.argv[1])
    engine = ENGINES.get(spec["engine"], Torch)(spec)
    for line in sys.stdin:
        print(json.dumps(answer(engine, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
