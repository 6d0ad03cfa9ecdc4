"""Block Pruning: movement scores on blocks, heads and FFN dimensions (Lagunas et al., EMNLP 2021).

    python -m tqlearn.recipes.block_pruning --output_dir runs/pruned              # embedded, hybrid
    python -m tqlearn.recipes.block_pruning --teacher runs/sst2_teacher --data sst2 --source local \
        --penalty 20 --filled_epochs 4 --output_dir runs/pruned_sst2

Published (2109.04838): BERT on SQuAD v1 2.4 times faster on a GPU, its encoder 74 % smaller,
at 1 % loss of F1: 64 of 144 heads, 22,248,960 of 84,934,656 weights are left. What we reached:
block_pruning_sst2.json, _atis.json, _squad.json and _squad_long.json in benchmarks/results.

Three phases: scores and weights learn together while the threshold rises ("prune"); what is empty
is removed, so that a smaller dense model stays ("compact"); with --filled_epochs its zeros become
small numbers and it is tuned once more ("filled"). Without a teacher (--distill False) the task's
loss stands alone. We start from the fine-tuned model, as the authors do for MNLI. ``random`` and
``magnitude`` are baselines: blocks chosen once at given densities, then trained alike.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import HfArgumentParser, TrainingArguments, set_seed

from .. import block_plan, compact, compress, data, fill, report, survey, teachers
from ..distill import soft_labels
from ..hf import running, tasks
from ..hf.dropout import set_attention_dropout
from ..hf.pruning import PruneTrainer, ScoreSchedule
from ..hf.trainer import DistillTrainer
from ..hf.transitions import NoNormTransition, ReLUTransition
from ..sparsity.anatomy import layer_sizes
from ..sparsity.blocks import block_density, block_masks

METHODS = ("movement", "random", "magnitude")


@dataclass
class PruningArguments:
    """What to prune and how hard; everything else is a TrainingArguments option."""

    variant: str = field(default="hybrid", metadata={"help": "block, struct or hybrid"})
    block: int = field(default=16, metadata={"help": "side of a square block; half a head"})
    penalty: float = field(
        default=1.0, metadata={"help": "lambda at the end; more for larger models, fewer steps"}
    )
    attention_penalty: float = field(default=1.0, metadata={"help": "its share for attention"})
    dense_penalty: float = field(default=1.0, metadata={"help": "its share for the FFN"})
    score_learning_rate: float = field(default=3e-2, metadata={"help": "of the scores"})
    warmup: float = field(default=0.05, metadata={"help": "share of the steps before the ramp"})
    cooldown: float = field(default=0.49, metadata={"help": "share of the steps after it"})
    minimum: float = field(default=0.0, metadata={"help": "share of blocks that stays in any case"})
    method: str = field(default="movement", metadata={"help": f"one of {METHODS}"})
    attention_density: float = field(
        default=0.5, metadata={"help": "for random and magnitude: blocks kept in attention"}
    )
    dense_density: float = field(default=0.5, metadata={"help": "the same for the FFN"})
    rule: str = field(default="exact", metadata={"help": "of compaction: exact or authors"})
    filled_epochs: float = field(default=0.0, metadata={"help": "tuning after compaction"})
    filled_learning_rate: float = field(default=3e-5, metadata={"help": "of that tuning"})
    nonorm_steps: int = field(default=0, metadata={"help": "LayerNorm to NoNorm in so many steps"})
    relu_steps: int = field(default=0, metadata={"help": "GELU to ReLU in so many steps"})
    attention_dropout: float | None = field(
        default=None, metadata={"help": "the student's; None: as its config; 0 is faster on CPUs"}
    )
    every_phase: bool = field(
        default=True, metadata={"help": "False: measure the last phase alone, to save time"}
    )
    distill: bool = field(default=True, metadata={"help": "False: the task's loss alone"})
    distill_weight: float = field(default=0.9, metadata={"help": "the task's loss has the rest"})
    temperature: float = field(default=2.0, metadata={"help": "of the soft labels"})
    data: str = field(default="flights", metadata={"help": "task, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str = field(
        default="embedded", metadata={"help": "what to prune: embedded, or a fine-tuned folder"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "longest row, in pieces; else 64, or 384 for questions"}
    )
    stride: int = field(default=128, metadata={"help": "what windows of a long context share"})


def plan(model, variant="hybrid", block=16, minimum=0.0):
    """Return the plan: every matrix of the encoder's layers; embeddings and heads stay."""
    return block_plan(model, variant, (block, block), minimum)


def losses(schedule=None, weight=0.9, temperature=2.0):
    """Return the losses of spec sheet Block Pruning, section 4.

    Args:
        schedule: the ``ScoreSchedule``, for the penalty; None without masks.
        weight: of the soft labels; where there is no teacher the task's loss counts whole.
    """

    def terms(student, teacher, inputs):
        found = {"task": student.loss}
        if teacher is not None:
            pairs = tasks.logit_pairs(student, teacher, inputs)
            soft = [soft_labels(s, t, temperature, mask) for _, s, t, mask in pairs]
            found = {"task": (1 - weight) * student.loss, "soft": weight * torch.stack(soft).mean()}
        return found | ({} if schedule is None else {"penalty": schedule.penalty()})

    return terms


