"""The contestants of ``runtime.py``: what each plan makes of a model, and the file that it runs."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
from tqlearn.sparsity.anatomy import transformer_layers
from tqlearn.sparsity.blocks import block_masks
from tqlearn.writing import write

TINY = {"vocab_size": 1000, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
SHAPES = {
    "BERT-base": {},
    "two layers": {"num_hidden_layers": 2},
    "tiny": TINY | {"num_hidden_layers": 1},
}
HEADS = (4, 4, 6, 7, 7, 5, 6, 7, 5, 5, 5, 3)  # of 12, that Block Pruning's headline model kept
DIMENSIONS = (552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238)  # of 3072
EIGHT = [tq.LSQ(8, per="channel"), tq.Inputs(tq.LSQ(8))]
W8A8 = {"*embeddings*": [tq.LSQ(8)], "*": EIGHT}
FOUR = {"*embeddings*": [tq.LSQ(4)], "*": [tq.LSQ(4, per="channel")]}


def dense_model(shape: str) -> nn.Module:
    """Return a random BERT of this shape, in evaluation."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_labels=2, **SHAPES[shape])).eval()


def start(model: nn.Module) -> str:
    """Return how factors begin: nothing is near to a random weight, and no time depends on it."""
    return "svd" if hasattr(model.config, "intent_labels") else "random"


