"""What works on which model: tiny random models of many architectures under several plans.

    python benchmarks/architectures.py               # all of them; what is done already is kept
    python benchmarks/architectures.py BertForMaskedLM --plans "4 bits" --folder runs/try

A cell of the table is one architecture under one plan. The plan is compressed, trained for a step
(every new parameter gets a gradient), generates where the model can, is packed, saved, and measured
against ``report``. A new process loads it (``architectures_read.py``): to the bit through
``tqlearn.hf``, and the baked model in plain transformers, before anybody has imported tqlearn.

A layer that the library refuses by name is left out of the plan, as the message says, and listed
with the message. Every matrix under a plan's patterns has to change or to be listed by ``preview``.
"""

import contextlib
import json
import linecache
import shutil
import subprocess
import sys
import traceback
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import transformers
from architectures_read import outputs
from architectures_zoo import build, kinds
from common import parser, write
from torch import nn

import tqlearn as tq
from tqlearn.hf.loading import settle
from tqlearn.sparsity.blocks import BlockMask
from tqlearn.writing import beside
from tqlearn.writing import write as write_file

HERE = Path(__file__).parent
OK, PART, REFUSED, NONE, FAIL = "ok", "part", "refused", "none", "FAIL"
LINEAR = (nn.Linear, transformers.pytorch_utils.Conv1D)
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of the largest output: factors are multiplied in other order


def everything(*edits):
    return lambda model: {"*": list(edits)}


def by_kind(linear, table):
    """A plan that names every linear layer, and every table that ``table`` has edits for."""

    def plan(model):
        places = {n: m for n, m in model.named_modules() if isinstance(m, (*LINEAR, nn.Embedding))}
        tied = {name for names in shared(model) for name in names}
        chosen = {
            n: table if isinstance(m, nn.Embedding) or n in tied else linear
            for n, m in places.items()
        }
        return {name: edits for name, edits in chosen.items() if edits}

    return plan


def inputs(model):
    tables = {n: [tq.LSQ(8)] for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    for first, *others in shared(model):  # the output layer of a tied table has no codes of its own
        tables |= dict.fromkeys((first, *others), [tq.LSQ(8)])
    return tables | {"*": [tq.LSQ(8), tq.Inputs(tq.LSQ(8))]}


def tied(*edits):
    def plan(model):
        tables = [p for p in shared(model) if isinstance(model.get_submodule(p[0]), nn.Embedding)]
        return {places[0]: list(edits) for places in tables}

    return plan


PLANS = {  # what the columns are called -> the plan of a model
    "4 bits": everything(tq.LSQ(4)),
    "trains": by_kind([tq.TT(rank=4), tq.LSQ(4)], [tq.TTM(rank=4, order=2), tq.LSQ(4)]),
    "pairs": by_kind([tq.LowRank(rank=4), tq.LSQ(8)], []),
    "products": by_kind([tq.Kronecker(rank=2), tq.LSQ(4)], [tq.Kronecker(rank=2), tq.LSQ(4)]),
    "2:4": everything(tq.TwoFour(), tq.SAWB(4)),
    "inputs": inputs,
    "blocks": lambda model: tq.block_plan(model, "hybrid", (8, 8)),
    "tied, 4 bits": tied(tq.LSQ(4)),
    "tied, trains": tied(tq.TTM(rank=8, order=2), tq.LSQ(8)),
}


class Wrong(Exception):
    """A check of ours that did not hold."""


def shared(model):
    """Return the module names of every weight that several modules hold, tables first."""
    found = {}
    for name, module in model.named_modules():
        if module._parameters.get("weight") is not None:
            found.setdefault(id(module.weight), []).append(name)
    several = [names for names in found.values() if len(names) > 1]
    for names in several:
        names.sort(key=lambda name: not isinstance(model.get_submodule(name), nn.Embedding))
    return several


def is_refusal(error):
    """Say whether the library itself raised this error, with words of its own."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno).strip()
    inside = Path(last.filename).is_relative_to(Path(tq.__file__).parent)
    own = ValueError, TypeError, RuntimeError  # the last where a model writes into its weights
    return inside and line.startswith("raise") and isinstance(error, own)


def named(error, model):
    """Return the layer that a refusal names, or None."""
    words = str(error).replace("'", " ").replace(":", " ").split()
    names = dict(model.named_modules())
    for word in words:
        if word and word.removesuffix(".quant_input") in names:
            return word.removesuffix(".quant_input")
    return None


def fitted(model, batch, plan):
    """Compress and calibrate; layers that are refused by name are left out and returned."""
    refused, plan = {}, dict(plan)
    while True:
        try:
            left = tq.preview(model, plan).left
            student = tq.compress(model, plan)
            return tq.calibrate(student, [batch]).eval(), plan, left, refused
        except (ValueError, TypeError) as error:
            if not is_refusal(error):
                raise
            name = named(error, model)
            if name is None or name in refused:
                raise
            refused[name] = str(error)
            plan = {name: []} | {k: v for k, v in plan.items() if k != name}
            if not any(plan.values()):
                raise


def skipped(model, student, plan, left):
    """Return the matrices under a plan's patterns that neither changed nor are listed."""
    silent, after = [], dict(student.named_parameters())
    for name, weight in model.named_parameters():
        owner = name.partition(".parametrizations.")[0]  # torch's own weight norm
        owner = name.rpartition(".")[0] if owner == name else owner
        edits = next((e for p, e in plan.items() if fnmatchcase(owner, p)), [])
        if sum(n > 1 for n in weight.shape) > 1 and edits and name in after and name not in left:
            silent.append(name)
    return silent


def step(model, batch):
    """Train for a step of SGD; return the names of the parameters with a gradient."""
    model.train()
    torch.manual_seed(0)
    found = outputs(model, batch, grad=True)
    loss = sum((t * torch.randn_like(t)).mean() for t in found)  # a square would not see a norm
    loss.backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and not finite(p.grad)]
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    if wrong:
        raise Wrong(f"gradients are not finite: {wrong[:3]}")
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    model.zero_grad()
    model.eval()
    return moved


