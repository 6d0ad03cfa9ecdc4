"""QTC: quantization-aware, tensor-compressed training (Yang et al., Interspeech 2023, 2306.01076).

    python -m tqlearn.recipes.qtc --output_dir runs/qtc                    # embedded, distilled
    python -m tqlearn.recipes.qtc --setting end_to_end --data atis --source local --output_dir ...
    python -m tqlearn.recipes.qtc --shapes A4 --teacher runs/bert_base_sst2 --data sst2_phrases \
        --source local --output_dir runs/qtc_sst2                          # BERT-base, as on GLUE
    accelerate launch --num_processes 2 -m tqlearn.recipes.qtc ... --resume_from_checkpoint last

Published: up to 63x smaller, with little loss of accuracy, on two language-understanding tasks
(abstract). The paper's tables were not available to us; formats, start values and schedule follow
the authors' released code. What we reached: qtc_atis_scratch.json and qtc_atis.json in
benchmarks/results.

We differ: padding is masked, the attention term is summed over a row, scales learn at a rate of
their own, student dropout is off while distilling, positions and heads may be quantized too, and
the word table is fitted to the words of the training data before distillation starts.

Distillation also takes classifiers of sentences and answerers of questions. ``--dense True`` leaves
the student dense: a control that has the same lessons, steps and schedule.
"""

from dataclasses import dataclass, field, replace

from transformers import HfArgumentParser, TrainingArguments, set_seed

from .. import LSQ, TT, TTM, calibrate, compress, data, pack, report, teachers
from ..distill import layer_by_layer, soft_labels
from ..hf import joint, running, tasks, words
from ..hf.trainer import DistillTrainer, LayerByLayer, ScaleTrainer

# width or name -> attention, FFN down, FFN up (down reversed), word embedding; OUT modes first
SHAPES = {
    128: (
        ((1, 8, 24, 8, 1), (8, 16), (16, 8)),
        ((1, 8, 24, 16, 1), (8, 16), (32, 16)),
        ((1, 16, 24, 8, 1), (16, 32), (16, 8)),
        ((1, 64, 1), (32, 32), (8, 16)),
    ),
    384: (
        ((1, 16, 48, 16, 1), (16, 24), (24, 16)),
        ((1, 16, 48, 24, 1), (16, 24), (32, 48)),
        ((1, 24, 48, 16, 1), (48, 32), (24, 16)),
        ((1, 30, 60, 30, 1), (16, 20, 10, 10), (4, 4, 4, 6)),
    ),
    768: (  # configuration T of the spec sheet: 2 layers on ATIS, 800 words
        ((1, 12, 20, 20, 20, 12, 1), (12, 8, 8), (8, 8, 12)),
        ((1, 12, 20, 20, 20, 16, 1), (12, 8, 8), (12, 16, 16)),
        ((1, 16, 20, 20, 20, 12, 1), (16, 16, 12), (8, 8, 12)),
        (30, (8, 5, 5, 4, 8), (4, 4, 4, 4, 3)),
    ),
    "A4": (  # BERT-base on GLUE, 30,522 words: the released code's default
        ((1, 24, 30, 24, 1), (24, 32), (32, 24)),
        ((1, 30, 30, 30, 1), (32, 24), (48, 64)),
        ((1, 30, 30, 30, 1), (64, 48), (24, 32)),
        ((1, 20, 20, 20, 1), (16, 20, 10, 10), (4, 4, 8, 6)),
    ),
}
HEADS = {  # kind of model -> layers in front of the heads, which are like attention's; the heads
    "BertForJointIntentSlot": (["*_dense"], "*_classifier"),
    "BertForSequenceClassification": (["*.pooler.dense"], "classifier"),
    "BertForQuestionAnswering": ([], "qa_outputs"),
}


