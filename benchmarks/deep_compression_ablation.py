"""Where pruning and quantization start from, in which order; dropout; a zero: a small BERT's grid.

    python benchmarks/deep_compression_ablation.py

A BERT of the embedded teacher's shape (2 layers, 128 wide) is pre-trained on masked words of the
``flights`` corpus, its training sentences and varied copies of them. From there every arm trains on
intents and slots for the same number of epochs, in the equal phases that its name lists: "dense"
fine-tunes, "prune" adds a 2:4 mask, "quantize" 4-bit weights and inputs, "both" the two at once. So
"prune > quantize" prunes the pre-trained model and quantizes the fine-tuned sparse one, and
"dense > quantize > prune" quantizes the fine-tuned dense model and prunes last. The learning rate
falls to zero in each phase, and rises again in the next.

Then "prune > quantize" under four schedules of dropout, beside an FP32 model under the same, and on
a grid with or without a place for zero; a "..._deployed" figure has every pruned weight at exactly
zero, as hardware for sparse matrices would run it.

Rows hold means over the seeds and the largest minus the smallest as "..._spread"; "score" is the
mean of intent accuracy and slot F1. One pre-training serves all seeds. A killed run goes on when
the command is given again. ``--quick`` takes one seed and a few steps.
"""

from pathlib import Path
from statistics import mean

import torch
from common import parser, write
from deep_compression import averaged
from embedded_teacher import POSITIONS, augment, wordpieces
from runs import row, run_recipe, score
from transformers import BertConfig, BertModel, Trainer, TrainingArguments, set_seed
from zero_grid import deployed

from tqlearn import data, teachers
from tqlearn.hf import evaluate_joint, running
from tqlearn.hf.masked import MaskedWords, encode_texts, hide_words, texts_of

STARTS = {  # phases -> pruned from what, quantized from what
    "dense": (None, None),
    "prune": ("pre-trained", None),
    "dense > prune": ("fine-tuned", None),
    "quantize": (None, "pre-trained"),
    "dense > quantize": (None, "fine-tuned dense"),
    "both": ("pre-trained", "pre-trained"),
    "dense > both": ("fine-tuned", "fine-tuned dense"),
    "prune > quantize": ("pre-trained", "fine-tuned sparse"),
    "dense > prune > quantize": ("fine-tuned", "fine-tuned sparse"),
    "quantize > prune": ("fine-tuned 4-bit", "pre-trained"),
    "dense > quantize > prune": ("fine-tuned 4-bit", "fine-tuned dense"),
}
DROPOUTS = {
    "0.1": {"dropout": [0.1, 0.1], "dropout_shape": "constant"},
    "0": {"dropout": [0.0, 0.0], "dropout_shape": "constant"},
    "0.1 to 0": {"dropout": [0.1, 0.0], "dropout_shape": "linear"},
    "0 to 0.1": {"dropout": [0.0, 0.1], "dropout_shape": "linear"},
}
GRIDS = {"with a zero": {"zero": True}, "without a zero": {"zero": False}}
USUAL = DROPOUTS["0.1 to 0"] | GRIDS["with a zero"]
BEST = "prune > quantize"  # the arm that dropout and grids are tried on
ARMS = {f"order: {phases}": USUAL | {"phases": phases.split(" > ")} for phases in STARTS}
for name, schedule in DROPOUTS.items():
    ARMS[f"dropout, FP32: {name}"] = USUAL | {"phases": ["dense"]} | schedule
    ARMS[f"dropout: {name}"] = USUAL | {"phases": BEST.split(" > ")} | schedule
for name, kind in GRIDS.items():
    ARMS[f"grid, dense: {name}"] = USUAL | {"phases": ["quantize"]} | kind
    ARMS[f"grid: {name}"] = USUAL | {"phases": BEST.split(" > ")} | kind
TRAINING = {
    "data": "flights",
    "num_train_epochs": 9,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
    "use_cpu": True,
}
COPIES, EPOCHS = 7, 6  # of the pre-training