def finite(x):
    return bool(torch.isfinite(x).all())


def without_gradient(student, moved, dense):
    """Return new parameters without a gradient, of weights that have one in the dense model.

    Experts of their own get none where no token reaches them, and a student may choose others.
    """
    found = []
    for name in dict(student.named_parameters()):
        owner, _, rest = name.partition(".parametrizations.")
        key = rest.split(".")[0] if rest else name.rpartition(".")[2]
        owner = owner if rest else name.rpartition(".")[0].removesuffix(".quant_input")
        key = "weight" if key.startswith("core_") or ".quant_input" in name else key
        if ".experts." in owner and not any(n.startswith(f"{owner}.") for n in moved):
            continue
        if name not in moved and (rest or "core_" in name or "quant_" in name):
            if f"{owner}.{key}" in dense:
                found.append(name)
    return found


def generated(model, batch):
    """Return the tokens that a model writes."""
    torch.manual_seed(0)
    given = {k: v for k, v in batch.items() if k != "decoder_input_ids"}
    return model.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False)


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def near(a, b):
    """Return the largest difference over the largest value, of several outputs."""
    return max(
        float((x - y).abs().max() / y.abs().max().clamp_min(1e-9))
        for x, y in zip(a, b, strict=True)
    )


def check(holds, words):
    if not holds:
        raise Wrong(words)


