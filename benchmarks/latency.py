"""Whole-model latency on a CPU: a dense BERT-base and what compression makes of it, side by side.

    python benchmarks/latency.py

A random encoder of BERT-base's shape (its times are those of a trained one), eval mode, FP32, SDPA
attention. One and two threads, batch 1 and 8, 32, 128 and 384 tokens, no padding. Every repeat
times each contestant once, so a busy moment hits all of them; medians after a warm-up. "speedup"
is against the dense model of the same repeats, "flops" the dense model's count over the
contestant's, attention products included: what the arithmetic alone would gain. ``--quick`` times
one layer at two short lengths, once. The contestants:

- dense;
- masked: the heads and FFN dimensions that Block Pruning's headline model lost are zeros, in
  matrices of the old size;
- compacted: the same zeros removed (64 of 144 heads, 22,248,960 of 84,934,656 weights);
- compacted half: half of the heads and dimensions of every layer;
- tensor trains: A4 of QTC, rank 30, in every encoder matrix;
- Kronecker: KB21 of KroneckerBERT;
- torch int8: dynamic quantization of all linear layers, torch's own.
"""

import copy
import statistics
import time
import warnings

import torch
from common import parser, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
from tqlearn.sparsity.anatomy import transformer_layers
from tqlearn.sparsity.blocks import block_masks

HEADS = [4, 4, 6, 7, 7, 5, 6, 7, 5, 5, 5, 3]
DIMENSIONS = [552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238]
THREADS, BATCHES, LENGTHS = (1, 2), (1, 8), (32, 128, 384)
PEERS = ("torch int8",)
TRAINS = {"*.encoder.*": [tq.TT(rank=30, init="random")]}
PRODUCTS = {
    "*.attention.*": [tq.Kronecker(1, out_modes=(384, 2), in_modes=(48, 16), init="random")],
    "*.intermediate.*": [tq.Kronecker(1, out_modes=(16, 192), in_modes=(2, 384), init="random")],
    "*.layer.*.output.*": [tq.Kronecker(1, out_modes=(2, 384), in_modes=(16, 192), init="random")],
}


def dense_model(layers: int = 12) -> nn.Module:
    """Return BERT-base's encoder with a small table, which no time depends on."""
    config = BertConfig(vocab_size=1000, num_labels=2, num_hidden_layers=layers)
    return BertForSequenceClassification(config).eval()


def masked_model(dense: nn.Module, heads: list[int], dimensions: list[int]) -> nn.Module:
    """Return a copy that keeps the first so many heads and dimensions; the rest is zero."""
    student = tq.compress(dense, tq.block_plan(dense, "struct")).eval()
    masks = block_masks(student)
    for layer, some, dims in zip(transformer_layers(student), heads, dimensions, strict=True):
        for name in (layer.query, layer.key, layer.value, layer.output):
            kept = torch.arange(12) < some
            masks[name].fix(kept.reshape(masks[name].grid))
        masks[layer.up].fix(torch.arange(3072)[:, None] < dims)
    return tq.bake(student)


def int8_model(dense: nn.Module) -> nn.Module:
    """Return torch's dynamic quantization of a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its successor at every call
        return torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(dense), {nn.Linear}, dtype=torch.qint8
        )


def contestants(names: list[str] | None = None, layers: int = 12) -> dict[str, nn.Module]:
    """Return the models, dense first; all of them, or those named."""
    dense = dense_model(layers)
    masked = masked_model(dense, HEADS[:layers], DIMENSIONS[:layers])
    makers = {
        "dense": lambda: dense,
        "masked": lambda: masked,
        "compacted": lambda: tq.compact(masked),
        "compacted half": lambda: tq.compact(masked_model(dense, [6] * layers, [1536] * layers)),
        "tensor trains": lambda: tq.compress(dense, TRAINS).eval(),
        "Kronecker": lambda: tq.compress(dense, PRODUCTS).eval(),
        "torch int8": lambda: int8_model(dense),
    }
    return {name: make() for name, make in makers.items() if names is None or name in names}


@torch.no_grad()
def flops(model: nn.Module, ids: torch.Tensor) -> int:
    """Count the floating point operations of one call, with eager attention, which is counted."""
    kind = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids)
    model.set_attn_implementation(kind)
    return counter.get_total_flops()


@torch.inference_mode()
def seconds(models: dict[str, nn.Module], batches: list[dict], repeats: int) -> dict[str, float]:
    """Return the median seconds that each model takes for all batches."""
    return {name: statistics.median(t) for name, t in timings(models, batches, repeats).items()}


def timings(
    models: dict[str, nn.Module], batches: list[dict], repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of each repeat; models take turns, after one turn for warm-up."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            begin = time.perf_counter()
            for batch in batches:
                model(**batch)
            if repeat:
                times[name].append(time.perf_counter() - begin)
    return times


def rows_of(models: dict[str, nn.Module], batch: int, tokens: int, threads: int, repeats: int):
    """Time all contestants at one size; return their rows.

    A speed-up is the median over turns: what slows the machine for a while slows both of a turn.
    """
    torch.set_num_threads(threads)
    ids = torch.randint(0, 1000, (batch, tokens))
    found, rows = timings(models, [{"input_ids": ids}], repeats), []
    whole = flops(models["dense"], ids)
    for name, model in models.items():
        metrics = {"threads": threads, "batch": batch, "tokens": tokens}
        if name not in PEERS:
            metrics["parameters"] = sum(p.numel() for p in model.parameters())
            metrics["flops"] = round(whole / flops(model, ids), 3)
        role = "peer" if name in PEERS else "student"
        ratios = [slow / fast for slow, fast in zip(found["dense"], found[name], strict=True)]
        took = statistics.median(found[name])
        speed = {"seconds": took, "speedup": statistics.median(ratios)}
        rows.append(
            {
                "model": f"{name}, {batch} x {tokens}, {threads} threads",
                "role": "baseline" if name == "dense" else role,
                "metrics": metrics,
                "speed": {k: float(f"{v:.4g}") for k, v in speed.items()},
            }
        )
        print(f"{rows[-1]['model']:<40} {took * 1e3:9.1f} ms {speed['speedup']:6.2f}x")
    return rows


def main() -> None:
    """Time every size and write the table."""
    options = parser("latency", __doc__)
    options.add_argument("--repeats", type=int, default=7)
    args = options.parse_args()
    torch.manual_seed(args.seed)
    sizes, layers = [(n, b, t) for n in THREADS for b in BATCHES for t in LENGTHS], 12
    if args.quick:
        sizes, layers, args.repeats = [(1, 1, 8), (1, 1, 16)], 1, 1
    models = contestants(layers=layers)
    rows = [row for n, b, t in sizes for row in rows_of(models, b, t, n, args.repeats)]
    write("latency", None, rows, args, repeats=args.repeats)


if __name__ == "__main__":
    main()
