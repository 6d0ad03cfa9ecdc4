"""A model larger than memory: 8 GB of FP16 shards to 4 bits, layer by layer, killed and resumed.

A random Llama, 4096 wide, is written shard by shard; ``tqlearn.stream`` compresses it in a process
of its own, to 4 bits with a scale per 64 neighbors. In the middle that process is killed by
SIGKILL; a second one goes on. Both tell the peak of their resident set after every part (a layer,
or a tensor that stays as it is), and their seconds by the clock and of the processor. Then every
digest is compared, and some layers with what ``compress`` and ``pack`` make of them in memory.

The last row is on paper: the same plan on the shapes of Llama 3.1 70B, whose file is counted on
meta to the byte. Its resident memory is what the run above took beyond the imports, per number of
the largest layer, times the numbers of the largest layer there.

    OMP_NUM_THREADS=1 python benchmarks/stream.py                  # 8.2 GB and 2.5 GB of disk
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import parser, resident, write
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, logging

import tqlearn as tq
from tqlearn.hf.sealing import file_of, stored_in
from tqlearn.hf.slices import Slices
from tqlearn.storage import file_size, pack_tensors
from tqlearn.storage.digests import Stored, digests, verify
from tqlearn.surgery import sketch

PLAN = {"*": [tq.LSQ(bits=4, per=64)]}
SHARD = "1GB"
WIDE = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 19,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 320}  # fmt: skip
LARGE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
         "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
COMPARED = "model.embed_tokens", "model.layers.0.mlp.down_proj", "lm_head"


def skeleton(sizes):
    """A Llama of these sizes in FP16 on meta, its tables not tied."""
    config = LlamaConfig(**sizes, tie_word_embeddings=False, dtype="float16")
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        return LlamaForCausalLM(config).half().eval()


def write_model(folder, sizes, seed):
    """Write random weights, a shard for each layer and each table; return their bytes."""
    model = skeleton(sizes)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    parts = {}
    for name, tensor in model.state_dict().items():
        front = name.split(".")
        parts.setdefault(".".join(front[:3] if "layers" in front else front[-2:]), {})[name] = (
            tensor
        )
    generator, home, whole = torch.Generator().manual_seed(seed), {}, 0
    for number, tensors in enumerate(parts.values(), 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        values = {
            name: torch.ones(t.shape, dtype=t.dtype)
            if t.dim() == 1
            else (torch.randn(t.shape, generator=generator) * 0.02).half()
            for name, t in tensors.items()
        }
        save_file(values, str(folder / file), metadata={"format": "pt"})
        home |= dict.fromkeys(values, file)
        whole += sum(t.nbytes for t in values.values())
    index = {"metadata": {"total_size": whole}, "weight_map": home}
    tq.writing.write(folder / SAFE_WEIGHTS_INDEX_NAME, json.dumps(index))
    return whole


def part(source, out):
    """Stream, in this process; tell a line after every layer."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    start, busy, imported = time.perf_counter(), time.process_time(), resident("HWM")

    def told(name, number, of):
        seconds = round(time.perf_counter() - start, 1)
        line = {"layer": name, "number": number, "of": of, "seconds": seconds}
        line |= {"cpu_seconds": round(time.process_time() - busy, 1)}
        print(json.dumps(line | {"peak": resident("HWM"), "imported": imported}), flush=True)

    tq.stream(source, PLAN, out, max_shard_size=SHARD, progress=told)
    told("", 0, 0)


