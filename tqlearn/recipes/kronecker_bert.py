"""KroneckerBERT: Kronecker products, distilled twice (Tahaei et al., NAACL 2022; v1 2109.06243).

    python -m tqlearn.recipes.kronecker_bert --output_dir runs/kb                # embedded, both
    python -m tqlearn.recipes.kronecker_bert --stage general --teacher minilm --text text \
        --text_source local --output_dir runs/kb8_general
    python -m tqlearn.recipes.kronecker_bert --stage task --teacher runs/sst2_teacher --data sst2 \
        --source local --student runs/kb8_general --output_dir runs/kb8_sst2

Published: 7.7 and 21 times smaller; SST-2 on GLUE's dev set 91.1 (KB8) and 88.9 (KB21), on its test
set 91.9 and 88.4 beside BERT-base's 93.4. What we reached: kronecker_bert_sst2.json in
benchmarks/results. ``--ground_truth False`` leaves the labels out of stage 2, so any text will do.
``--setting dense`` compresses nothing: a control that has the same lessons in both stages.

We differ: stage 1 predicts masked words but no next sentences, and reads other text than Wikipedia;
attention scores count where both tokens are real; the logit loss, which the paper does not define,
is KL(teacher || student); dropout is off in the student.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import BertModel, HfArgumentParser, TrainingArguments, set_seed

from .. import Kronecker, compress, data, pack, report, teachers
from ..distill import soft_labels
from ..hf import running, tasks
from ..hf.attention import SCORES
from ..hf.masked import MaskedWords, encode_texts, hide_words, texts_of
from ..hf.trainer import DistillTrainer, ScaleTrainer

# attention's right factor B, the small side of an FFN factor, the row of the word table
SETTINGS = {"KB8": ((2, 2), 8, 8), "KB21": ((2, 16), 16, 16)}
HELD_OUT = 100  # one text in so many tells how well stage 1 predicts masked words


@dataclass
class KroneckerArguments:
    """What to compress and how; everything else is a TrainingArguments option (of stage 2)."""

    setting: str = field(default="KB8", metadata={"help": "KB8, KB21, or dense, a control"})
    stage: str = field(default="both", metadata={"help": "general, task or both"})
    data: str = field(default="flights", metadata={"help": "task, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    text: str = field(default="flights", metadata={"help": "text of stage 1, any data set"})
    text_source: str | None = field(default=None, metadata={"help": "as for source"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str = field(
        default="embedded",
        metadata={"help": "stage 1: a pre-trained encoder; stage 2: a fine-tuned folder"},
    )
    general_teacher: str | None = field(
        default=None, metadata={"help": "stage 1 of both, if it is another than --teacher"}
    )
    student: str | None = field(default=None, metadata={"help": "folder that stage 1 wrote"})
    distill: bool = field(default=True, metadata={"help": "False: labels (masked words) alone"})
    ground_truth: bool = field(
        default=True, metadata={"help": "stage 2: False leaves out the labels' loss"}
    )
    general_epochs: float = field(default=3.0, metadata={"help": "of stage 1"})
    general_learning_rate: float = field(default=1e-3, metadata={"help": "of stage 1"})
    general_steps: int = field(default=-1, metadata={"help": "of stage 1, in place of epochs"})
    max_length: int = field(default=64, metadata={"help": "longest sentence, in pieces"})
    general_max_length: int = field(default=128, metadata={"help": "longest row of stage 1"})


def plan(config, setting="KB8", rank=1):
    """Return the plan for a BERT of any width; at 768 it is the paper's (spec sheet, 3.1).

    "dense" leaves all as it is.
    """
    if setting == "dense":
        return {"*": []}
    if setting not in SETTINGS:
        known = [*sorted(SETTINGS), "dense"]
        raise ValueError(f"KroneckerBERT has settings {known}, not {setting!r}")
    (rows, cols), ffn, row = SETTINGS[setting]
    width, inner = config.hidden_size, config.intermediate_size
    wide, narrow = (ffn, inner // ffn), (2, width // 2)
    square = Kronecker(rank, (width // rows, rows), (width // cols, cols))
    return {
        "*.word_embeddings": [Kronecker(rank, col_modes=(width // row, row))],
        "*.attention.*": [square],
        "*.intermediate.dense": [Kronecker(rank, wide, narrow)],
        "*.layer.*.output.dense": [Kronecker(rank, narrow, wide)],
    }


def losses(stage="task", ground_truth=True):
    """Return the losses of spec sheet KroneckerBERT, 2.1, for "general" or "task"."""

    def terms(student, teacher, inputs):
        found = tasks.every_layer(student, teacher, inputs["attention_mask"])
        if stage == "general":
            return found | {"words": student.loss}
        pairs = tasks.logit_pairs(student, teacher, inputs)
        soft = {f"soft_{name}": soft_labels(s, t, mask=mask) for name, s, t, mask in pairs}
        return found | soft | ({"task": student.loss} if ground_truth else {})

    return terms


def trainer_for(model, teacher, stage, arguments, **shared):
    """Return the trainer that distills, or the one that learns from labels alone."""
    if not arguments.distill:
        return ScaleTrainer(model, **shared)
    terms = losses(stage, arguments.ground_truth)
    return DistillTrainer(model, teacher=teacher, losses=terms, attention=SCORES, **shared)


def general(arguments, training):
    """Stage 1: distill a pre-trained encoder on text; write the student's encoder."""
    model, tokenizer = teachers.load(arguments.teacher)
    encoder = getattr(model, "bert", model)
    dd = data.load(arguments.text, arguments.text_source, arguments.folder)
    texts = texts_of(dd["train"])
    held = encode_texts(texts[::HELD_OUT], tokenizer, arguments.general_max_length)
    kept = [text for i, text in enumerate(texts) if i % HELD_OUT]
    student = compress(encoder, plan(encoder.config, arguments.setting))
    training = replace(
        training,
        learning_rate=arguments.general_learning_rate,
        num_train_epochs=arguments.general_epochs,
        max_steps=arguments.general_steps,
        eval_strategy="no",
        load_best_model_at_end=False,
        label_names=["labels"],
    )
    trainer = trainer_for(
        MaskedWords(running.without_dropout(student)),
        MaskedWords(encoder, predict=False),
        "general",
        arguments,
        args=training,
        train_dataset=encode_texts(kept, tokenizer, arguments.general_max_length),
        data_collator=hide_words(tokenizer, training.seed),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    loss = trainer.evaluate(held)["eval_loss"]
    if trainer.is_world_process_zero():
        running.save_model(trainer.model.bert, tokenizer, training.output_dir)
        running.write_metrics(
            "kronecker_bert", training, arguments.text, "held out", {"masked_word_loss": loss},
            trainer.state, rows=len(trainer.train_dataset),
        )  # fmt: skip


def task(arguments, training):
    """Stage 2: distill a fine-tuned teacher on its task; write the packed student."""
    teacher, tokenizer = teachers.load(arguments.teacher)
    dd = data.load(arguments.data, arguments.source, arguments.folder)
    student = compress(teacher, plan(teacher.config, arguments.setting))
    if arguments.student:
        take_encoder(student, BertModel.from_pretrained(arguments.student))
    tasks.require_joint(dd, teacher)
    job = tasks.prepare(dd, tokenizer, teacher.config, arguments.max_length)
    training = replace(training, label_names=job.label_names)
    shared = {"args": training} | job.trainer
    student = running.without_dropout(student)
    trainer = trainer_for(student, teacher, "task", arguments, **shared)
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    if not trainer.is_world_process_zero():
        return None
    scores = job.evaluate(trainer.model, tokenizer, dd[job.split])
    sizes = report(trainer.model, reference=teacher)
    running.save_model(pack(trainer.model), tokenizer, training.output_dir)
    print(sizes)
    return running.write_metrics(
        "kronecker_bert",
        training,
        arguments.data,
        job.split,
        scores,
        trainer.state,
        **sizes.summary(),
    )


def take_encoder(student, encoder):
    """Copy a stage-1 encoder into the student; heads and pooler stay the teacher's.

    Raises:
        ValueError: the encoder has other layers, as one of another setting has.
    """
    values = {k: v for k, v in encoder.state_dict().items() if not k.startswith("pooler.")}
    wanted = {k: v for k, v in student.bert.state_dict().items() if not k.startswith("pooler.")}
    if {k: v.shape for k, v in values.items()} != {k: v.shape for k, v in wanted.items()}:
        raise ValueError(
            "the encoder of stage 1 has other layers than this setting; give the same --setting"
        )
    student.bert.load_state_dict(values, strict=False)


def main(argv=None):
    """Run one stage, or both: stage 1 then writes into the folder ``general`` of output_dir."""
    parser = HfArgumentParser((KroneckerArguments, TrainingArguments))
    parser.set_defaults(**running.DEFAULTS, learning_rate=1e-4)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    set_seed(training.seed)
    if not (arguments.distill or arguments.ground_truth):
        raise ValueError("without distillation and labels nothing teaches; keep one of the two")
    if arguments.stage not in ("general", "task", "both"):
        raise ValueError(f"stage is general, task or both, got {arguments.stage!r}")
    if arguments.stage == "general":
        return general(arguments, training)
    if arguments.stage == "both":
        first = str(Path(training.output_dir) / "general")
        before = arguments.general_teacher or arguments.teacher
        general(replace(arguments, teacher=before), replace(training, output_dir=first))
        arguments = replace(arguments, student=first)
    return task(arguments, training)


if __name__ == "__main__":
    main()
