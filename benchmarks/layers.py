"""One layer's speed: the factored layers against dense ones and their peers, side by side.

    python benchmarks/layers.py

512 tokens, two threads, warm, median of interleaved repeats (each repeat times every contestant
once, so a busy moment hits all of them). Speed-ups are ratios to nn.Linear, or to nn.Embedding, in
the same repeat loop. Parameters count weights without biases. The contestants:

- TTLinear, against tensorly-torch's FactorizedLinear (BlockTT, "factorized") with the same modes
  and the largest uniform rank that needs no more numbers than ours;
- KroneckerLinear at KroneckerBERT's shapes, against the naive product with ``torch.kron``
  (tensorly-torch has no such layer), and LowRankLinear of the same size. "flops" is the dense
  layer's count over ours: what the arithmetic alone would gain;
- KroneckerEmbedding and TTMEmbedding, a look-up in BERT-base's word table, against nn.Embedding,
  the naive table rebuilt for every batch, and tensorly-torch's FactorizedEmbedding.
"""

import statistics
import time
from math import prod

import tltorch
import torch
import torch.nn.functional as F
from common import parser, write
from torch import nn

from tqlearn.factors.embeddings import TTMEmbedding
from tqlearn.factors.kronecker import kronecker_dense
from tqlearn.factors.kronecker_layers import KroneckerEmbedding, KroneckerLinear
from tqlearn.factors.layers import LowRankLinear, TTLinear
from tqlearn.shapes import dense_macs, kronecker_flops

TOKENS, THREADS, WORDS = 512, 2, 30522
TRAINS = {  # out modes, in modes, ranks
    "A4 768x768": ((24, 32), (32, 24), (1, 24, 30, 24, 1)),
    "A4 768x3072": ((32, 24), (48, 64), (1, 30, 30, 30, 1)),
    "B6 768x768": ((12, 8, 8), (8, 8, 12), (1, 12, 30, 30, 30, 12, 1)),
    "B6 768x3072": ((12, 8, 8), (12, 16, 16), (1, 12, 30, 30, 30, 16, 1)),
}
PRODUCTS = {  # out modes, in modes
    "KB8 768x768": ((384, 2), (384, 2)),
    "KB8 3072x768": ((8, 384), (2, 384)),
    "KB8 768x3072": ((2, 384), (8, 384)),
    "KB21 768x768": ((384, 2), (48, 16)),
    "KB21 3072x768": ((16, 192), (2, 384)),
    "KB21 768x3072": ((2, 384), (16, 192)),
}


class Naive(nn.Module):
    """A Kronecker layer that rebuilds its weight, or its table, at every call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = kronecker_dense(self.layer.factors)
        if isinstance(self.layer, KroneckerEmbedding):
            return F.embedding(x, weight)
        return F.linear(x, weight, self.layer.bias)


def weights(layer: nn.Module) -> int:
    """Count the numbers of a layer, its bias left out."""
    named = layer.named_parameters()
    return sum(p.numel() for name, p in named if name.split(".")[-1] != "bias")


def largest_peer(make, limit: int) -> nn.Module:
    """Return a peer's layer with the largest uniform rank that fits into ``limit`` numbers."""
    found = None
    for rank in range(1, 200):
        layer = make(rank)
        if weights(layer) > limit:
            break
        found = layer
    if found is None:
        raise ValueError(f"no rank of the peer fits into {limit} numbers")
    return found


def train_layers(name: str) -> dict[str, nn.Module]:
    """Return the contestants at a tensor train's shape."""
    out_modes, in_modes, ranks = TRAINS[name]
    ours = TTLinear(out_modes, in_modes, ranks)

    def peer(rank: int) -> nn.Module:
        return tltorch.FactorizedLinear(
            in_tensorized_features=in_modes,
            out_tensorized_features=out_modes,
            factorization="blocktt",
            rank=(1, *[rank] * (len(out_modes) - 1), 1),
            implementation="factorized",
        )

    dense = nn.Linear(prod(in_modes), prod(out_modes))
    theirs = largest_peer(peer, weights(ours))
    return {"nn.Linear": dense, "TTLinear": ours, "tensorly-torch": theirs}


