"""The packaged decoder at 2 to 8 bits: groups, methods, and a planted outlier. No training.

    python benchmarks/decoder_bits.py

Every matrix of the decoder's layers goes on a grid through zero whose scale the largest weight
sets; the table of words stays in floats. GPTQ looks at the first 8192 tokens of ``flight_text``'s
training split. Its validation split judges, in windows of 128 that do not overlap: new sentences of
the kind that was learned. (The test split has names and phrases that training never shows; what
the model says of those hardly depends on its bits.) The outlier is planted: one channel of each
norm and of each layer's values is divided by 20, and the weights that read it are multiplied, so
that the outputs are equal in floats (``tqlearn.lab.explorers.language_model``). The last rows are
"to nearest" again, with scales of 16 bits. ``--quick`` measures few settings on few tokens.
"""

from itertools import product

import common
import torch

import tqlearn as tq
from tqlearn.hf import evaluate_language
from tqlearn.lab.explorers import language_model as settings
from tqlearn.posttraining import rotate

WINDOW, LOOKED_AT = 128, 8192
SHORT = [*product((4,), (64, 32), ("float16", "bfloat16"))]  # bits, neighbors, type of scales


def texts(tokenizer):
    """(batches that methods look at, ids that judge)."""
    data = tq.data.load("flight_text")
    look, judge = (
        torch.tensor(tokenizer("\n".join(data[split]["text"]) + "\n")["input_ids"])
        for split in ("train", "validation")
    )
    rows = look[: min(LOOKED_AT, len(look)) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return [{"input_ids": ids} for ids in rows.split(16)], judge


def perplexity(model, ids):
    """Rounded weights are made plain first: the same numbers, no rounding at each call."""
    model = tq.bake(model)
    return round(
        evaluate_language(model, ids, window=WINDOW, stride=WINDOW, batch=8)["perplexity"], 4
    )


def of_short_scales(bits: int, per: int, kind: str) -> str:
    """Return the name of a row."""
    return f"{settings.setting('to nearest', bits, per, False)}, scales in {kind}"


def measured(name, student, ids):
    """Return the row of a student."""
    metrics, size = {"perplexity": perplexity(student, ids)}, {"file": tq.report(student).file}
    print(f"{name}: {metrics['perplexity']:.2f}", flush=True)
    return {"model": name, "role": "ablation", "metrics": metrics, "bytes": size}


def main():
    """Measure every setting and write the table."""
    args = common.parser("decoder_bits", __doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    model, tokenizer = tq.teachers.load("decoder")
    batches, ids = texts(tokenizer)
    bits, groups, many = settings.BITS, [*settings.GROUPS.values()], (False, True)
    if args.quick:
        bits, groups, many, ids, batches = (3,), (64,), (True,), ids[:1000], batches[:1]
    base = {"model": "float", "role": "baseline", "metrics": {"perplexity": perplexity(model, ids)}}
    rows = [base | {"bytes": {"file": tq.report(model).file}}]
    models = {False: model, True: settings.plant(model)}
    turned = {planted: rotate(models[planted]) for planted in many}
    for planted, per, b, method in product(many, groups, bits, settings.METHODS):
        start, how = models[planted], method
        if method.startswith("rotated"):
            start, how = turned[planted], method.removeprefix("rotated ")
        student = settings.rounded(start, batches, b, per, how)
        rows.append(measured(settings.setting(method, b, per, planted), student, ids))
    for b, per, kind in SHORT[: 1 if args.quick else None]:
        edit = tq.LSQ(bits=b, init="max", per=per, scale_dtype=kind)
        student = tq.calibrate(tq.compress(model, {settings.LAYERS: [edit]}))
        rows.append(measured(of_short_scales(b, per, kind), student, ids))
    read = {
        "window": WINDOW,
        "tokens": len(ids),
        "looked at": sum(b["input_ids"].numel() for b in batches),
    }
    read |= {"factor": settings.FACTOR, "channel": settings.CHANNEL}
    common.write("decoder_bits", None, rows, args, settings=read)


if __name__ == "__main__":
    main()
