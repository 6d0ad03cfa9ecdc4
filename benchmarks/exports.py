"""What onnxruntime makes of compressed models: tiny random ones of many architectures.

    python benchmarks/exports.py                 # all of them; what is done already is kept
    python benchmarks/exports.py ViTForImageClassification --plans inputs --folder runs/try

A cell is one architecture under one plan: compressed as in ``architectures.py``, exported with
``target="onnx"``, run by onnxruntime's CPU provider on the batch of the trace and on one of another
size, and compared with torch. ``error`` is the largest difference over the largest output. Where
floats are decoded it may be 1e-4; where inputs are rounded to b bits, 4 / 2^b: a number on the edge
of two codes may fall either way, and moves the output by a code.

"MiniLM" is a random BERT of all-MiniLM-L6-v2's shape, where the graph weighs little beside the
codes: ``onnx`` against ``packed``, the bytes of both files.

Under "4 bits" a decoder is exported with its cache, too, and writes 8 tokens greedily, as torch
does.
"""

import collections
import json
import traceback
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import transformers
from architectures import (
    FAIL,
    OK,
    PART,
    REFUSED,
    Wrong,
    check,
    done,
    files,
    fitted,
    is_refusal,
    near,
    outputs,
    quiet,
)
from architectures import PLANS as ALL
from architectures_zoo import build, kinds
from common import parser, write
from engines import session

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (a compressed model of transformers saves its layout)
from tqlearn.sparsity.blocks import BlockMask
from tqlearn.writing import write as write_file

PLANS = {name: ALL[name] for name in ("4 bits", "inputs", "2:4", "trains", "pairs")}
PLANS |= {name: ALL[name] for name in ("products", "blocks")} | {
    "asymmetric": lambda model: {"*": [tq.Uniform(8, per="channel")]},
    "groups": lambda model: {"*": [tq.LSQ(4, per=16)]},
}
CLOSE = dict.fromkeys(PLANS, 1e-4) | {"inputs": 4 / 2**8}
NAMES = (
    *("BertForMaskedLM", "RobertaForSequenceClassification", "DistilBertForMaskedLM"),
    *("AlbertForMaskedLM", "MPNetForMaskedLM", "ElectraForPreTraining", "ModernBertForMaskedLM"),
    *("DebertaV2ForMaskedLM", "DebertaForMaskedLM", "ConvBertForMaskedLM", "FNetForMaskedLM"),
    *("RoFormerForMaskedLM", "SqueezeBertForMaskedLM", "MobileBertForMaskedLM"),
    *("ViTForImageClassification", "BeitForImageClassification", "Dinov2ForImageClassification"),
    *("SwinForImageClassification", "ConvNextForImageClassification", "Wav2Vec2ForCTC"),
    *("LlamaForCausalLM", "GPT2LMHeadModel", "Qwen2ForCausalLM", "T5ForConditionalGeneration"),
    *("CLIPModel", "MiniLM"),
)
CACHED = "4 bits"  # the plan under which decoders write with a cache
TOLD = ("NBits", "GatherBlock", "Integer", "QLinear", "DequantizeLinear", "QuantizeLinear")


def built(name):
    """Return (model, batch) of an architecture."""
    if name != "MiniLM":
        return build(name)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = transformers.BertForSequenceClassification(config).eval()
    return model, {"input_ids": torch.randint(3, 30000, (2, 16))}


def ran(engine, batch):
    """Return the floats that a session gives for a batch."""
    names = {value.name for value in engine.get_inputs()}
    found = engine.run(None, {k: v.numpy() for k, v in batch.items() if k in names})
    return [torch.from_numpy(x) for x in found if x.dtype == np.float32]


def operators(file):
    """Count the operators on codes in a graph."""
    names = (node.op_type for node in onnx.load(file, load_external_data=False).graph.node)
    counts = collections.Counter(name for name in names if any(word in name for word in TOLD))
    return dict(sorted(counts.items()))


def other(batch):
    """Return a batch of three rows, and of other lengths where an axis is one."""
    torch.manual_seed(2)
    found = {}
    for name, x in batch.items():
        length = (x.shape[1] + 3,) if x.dim() == 2 and not x.is_floating_point() else x.shape[1:]
        ids = torch.randint(3, 90, (3, *length))
        found[name] = torch.randn(3, *length) if x.is_floating_point() else ids
    return found


