"""Fine-tune an encoder: intents and slots, sentences into classes, questions, pictures, sounds.

    python -m tqlearn.recipes.finetune --data atis --source local --teacher minilm \
        --output_dir runs/atis_teacher --num_train_epochs 16 --learning_rate 2e-4
    python -m tqlearn.recipes.finetune --data sst2 --source local --teacher minilm \
        --output_dir runs/sst2_teacher --num_train_epochs 4 --learning_rate 5e-5
    python -m tqlearn.recipes.finetune --data squad --source local --teacher minilm \
        --output_dir runs/squad_teacher --num_train_epochs 3 --learning_rate 1e-4 \
        --per_device_train_batch_size 16
    python -m tqlearn.recipes.finetune --data digits --teacher scratch --output_dir runs/digits \
        --num_train_epochs 15 --learning_rate 1e-3 --warmup_steps 0.1 --lr_scheduler_type cosine
    python -m tqlearn.recipes.finetune --data tones --teacher scratch --output_dir runs/tones \
        --num_train_epochs 10 --learning_rate 1e-3 --warmup_steps 0.1 --lr_scheduler_type cosine

Intents and slots, pictures and sounds also go from scratch. The ViT and the Wav2Vec2 that are made
then are small models trained here, no pre-trained ones: a checkpoint of the hub is taken by the
same command, with ``--teacher owner/name@revision``.

Every ``TrainingArguments`` option works; ``accelerate launch -m tqlearn.recipes.finetune`` runs the
same on several processes (on CPUs: ``ACCELERATE_USE_CPU=true accelerate launch --multi_gpu
--num_processes 2 -m ... --use_cpu``). ``--resume_from_checkpoint last`` goes on where a killed run
stopped. The output folder gets the model with the best validation score, the tokenizer, and
``metrics.json`` with test figures (validation figures where a data set has no test split).
"""

from collections import Counter
from dataclasses import dataclass, field

from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from .. import data, teachers
from ..hf import classifiers, running, tasks
from ..hf.joint import BertForJointIntentSlot, joint_config
from ..hf.words import word_tokenizer


@dataclass
class FinetuneArguments:
    """What to train on what; everything else is a TrainingArguments option."""

    data: str = field(default="flights", metadata={"help": "data set, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str = field(
        default="minilm",
        metadata={
            "help": '"minilm", "embedded", a folder, or "scratch" (intents: dense, 2 x 768, '
            "words); pictures and sounds: a folder, a hub name, or scratch"
        },
    )
    max_length: int | None = field(
        default=None, metadata={"help": "longest row, in pieces; else 64, or 384 for questions"}
    )
    stride: int = field(default=128, metadata={"help": "what windows of a long context share"})
    label_smoothing: float = field(default=0.1, metadata={"help": "of both losses, 0 to 1"})
    min_per_intent: int = field(
        default=0,
        metadata={"help": "repeat rare intents' sentences up to this many (8 times most)"},
    )
    pooling: str = field(default="first", metadata={"help": "intent reads: first or mean"})
    hidden_size: int | None = field(
        default=None, metadata={"help": "scratch: width; FFN is 4 times it; else 768, ViT's 64/192"}
    )
    num_layers: int | None = field(default=None, metadata={"help": "scratch: encoder layers"})
    patch_size: int | None = field(default=None, metadata={"help": "scratch: ViT's, in pixels"})
    augment: str = field(
        default="none", metadata={"help": "pictures to train on: none, shift, shift_mirror"}
    )


def build(arguments, dd, intents, slots):
    """(joint model, tokenizer): a pre-trained encoder with fresh heads, or a fresh model."""
    if arguments.teacher == "scratch":
        tokenizer = word_tokenizer(dd)
        width = arguments.hidden_size or 768
        config = joint_config(
            intents,
            slots,
            arguments.label_smoothing,
            arguments.pooling,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=arguments.num_layers or 2,
            pad_token_id=tokenizer.pad_token_id,
        )
        return BertForJointIntentSlot(config), tokenizer
    encoder, tokenizer = teachers.load(arguments.teacher)
    encoder = getattr(encoder, "bert", encoder)  # a joint model brings its encoder
    labels = intents, slots, arguments.label_smoothing, arguments.pooling
    return teachers.joint_from_encoder(encoder, tokenizer, *labels), tokenizer


def build_head(arguments, train):
    """(classifier or answerer, tokenizer): a pre-trained encoder with a fresh head."""
    if arguments.teacher == "scratch":
        raise ValueError(
            "sentences and questions need a pre-trained encoder: --teacher minilm, or a folder"
        )
    encoder, tokenizer = teachers.load(arguments.teacher)
    encoder = getattr(encoder, "bert", encoder)
    if "question" in train.column_names:
        return teachers.answerer_from_encoder(encoder, tokenizer), tokenizer
    classes = [str(label) for label in sorted(set(train["label"]))]
    return teachers.classifier_from_encoder(encoder, tokenizer, classes), tokenizer


def repeat_rare(train, minimum, most=8):
    """The split with sentences of rare intents repeated, so that rare labels are learned too."""
    counts = Counter(train["intent"])
    times = {
        intent: min(most, -(-minimum // n)) if n < minimum else 1 for intent, n in counts.items()
    }
    return train.select([i for i, x in enumerate(train["intent"]) for _ in range(times[x])])


def finetune(arguments, training):
    """Train, keep the best epoch, write model, tokenizer and metrics.json; returns the metrics."""
    set_seed(training.seed)
    dd = data.load(arguments.data, arguments.source, arguments.folder)
    columns = set(dd["train"].column_names)
    if {"image", "audio"} & columns:
        sizes = arguments.hidden_size, arguments.num_layers, arguments.patch_size
        model, tokenizer = classifiers.array_classifier(arguments.teacher, dd["train"], *sizes)
    elif {"label", "question"} & columns:
        model, tokenizer = build_head(arguments, dd["train"])
    else:
        model, tokenizer = build(arguments, dd, *data.labels(dd))
        if arguments.min_per_intent:
            dd["train"] = repeat_rare(dd["train"], arguments.min_per_intent)
    job = tasks.prepare(
        dd, tokenizer, model.config, arguments.max_length, arguments.stride, arguments.augment
    )
    training.label_names = job.label_names
    trainer = Trainer(model, training, **job.trainer)
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    running.save_trained(trainer)
    limit = {} if job.max_length is None else {"max_length": job.max_length}
    metrics = job.evaluate(trainer.model, tokenizer, dd[job.split], **limit)
    if trainer.is_world_process_zero():
        running.write_metrics(
            "finetune", training, arguments.data, job.split, metrics, trainer.state
        )
    return metrics


def main(argv=None):
    """Command line: FinetuneArguments and TrainingArguments."""
    parser = HfArgumentParser((FinetuneArguments, TrainingArguments))
    parser.set_defaults(**running.DEFAULTS)
    return finetune(*parser.parse_args_into_dataclasses(argv))


if __name__ == "__main__":
    main()
