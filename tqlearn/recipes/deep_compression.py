"""Deep Compression of Pre-trained Transformers: 4 bits and 2:4 (Wang et al., IBM, NeurIPS 2022).

    python -m tqlearn.recipes.deep_compression --output_dir runs/deep            # embedded
    python -m tqlearn.recipes.deep_compression --data sst2 --source local --teacher minilm \
        --output_dir runs/deep_sst2
    python -m tqlearn.recipes.deep_compression --data digits --phases dense prune quantize \
        --learning_rate 1e-3 --num_train_epochs 18 --output_dir runs/deep_digits     # a small ViT
    python -m tqlearn.recipes.deep_compression --data tones --phases dense prune quantize \
        --shares 3 1 1 --hidden_size 64 --num_layers 2 --learning_rate 2e-3 --warmup_steps 0.1 \
        --num_train_epochs 15 --output_dir runs/deep_tones                    # a small Wav2Vec2

Published (abstract): BERT, Wav2vec 2.0 and ViT backbones at 4 bits and half sparse, 16 times
smaller "while maintaining model accuracy"; where pruning and quantization start from is critical.
The paper's tables were not available to us, nor its schedules: those here are our choice. What we
reached: deep_compression_*.json in benchmarks/results. The ViT and the Wav2Vec2 from scratch are
small models trained here, no pre-trained ones; ``--teacher owner/name@revision`` takes a checkpoint
of the hub by the same command.

``--phases`` is the order of things. Each phase trains an equal share of the epochs (or its part of
``--shares``), from what the phase before left: "dense" changes nothing, "prune" adds 2:4 masks
(once, by magnitude, then fixed), "quantize" adds 4-bit weights (SAWB with a zero) and inputs
(PACT), "both" adds the two at once. So

    prune quantize          from the pre-trained model, pruned first (the default)
    dense prune quantize    from the fine-tuned model
    dense both              jointly, from the fine-tuned model
    quantize prune          the other order
    dense dense             a baseline trained in the same way

Of every layer of the encoder the six matrices are pruned and quantized, with their inputs. What is
in front of it (embeddings, patches, the convolutions of sounds, positions), norms, softmax, biases
and the head stay in float. Loss: the task's alone.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn
from transformers import HfArgumentParser, TrainingArguments, set_seed

from .. import PACT, SAWB, Inputs, TwoFour, calibrate, compress, data, pack, report, teachers
from ..hf import running, tasks
from ..hf.classifiers import array_classifier
from ..hf.dropout import DropoutSchedule, ScheduledDropout
from ..hf.phases import first_batches, without_edits
from ..hf.trainer import ScaleTrainer

PHASES = {
    "dense": set(),
    "prune": {"prune"},
    "quantize": {"quantize"},
    "both": {"prune", "quantize"},
}
PROJECTIONS = ("query", "key", "value", "q_proj", "k_proj", "v_proj")


@dataclass
class DeepArguments:
    """What to do in which order; everything else is a TrainingArguments option."""

    phases: list[str] = field(
        default_factory=lambda: ["prune", "quantize"],
        metadata={"help": f"out of {sorted(PHASES)}, in order"},
    )
    bits: int = field(default=4, metadata={"help": "of weights and of inputs"})
    zero: bool = field(
        default=True, metadata={"help": "False: SAWB's grid without a zero, for study"}
    )
    pattern: str = field(default="2:4", metadata={"help": "N:M"})
    per: str = field(default="tensor", metadata={"help": "a weight's clip: tensor or channel"})
    shares: list[float] | None = field(
        default=None, metadata={"help": "parts of the epochs for each phase; else equal ones"}
    )
    data: str = field(default="flights", metadata={"help": "task, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "what to start from: embedded, minilm, or a folder; pictures and sounds: "
            "scratch, a folder or a hub name; else embedded, or scratch"
        },
    )
    hidden_size: int | None = field(default=None, metadata={"help": "scratch: width"})
    num_layers: int | None = field(default=None, metadata={"help": "scratch: encoder layers"})
    patch_size: int | None = field(default=None, metadata={"help": "scratch: ViT's, in pixels"})
    augment: str = field(
        default="none", metadata={"help": "pictures to train on: none, shift, shift_mirror"}
    )
    clip_learning_rate: float = field(default=1e-3, metadata={"help": "of PACT's clips"})
    dropout: list[float] = field(
        default_factory=lambda: [0.1, 0.0], metadata={"help": "at the start and the end"}
    )
    dropout_shape: str = field(
        default="linear", metadata={"help": "linear, cosine, step, constant"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "longest row, in pieces; else 64, or 384 for questions"}
    )


def plan(done, bits=4, zero=True, pattern="2:4", per="tensor"):
    """Return the plan for a model on which ``done`` (a set of "prune", "quantize") has happened.

    Query, key and value get SAWB and PACT, all others SAWB+ and PACT+, as IBM's later code has it
    (spec sheet, 3.4). Under a mask SAWB searches its clip (10.1).
    """

    def edits(plus):
        found = [TwoFour(pattern)] if "prune" in done else []
        if "quantize" in done:
            found += [SAWB(bits, zero=zero, plus=plus, per=per), Inputs(PACT(bits, plus=plus))]
        return found

    return {
        **{f"*.layer*.*{name}": edits(plus=False) for name in PROJECTIONS},
        "*.layer*.*": edits(plus=True),
    }


def callbacks(arguments, begin=0.0, end=1.0):
    """Return scheduled dropout for a phase that goes from ``begin`` to ``end`` of the whole."""
    schedule = DropoutSchedule(*arguments.dropout, arguments.dropout_shape)
    return [ScheduledDropout(lambda t: schedule(begin + (end - begin) * t))]


def plan_for(model, done, **settings):
    """Return ``plan`` without the projections that this kind of model calls otherwise."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    present = {name.rsplit(".", 1)[-1] for name in linear} | {""}
    wanted = plan(done, **settings)
    return {key: edits for key, edits in wanted.items() if key.rsplit("*", 1)[-1] in present}


