"""Tensor trains against plain low-rank pairs of the same size: the embedded teacher's matrices.

    python benchmarks/train_or_pair.py

Every matrix of the encoder and of the two layers in front of the classifiers becomes a tensor
train of three row and three column digits, at two ranks, or a low-rank pair that needs no more
numbers than that train; everything else stays as it is, all in FP32. Each student is measured as
the SVDs leave it, and after 300 steps of the QTC recipe's lessons: the mean of three seeds, with
the lowest and the highest in the note. ``--quick``: one rank, one seed, 2 steps.
"""

import tempfile

import common
import torch
from transformers import PrinterCallback, TrainingArguments, set_seed

import tqlearn as tq
from tqlearn import shapes
from tqlearn.hf import DistillTrainer, JointCollator, encode_joint, evaluate_joint
from tqlearn.hf.running import without_dropout
from tqlearn.recipes import qtc

MODES = {  # shape of the weight -> modes of its rows and columns
    (128, 128): ((4, 4, 8), (8, 4, 4)),
    (512, 128): ((8, 8, 8), (8, 4, 4)),
    (128, 512): ((4, 4, 8), (8, 8, 8)),
}
LAYERS = {  # pattern -> shape of the weights it names
    "*.attention.*": (128, 128),
    "*.intermediate.dense": (512, 128),
    "*.output.dense": (128, 512),
    "*_dense": (128, 128),
}
NAMES = ("intent_accuracy", "slot_f1")


def train(shape: tuple[int, int], rank: int) -> tq.TT:
    """The edit that makes a tensor train."""
    return tq.TT(rank, *MODES[shape])


def pair(shape: tuple[int, int], rank: int) -> tq.TT:
    """The edit that makes the largest low-rank pair within the numbers of that train.

    A pair is a train of two cores: one row digit, one column digit.
    """
    numbers = shapes.tt_parameters([m for modes in MODES[shape] for m in modes], rank)
    rows, columns = shape
    return tq.TT(numbers // (rows + columns), (rows,), (columns,))


def plan(edit, rank: int) -> dict:
    """The same kind of edit for every matrix."""
    matrices = {pattern: [edit(shape, rank)] for pattern, shape in LAYERS.items()}
    return matrices | {"*embeddings": [], "*_classifier": []}


@torch.no_grad()
def relative_error(student: torch.nn.Module, teacher: torch.nn.Module) -> float:
    """The mean relative error of the matrices, in percent."""
    mine, errors = dict(tq.bake(student, dense=True).named_modules()), []
    for name, layer in teacher.named_modules():
        if isinstance(layer, torch.nn.Linear) and tuple(layer.weight.shape) in MODES:
            errors.append((mine[name].weight - layer.weight).norm() / layer.weight.norm())
    return 100 * float(torch.stack(errors).mean())


def taught(student, teacher, tokenizer, encoded, steps: int, seed: int):
    """Give a student its lessons; return it."""
    set_seed(seed)
    schedule = qtc.callbacks(2, qtc.QTCArguments(steps_per_stage=40))
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            seed=seed,
            use_cpu=True,
            label_names=["intent_labels", "slot_labels"],
            train_sampling_strategy="group_by_length",
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            dataloader_pin_memory=False,
        )
        trainer = DistillTrainer(
            without_dropout(student),
            args=training,
            teacher=teacher,
            losses=qtc.losses(schedule[0]),
            callbacks=schedule,
            train_dataset=encoded["train"],
            data_collator=JointCollator(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.model.eval()


def scores(model, tokenizer, sentences) -> dict:
    """The two metrics, in percent."""
    found = evaluate_joint(model, tokenizer, sentences)
    return {name: found[name] for name in NAMES}


def measure(name: str, edit, rank: int, setting: tuple, steps: int, seeds: range) -> list[dict]:
    """Return the rows of one student: as cut, and after its lessons."""
    teacher, tokenizer, flights, encoded = setting
    cut = tq.compress(teacher, plan(edit, rank)).eval()
    summary = tq.report(cut, reference=teacher).summary()
    sizes = {key: {"file": summary[key]["file"]} for key in ("bytes", "ratio")}
    before = scores(cut, tokenizer, flights["test"])
    error = {"matrix_error": relative_error(cut, teacher)}
    rows = [{"model": f"{name}, as cut", "role": "student", "metrics": before | error} | sizes]
    runs = []
    for seed in seeds:
        student = taught(tq.compress(teacher, plan(edit, rank)), *setting[:2], encoded, steps, seed)
        runs.append(scores(student, tokenizer, flights["test"]))
        print(name, seed, runs[-1], flush=True)
    mean = {key: sum(run[key] for run in runs) / len(runs) for key in NAMES}
    low, high = (f(run["slot_f1"] for run in runs) for f in (min, max))
    note = f"seeds {[*seeds]}: slot_f1 {low:.1f} to {high:.1f}"
    rows.append(
        {"model": f"{name}, taught", "role": "student", "metrics": mean, "note": note} | sizes
    )
    return rows


def main():
    """Cut, teach and measure."""
    args = common.parser("train_or_pair", __doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    teacher, tokenizer = tq.teachers.load("embedded")
    teacher.set_attn_implementation("eager")  # the lessons compare attention maps
    flights = tq.data.load("flights")
    labels = teacher.config.intent_labels, teacher.config.slot_labels
    setting = (teacher, tokenizer, flights, encode_joint(flights, tokenizer, *labels))
    whole = {"file": tq.report(teacher).file}
    first = scores(teacher, tokenizer, flights["test"])
    rows = [{"model": "teacher", "role": "baseline", "metrics": first, "bytes": whole}]
    seeds = range(args.seed, args.seed + (1 if args.quick else 3))
    for rank in (16,) if args.quick else (16, 32):
        for name, edit in (("trains", train), ("pairs", pair)):
            rows += measure(
                f"rank {rank}: {name}", edit, rank, setting, 2 if args.quick else 300, seeds
            )
    common.write("train_or_pair", None, rows, args)


if __name__ == "__main__":
    main()
