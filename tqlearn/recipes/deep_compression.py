"""Deep Compression of Pre-trained Transformers: 4 bits and 2:4 (Wang et al., IBM, NeurIPS 2022).

    python -m tqlearn.recipes.deep_compression --output_dir runs/deep            # embedded
    python -m tqlearn.recipes.deep_compression --data sst2 --source local --teacher minilm \
        --phases prune quantize --output_dir runs/deep_sst2

Published (abstract): BERT, Wav2vec 2.0 and ViT backbones at 4 bits and half sparse, 16 times
smaller "while maintaining model accuracy"; where pruning and quantization start from is critical.
The paper's tables were not available to us, nor its schedules: those here are our choice.

``--phases`` is the order of things. Each phase trains an equal share of the epochs, from what the
phase before left: "dense" changes nothing, "prune" adds 2:4 masks (once, by magnitude, then fixed),
"quantize" adds 4-bit weights (SAWB with a zero) and inputs (PACT), "both" adds the two at once. So

    prune quantize          from the pre-trained model, pruned first (the default)
    dense prune quantize    from the fine-tuned model
    dense both              jointly, from the fine-tuned model
    quantize prune          the other order

Embeddings, norms, softmax, biases and the head stay in float. Loss: the task's alone.
"""

import copy
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, HfArgumentParser, TrainingArguments, set_seed

from .. import PACT, SAWB, Inputs, TwoFour, calibrate, compress, data, pack, report, teachers
from ..hf import running, tasks
from ..hf.dropout import DropoutSchedule, ScheduledDropout
from ..hf.trainer import ScaleTrainer
from ..quantize import is_quantizer

PHASES = {
    "dense": set(),
    "prune": {"prune"},
    "quantize": {"quantize"},
    "both": {"prune", "quantize"},
}
PROJECTIONS = ("query", "key", "value", "q_proj", "k_proj", "v_proj")
BATCHES = 10  # of the training data, to start the clips of the inputs from


