"""Fine-tune an encoder: joint intents and slots (also from scratch), or sentences into classes.

    python -m tqlearn.recipes.finetune --data atis --source local --teacher minilm \
        --output_dir runs/atis_teacher --num_train_epochs 16 --learning_rate 2e-4
    python -m tqlearn.recipes.finetune --data sst2 --source local --teacher minilm \
        --output_dir runs/sst2_teacher --num_train_epochs 4 --learning_rate 5e-5

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
from ..hf import running
from ..hf.joint import BertForJointIntentSlot, JointCollator, encode_joint, joint_config
from ..hf.metrics import evaluate_joint, trainer_metrics
from ..hf.sentences import encode_sentences, evaluate_sentences, sentence_metrics
from ..hf.words import word_tokenizer


@dataclass
class FinetuneArguments:
    """What to train on what; everything else is a TrainingArguments option."""

    data: str = field(default="flights", metadata={"help": "data set, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str = field(
        default="minilm",
        metadata={"help": '"minilm", "embedded", a folder, or "scratch" (dense, 2 x 768, words)'},
    )
    max_length: int = field(default=64, metadata={"help": "longest sentence, in pieces"})
    label_smoothing: float = field(default=0.1, metadata={"help": "of both losses, 0 to 1"})
    min_per_intent: int = field(
        default=0,
        metadata={"help": "repeat rare intents' sentences up to this many (8 times most)"},
    )
    pooling: str = field(default="first", metadata={"help": "intent reads: first or mean"})
    hidden_size: int = field(default=768, metadata={"help": "scratch: width; FFN is 4 times it"})
    num_layers: int = field(default=2, metadata={"help": "scratch: encoder layers"})


def build(arguments, dd, intents, slots):
    """(joint model, tokenizer): a pre-trained encoder with fresh heads, or a fresh model."""
    if arguments.teacher == "scratch":
        tokenizer = word_tokenizer(dd)
        config = joint_config(
            intents,
            slots,
            arguments.label_smoothing,
            arguments.pooling,
            hidden_size=arguments.hidden_size,
            intermediate_size=4 * arguments.hidden_size,
            num_hidden_layers=arguments.num_layers,
            pad_token_id=tokenizer.pad_token_id,
        )
        return BertForJointIntentSlot(config), tokenizer
    encoder, tokenizer = teachers.load(arguments.teacher)
    encoder = getattr(encoder, "bert", encoder)  # a joint model brings its encoder
    labels = intents, slots, arguments.label_smoothing, arguments.pooling
    return teachers.joint_from_encoder(encoder, tokenizer, *labels), tokenizer


def build_classifier(arguments, dd):
    """(classifier, tokenizer): a pre-trained encoder with a fresh head."""
    if arguments.teacher == "scratch":
        raise ValueError("sentences need a pre-trained encoder: --teacher minilm, or a folder")
    encoder, tokenizer = teachers.load(arguments.teacher)
    classes = [str(label) for label in sorted(set(dd["train"]["label"]))]
    return teachers.classifier_from_encoder(
        getattr(encoder, "bert", encoder), tokenizer, classes
    ), tokenizer


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
    if "label" in dd["train"].column_names:
        model, tokenizer = build_classifier(arguments, dd)
        encoded = encode_sentences(dd, tokenizer, arguments.max_length)
        collator, compute, evaluate = None, sentence_metrics, evaluate_sentences
        training.label_names = ["labels"]
    else:
        intents, slots = data.labels(dd)
        model, tokenizer = build(arguments, dd, intents, slots)
        if arguments.min_per_intent:
            dd["train"] = repeat_rare(dd["train"], arguments.min_per_intent)
        encoded = encode_joint(dd, tokenizer, intents, slots, arguments.max_length)
        collator, compute = JointCollator(tokenizer), trainer_metrics(intents, slots)
        evaluate = evaluate_joint
    trainer = Trainer(
        model,
        training,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=collator,
        compute_metrics=compute,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    trainer.save_model()
    split = "test" if "test" in dd else "validation"
    metrics = evaluate(trainer.model, tokenizer, dd[split], max_length=arguments.max_length)
    if trainer.is_world_process_zero():
        running.write_metrics("finetune", training, arguments.data, split, metrics, trainer.state)
    return metrics


def main(argv=None):
    """Command line: FinetuneArguments and TrainingArguments."""
    parser = HfArgumentParser((FinetuneArguments, TrainingArguments))
    parser.set_defaults(**running.DEFAULTS)
    return finetune(*parser.parse_args_into_dataclasses(argv))


if __name__ == "__main__":
    main()