def compressed(model, batch, plan):
    """Return what a plan makes of a model; half of what block masks cover goes, and is cut out."""
    student, plan, _, refused = fitted(model, batch, plan)
    masks = [m for m in student.modules() if isinstance(m, BlockMask) and m.source is m]
    with torch.no_grad():
        for mask in masks:
            mask.scores[: len(mask.scores) // 2] = -10
    return (tq.compact(student).eval() if masks else student), refused


def cell(model, batch, plan, folder):
    """Run one cell."""
    chosen = PLANS[plan](model)
    student, refused = compressed(model, batch, chosen)
    file, seen = folder / "model.onnx", folder / "seen.onnx"
    tq.export(student, file, batch)
    engine = session(file, seen)
    errors = {}
    for name, given in {"traced": batch, "other": other(batch)}.items():
        try:
            want = outputs(student, given)
        except Exception as error:  # torch itself has one size only
            check(name == "other", f"{error}")
            continue
        have = ran(engine, given)
        shapes = [x.shape for x in have] == [x.shape for x in want]
        check(shapes, f"{name}: {[*map(len, (have, want))]} outputs, or of other shapes")
        errors[name] = near(have, want)
        check(errors[name] < CLOSE[plan], f"{name}: differs by {errors[name]:.1e}")
    tq.pack(student).save_pretrained(folder / "packed")
    return {
        "outcome": PART if refused else OK,
        "refused": refused,
        "error": max(errors.values()),
        "sizes": len(errors),
        "onnx": file.stat().st_size,
        "packed": files(folder / "packed"),
        "operators": operators(seen),
    } | (written(student, batch, folder) if plan == CACHED else {})


def written(student, batch, folder):
    """Let a decoder write with a cache in onnxruntime; say that it writes what torch does."""
    if student.config.is_encoder_decoder or not student.can_generate():
        return {}
    ids = batch["input_ids"]
    past = student(ids, use_cache=True).past_key_values
    mask = torch.ones(len(ids), 2 * ids.shape[1], dtype=torch.long)
    example = {"input_ids": ids, "attention_mask": mask, "past_key_values": past}
    tq.export(student, folder / "cached.onnx", example)
    engine = session(folder / "cached.onnx")
    cache = {
        value.name: np.zeros([d if isinstance(d, int) else 0 for d in value.shape], np.float32)
        for value in engine.get_inputs() if value.name.startswith("past")
    }  # fmt: skip
    cache = {name: np.zeros((len(ids), *x.shape[1:]), np.float32) for name, x in cache.items()}
    step, text = ids.numpy(), ids.numpy()
    names = [value.name for value in engine.get_outputs()]
    for _ in range(8):
        given = {"input_ids": step, "attention_mask": np.ones_like(text)} | cache
        found = dict(zip(names, engine.run(None, given), strict=True))
        step = found["logits"][:, -1:].argmax(-1)
        text = np.concatenate([text, step], 1)
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
    want = student.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, min_new_tokens=8,
        do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    check(np.array_equal(text, want.numpy()), "with a cache it writes something else")
    return {"writes": text.shape[1] - ids.shape[1]}


def entry(name, plan, folder):
    """Return what became of a cell, whatever it was."""
    folder.mkdir(parents=True, exist_ok=True)
    model, batch = built(name)
    try:
        return cell(model, batch, plan, folder)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"[:600]
        if is_refusal(error):
            return {"outcome": REFUSED, "reason": words}
        if not isinstance(error, Wrong):
            traceback.print_exception(error)
        return {"outcome": FAIL, "reason": words}


def row(record):
    metrics = {plan: told(found) for plan, found in record["cells"].items()}
    return {"model": record["model"], "role": "student", "metrics": metrics}


def told(found):
    """The error of a cell, and how many layers its plan had to leave out; or its outcome."""
    out = f", {len(found['refused'])} left out" if found.get("refused") else ""
    return f"{found['error']:.0e}{out}" if "error" in found else found["outcome"]


def main():
    options = parser("exports", __doc__)
    options.add_argument("names", nargs="*", help="classes of transformers; none for all")
    options.add_argument("--plans", nargs="+", default=[*PLANS], choices=[*PLANS])
    options.add_argument("--folder", type=Path, default=Path("runs/exports"))
    options.add_argument("--again", action="store_true", help="these plans also where it is done")
    args = options.parse_args()
    names = args.names or [*NAMES]
    names = names[:1] if args.quick else names
    warnings.simplefilter("ignore")
    with quiet():
        for plan in args.plans:
            for name in names:
                place = args.folder / name
                record = done(place) | {"model": name, "kind": kinds().get(name, "encoder")}
                if args.again or plan not in record["cells"]:
                    found = entry(name, plan, place / plan.replace(" ", "_").replace(":", "_"))
                    record["cells"][plan] = found
                    write_file(place / "cells.json", json.dumps(record, indent=1))
                    print(f"{name:34} {plan:12} {found['outcome']} ",
                          found.get("reason") or f"{found['error']:.1e}", flush=True)  # fmt: skip
    records = [done(args.folder / name) for name in names]
    write("exports", None, [row(r) for r in records], args, architectures=records)
    print(collections.Counter(f["outcome"] for r in records for f in r["cells"].values()))


if __name__ == "__main__":
    main()