def choose(student, method, densities, seed=0):
    """Fix the blocks of every mask, by chance or by their norm; for baselines, in place.

    Args:
        densities: a share per kind of mask, such as {"attention": 0.3, "dense": 0.2}; it holds in
            every matrix. Of matrices that share their scores the squared norms are added.
    """
    generator, scores = torch.Generator().manual_seed(seed), {}
    for name, mask in block_masks(student).items():
        weight = student.get_submodule(name).parametrizations.weight.original.detach()
        (a, b), (p, q) = mask.grid, mask.block
        norms = weight.square().reshape(mask.repeat, a, p, b, q).sum((0, 2, 4)).flatten()
        if method == "random":
            norms = torch.rand(norms.shape, generator=generator)
        scores[mask.source] = scores.get(mask.source, 0) + norms
    for mask, values in scores.items():
        count = max(1, round(densities[mask.kind] * values.numel()))
        kept = torch.zeros_like(values, dtype=torch.bool)
        mask.fix(kept.index_fill(0, values.topk(count).indices, True).reshape(mask.grid))
    return student


def callbacks(student, arguments):
    """Return the schedule of thresholds and, where asked for, the transitions."""
    weights = {"attention": arguments.attention_penalty, "dense": arguments.dense_penalty}
    penalty = arguments.penalty if arguments.method == "movement" else 0.0
    found = [ScoreSchedule(student, penalty, weights, arguments.warmup, arguments.cooldown)]
    if arguments.nonorm_steps:
        found.append(NoNormTransition(student, arguments.nonorm_steps))
    if arguments.relu_steps:
        found.append(ReLUTransition(student, arguments.relu_steps))
    return found


def prune(teacher, job, arguments, training):
    """Train the first phase; return its trainer."""
    wanted = plan(teacher, arguments.variant, arguments.block, arguments.minimum)
    student = compress(teacher, wanted)
    if arguments.attention_dropout is not None:
        set_attention_dropout(student, arguments.attention_dropout)
    if arguments.method != "movement":
        shares = {"attention": arguments.attention_density, "dense": arguments.dense_density}
        choose(student, arguments.method, shares, training.seed)
    called = callbacks(student, arguments)
    trainer = PruneTrainer(
        student,
        training,
        teacher=teacher if arguments.distill else None,
        losses=losses(called[0], arguments.distill_weight, arguments.temperature),
        score_learning_rate=arguments.score_learning_rate,
        callbacks=called,
        **job.trainer,
    )
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    return trainer


def tune(student, teacher, job, arguments, training):
    """Train the filled phase; return its trainer."""
    trainer = DistillTrainer(
        student,
        training,
        teacher=teacher if arguments.distill else None,
        losses=losses(None, arguments.distill_weight, arguments.temperature),
        attention=None,
        **job.trainer,
    )
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    return trainer


def main(argv=None):
    """Run the phases, each in a folder of its own; write the smaller model and metrics.json."""
    parser = HfArgumentParser((PruningArguments, TrainingArguments))
    without = {"eval_strategy": "no", "load_best_model_at_end": False, "save_total_limit": 1}
    ours = {"learning_rate": 1e-4, "num_train_epochs": 10, "warmup_steps": 0.05}
    parser.set_defaults(**running.DEFAULTS | without | ours)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    if arguments.method not in METHODS:
        raise ValueError(f"methods are {METHODS}, got {arguments.method!r}")
    set_seed(training.seed)
    teacher, tokenizer = teachers.load(arguments.teacher)
    dd = data.load(arguments.data, arguments.source, arguments.folder)
    tasks.require_joint(dd, teacher)
    lengths = arguments.max_length, arguments.stride
    job = tasks.prepare(dd, tokenizer, teacher.config, *lengths)
    out = Path(training.output_dir)
    own = replace(training, output_dir=str(out / "prune"), label_names=job.label_names)
    trainer, phases = prune(teacher, job, arguments, own), {}
    found, pruned = survey(trainer.model, arguments.rule), trainer.model.eval()
    density, model = block_density(pruned), compact(pruned, arguments.rule)

    def measure(phase, model):
        if arguments.every_phase or phase == "filled" or not arguments.filled_epochs:
            phases[phase] = job.evaluate(model, tokenizer, dd[job.split])

    if found.changed:
        measure("prune", pruned)
    measure("compact", model)
    if arguments.filled_epochs:
        if trainer.is_world_process_zero():
            running.save_model(model, tokenizer, out / "compact")
        model = fill(model, training.seed)
        own = replace(
            own, output_dir=str(out / "filled"), num_train_epochs=arguments.filled_epochs,
            learning_rate=arguments.filled_learning_rate, warmup_steps=10,
        )  # fmt: skip
        measure("fill", model)
        trainer = tune(model, teacher, job, arguments, own)
        model = trainer.model
        measure("filled", model)
    if not trainer.is_world_process_zero():
        return None
    sizes = report(model, reference=teacher)
    running.save_model(model, tokenizer, out)
    print(found, sizes, sep="\n")
    scores = [*phases.values()][-1]
    return running.write_metrics(
        "block_pruning", training, arguments.data, job.split, scores, trainer.state,
        phases=phases, density=density, compacted_density=found.density, changed=found.changed,
        **layer_sizes(model), **sizes.summary(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