def product_layers(name: str) -> dict[str, nn.Module]:
    """Return the contestants at a Kronecker product's shape."""
    out_modes, in_modes = PRODUCTS[name]
    m, n = prod(out_modes), prod(in_modes)
    ours = KroneckerLinear(out_modes, in_modes)
    low = LowRankLinear(n, m, max(1, weights(ours) // (m + n)))
    return {
        "nn.Linear": nn.Linear(n, m),
        "KroneckerLinear": ours,
        "naive kron": Naive(KroneckerLinear(out_modes, in_modes)),
        "LowRankLinear": low,
    }


def tables() -> dict[str, nn.Module]:
    """Return BERT-base's word table, dense and factored."""
    rows, cols = (16, 20, 10, 10), (4, 4, 8, 6)
    ours = TTMEmbedding(rows, cols, 20, WORDS)

    def peer(rank: int) -> nn.Module:
        return tltorch.FactorizedEmbedding(
            prod(rows),
            prod(cols),
            auto_tensorize=False,
            tensorized_num_embeddings=rows,
            tensorized_embedding_dim=cols,
            factorization="blocktt",
            rank=(1, *[rank] * (len(rows) - 1), 1),
        )

    return {
        "nn.Embedding": nn.Embedding(WORDS, 768),
        "TTMEmbedding A4": ours,
        "tensorly-torch A4": largest_peer(peer, weights(ours)),
        "KroneckerEmbedding KB8": KroneckerEmbedding(WORDS, (96, 8)),
        "naive kron KB8": Naive(KroneckerEmbedding(WORDS, (96, 8))),
    }


def seconds(layers: dict[str, nn.Module], x: torch.Tensor, backward: bool, repeats: int) -> dict:
    """Return the median seconds of one call per layer, interleaved, after warm-up."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    upstream = torch.randn_like(next(iter(layers.values()))(x))
    warm = min(5, repeats)
    for repeat in range(repeats + warm):
        for name, layer in layers.items():
            layer.zero_grad(set_to_none=True)
            fed = x.detach().requires_grad_() if x.is_floating_point() else x
            begin = time.perf_counter()
            if backward:
                layer(fed).backward(upstream)
            else:
                with torch.no_grad():
                    layer(x)
            if repeat >= warm:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def rows_of(shape: str, layers: dict[str, nn.Module], x: torch.Tensor, repeats: int) -> list[dict]:
    """Time the contestants at one shape, forward and with backward."""
    rows, dense = [], next(iter(layers))
    for what in ("forward", "forward + backward"):
        found = seconds(layers, x, what != "forward", repeats)
        for kind, layer in layers.items():
            role = "peer" if kind.startswith(("naive", "tensorly")) else "student"
            speed = {"seconds": found[kind], "speedup": found[dense] / found[kind]}
            metrics, rates = {"parameters": weights(layer)}, []
            if isinstance(layer, KroneckerLinear):
                macs = dense_macs(layer.out_features, layer.in_features, tokens=1)
                flops = kronecker_flops(layer.out_modes, layer.in_modes)
                dense_flops = 2 * macs - layer.out_features
                metrics["flops"] = round(dense_flops / flops, 2)
                if what == "forward":
                    ours = len(x) * flops / found[kind] / 1e9
                    theirs = len(x) * dense_flops / found[dense] / 1e9
                    rates = [f"{ours:.0f} GFLOP/s, dense {theirs:.0f}"]
            rows.append(
                {
                    "model": f"{kind} {shape} {what}",
                    "role": "baseline" if kind == dense else role,
                    "metrics": metrics,
                    "speed": {k: float(f"{v:.4g}") for k, v in speed.items()},
                    "note": "; ".join([f"{len(x)} tokens, {THREADS} threads", *rates]),
                }
            )
            print(f"{rows[-1]['model']:<58} {found[kind] * 1e3:9.3f} ms {speed['speedup']:7.2f}x")
    return rows


def main() -> None:
    """Time every configuration and write the table."""
    args = parser("layers", __doc__).parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(THREADS)
    repeats, tokens, rows = 41, TOKENS, []
    if args.quick:
        repeats, tokens = 1, 16
    for make, shapes in ((train_layers, TRAINS), (product_layers, PRODUCTS)):
        for name in shapes:
            layers = make(name)
            x = torch.randn(tokens, layers["nn.Linear"].in_features)
            rows += rows_of(name, layers, x, repeats)
    rows += rows_of("30522x768", tables(), torch.randint(0, WORDS, (tokens,)), repeats)
    write("layers", "QTC and KroneckerBERT", rows, args)


if __name__ == "__main__":
    main()