@dataclass
class QTCArguments:
    """What to compress and how; everything else is a TrainingArguments option."""

    setting: str = field(default="distill", metadata={"help": "distill or end_to_end"})
    data: str = field(default="flights", metadata={"help": "data set, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    teacher: str = field(default="embedded", metadata={"help": "embedded, or a fine-tuned folder"})
    bits: int = field(default=4, metadata={"help": "of every core, 2 to 8; 32 leaves floats"})
    rest_bits: int = field(default=32, metadata={"help": "of positions and heads; 32: floats"})
    scale_init: str = field(default="lsq", metadata={"help": "start of the scales: lsq, max, mse"})
    shapes: str | None = field(
        default=None, metadata={"help": "A4, BERT-base's on GLUE; None: those of the width"}
    )
    dense: bool = field(default=False, metadata={"help": "True: nothing is compressed, a control"})
    rank: int | None = field(default=None, metadata={"help": "middle rank; None: as in SHAPES"})
    embedding_rank: int | None = field(
        default=None, metadata={"help": "of the table; None: as in SHAPES"}
    )
    steps_per_stage: int | None = field(default=None, metadata={"help": "None: half of training"})
    final_learning_rate: float | None = field(default=None, metadata={"help": "joint stage"})
    scale_learning_rate: float = field(default=1e-5, metadata={"help": "of quantizer scales"})
    max_length: int | None = field(
        default=None, metadata={"help": "longest row, in pieces; else 64, or 384 for questions"}
    )


def plan(width, arguments, init="svd", counts=None, kind="BertForJointIntentSlot"):
    """Return the plan for a BERT of one of the widths in SHAPES.

    Args:
        counts: how often each of its words occurs.
        kind: name of its class, one of HEADS.
    """
    widths = [name for name in SHAPES if name != "A4"]
    shapes = arguments.shapes or width
    if (shapes, width) not in [("A4", 768), *zip(widths, widths, strict=True)]:
        wanted = width if shapes == width else f"{shapes} for {width}"
        raise ValueError(f"QTC has shapes for widths {widths}, not {wanted}; add a line")
    _require_head(kind)
    *linear, (ranks, rows, cols) = SHAPES[shapes]
    front, heads = HEADS[kind]
    if arguments.rank:
        linear = [
            ((*r[: len(r) // 2], arguments.rank, *r[len(r) // 2 + 1 :]), o, i) for r, o, i in linear
        ]
    ranks = arguments.embedding_rank or ranks
    core = [LSQ(arguments.bits, arguments.scale_init)] if arguments.bits < 32 else []
    rest = [LSQ(arguments.rest_bits, arguments.scale_init)] if arguments.rest_bits < 32 else []
    attention, down, up = ([TT(*shape, init=init), *core] for shape in linear)
    return {
        "*.word_embeddings": [TTM(ranks, rows, cols, init=init, counts=counts), *core],
        "*.attention.*": attention,
        "*.intermediate.dense": up,
        "*.output.dense": down,
        **dict.fromkeys(front, attention),
        heads: rest,
        "*.position_embeddings": rest,
    }


def losses(schedule):
    """Return the losses of spec sheet QTC, 5.2, for a Trainer that keeps ``schedule`` in step."""

    def terms(student, teacher, inputs):
        maps = (student.attentions, teacher.attentions)
        hidden = (student.hidden_states, teacher.hidden_states)
        layers = layer_by_layer(*hidden, *maps, inputs["attention_mask"], schedule.stage)
        if not schedule.joint:
            return {"layers": layers}
        pairs = tasks.logit_pairs(student, teacher, inputs)
        soft = {f"soft_{name}": soft_labels(s, t, mask=mask) for name, s, t, mask in pairs}
        return {"layers": layers, "task": student.loss} | soft

    return terms


def callbacks(layers, arguments):
    """Return the layer-by-layer schedule."""
    return [LayerByLayer(layers, arguments.steps_per_stage, arguments.final_learning_rate)]


def _require_head(kind):
    if kind not in HEADS:
        raise ValueError(
            f"QTC compresses {[*HEADS]}, not {kind}; python -m tqlearn.recipes.finetune makes one"
        )


def student_of(teacher, job, arguments):
    """Return the student: its cores come from the teacher's weights, or are random end to end."""
    start, kind = {"init": "random"}, type(teacher).__name__
    _require_head(kind)
    if arguments.dense:
        return compress(teacher, {"*": []})
    if arguments.setting == "distill":
        rows = job.trainer["train_dataset"]
        start = {"counts": running.word_counts(rows, teacher.config.vocab_size)}
    width = teacher.config.hidden_size
    return calibrate(compress(teacher, plan(width, arguments, **start, kind=kind)))


def main(argv=None):
    """Train one setting; write the packed student, its tokenizer and metrics.json."""
    parser = HfArgumentParser((QTCArguments, TrainingArguments))
    parser.set_defaults(**running.DEFAULTS, learning_rate=1e-3, ddp_find_unused_parameters=True)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    set_seed(training.seed)
    dd = data.load(arguments.data, arguments.source, arguments.folder)
    if arguments.setting == "distill":
        teacher, tokenizer = teachers.load(arguments.teacher)
    elif arguments.setting == "end_to_end":
        labels, tokenizer = data.labels(dd), words.word_tokenizer(dd)
        teacher = joint.BertForJointIntentSlot(joint.joint_config(*labels))
    else:
        raise ValueError(f"setting is distill or end_to_end, got {arguments.setting!r}")
    tasks.require_joint(dd, teacher)
    job = tasks.prepare(dd, tokenizer, teacher.config, arguments.max_length)
    training = replace(training, label_names=job.label_names)
    student = student_of(teacher, job, arguments)
    shared = {"args": training, "scale_learning_rate": arguments.scale_learning_rate} | job.trainer
    if arguments.setting == "distill":
        schedule = callbacks(teacher.config.num_hidden_layers, arguments)
        student = running.without_dropout(student)
        shared |= {"teacher": teacher, "losses": losses(schedule[0]), "callbacks": schedule}
        trainer = DistillTrainer(student, **shared)
    else:
        trainer = ScaleTrainer(student, **shared)
    trainer.train(resume_from_checkpoint=running.newest_checkpoint(training))
    if not trainer.is_world_process_zero():
        return None
    scores = job.evaluate(trainer.model, tokenizer, dd[job.split])
    sizes = report(trainer.model, reference=teacher)
    running.save_model(pack(trainer.model), tokenizer, training.output_dir)
    print(sizes)
    return running.write_metrics(
        "qtc", training, arguments.data, job.split, scores, trainer.state, **sizes.summary()
    )


if __name__ == "__main__":
    main()
