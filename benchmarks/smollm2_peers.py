"""SmolLM2-135M beside torchao and optimum-quanto: perplexity and KL at equal bits per weight.

    TQLEARN_DATA=FOLDER python benchmarks/smollm2_peers.py
    TQLEARN_DATA=FOLDER python benchmarks/smollm2_peers.py --tokens 16384 --minutes 60
    pip install --no-deps torchao==0.18.0 optimum-quanto==0.2.7    # for their rows

Model, text, windows and the text that methods look at are those of ``smollm2.py``, and so are the
layers: all matrices of the decoder's layers, the table of words stays in floats. Bits per weight
are counted: codes at their bits, and the scales and zero points beside them as they are stored.
Peers are given weights in float16, so their scales and zero points take 16 bits (but torchao's
int8, whose scales are float32), and ours have ``scale_dtype="float16"``. Zero points that are all
zero count nothing.

What a peer's layer makes of the identity is the weight that it multiplies with; that is put into a
model in float32 and judged as ours are: no kernel of theirs adds an error to a row, and none that
this machine lacks leaves one out. "Through zero" has no zero point. quanto's own groups are of 96
numbers in rows of 576 and of 128 in rows of 1536; 32 and 64 are set by hand.

The weights come from 4-bit blocks of 32 with a zero point (see ``tqlearn.hf.smollm2``): grids of
that kind find them easier than grids through zero. Rows that the JSON holds with the same settings
are kept, and each new one is written at once. A peer that is not installed is named, and its rows
are left out. ``--quick`` takes a tiny random Llama.
"""

from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from smollm2 import LAYERS, asked, in_time, kept, smollm2, store, tiny
from torch import nn

import tqlearn as tq
from tqlearn.hf import evaluate_language

VERSIONS = {"torchao": "0.18.0", "optimum-quanto": "0.2.7"}  # what the rows were measured with
GIVEN = torch.float16  # weights as peers get them
Coder = Callable[[nn.Linear], nn.Linear]  # a layer -> one of a peer, which holds codes


def by_torchao(layer: nn.Linear, bits: int, per: int | None, zero: bool = False) -> nn.Linear:
    """Return a layer as torchao codes it: int4 for the CPU's kernel, int8, others through zero."""
    from torchao import quantization as ao
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    plain = {"set_inductor_config": False}
    if bits == 8:
        config = ao.Int8WeightOnlyConfig(**plain)
    elif zero:
        config = PrototypeInt4WeightOnlyConfig(group_size=per, **plain)
    else:
        kind = getattr(torch, f"int{bits}")
        config = ao.IntxWeightOnlyConfig(weight_dtype=kind, granularity=ao.PerGroup(per))
    home = nn.Sequential(layer)
    ao.quantize_(home, config)
    return home[0]


def by_quanto(layer: nn.Linear, bits: int, per: int | None = None) -> nn.Linear:
    """Return a layer as quanto codes it; its own groups without ``per``."""
    from optimum import quanto

    home = nn.Sequential(layer)
    quanto.quantize(home, weights=quanto.qtypes[f"qint{bits}"])
    if per is not None:
        home[0].weight_group_size = per
    quanto.freeze(home)
    return home[0]


def stored_bits(layer: nn.Linear, bits: int) -> int:
    """Return the bits of a peer's weight: codes at ``bits``, all else as it is stored."""
    weight, found = layer.weight, layer.weight.numel() * bits
    names, _ = weight.__tensor_flatten__()
    for name in names:
        part = getattr(weight, name)
        if name not in ("qdata", "_data") and part is not None and part.count_nonzero():
            found += 8 * part.numel() * part.element_size()
    return found


@torch.no_grad()
def peer(coder: Coder, bits: int, model: nn.Module, _: torch.Tensor) -> tuple[nn.Module, int]:
    """Return the model in floats with a peer's numbers, and the bits of its matrices."""
    student, count = tq.bake(model), 0  # a copy
    for name, layer in student.named_modules():
        if isinstance(layer, nn.Linear) and fnmatch(name, LAYERS):
            given = nn.Linear(1, 1, bias=False, dtype=GIVEN)
            given.weight = nn.Parameter(layer.weight.to(GIVEN), requires_grad=False)
            given.out_features, given.in_features = layer.weight.shape
            coded = coder(given)
            count += stored_bits(coded, bits)
            layer.weight.copy_(coded(torch.eye(layer.in_features, dtype=GIVEN)).T)
    return student, count


def ours(
    bits: int, per: str | int, how: str, model: nn.Module, ids: torch.Tensor
) -> tuple[nn.Module, int]:
    """Return our student, baked, and the bits of its matrices."""
    window = min(512, len(ids))
    batches = [{"input_ids": ids[None, k : k + window]} for k in range(0, len(ids), window)]
    edit = tq.LSQ(bits=bits, init="mse", per=per, scale_dtype="float16")
    student = tq.calibrate(tq.compress(model, {LAYERS: [edit]}))
    if how.startswith("rescaled"):
        tq.rescale(student, batches)
    if "GPTQ" in how:
        tq.compensate(student, batches)
    matrices = {name for name, m in student.named_modules() if isinstance(m, nn.Linear)}
    rows = [row for row in tq.report(student).rows if row["name"] in matrices]
    count = sum(8 * row["bytes"] for row in rows if fnmatch(row["name"], LAYERS))
    return tq.bake(student), count