def product(layer: nn.Linear, init: str, *after: object) -> list:
    """Return KB21's edit of a layer: 21 times smaller at 768 x 768, and what follows it."""
    out, inner = layer.weight.shape
    if out == inner:
        modes = (out // 2, 2), (inner // 16, 16)
    elif out > inner:
        modes = (16, out // 16), (2, inner // 2)
    else:
        modes = (2, out // 2), (16, inner // 16)
    return [tq.Kronecker(1, out_modes=modes[0], in_modes=modes[1], init=init), *after]


def encoder_plan(model: nn.Module, edits: object, rest: list) -> dict:
    """Return a plan: ``edits(layer)`` for each encoder matrix, ``rest`` for all else."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {n: edits(m) for n, m in layers.items() if ".encoder." in n} | {"*": rest}


def trains(model: nn.Module) -> dict:
    """Return A4 of QTC, rank 30, in every encoder matrix."""
    plan = encoder_plan(model, lambda _: [tq.TT(rank=30, init=start(model))], [])
    return {"*embeddings*": [tq.LSQ(8)]} | plan


def trains_int8(model: nn.Module) -> dict:
    """Return the same with cores, inputs and what flows between them at 8 bits."""
    edits = [tq.TT(rank=30, init=start(model)), tq.LSQ(8, activations=8)]
    return {"*embeddings*": [tq.LSQ(8)]} | encoder_plan(model, lambda _: edits, EIGHT)


def products_int8(model: nn.Module) -> dict:
    """Return KB21 with factors and inputs at 8 bits."""
    edits = [tq.LSQ(8), tq.Inputs(tq.LSQ(8))]
    plan = encoder_plan(model, lambda layer: product(layer, start(model), *edits), EIGHT)
    return {"*embeddings*": [tq.LSQ(8)]} | plan


def pruned(model: nn.Module) -> nn.Module:
    """Return what is left of a model: heads and dimensions in Block Pruning's proportions."""
    student = tq.compress(model, tq.block_plan(model, "struct")).eval()
    masks, config = block_masks(student), model.config
    for i, layer in enumerate(transformer_layers(student)):
        heads = max(1, HEADS[i % 12] * config.num_attention_heads // 12)
        width = max(16, DIMENSIONS[i % 12] * config.intermediate_size // 3072 // 8 * 8)
        for name in (layer.query, layer.key, layer.value, layer.output):
            kept = torch.arange(config.num_attention_heads) < heads
            masks[name].fix(kept.reshape(masks[name].grid))
        masks[layer.up].fix(torch.arange(config.intermediate_size)[:, None] < width)
    return tq.compact(tq.bake(student)).eval()


def compressed(model: nn.Module, plan: object, batches: list[dict]) -> nn.Module:
    """Return the calibrated student of a plan, or of what makes one from the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tables that a plan leaves alone
        student = tq.compress(model, plan(model) if callable(plan) else plan)
    return tq.calibrate(student, batches).eval()


def calibrated(name: str, model: nn.Module, batches: list[dict]) -> nn.Module:
    """Return the calibrated student of a plan's name."""
    return compressed(pruned(model) if name.startswith("block") else model, PLANS[name], batches)


PLANS = {  # name -> plan, of ours in onnxruntime
    "W8A8": W8A8,
    "W4": FOUR,
    "TT": trains,
    "TT + int8": trains_int8,
    "Kronecker + int8": products_int8,
    "block-pruned + int8": W8A8,
    "2:4 + 4 bits": {"*embeddings*": [tq.LSQ(4)], "*": [tq.TwoFour(), tq.SAWB(4)]},
}
CONTESTANTS = {  # name -> engine
    "torch FP32": "torch",
    "torch dynamic int8": "torch int8",
    "ORT FP32": "onnx",
    "ORT dynamic int8": "onnx",
    "W4 packed in torch": "packed",
    **{f"{name} in ORT": "onnx" for name in PLANS},
}
PEERS = ("torch dynamic int8", "ORT FP32", "ORT dynamic int8")
QUICK = ("torch FP32", "W4 packed in torch")  # a trace for onnxruntime takes many seconds
STEPS = {  # name -> plan; the first is the baseline
    "dense": {},
    "TT": {"*.encoder.*": [tq.TT(rank=30, init="random")]},
    "Kronecker": lambda model: encoder_plan(model, lambda layer: product(layer, "random"), []),
    "fake-quantized": {"*": [tq.LSQ(4)]},
}
BARE = ", no dropout"  # the same steps without its random numbers
BARES = tuple(f"{name}{BARE}" for name in STEPS if name != "fake-quantized")


def trained(shape: str, name: str) -> nn.Module:
    """Return the model whose training step is timed."""
    model, plan = dense_model(shape), STEPS[name.removesuffix(BARE)]
    for module in model.modules() if name.endswith(BARE) else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if plan:
        plan = plan(model) if callable(plan) else plan
        model = tq.calibrate(tq.compress(model, plan, inplace=True))
    return model.train()


def place_of(folder: Path, name: str) -> Path:
    """Return the folder of a contestant inside that of its shape."""
    return folder / name.replace(" ", "_").replace(":", "_")


def written(
    name: str, folder: Path, model: nn.Module, batches: list[dict], student: Callable
) -> dict:
    """Write what a contestant runs; return what ``engines.py`` must know, and the bytes.

    Args:
        batches: to calibrate on; the first is the example of the trace.
        student: name of a plan -> the student that is shipped.
    """
    engine, folder = CONTESTANTS[name], place_of(folder, name)
    spec = {"engine": engine, "kind": type(model).__name__, "inputs": [*batches[0]]}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if engine == "packed":
        tq.pack(student("W4")).save_pretrained(folder)
    elif engine != "onnx":
        model.save_pretrained(folder)
    elif name.startswith("ORT"):
        tq.export(model, folder / "model.onnx", batches[0])
        if "int8" in name:
            own_int8(folder)
    else:
        shipped = student(name.removesuffix(" in ORT"))
        tq.export(shipped, folder / "model.onnx", batches[0])
        tq.pack(shipped).save_pretrained(folder / "packed")
        spec["packed"] = bytes_of(folder / "packed", "model.safetensors")
    file = folder / "model.onnx" if engine == "onnx" else folder
    spec |= {"file": str(file), "bytes": bytes_of(folder, "model.*")}
    write(folder / "spec.json", json.dumps(spec))
    return spec


def own_int8(folder: Path) -> None:
    """Quantize a file as onnxruntime does, weights in 7 bits, as it advises without VNNI.

    Of what it can quantize, products and tables: it takes onnx's Attention for its own.
    """
    from onnxruntime.quantization import quantize_dynamic

    before = folder / "before.onnx"
    os.replace(folder / "model.onnx", before)
    kinds = ["MatMul", "Gemm", "Gather"]
    quantize_dynamic(before, folder / "model.onnx", reduce_range=True, op_types_to_quantize=kinds)
    before.unlink()


def bytes_of(folder: Path, pattern: str) -> int:
    """Return the bytes of the files of a folder, weights alone."""
    return sum(file.stat().st_size for file in folder.glob(pattern))
