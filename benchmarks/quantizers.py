"""What a quantizer costs beside the matrix products, and how good each start value is.

    python benchmarks/quantizers.py --peers runs/peers   # minutes; writes results/quantizers.json

Forward + backward of every quantizer, in one run, interleaved, after warm-up, medians, at the same
bits and start scale: on a 768 x 3072 weight (4 bits) and on 2048 tokens of 768 (8 bits). One
thread, and its processor time, which neighbors on the machine disturb least. "speedup" is against
torch's own learnable op. Peers beside it: Brevitas' parameter-scaled weight quantizer
(per tensor) and torchao's QAT fake quantizer with learned ranges (it has none per tensor, so per
channel, beside our LSQ per channel). They are not among the locked versions; install them into a
folder of their own and name it with --peers:

    pip install --no-deps -t runs/peers torchao brevitas dependencies==2.0.1 unfoldNd

"memory traffic alone" reads and writes as much as LSQ does and computes one product each way: no
quantizer can be faster than that. A peer that is missing gets a row without times that says so.
The second half is the mean squared error that each start leaves on a Gaussian, on a Laplace and on
the embedded teacher's weights.
"""

import statistics
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from common import parser, write
from torch import nn

from tqlearn import teachers
from tqlearn.quantizers.clips import PACT, LearnedClip
from tqlearn.quantizers.lsq import LSQ, LSQPlus
from tqlearn.quantizers.ranges import Uniform
from tqlearn.quantizers.sawb import COEFFICIENTS, SAWB, Ternary

THREADS = 1
WEIGHT, TOKENS = (768, 3072), (16, 128, 768)
STARTS = ("lsq", "max", "mse", "kl", "sigma", "truncation", "percentile")
BASELINE, FLOOR = "torch learnable op", "memory traffic alone"


class TorchLearnable(nn.Module):
    """torch's own op with LSQ's gradients, at a scale and a zero point of its own."""

    def __init__(self, like: LSQ) -> None:
        super().__init__()
        self.scale = nn.Parameter(like.scale.detach().reshape(1).clone())
        self.zero_point = nn.Parameter(torch.zeros(1))
        self.qmin, self.qmax = like.qmin, like.qmax

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = (x.numel() * self.qmax) ** -0.5
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, self.scale, self.zero_point, self.qmin, self.qmax, factor
        )


class Traffic(nn.Module):
    """One product each way: what a quantizer must read and write, with no quantizing at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.detach()


def brevitas(like: LSQ, shape: tuple[int, ...]) -> nn.Module:
    """Return Brevitas' weight quantizer with a learned scale, at the start of ours."""
    from brevitas.nn import QuantLinear
    from brevitas.quant import Int8WeightPerTensorFloat

    class Scaled(Int8WeightPerTensorFloat):
        scaling_impl_type = "parameter_from_stats"
        narrow_range = False
        bit_width = like.bits

    layer = QuantLinear(shape[-1], shape[0], bias=False, weight_quant=Scaled)
    layer.quant_weight()  # it takes its start from the first tensor
    scale = dict(layer.named_parameters())["weight_quant.tensor_quant.scaling_impl.value"]
    scale.data.fill_(like.scale.detach() * -like.qmin)

    class OfATensor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer = layer.weight_quant

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.quantizer(x).value

    return OfATensor()


def torchao(like: LSQ, x: torch.Tensor) -> nn.Module:
    """Return torchao's fake quantizer per channel with learned scales, at the start of ours."""
    from torchao.quantization.qat import IntxFakeQuantizeConfig, initialize_fake_quantizers
    from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer

    dtype = getattr(torch, f"int{like.bits}")
    config = IntxFakeQuantizeConfig(
        dtype, "per_channel", is_symmetric=True, is_dynamic=False, range_learning=True
    )
    quantizer = IntxFakeQuantizer(config)
    initialize_fake_quantizers(quantizer, (x,))
    with torch.no_grad():
        quantizer.scale.copy_(like.scale.reshape(quantizer.scale.shape))
    return quantizer