def theirs(package: str, coder: Coder, bits: int, *more: object, **options: bool) -> tuple:
    """Return (package, method) of a peer's row."""
    return package, partial(peer, lambda layer: coder(layer, bits, *more, **options), bits)


def own(bits: int, per: str | int, how: str = "") -> tuple:
    """Return (no package, method) of a row of ours."""
    return None, partial(ours, bits, per, how)


METHODS = {  # name -> (package that it needs, (model, ids to look at) -> (model, bits))
    "float": (None, None),
    "torchao int4 per 64": theirs("torchao", by_torchao, 4, 64, zero=True),
    "quanto qint4 per 64": theirs("optimum-quanto", by_quanto, 4, 64),
    "4 bits per 32": own(4, 32),
    "GPTQ, 4 bits per 32": own(4, 32, "GPTQ"),
    "rescaled, 4 bits per 32": own(4, 32, "rescaled"),
    "torchao int4 per 64, through zero": theirs("torchao", by_torchao, 4, 64),
    "quanto qint4": theirs("optimum-quanto", by_quanto, 4),
    "4 bits per 64": own(4, 64),
    "rescaled, 4 bits per 64": own(4, 64, "rescaled"),
    "GPTQ, 4 bits per 64": own(4, 64, "GPTQ"),
    "torchao int3 per 64, through zero": theirs("torchao", by_torchao, 3, 64),
    "3 bits per 64": own(3, 64),
    "rescaled, 3 bits per 64": own(3, 64, "rescaled"),
    "GPTQ, 3 bits per 64": own(3, 64, "GPTQ"),
    "quanto qint2 per 64": theirs("optimum-quanto", by_quanto, 2, 64),
    "2 bits per 32": own(2, 32),
    "GPTQ, 2 bits per 32": own(2, 32, "GPTQ"),
    "torchao int8": theirs("torchao", by_torchao, 8, None),
    "quanto qint8": theirs("optimum-quanto", by_quanto, 8),
    "8 bits per channel": own(8, "channel"),
}
QUICK = ["float", "torchao int4 per 64", "torchao int4 per 64, through zero", "torchao int8"]
QUICK += ["quanto qint4", "quanto qint2 per 64", "quanto qint8", "4 bits per 64", "4 bits per 32"]
QUICK += ["rescaled, 4 bits per 64", "GPTQ, 4 bits per 64"]


def measured(name: str, subject: object) -> dict:
    """Return the row of a method."""
    package, method = METHODS[name]
    model, student, bits = subject.model, subject.model, {"bits_per_weight": 32.0}
    layers = [m for n, m in model.named_modules() if fnmatch(n, LAYERS)]
    weights = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))
    if method is not None:
        student, count = method(model, subject.looked_at)
        bits = {"bits_per_weight": count / weights, "layers_bytes": count / 8}
    apart = {} if student is model else {"reference": model}
    windows = {key: subject.settings[key] for key in ("window", "stride")}
    found = evaluate_language(student, subject.ids, subject.text, **windows, **apart)
    metrics = {key: round(float(value), 4) for key, value in (bits | found).items()}
    role = "baseline" if name == "float" else "student" if package is None else "peer"
    return {"model": name, "role": role, "metrics": metrics}


def missing_peers(versions: dict[str, str]) -> set[str]:
    """Name the peers that are not installed, and say so; say it of other versions, too."""
    found = set()
    for package, wanted in versions.items():
        way = f"pip install --no-deps {package}=={wanted}"
        try:
            if (have := version(package)) != wanted:
                print(f"{package} {have} is installed, the committed rows are by {wanted}: {way}")
        except PackageNotFoundError:
            print(f"{package} is not installed, so its rows are left out: {way}")
            found.add(package)
    return found


def main() -> None:
    """Measure what is missing, and write the table after each row."""
    args, names = asked("smollm2_peers", __doc__.splitlines()[0], METHODS, QUICK, 100_000)
    torch.set_num_threads(1)
    left_out = missing_peers(VERSIONS)
    subject = tiny() if args.quick else smollm2(args.tokens)
    rows = kept(args, subject.settings)
    for name in names:
        if name in rows:
            print(f"{name}: measured before, kept", flush=True)
    missing = [n for n in names if n not in rows and METHODS[n][0] not in left_out]
    for name in in_time(missing, args.minutes):
        rows[name] = measured(name, subject)
        print(rows[name], flush=True)
        store("smollm2_peers", METHODS, rows, args, subject.settings)
    if rows and not missing:  # the same table, under the command that asks for it
        store("smollm2_peers", METHODS, rows, args, subject.settings)


if __name__ == "__main__":
    main()