def apply(model, done, batches, **settings):
    """Return the model with the edits of ``done``, its own weights underneath, calibrated.

    Args:
        model: dense, or what an earlier call returned; it is not changed.
    """
    bare = without_edits(model)
    student = compress(bare, plan_for(bare, done, **settings)) if done else bare
    return calibrate(student, batches) if "quantize" in done else student


def train_phases(model, tokenizer, job, arguments, training):
    """Go through the phases, each in a folder of its own; return (student, last trainer)."""
    batches, done, begin = first_batches(job, tokenizer), set(), 0.0
    shares = arguments.shares or [1] * len(arguments.phases)
    settings = {k: getattr(arguments, k) for k in ("bits", "zero", "pattern", "per")}
    for i, (phase, part) in enumerate(zip(arguments.phases, shares, strict=True)):
        done, share = done | PHASES[phase], part / sum(shares)
        own = replace(
            training,
            output_dir=str(Path(training.output_dir) / f"{i}_{phase}"),
            num_train_epochs=training.num_train_epochs * share,
            max_steps=max(1, round(training.max_steps * share)) if training.max_steps > 0 else -1,
            label_names=job.label_names,
        )
        trainer = ScaleTrainer(
            apply(model, done, batches, **settings),
            own,
            callbacks=callbacks(arguments, begin, begin + share),
            scale_learning_rate=arguments.clip_learning_rate,
            **job.trainer,
        )
        trainer.train(resume_from_checkpoint=running.newest_checkpoint(own))
        model, begin = trainer.model, begin + share
    return model, trainer


def check(arguments):
    """Refuse phases that are none, or shares that do not fit them."""
    if unknown := [phase for phase in arguments.phases if phase not in PHASES]:
        raise ValueError(f"phases are {sorted(PHASES)}, got {unknown[0]!r}")
    shares = arguments.shares
    if shares and (len(shares) != len(arguments.phases) or min(shares) <= 0):
        raise ValueError(
            f"shares are positive numbers, one for each of {arguments.phases}, got {shares}"
        )


def main(argv=None):
    """Run the phases, write the packed model and metrics.json; return the record."""
    parser = HfArgumentParser((DeepArguments, TrainingArguments))
    parser.set_defaults(**running.DEFAULTS, learning_rate=5e-5)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    check(arguments)
    set_seed(training.seed)
    dd = data.load(arguments.data, arguments.source, arguments.folder)
    reference, tokenizer = starting_model(arguments, dd)
    tasks.require_joint(dd, reference)
    job = tasks.prepare(
        dd, tokenizer, reference.config, arguments.max_length, augment=arguments.augment
    )
    model, trainer = train_phases(reference, tokenizer, job, arguments, training)
    if not trainer.is_world_process_zero():
        return None
    scores = job.evaluate(model, tokenizer, dd[job.split])
    sizes, edited = {}, set().union(*(PHASES[phase] for phase in arguments.phases))
    if arguments.zero or "prune" not in edited:  # else no format stores it: dropped are not zero
        found = report(model, reference=reference)
        sizes, model = found.summary(), pack(model) if edited else model
        print(found)
    running.save_model(model, tokenizer, training.output_dir)
    return running.write_metrics(
        "deep_compression", training, arguments.data, job.split, scores, trainer.state,
        phases=arguments.phases, **sizes,
    )  # fmt: skip


def starting_model(arguments, dd):
    """(model with a head for this task, what prepares its inputs)."""
    columns = dd["train"].column_names
    if {"image", "audio"} & set(columns):
        sizes = arguments.hidden_size, arguments.num_layers, arguments.patch_size
        return array_classifier(arguments.teacher or "scratch", dd["train"], *sizes)
    if arguments.teacher == "scratch" or arguments.hidden_size or arguments.num_layers:
        raise ValueError("text needs a pre-trained encoder: --teacher minilm, or a folder")
    model, tokenizer = teachers.load(arguments.teacher or "embedded")
    if isinstance(model, teachers.HEADS):
        return model, tokenizer
    if "question" in columns:
        return teachers.answerer_from_encoder(model, tokenizer), tokenizer
    if "label" in columns:
        classes = [str(label) for label in range(max(dd["train"]["label"]) + 1)]
        return teachers.classifier_from_encoder(model, tokenizer, classes), tokenizer
    return teachers.joint_from_encoder(model, tokenizer, *data.labels(dd)), tokenizer


if __name__ == "__main__":
    main()