def contestants(kind: str, x: torch.Tensor, bits: int) -> tuple[dict[str, nn.Module], dict]:
    """Return the quantizers for a tensor, and why those that are missing are."""
    lsq = LSQ(bits, init="mse").calibrate(x)
    found: dict[str, nn.Module] = {BASELINE: TorchLearnable(lsq), FLOOR: Traffic(), "LSQ": lsq}
    found["LSQ+"] = LSQPlus(bits).calibrate(x)
    found["PACT+ two-sided"] = PACT(bits).calibrate(x)
    if kind == "activations":
        found["LearnedClip"] = LearnedClip(bits, straight=False).calibrate(x)
        found["Uniform, running range"] = Uniform(bits, momentum=0.9).calibrate(x)
        return found, {}
    rows = LSQ(bits, groups=len(x)).calibrate(x)
    found |= {"LSQ per channel": rows, "LSQ per 64": LSQ(bits, groups=x.numel() // 64).calibrate(x)}
    found["LearnedClip"] = LearnedClip(bits).calibrate(x)
    found["SAWB+"] = SAWB(bits).calibrate(x)
    found["SAWB"] = SAWB(bits, plus=False).calibrate(x)
    found["Ternary"] = Ternary().calibrate(x)
    found["Uniform"] = Uniform(bits).calibrate(x)
    missing = {}
    makers = {
        "Brevitas": lambda: brevitas(lsq, x.shape),
        "torchao per channel": lambda: torchao(rows, x),
    }
    for name, make in makers.items():
        try:
            found[name] = make()
            error = difference(found[name](x), (rows if "channel" in name else lsq)(x))
            print(f"{name}: {error:.1e} of the values differ from ours")
        except ImportError as error:
            missing[name] = f"not measured: {error}"
            print(f"{name}: {missing[name]}")
    return found, missing


def difference(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the share of values on another level: the same grid differs at ties alone.

    Raises:
        ValueError: more than one in a thousand.
    """
    share = float(((mine - theirs).abs() > 1e-5 * theirs.abs().max()).float().mean())
    if share > 1e-3:
        raise ValueError(f"a peer's grid is another one: {share:.1%} of the values differ")
    return share


def seconds(found: dict[str, nn.Module], x: torch.Tensor, repeats: int) -> dict[str, float]:
    """Return the median processor time of one forward and backward each, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in found}
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    warm = min(3, repeats)
    for repeat in range(repeats + warm):
        for name, quantizer in found.items():
            leaf.grad = None
            for parameter in quantizer.parameters():
                parameter.grad = None
            begin = time.process_time()
            quantizer(leaf).backward(upstream)
            if repeat >= warm:
                times[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def profile(quantizer: nn.Module, x: torch.Tensor, repeats: int) -> str:
    """Say which operations the processor time of forward and backward goes to."""
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    quantizer(leaf).backward(upstream)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            leaf.grad = None
            quantizer(leaf).backward(upstream)
    spent = Counter({e.key: e.self_cpu_time_total for e in found.key_averages()})
    whole = spent.total()
    shares = [f"{name.removeprefix('aten::')} {t / whole:.0%}" for name, t in spent.most_common(8)]
    return "profile: " + ", ".join(shares)


def speed_rows(kind: str, x: torch.Tensor, bits: int, repeats: int) -> list[dict]:
    """Time all quantizers on one tensor."""
    found, missing = contestants(kind, x, bits)
    times = seconds(found, x, repeats)
    shape = " x ".join(map(str, x.shape))
    note = f"forward + backward, {shape}, {bits} bits, processor time, 1 thread"
    rows = []
    for name, taken in times.items():
        peer = name.startswith(("Brevitas", "torchao"))
        role = {BASELINE: "baseline", FLOOR: "ablation"}.get(name, "peer" if peer else "student")
        speedup = times[BASELINE] / taken
        print(f"{kind:<12}{name:<24}{taken * 1e3:8.2f} ms {speedup:6.2f}x")
        speed = {"seconds": float(f"{taken:.4g}"), "speedup": float(f"{speedup:.4g}")}
        rows.append({"model": f"{name}, {kind}", "role": role, "speed": speed, "note": note})
        if name == "LSQ":
            rows[-1]["note"] += "; " + profile(found[name], x, repeats)
            print(rows[-1]["note"])
    for name, reason in missing.items():
        rows.append({"model": f"{name}, {kind}", "role": "peer", "note": reason})
    return rows


def tensors(quick: bool) -> dict[str, torch.Tensor]:
    """Return what the starts are tried on."""
    size = (64, 1024) if quick else (768, 768)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample(size)
    teacher = teachers.load("embedded")[0]
    weights = [m.weight.detach().flatten() for m in teacher.modules() if isinstance(m, nn.Linear)]
    return {
        "Gaussian": torch.randn(size),
        "Laplace": laplace,
        "trained weights": torch.cat(weights),
    }


def start_rows(quick: bool) -> list[dict]:
    """Measure what each start leaves, relative to the mean square of the tensor."""
    rows = []
    for kind, x in tensors(quick).items():
        for bits in (2, 3, 4, 8):
            metrics = {}
            for start in STARTS:
                q = LearnedClip(bits, init=start).calibrate(x)
                with torch.no_grad():
                    metrics[start] = float((q(x) - x).square().mean() / x.square().mean())
            if (bits, True) in COEFFICIENTS:
                q = SAWB(bits).calibrate(x)
                metrics["sawb"] = float((q(x) - x).square().mean() / x.square().mean())
            rounded = {f"mse_{name}": float(f"{value:.4g}") for name, value in metrics.items()}
            note = f"2^{bits} - 1 levels; squared error over mean square, {x.numel():,} numbers"
            model = f"starts at {bits} bits, {kind}"
            rows.append({"model": model, "role": "ablation", "metrics": rounded, "note": note})
            print(model, rounded)
    return rows


def main() -> None:
    """Time the quantizers, try the starts, and write the table."""
    options = parser("quantizers", __doc__.splitlines()[0])
    options.add_argument("--peers", type=Path, help="folder with torchao and brevitas")
    args = options.parse_args()
    if args.peers:
        sys.path.append(str(args.peers))
    warnings.simplefilter("ignore")  # the peers' own deprecations
    torch.manual_seed(args.seed)
    torch.set_num_threads(THREADS)
    repeats, weight, tokens = 31, WEIGHT, TOKENS
    if args.quick:
        repeats, weight, tokens = 1, (64, 128), (2, 16, 128)
    rows = speed_rows("weight", torch.randn(weight) * 0.04, 4, repeats)
    rows += speed_rows("activations", torch.randn(tokens), 8, repeats)
    rows += start_rows(args.quick)
    write("quantizers", "KDLSQ-BERT", rows, args)


if __name__ == "__main__":
    main()
