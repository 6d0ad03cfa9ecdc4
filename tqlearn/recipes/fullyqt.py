"""FullyQT: every tensor of a translation Transformer at 8, 6 or 4 bits (Prato et al. 2020).

    python -m tqlearn.recipes.fullyqt --output_dir runs/fullyqt                  # embedded, 8 bits
    python -m tqlearn.recipes.fullyqt --data multi30k --source local --bits 32 --width 192 \
        --ffn 512 --layers 3 --vocabulary 6000 --max_steps 4000 --output_dir runs/float
    python -m tqlearn.recipes.fullyqt --data multi30k --source local --bits 6 --post_training \
        --start runs/float --output_dir runs/post6

Published (1910.10485, abstract): 8 bits reach or pass the float model on most translation tasks; no
loss in BLEU. Its tables were not available to us. What we reached: fullyqt_multi30k.json in
benchmarks/results.

The embedded data, "ferry", is English and an invented language, written by a grammar. ``--bits 32``
trains in floats. ``--from_step`` is when rounding starts, a share of all steps if it is below 1;
the model trains as in floats before. ``--start`` goes on from such a checkpoint (a folder
"checkpoint-N" of a run with ``--stop_after N``), or takes a finished run for ``--post_training``:
a float run, or one trained on the grid, whose ranges dropout has moved and this sets anew.
``--bucket tensor --zero_care False`` is the paper's control: one range per tensor, none fixed at
zero, padding counted.

We differ: ranges start with their first batch and watch 50 steps before rounding starts; the
largest score is subtracted in the softmax; buckets of activations are features, those of gamma are
whole vectors. The loss has label smoothing, perplexity has none.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import HfArgumentParser, Trainer, TrainerState, TrainingArguments, set_seed

from .. import MinMax, calibrate, compress, data, pack, report
from ..hf import running, translation
from ..hf.delayed import QuantizeFromStep, StopAfter
from ..hf.resuming import require_whole
from ..quantizers.calibration import calibrate_weights
from ..quantizers.running_ranges import synchronize
from ..writing import folder_beside

FLOAT = 32
BATCHES = 40  # of the training data, whose ranges post-training quantization averages
SUMMED = ("*.quant_sum", "*.quant_queries", "*.quant_keys", "*.quant_context",
          "*.norm_*.quant_output")  # fmt: skip
DEFAULTS = running.DEFAULTS | {
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_steps": 200,
    "save_total_limit": 1,
    "logging_strategy": "steps",
    "logging_steps": 50,
    "load_best_model_at_end": False,
    "label_names": ["labels"],
    "per_device_train_batch_size": 64,
    "max_steps": 700,
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "lr_scheduler_type": "linear",
    "adam_beta2": 0.98,
    "adam_epsilon": 1e-9,
}


@dataclass
class FullyQTArguments:
    """What to quantize, from when on, and the model; the rest are TrainingArguments."""

    bits: int = field(default=8, metadata={"help": "8, 6, 4 (2 to 8), or 32 for floats"})
    bucket: str = field(
        default="feature",
        metadata={"help": "ranges per feature, tensor, or integer: tensor where a matmul sums"},
    )
    zero_care: bool = field(default=True, metadata={"help": "False: no range fixed at 0"})
    from_step: float = field(default=0.6, metadata={"help": "step, or share, to start rounding"})
    watch: int = field(default=50, metadata={"help": "steps that ranges watch before"})
    start: str | None = field(default=None, metadata={"help": "checkpoint or folder to go on from"})
    post_training: bool = field(default=False, metadata={"help": "calibrate, do not train"})
    stop_after: int | None = field(default=None, metadata={"help": "save and stop at this step"})
    data: str = field(default="ferry", metadata={"help": "data set, see tqlearn.data.load"})
    source: str | None = field(default=None, metadata={"help": "embedded, local or hub"})
    folder: str | None = field(default=None, metadata={"help": "local data; else $TQLEARN_DATA"})
    revision: str | None = field(default=None, metadata={"help": "commit of a hub data set"})
    vocabulary: int = field(default=400, metadata={"help": "pieces of the BPE tokenizer"})
    width: int = field(default=64, metadata={"help": "of the model"})
    ffn: int = field(default=128, metadata={"help": "nodes of a feed-forward layer"})
    heads: int = field(default=4, metadata={"help": "of an attention"})
    layers: int = field(default=2, metadata={"help": "of encoder and of decoder"})
    dropout: float = field(default=0.1, metadata={"help": "see models.Transformer"})
    max_length: int = field(default=128, metadata={"help": "longest sentence, in pieces"})
    beams: int = field(default=4, metadata={"help": "of the search; 1 is greedy"})
    length_penalty: float = field(default=0.6, metadata={"help": "of the search"})


def plan(bits=8, bucket="feature", zero_care=True):
    """Return the plan that quantizes all of a ``models.Transformer``.

    Args:
        bucket: "integer" gives one range to what enters a product that sums over features, so
            that the product can run on integers, and a range per feature to the rest.
        zero_care: False fixes no range at 0 and counts padding.
    """
    care = {"zero": zero_care, "padding": not zero_care}
    if bucket == "integer":
        one = [MinMax(bits, "tensor", **care)]
        return {name: one for name in SUMMED} | {"*": [MinMax(bits, **care)]}
    return {"*": [MinMax(bits, bucket, **care)]}


def callbacks(model, arguments):
    """Return what switches the quantizers, and what ends a training early."""
    start = None if arguments.bits == FLOAT else arguments.from_step
    found = [QuantizeFromStep(model, start, arguments.watch)]
    return found + ([StopAfter(arguments.stop_after)] if arguments.stop_after else [])


def quantized(model, arguments):
    """Return a student with quantizers everywhere; those of a float run rest."""
    bits = 8 if arguments.bits == FLOAT else arguments.bits
    return synchronize(compress(model, plan(bits, arguments.bucket, arguments.zero_care)))


def own_copy(checkpoint, folder, student):
    """Copy a checkpoint, with unset ranges: another bucket has them in another shape.

    Raises:
        ValueError: the folder is no whole checkpoint of a Trainer.
    """
    checkpoint, copy = Path(checkpoint), Path(folder) / "start" / Path(checkpoint).name
    if not (checkpoint / "trainer_state.json").is_file():
        raise ValueError(
            f"{checkpoint} is no checkpoint; --start takes a folder checkpoint-N, which a run with "
            "--stop_after N leaves, or with --post_training the folder of a finished run"
        )
    require_whole(checkpoint)
    weights, fresh = load_file(checkpoint / translation.WEIGHTS), student.state_dict()
    kept = {n: t if n.endswith((".low", ".high")) else weights[n] for n, t in fresh.items()}
    with folder_beside(copy) as new:
        shutil.copytree(checkpoint, new, dirs_exist_ok=True)
        save_file(kept, new / translation.WEIGHTS, metadata={"format": "pt"})
    return str(copy)


def first_batches(encoded, tokenizer, size=64):
    """Return a few batches of the training data, to calibrate with."""
    rows = encoded["train"].shuffle(seed=0)
    rows = rows.select(range(min(BATCHES * size, len(rows)))).remove_columns("length")
    collator = translation.PairCollator(tokenizer)
    return DataLoader(rows, batch_size=size, collate_fn=collator)


def train(arguments, training, encoded, tokenizer):
    """Train from scratch or from a checkpoint; return (student, trainer)."""
    shape = {k: getattr(arguments, k) for k in ("width", "ffn", "heads", "layers", "dropout")}
    model = translation.translator(tokenizer, **shape, length=arguments.max_length)
    student = quantized(model, arguments)
    trainer = Trainer(
        student,
        training,
        train_dataset=encoded["train"],
        data_collator=translation.PairCollator(tokenizer),
        processing_class=tokenizer,
        callbacks=callbacks(student, arguments),
    )
    resume = running.newest_checkpoint(training)
    if resume is None and arguments.start:
        resume = own_copy(arguments.start, training.output_dir, student)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False), trainer


def main(argv=None):
    """Train or calibrate one setting; write the packed model and metrics.json; return it."""
    parser = HfArgumentParser((FullyQTArguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    set_seed(training.seed)
    dd = data.load(arguments.data, arguments.source, arguments.folder, arguments.revision)
    if arguments.post_training:
        model, tokenizer = translation.load_floats(arguments.start or "")
    else:
        tokenizer = translation.bpe_tokenizer(dd, arguments.vocabulary)
    encoded = translation.encode_pairs(dd, tokenizer, arguments.max_length)
    state = TrainerState(epoch=0)
    if arguments.post_training:
        student = quantized(model, arguments)
        calibrate(student, first_batches(encoded, tokenizer))
    else:
        student, trainer = train(arguments, training, encoded, tokenizer)
        state = trainer.state
        if not trainer.is_world_process_zero():
            return None
    return finish(student, tokenizer, dd, arguments, training, state)


def finish(student, tokenizer, dd, arguments, training, state):
    """Evaluate, weigh, write the packed model and the record; return the record."""
    plain = translation.in_floats(student.eval())
    rounds = arguments.bits != FLOAT and not arguments.stop_after
    if rounds:
        calibrate_weights(student)
    else:
        student = plain
    split = "test" if "test" in dd else "validation"
    search = {"beams": arguments.beams, "alpha": arguments.length_penalty}
    scores, signatures = translation.evaluate_translation(student, tokenizer, dd[split], **search)
    sizes = report(student, reference=plain)
    print(sizes)
    kept = pack(student) if rounds else student
    translation.save_translator(kept, tokenizer, training.output_dir)
    return running.write_metrics(
        "fullyqt", training, arguments.data, split, scores, state,
        bits=arguments.bits, sacrebleu=signatures, **sizes.summary(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