def files(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def cell(base, plan, folder):
    """Run one cell; return what is known of it before new processes have read it."""
    model, batch = base["model"], base["batch"]
    student, plan, left, refused = fitted(model, batch, plan)
    silent = skipped(model, student, plan, left)
    check(not silent, f"silent skip: {silent[:3]}")
    lost = without_gradient(student, step(student, batch), base["moved"])
    check(not lost, f"no gradient: {lost[:3]}")
    masks = [m for m in student.modules() if isinstance(m, BlockMask) and m.source is m]
    with torch.no_grad():
        for mask in masks:
            mask.scores[: len(mask.scores) // 2] = -10
    want = outputs(student, batch)
    check(all(map(finite, want)), "outputs are not finite")
    check(not same(want, base["want"]), "nothing changed")
    packed = tq.compact(student) if masks else tq.pack(student)
    have = outputs(packed, batch)
    if masks:
        smaller = sum(p.numel() for p in packed.parameters())
        check(smaller < sum(p.numel() for p in model.parameters()), "compact took nothing away")
        check(near(have, want) < CLOSE["atol"], f"compact differs: {near(have, want):.1e}")
    else:
        check(same(have, want), "packed differs")
        if base["writes"] is True:
            words = generated(student, batch), generated(packed, batch)
            check(torch.equal(*words), "packed, it writes something else")
    packed.save_pretrained(folder / "packed")
    size = files(folder / "packed")
    told = tq.report(packed if masks else student).file
    check(told == size, f"report says {told} bytes, the file has {size}")
    dense = tq.bake(student, dense=True)
    check(type(dense) is type(model), f"bake gives a {type(dense).__name__}")
    shapes = {n: p.shape for n, p in dense.named_parameters()}
    check(shapes == {n: p.shape for n, p in model.named_parameters()}, "bake has other tensors")
    dense.save_pretrained(folder / "dense")
    plain = outputs(without_inputs(student), batch)
    with beside(folder / "want.pt") as new:  # last: it says that the folder can be read
        torch.save({"batch": batch, "packed": have, "dense": plain}, new)
    return {
        "outcome": PART if refused else OK,
        "refused": refused,
        "left": [*left],
        "file": size,
        "dense_file": base["size"],
    }


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        yield


def without_inputs(student):
    """Return a model whose quantizers of inputs pass what they get, for what a plain layer does."""
    from copy import deepcopy

    free = deepcopy(student)
    for module in free.modules():
        if isinstance(getattr(module, "quant_input", None), nn.Module):
            module.quant_input = nn.Identity()
    return free


def study(name, folder, plans):
    """Run cells of an architecture and write them to its folder, beside those that are there."""
    model, batch = build(name)
    shutil.rmtree(folder / "plain", ignore_errors=True)
    (folder / "plain").mkdir(parents=True)
    model.save_pretrained(folder / "plain")
    again, _ = build(name)
    base = {"model": model, "batch": batch, "want": outputs(model, batch)}
    loaded = type(model).from_pretrained(folder / "plain").eval()
    settle(loaded)  # MobileViT rounds otherwise where a mapped file happens to lie
    check(same(outputs(loaded, batch), base["want"]), f"{name} itself loads otherwise")
    base |= {"moved": step(again, batch), "size": files(folder / "plain")}
    base["writes"] = model.can_generate()
    if base["writes"]:
        try:
            generated(model, batch)
        except Exception as error:  # of transformers: nothing of ours has touched the model yet
            base["writes"] = f"{type(error).__name__}: {error}"
    record = done(folder) | {"model": name, "kind": kinds()[name], "writes": base["writes"]}
    record["parameters"] = sum(p.numel() for p in model.parameters())
    for plan in plans:
        found = entry(base, plan, folder / plan.replace(" ", "_").replace(":", "_"))
        record["cells"][plan] = found
        print(f"  {plan:14} {found['outcome']} {found.get('reason', '')[:300]}", flush=True)
    record["cells"] = {plan: record["cells"][plan] for plan in PLANS if plan in record["cells"]}
    write_file(folder / "cells.json", json.dumps(record, indent=1))


def done(folder):
    """Return the record of an architecture as it stands."""
    file = folder / "cells.json"
    return json.loads(file.read_text()) if file.exists() else {"cells": {}}


def entry(base, plan, place):
    """Return what became of a cell, whatever it was; what a new process shall read is in place."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        if chosen := PLANS[plan](base["model"]):
            return cell(base, chosen, place) | {"folder": place.name}
        return {"outcome": NONE, "reason": "no table of words is tied"}
    except Exception as error:
        shutil.rmtree(place)
        words = f"{type(error).__name__}: {error}"
        if is_refusal(error):
            return {"outcome": REFUSED, "reason": words}
        traceback.print_exception(error)
        return {"outcome": FAIL, "reason": words}


def read(folder):
    """Let a new process load everything that no one has read yet."""
    subprocess.run([sys.executable, str(HERE / "architectures_read.py"), str(folder)], check=True)


def judged(folder):
    """Return an architecture's record with what the new processes found."""
    record = json.loads((folder / "cells.json").read_text())
    for found in record["cells"].values():
        if "folder" not in found:
            continue
        place = folder / found.pop("folder")
        through, plain = (
            json.loads((place / f"{k}.json").read_text()) for k in ("packed", "dense")
        )
        if words := through.get("wrong") or plain.get("wrong"):
            found |= {"outcome": FAIL, "reason": words}
        found["bake_error"] = plain.get("error")
    return record


def commit():
    """Return the commit that this script ran from, marked where files differ from it."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or None


def row(record):
    cells = record["cells"]
    metrics = {plan: found["outcome"] for plan, found in cells.items()}
    return {"model": record["model"], "role": "student", "metrics": metrics}


def main():
    options = parser("architectures", __doc__)
    options.add_argument("names", nargs="*", help="classes of transformers; none for all")
    options.add_argument("--plans", nargs="+", default=[*PLANS], choices=[*PLANS])
    options.add_argument("--folder", type=Path, default=Path("runs/architectures"))
    options.add_argument("--again", action="store_true", help="these plans also where it is done")
    args = options.parse_args()
    names = args.names or [*kinds()]
    names = names[:3] if args.quick else names
    with quiet():
        for name in names:
            here = done(args.folder / name)["cells"]
            if plans := [plan for plan in args.plans if args.again or plan not in here]:
                print(name, flush=True)
                study(name, args.folder / name, plans)
    read(args.folder)
    records = [judged(args.folder / name) for name in names]
    rows = [row(record) for record in records]
    write("architectures", None, rows, args, commit=commit(), architectures=records)
    counts = {}
    for record in records:
        for plan, found in record["cells"].items():
            counts[found["outcome"]] = counts.get(found["outcome"], 0) + 1
            if found["outcome"] == FAIL:
                print(f"{record['model']}, {plan}: {found['reason'][:400]}")
    print(counts)


if __name__ == "__main__":
    main()