@dataclass
class DeepArguments:
    """What to do in which order; everything else is a TrainingArguments option."""

    phases: list[str] = field(
        default_factory=lambda: ["prune", "quantize"],
        metadata={"help": f"out of {sorted(PHASES)}, in order"},
    )
    bits: int = field(default=4, metadata={"help": "of weights and of inputs"})
    zero: bool = field(default=True, metadata={"help": "False: SAWB's grid without a zero"})
    pattern: str = field(default="2:4", metadata={"help": "N:M"})
    data: str = field(default="flights", metadata={"help": "task, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str = field(
        default="embedded", metadata={"help": "what to start from: embedded, minilm, or a folder"}
    )
    clip_learning_rate: float = field(default=1e-3, metadata={"help": "of PACT's clips"})
    dropout: list[float] = field(
        default_factory=lambda: [0.1, 0.0], metadata={"help": "at the start and the end"}
    )
    dropout_shape: str = field(
        default="linear", metadata={"help": "linear, cosine, step, constant"}
    )
    max_length: int = field(default=64, metadata={"help": "longest sentence, in pieces"})


def plan(done, bits=4, zero=True, pattern="2:4"):
    """Return the plan for a model on which ``done`` (a set of "prune", "quantize") has happened.

    Query, key and value get SAWB and PACT, all others SAWB+ and PACT+, as IBM's later code has it
    (spec sheet, 3.4). Under a mask SAWB's line is the one refitted for 2:4 (10.1).
    """
    masked = "prune" in done and (bits, zero) == (4, True)
    statistics = "masked" if masked else "dense"

    def edits(plus):
        found = [TwoFour(pattern)] if "prune" in done else []
        if "quantize" in done:
            found += [SAWB(bits, zero=zero, plus=plus, statistics=statistics)]
            found += [Inputs(PACT(bits, plus=plus))]
        return found

    return {
        **{f"*.layer*.*{name}": edits(plus=False) for name in PROJECTIONS},
        "*.layer*.*": edits(plus=True),
    }


def apply(model, done, batches, **settings):
    """Return the model with the edits of ``done``, its own weights underneath, calibrated.

    Args:
        model: dense, or what an earlier call returned; it is not changed.
    """
    bare = without_edits(model)
    wanted = plan(done, **settings)
    linear = [n for n, m in bare.named_modules() if isinstance(m, nn.Linear)]
    present = {name.rsplit(".", 1)[-1] for name in linear}
    wanted = {k: v for k, v in wanted.items() if k.rsplit("*", 1)[-1] in present | {""}}
    student = compress(bare, wanted) if done else bare
    return calibrate(student, batches) if "quantize" in done else student


def without_edits(model):
    """Return a dense copy of a masked or quantized model, with the weights that it trains.

    Masked places are zero in it, so that the same mask comes out of the next pruning.
    """
    config = copy.deepcopy(model.config)
    config.quantization_config = None
    dense = type(model)(config)
    values = {k: v for k, v in model.state_dict().items() if "parametrizations." not in k}
    for name, module in model.named_modules():
        for weight, chain in getattr(module, "parametrizations", {}).items():
            x = chain.original
            for mask in takewhile(lambda stage: not is_quantizer(stage), chain):
                x = mask(x)
            values[f"{name}.{weight}"] = x
    dense.load_state_dict({name: values[name] for name in dense.state_dict()})
    return dense.train(model.training)


def first_batches(job, tokenizer, size=16):
    """Return a few batches of the training data, to calibrate with."""
    collator = job.trainer["data_collator"] or DataCollatorWithPadding(tokenizer)
    rows = job.trainer["train_dataset"].shuffle(seed=0).select(range(BATCHES * size))
    return [dict(batch) for batch in DataLoader(rows, batch_size=size, collate_fn=collator)]


def train_phase(student, job, arguments, training, progress):
    """Train one phase; ``progress`` is where in the whole it begins and ends, from 0 to 1."""
    begin, end = progress
    schedule = DropoutSchedule(*arguments.dropout, arguments.dropout_shape)
    dropout = ScheduledDropout(lambda t: schedule(begin + (end - begin) * t))
    trainer = ScaleTrainer(
        student,
        training,
        callbacks=[dropout],
        scale_learning_rate=arguments.clip_learning_rate,
        **job.trainer,
    )
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    return trainer


def main(argv=None):
    """Run the phases, each in a folder of its own; write the packed model and metrics.json."""
    parser = HfArgumentParser((DeepArguments, TrainingArguments))
    parser.set_defaults(**running.DEFAULTS, learning_rate=5e-5)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    if unknown := [phase for phase in arguments.phases if phase not in PHASES]:
        raise ValueError(f"phases are {sorted(PHASES)}, got {unknown[0]!r}")
    set_seed(training.seed)
    dd = data.load(arguments.data, arguments.source, arguments.folder)
    model, tokenizer = starting_model(arguments, dd)
    job = tasks.prepare(dd, tokenizer, model.config, arguments.max_length)
    batches, done, reference = first_batches(job, tokenizer), set(), model
    share = 1 / len(arguments.phases)
    for i, phase in enumerate(arguments.phases):
        done |= PHASES[phase]
        model = apply(
            model,
            done,
            batches,
            bits=arguments.bits,
            zero=arguments.zero,
            pattern=arguments.pattern,
        )
        own = replace(
            training,
            output_dir=str(Path(training.output_dir) / f"{i}_{phase}"),
            num_train_epochs=training.num_train_epochs * share,
            max_steps=max(1, round(training.max_steps * share)) if training.max_steps > 0 else -1,
            label_names=job.label_names,
        )
        trainer = train_phase(model, job, arguments, own, (i * share, (i + 1) * share))
        model = trainer.model
    if not trainer.is_world_process_zero():
        return None
    scores = job.evaluate(model, tokenizer, dd[job.split])
    sizes = report(model, reference=reference)
    pack(model).save_pretrained(training.output_dir)
    tokenizer.save_pretrained(training.output_dir)
    print(sizes)
    return running.write_metrics(
        "deep_compression", training, arguments.data, job.split, scores, trainer.state,
        phases=arguments.phases, **sizes.summary(),
    )  # fmt: skip


def starting_model(arguments, dd):
    """(model with a head for this task, tokenizer): a folder as it is, an encoder with a head."""
    model, tokenizer = teachers.load(arguments.teacher)
    if hasattr(model, "classifier") or hasattr(model.config, "intent_labels"):
        return model, tokenizer
    if "label" in dd["train"].column_names:
        classes = [str(label) for label in sorted(set(dd["train"]["label"]))]
        return teachers.classifier_from_encoder(model, tokenizer, classes), tokenizer
    return teachers.joint_from_encoder(model, tokenizer, *data.labels(dd)), tokenizer


if __name__ == "__main__":
    main()
