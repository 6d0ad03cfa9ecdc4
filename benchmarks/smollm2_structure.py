"""SmolLM2-135M with another structure and no training: factors, fewer heads, zeros; perplexity.

    TQLEARN_DATA=FOLDER python benchmarks/smollm2_structure.py
    TQLEARN_DATA=FOLDER python benchmarks/smollm2_structure.py --minutes 60

What a structure costs a decoder before anything is taught again, at two or three sizes each: low
rank, tensor trains and sums of Kronecker products in place of the FFN's matrices or attention's;
FFN dimensions and groups of heads (three queries with their key and value) of least norm, taken out
by ``tq.compact``; blocks and 2:4 zeros by magnitude, the latter by SparseGPT as well. The table of
words stays. "1.33x" is for the matrices of that part alone; bytes are those of the whole file, and
"weights" is the share of the numbers in the layers' matrices that is left.

The first 8,192 tokens of SQuAD's dev paragraphs, fewer than in ``smollm2.py``, in windows of 1024
that do not overlap; KL is from the model in floats. SparseGPT looks at 8,192 tokens of SQuAD's
training paragraphs. Nothing is chosen by what is measured. Rows that the JSON holds with the same
settings are kept, and each new row is written at once. ``--quick`` takes a tiny random Llama.
"""

from collections.abc import Callable

import torch
from smollm2 import Subject, asked, in_time, kept, smollm2, store, tiny

import tqlearn as tq
from tqlearn.hf import evaluate_language
from tqlearn.sparsity.anatomy import transformer_layers
from tqlearn.sparsity.blocks import block_masks

LOOKED_AT, BLOCK = 8_192, (16, 16)
PARTS = {"FFN": "*.mlp.*", "attention": "*.self_attn.*", "all": "*.layers.*"}
Model = torch.nn.Module
Method = Callable[[Model, torch.Tensor], Model]


def factored(edit: object, part: str) -> Method:
    """Put factors in place of the matrices of a part."""
    return lambda model, ids: tq.compress(model, {PARTS[part]: [edit]})


def two_four(part: str, batch: int = 0) -> Method:
    """Zero two of four, by magnitude or, in batches of so many tokens, by SparseGPT."""

    def method(model: Model, ids: torch.Tensor) -> Model:
        student = tq.compress(model, {PARTS[part]: [tq.TwoFour()]})
        if batch:
            seen = ids[:LOOKED_AT]
            batches = [{"input_ids": seen[None, k : k + batch]} for k in range(0, len(seen), batch)]
            tq.compensate(student, batches)
        return student

    return method


def smaller(ffn: float = 1.0, heads: float = 1.0) -> Method:
    """Keep a share of FFN dimensions and of groups of heads, those of largest norm, and compact."""

    def method(model: Model, ids: torch.Tensor) -> Model:
        student = tq.compress(model, tq.block_plan(model, "struct"))
        masks = block_masks(student)
        for layer in transformer_layers(student):
            groups = (layer.query, layer.key, layer.value, layer.output), heads
            for names, share in (groups, ((layer.gate, layer.up, layer.down), ffn)):
                norms = sum(block_norms(student, name, masks[name]) for name in names)
                largest = stays(norms, share)
                for name in names:
                    masks[name].fix(largest.view(masks[name].grid))
        return tq.compact(student)

    return method


def in_blocks(share: float) -> Method:
    """Keep a share of each matrix in blocks, those of largest norm."""

    def method(model: Model, ids: torch.Tensor) -> Model:
        student = tq.compress(model, tq.block_plan(model, "block", BLOCK))
        for name, mask in block_masks(student).items():
            mask.fix(stays(block_norms(student, name, mask), share).view(mask.grid))
        return tq.compact(student)

    return method


@torch.no_grad()
def block_norms(model: Model, name: str, mask: object) -> torch.Tensor:
    """The squared norm of each block of a matrix, in a row."""
    weight = model.get_submodule(name).parametrizations.weight.original
    (a, b), (p, q) = mask.grid, mask.block
    return weight.reshape(a, p, b, q).square().sum((1, 3)).flatten()


def stays(norms: torch.Tensor, share: float) -> torch.Tensor:
    """Which blocks are the largest ones."""
    found = torch.zeros_like(norms, dtype=torch.bool)
    found[norms.topk(round(share * len(norms))).indices] = True
    return found


SIZES = {"1.05x": 1.05, "1.33x": 4 / 3, "2x": 2}
EDITS = {
    "low rank": {size: tq.LowRank(ratio=ratio) for size, ratio in SIZES.items()},
    "tensor train": {size: tq.TT(ratio=ratio) for size, ratio in SIZES.items()},
    "Kronecker": {"1.33x": tq.Kronecker(rank=3), "2x": tq.Kronecker(rank=2)},  # of 4: 2 x 2 factors
}
METHODS: dict[str, Method] = {  # name -> (model, ids to look at) -> model
    "float": lambda model, ids: model,
    **{
        f"{name}, {part} {size} smaller": factored(edit, part)
        for part in ("FFN", "attention")
        for name, edits in EDITS.items()
        for size, edit in edits.items()
    },
    **{f"FFN, {k} of 8 dimensions": smaller(ffn=k / 8) for k in (7, 6, 4)},
    **{f"attention, {k} of 3 groups of heads": smaller(heads=k / 3) for k in (2, 1)},
    "both, 6 of 8 dimensions, 2 of 3 groups": smaller(6 / 8, 2 / 3),
    **{f"blocks of 16 x 16, {k} of 8": in_blocks(k / 8) for k in (7, 6, 4)},
    **{
        f"2:4 by {how}, {part}": two_four(part, batch)
        for part in ("FFN", "all")
        for how, batch in (("magnitude", 0), ("SparseGPT", 512))
    },
}


def weights(model: Model) -> int:
    """Numbers in the matrices of the layers that are not zero."""
    layers = [m for name, m in model.named_modules() if name.endswith(".layers")]
    return sum(int(p.count_nonzero()) for p in layers[0].parameters() if p.dim() > 1)


def measured(name: str, subject: Subject) -> dict:
    """Return the row of a method."""
    student = METHODS[name](subject.model, subject.looked_at)
    size, plain = tq.report(student).file, tq.bake(student)
    sizes = {key: subject.settings[key] for key in ("window", "stride")}
    apart = {} if name == "float" else {"reference": subject.model}
    found = evaluate_language(plain, subject.ids, subject.text, **sizes, **apart)
    metrics = {key: round(float(value), 4) for key, value in found.items()}
    metrics["weights"] = round(weights(plain) / weights(subject.model), 4)
    role = "baseline" if name == "float" else "ablation"
    return {"model": name, "role": role, "metrics": metrics, "bytes": {"file": size}}


def main():
    """Measure what is missing, and write the table after each row."""
    about = __doc__.splitlines()[0]
    args, names = asked("smollm2_structure", about, METHODS, [*METHODS], 8_192)
    torch.set_num_threads(1)
    subject = tiny() if args.quick else smollm2(args.tokens)
    settings = subject.settings | {"looked at": f"{min(LOOKED_AT, len(subject.looked_at))} tokens"}
    rows = kept(args, settings)
    for name in names:
        if name in rows:
            print(f"{name}: measured before, kept", flush=True)
    for name in in_time([name for name in names if name not in rows], args.minutes):
        rows[name] = measured(name, subject)
        print(rows[name], flush=True)
        store("smollm2_structure", METHODS, rows, args, settings)


if __name__ == "__main__":
    main()
