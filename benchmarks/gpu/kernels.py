"""Products on the tensor cores of a GPU at BERT-base's shapes: dense, 2:4 and int8, side by side.

    python benchmarks/gpu/kernels.py                      # needs CUDA; writes gpu_kernels.json
    python benchmarks/gpu/kernels.py --quick --out FILE   # tiny, on a CPU as well; no result

y = x W^T, as a layer does it, of random x (tokens, in) and W (out, in). The contestants:

- dense float16, dense bfloat16: the baselines;
- 2:4: half of W is zero by ``nm_mask``, and ``torch.sparse.to_sparse_semi_structured`` stores the
  rest; in float16, bfloat16 and int8, through cuSPARSELt and through CUTLASS;
- int8: ``torch._int_mm``, 8-bit codes into 32-bit sums;
- int8 with scales: the same from float16 to float16, a scale per token and per row of W. Codes are
  made and scales multiplied by torch's plain operations, so the product is not all of its time;
- int8 weights: ``torch._weight_int8pack_mm``, bfloat16 inputs, a scale per row of W.

"relative_error" is the distance to the same operands' product in float64, divided by its norm; sums
of integers have to agree exactly. What does not agree is not timed. "seconds" is what a call from
Python takes, by CUDA events around 20 of them in a row; "graph_microseconds" one of 20 in a CUDA
graph, without Python and without launches. The contestants of a shape take turns; medians. A
speed-up is the median over turns against the dense product, of bfloat16 where a name has it, else
of float16. Operands stay where they are, so they may come from the cache.

What the device or this torch refuses has a row with the reason and no speed.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # common.py

from common import parser, write
from devices import device_for, told
from products import CONTESTANTS, base_of

SHAPES = ((768, 768), (3072, 768), (768, 3072))  # (out, in): attention, FFN up, FFN down
TOKENS = (128, 1024, 4096)
CALLS, WARM = 20, 5  # calls between two events; turns that do not count


def reason(error: Exception) -> str:
    """Return what was refused, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def captured(call: Callable[[], Tensor]) -> Callable[[], None]:
    """Return the replay of a CUDA graph of ``CALLS`` calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()  # what a first call on a stream allocates is not captured
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    return graph.replay


def repeated(call: Callable[[], Tensor]) -> None:
    """Call ``CALLS`` times."""
    for _ in range(CALLS):
        call()


def turns(calls: dict[str, Callable[[], None]], repeats: int, cuda: bool) -> dict[str, list[float]]:
    """Return the seconds of one of ``CALLS`` calls, in each turn; all take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + WARM):
        for name, call in calls.items():
            if cuda:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                call()
                end.record()
                end.synchronize()
                took = begin.elapsed_time(end) / 1e3
            else:
                start = time.perf_counter()
                call()
                took = time.perf_counter() - start
            if repeat >= WARM:
                times[name].append(took / CALLS)
    return times


def speed(times: dict[str, list[float]], name: str) -> dict[str, float]:
    """Return the median seconds and the median over turns of how much faster than the base."""
    slow = times[base_of(name)]
    ratios = [whole / part for whole, part in zip(slow, times[name], strict=True)]
    found = {"seconds": statistics.median(times[name]), "speedup": statistics.median(ratios)}
    return {key: float(f"{value:.4g}") for key, value in found.items()}


@torch.no_grad()
def rows_of(shape: tuple[int, int], tokens: int, device: torch.device, repeats: int) -> list[dict]:
    """Check and time all contestants at one shape; return their rows."""
    (out, inner), cuda = shape, device.type == "cuda"
    x, w = torch.randn(tokens, inner, device=device), torch.randn(out, inner, device=device)
    w *= inner**-0.5  # outputs as large as inputs, as after a layer norm
    products, graphs, rows = {}, {}, {}
    for name, make in CONTESTANTS.items():
        role = "baseline" if name == base_of(name) else "student"
        metrics: dict[str, float] = {"tokens": tokens, "rows": out, "columns": inner}
        row = {"model": f"{name}, {tokens} x {inner} -> {out}", "role": role, "metrics": metrics}
        rows[name] = row
        try:
            product = make(x, w)
            error = product.error()
        except Exception as refusal:  # of many kinds; every one becomes a row
            row["note"] = reason(refusal)
            continue
        if not error <= product.limit:
            row["note"] = f"values are off by {error:.2g}, allowed is {product.limit:.2g}"
            continue
        metrics["relative_error"] = float(f"{error:.3g}")
        products[name] = partial(repeated, product.call)
        if cuda:
            try:
                graphs[name] = captured(product.call)
            except Exception as refusal:
                row["note"] = f"no CUDA graph: {reason(refusal)}"
    if cuda:
        torch.cuda.synchronize()  # a device that an error has left broken ends the run here
    whole, bare = turns(products, repeats, cuda), turns(graphs, repeats, cuda)
    for name, row in rows.items():
        if {name, base_of(name)} <= whole.keys():
            row["speed"] = speed(whole, name)
        if {name, base_of(name)} <= bare.keys():
            found = speed(bare, name)
            metrics = {"graph_microseconds": float(f"{1e6 * found['seconds']:.4g}")}
            row["metrics"] |= metrics | {"graph_speedup": found["speedup"]}
        print(row["model"], row.get("speed", ""), row.get("note", ""), flush=True)
    return [*rows.values()]


def main() -> None:
    """Time every shape and write the table; a CPU is good for a trial alone."""
    options = parser("gpu_kernels", __doc__)
    options.add_argument("--repeats", type=int, default=50, help="turns that count")
    args = options.parse_args()
    device = device_for(options, args)
    sizes = [(shape, tokens) for shape in SHAPES for tokens in TOKENS]
    if args.quick:
        sizes, args.repeats = [((64, 128), 32)], 1
    torch.manual_seed(args.seed)
    rows = [row for size in sizes for row in rows_of(*size, device, args.repeats)]
    write("gpu_kernels", None, rows, args, device=told(device), repeats=args.repeats)


if __name__ == "__main__":
    main()
