"""Kronecker products against low-rank pairs of the same size: the embedded teacher's matrices.

    python benchmarks/kronecker_or_pair.py

Every matrix of the encoder and of the two layers in front of the classifiers becomes one product
shaped like KroneckerBERT_8's, or a sum of products whose factors have the same size, or a low-rank
pair; none needs more numbers than the first, which keeps a quarter of an attention matrix and a
sixteenth of a feed-forward one. Everything else stays as it is, all in FP32. Each student is
measured as the SVDs leave it, and after the 300 steps of lessons of ``train_or_pair.py``: the mean
of three seeds, with the lowest and the highest in the note. ``--quick``: one seed, 2 steps.
"""

import common
import torch
import train_or_pair

import tqlearn as tq
from tqlearn import shapes
from tqlearn.hf import encode_joint

ONE = {  # shape of the weight -> out_modes and in_modes of one product
    (128, 128): ((64, 2), (64, 2)),
    (512, 128): ((8, 64), (2, 64)),
    (128, 512): ((2, 64), (8, 64)),
}
EVEN = {  # factors of the same size: the most products for the numbers
    (128, 128): ((2, 64), (64, 2)),
    (512, 128): ((4, 128), (64, 2)),
    (128, 512): ((2, 64), (128, 4)),
}


def one(shape: tuple[int, int], rank: int) -> tq.Kronecker:
    """The edit that makes one product of the paper's kind."""
    out_modes, in_modes = ONE[shape]
    return tq.Kronecker(1, out_modes=out_modes, in_modes=in_modes)


def several(shape: tuple[int, int], rank: int) -> tq.Kronecker:
    """The edit that sums as many even products as that one has numbers for."""
    out_modes, in_modes = EVEN[shape]
    each = shapes.kronecker_parameters(out_modes, in_modes)
    return tq.Kronecker(numbers(shape) // each, out_modes=out_modes, in_modes=in_modes)


def pair(shape: tuple[int, int], rank: int) -> tq.LowRank:
    """The edit that makes the largest low-rank pair within the numbers of that product."""
    return tq.LowRank(numbers(shape) // sum(shape))


def numbers(shape: tuple[int, int]) -> int:
    """What one product holds."""
    return shapes.kronecker_parameters(*ONE[shape])


def main():
    """Cut, teach and measure."""
    args = common.parser("kronecker_or_pair", __doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    teacher, tokenizer = tq.teachers.load("embedded")
    teacher.set_attn_implementation("eager")  # the lessons compare attention maps
    flights = tq.data.load("flights")
    labels = teacher.config.intent_labels, teacher.config.slot_labels
    setting = (teacher, tokenizer, flights, encode_joint(flights, tokenizer, *labels))
    first = train_or_pair.scores(teacher, tokenizer, flights["test"])
    whole = {"file": tq.report(teacher).file}
    rows = [{"model": "teacher", "role": "baseline", "metrics": first, "bytes": whole}]
    seeds, steps = range(args.seed, args.seed + (1 if args.quick else 3)), 2 if args.quick else 300
    for name, edit in (("one product", one), ("several products", several), ("pair", pair)):
        rows += train_or_pair.measure(name, edit, 0, setting, steps, seeds)
    common.write("kronecker_or_pair", "KroneckerBERT", rows, args)


if __name__ == "__main__":
    main()