def pretrained(folder: Path, quick: bool) -> Path:
    """Return a folder with an encoder that has learned masked words, training it if need be."""
    if (folder / "tokenizer.json").exists():
        return folder
    set_seed(0)
    train = augment(data.load("flights")["train"], 1 if quick else COPIES, seed=0)
    tokenizer = wordpieces(data.load("flights")["train"]["tokens"])
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=512, max_position_embeddings=POSITIONS,
            pad_token_id=tokenizer.pad_token_id, initializer_range=0.06,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    options = TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, max_steps=2 if quick else -1, learning_rate=1e-3,
        per_device_train_batch_size=64, warmup_steps=0.05, lr_scheduler_type="cosine",
        weight_decay=0.01, train_sampling_strategy="group_by_length", save_strategy="no",
        logging_strategy="epoch", report_to="none", dataloader_pin_memory=False,
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    words = encode_texts(texts_of(train), tokenizer, POSITIONS)
    Trainer(
        MaskedWords(encoder), options, train_dataset=words, data_collator=hide_words(tokenizer)
    ).train()
    running.save_model(encoder, tokenizer, folder)  # its files say that the training is over
    return folder


def trained(options: dict, args, seed: int) -> tuple[dict, Path]:
    """Train an arm with a seed; arms of the same options share a folder and the work."""
    words = [*options["phases"], options["dropout_shape"], *map(str, options["dropout"])]
    folder = args.work / "_".join([*words, "zero" if options["zero"] else "none", str(seed)])
    start = pretrained(args.work / "pretrained", args.quick)
    steps = {"max_steps": 4} if args.quick else {"num_train_epochs": args.epochs}
    wanted = TRAINING | steps | options | {"teacher": start, "seed": seed}
    return run_recipe("deep_compression", folder, here=True, **wanted), folder


def as_deployed(folder: Path, test) -> dict:
    """Return what a trained model scores with its pruned weights at zero."""
    model, tokenizer = teachers.load(str(folder))
    found = evaluate_joint(deployed(model).eval(), tokenizer, test)
    return {f"{key}_deployed": found[key] for key in ("intent_accuracy", "slot_f1")}


def arm_row(arm: str, runs: list[tuple[dict, Path]], test) -> dict:
    """Return one row: means, spreads, where the arm starts from, and each seed's score."""
    group, _, label = arm.partition(": ")
    records = [record for record, _ in runs]
    for record, folder in runs:
        record["metrics"]["score"] = score(record["metrics"])
        if group == "grid":
            record["metrics"] |= as_deployed(folder, test)
    one = records[0] | {"metrics": averaged(records)}
    each = "seeds: " + ", ".join(f"{record['metrics']['score']:.2f}" for record in records)
    verbs = zip(("pruned", "quantized"), STARTS.get(label, ()), strict=False)
    starts = [f"{verb} from the {start} model" for verb, start in verbs if start]
    dense = records[0]["phases"] == ["dense"]
    if dense:
        del one["ratio"]
    return row(arm, "baseline" if dense else "ablation", one, "; ".join([*starts, each]))


def main() -> None:
    """Run every arm with every seed, then write the table."""
    options = parser("deep_compression_ablation", __doc__)
    options.add_argument("--work", type=Path, default=Path("runs/deep_compression_ablation"))
    options.add_argument("--epochs", type=float, default=TRAINING["num_train_epochs"])
    options.add_argument("--seeds", type=int, default=3, help="how many")
    options.add_argument("--arms", nargs="+", default=[*ARMS], help="some of the rows' names")
    options.add_argument("--train_only", action="store_true", help="write no table")
    args = options.parse_args()
    if unknown := [arm for arm in args.arms if arm not in ARMS]:
        raise ValueError(f"arms are {[*ARMS]}, got {unknown[0]!r}")
    torch.set_num_threads(1)
    seeds = [args.seed + i for i in range(1 if args.quick else args.seeds)]
    runs = {arm: [trained(ARMS[arm], args, seed) for seed in seeds] for arm in args.arms}
    if args.train_only:
        return
    test = data.load("flights")["test"]
    rows = [arm_row(arm, found, test) for arm, found in runs.items()]
    base = [row["metrics"]["score"] for row in rows if row["model"] == "order: dense"]
    for found in rows:
        if base and found["role"] == "ablation":
            found["metrics"]["retention"] = 100 * found["metrics"]["score"] / mean(base)
    write("deep_compression_ablation", "Deep Compression", rows, args, seeds=seeds)


if __name__ == "__main__":
    main()
