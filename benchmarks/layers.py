"""One layer's speed: TTLinear against nn.Linear and tensorly-torch, side by side in one run.

    python benchmarks/layers.py

512 tokens, two threads, warm, median of interleaved repeats (each repeat times every contestant
once, so a busy moment hits all of them). The peer is tensorly-torch's FactorizedLinear (BlockTT,
"factorized") with the same modes and the largest uniform rank that needs no more numbers than ours.
Speed-ups are ratios to nn.Linear in the same repeat loop. Parameters count weights without biases.
"""

import statistics
import time
from math import prod

import tltorch
import torch
from common import parser, write
from torch import nn

from tqlearn.layers import TTLinear

TOKENS, THREADS = 512, 2
CONFIGURATIONS = {  # out modes, in modes, ranks
    "A4 768x768": ((24, 32), (32, 24), (1, 24, 30, 24, 1)),
    "A4 768x3072": ((32, 24), (48, 64), (1, 30, 30, 30, 1)),
    "B6 768x768": ((12, 8, 8), (8, 8, 12), (1, 12, 30, 30, 30, 12, 1)),
    "B6 768x3072": ((12, 8, 8), (12, 16, 16), (1, 12, 30, 30, 30, 16, 1)),
}


def weights(layer: nn.Module) -> int:
    """Count the numbers of a layer, its bias left out."""
    return sum(p.numel() for name, p in layer.named_parameters() if name != "bias")


def peer(out_modes: tuple, in_modes: tuple, limit: int) -> nn.Module:
    """Return tensorly-torch's layer with the largest uniform rank within ``limit`` numbers."""
    found = None
    for rank in range(1, 200):
        ranks = (1, *[rank] * (len(out_modes) - 1), 1)
        layer = tltorch.FactorizedLinear(
            in_tensorized_features=in_modes,
            out_tensorized_features=out_modes,
            factorization="blocktt",
            rank=ranks,
            implementation="factorized",
        )
        if weights(layer) > limit:
            break
        found = layer
    if found is None:
        raise ValueError(f"no rank of the peer fits into {limit} numbers")
    return found


def seconds(layers: dict[str, nn.Module], x: torch.Tensor, backward: bool, repeats: int) -> dict:
    """Return the median seconds of one call per layer, interleaved, after warm-up."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    upstream = torch.randn_like(next(iter(layers.values()))(x))
    for repeat in range(repeats + 5):
        for name, layer in layers.items():
            layer.zero_grad(set_to_none=True)
            begin = time.perf_counter()
            if backward:
                layer(x.detach().requires_grad_()).backward(upstream)
            else:
                with torch.no_grad():
                    layer(x)
            if repeat >= 5:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Time every configuration and write the table."""
    args = parser("layers", __doc__).parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(THREADS)
    rows = []
    for name, (out_modes, in_modes, ranks) in CONFIGURATIONS.items():
        ours = TTLinear(out_modes, in_modes, ranks)
        layers = {
            "nn.Linear": nn.Linear(prod(in_modes), prod(out_modes)),
            "TTLinear": ours,
            "tensorly-torch": peer(out_modes, in_modes, weights(ours)),
        }
        x = torch.randn(TOKENS, prod(in_modes))
        for backward in (False, True):
            found = seconds(layers, x, backward, repeats=9 if args.quick else 41)
            what = "forward + backward" if backward else "forward"
            for kind, layer in layers.items():
                role = {"nn.Linear": "baseline", "TTLinear": "student"}.get(kind, "peer")
                speed = {"seconds": found[kind], "speedup": found["nn.Linear"] / found[kind]}
                rows.append(
                    {
                        "model": f"{kind} {name} {what}",
                        "role": role,
                        "metrics": {"parameters": weights(layer)},
                        "speed": {k: float(f"{v:.4g}") for k, v in speed.items()},
                        "note": f"{TOKENS} tokens, {THREADS} threads",
                    }
                )
                print(
                    f"{rows[-1]['model']:<52} {found[kind] * 1e3:8.3f} ms {speed['speedup']:6.2f}x"
                )
    write("layers", "QTC", rows, args)


if __name__ == "__main__":
    main()