def child(source, out, kill=False):
    """Stream in a process of its own; kill it in the middle. Return the last line that it told."""
    command = [sys.executable, __file__, "--part", str(source), "--place", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            last = json.loads(line)
            if last["number"] % 20 == 1:
                print(last, flush=True)
            if kill and last["number"] >= last["of"] / 2:
                run.kill()
                break
    if run.returncode != (-9 if kill else 0):
        raise RuntimeError(f"the streaming process ended with {run.returncode}")
    return last


def equal_layers(source, tensors):
    """How many tensors of some layers are, to the bit, those of ``compress`` in memory."""
    slices, equal, count = Slices(Path(source)), 0, 0
    for name in COMPARED:
        weight = slices.read(f"{name}.weight")
        words, width = weight.shape
        layer = nn.Embedding(1, 1) if "embed" in name else nn.Linear(1, 1, bias=False)
        sides = ("num_embeddings", "embedding_dim") if "embed" in name else (
            "out_features", "in_features")  # fmt: skip
        vars(layer).update(zip(sides, (words, width), strict=True))
        layer.weight = nn.Parameter(weight)
        made = tq.pack(tq.calibrate(tq.compress(nn.Sequential(layer), {"0": PLAN["*"]})))
        wanted = {f"{name}.{k}": Stored.of(t) for k, t in made[0].state_dict().items()}
        equal += sum(digests(wanted)[k] == digests({k: tensors[k]})[k] for k in wanted)
        count += len(wanted)
    return equal, count


def check(source, out):
    """Compare digests and some layers, in a process of its own that may map the whole file."""
    files = sorted(map(str, Path(out).glob("*.safetensors")))
    layout = json.loads((Path(out) / "config.json").read_text())["quantization_config"]["layout"]
    tensors, notes = stored_in(files)
    if verify(tensors, notes, layout) is None:
        raise RuntimeError(f"the files of {out} have no digests")
    equal, count = equal_layers(source, tensors)
    return {
        "tensors": len(tensors),
        "tensors_compared": count,
        "tensors_equal": equal,
        "files": len(files),
        "largest_file_bytes": max(Path(file).stat().st_size for file in files),
        "file_bytes": sum(Path(file).stat().st_size for file in files),
    }


def on_paper(sizes, beyond, numbers, fixed):
    """What the plan needs for a model of these sizes.

    Args:
        beyond: bytes that were resident beyond the imports, for a largest layer of ``numbers``.
        fixed: bytes of the imports.
    """
    model = skeleton(sizes)
    largest = max(t.numel() for t in model.parameters())
    packed = pack_tensors(sketch(model, PLAN))
    return {
        "parameters": sum(t.numel() for t in model.parameters()),
        "model_bytes": sum(t.nbytes for t in model.parameters()),
        "file_bytes": file_size(*file_of(packed)),
        "largest_layer_numbers": largest,
        "largest_layer_bytes": 2 * largest,
        "resident_bytes_expected": round(fixed + beyond / numbers * largest),
    }


def main(argv=None):
    """Write the model, stream it with a kill in the middle, compare, write the JSON."""
    options = parser("stream", __doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, help="for the shards; a temporary one by default")
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--place", help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.part:
        return part(args.part, args.place)
    sizes = TINY if args.quick else WIDE
    whole = sum(t.nbytes for t in skeleton(sizes).parameters())
    with tempfile.TemporaryDirectory(dir=args.folder) as home:
        free = shutil.disk_usage(home).free
        if free < 1.5 * whole:
            raise OSError(f"{home} has {free:,} bytes free, the run takes {round(1.5 * whole):,}")
        source, out = Path(home, "dense"), Path(home, "packed")
        print(f"{write_model(source, sizes, args.seed):,} bytes of shards", flush=True)
        shards = len(list(source.glob("*.safetensors")))
        killed, resumed = child(source, out, kill=True), child(source, out)
        found = check(source, out)
    largest = max(t.numel() for t in skeleton(sizes).parameters())
    fixed = max(killed["imported"], resumed["imported"])
    most = max(killed["peak"], resumed["peak"])
    paper = on_paper(TINY if args.quick else LARGE, most - fixed, largest, fixed)
    about = f"Llama of {sizes['num_hidden_layers']} layers, {sizes['hidden_size']} wide"
    dense = {"model_bytes": whole, "files": shards, "largest_layer_bytes": 2 * largest}
    rows = [{"model": f"{about}, FP16", "role": "baseline", "metrics": dense}]
    for name, last in ("until it is killed", killed), ("the call that goes on", resumed):
        metrics = {
            "seconds": last["seconds"],
            "cpu_seconds": last["cpu_seconds"],
            "peak_resident_bytes": last["peak"],
            "resident_bytes_of_imports": last["imported"],
        }
        if last["number"]:
            metrics |= {"parts": last["number"], "parts_of": last["of"]}
        rows.append({"model": name, "role": "student", "metrics": metrics})
    rows.append({"model": "packed, 4 bits per group of 64", "role": "student", "metrics": found,
                 "ratio": {"file": round(whole / found["file_bytes"], 3)}})  # fmt: skip
    rows.append({"model": "on paper: shapes of Llama 3.1 70B", "role": "ablation",
                 "metrics": paper, "note": "resident_bytes_expected is not measured"})  # fmt: skip
    for row in rows:
        print(row["model"], row["metrics"])
    write("stream", "none: models larger than memory", rows, args)


if __name__ == "__main__":
    main()
