"""BERT-base on SST-2 or SQuAD, compressed by five papers' recipes at their own shapes, on a GPU.

    TQLEARN_DATA=... python benchmarks/gpu/bert_base.py sst2
    python benchmarks/gpu/bert_base.py squad --data FOLDER --model FOLDER --minutes 60
    python benchmarks/gpu/bert_base.py sst2 --quick --out FILE   # tiny, on a CPU; no result

The model is google-bert/bert-base-uncased: ``--model`` names a folder that holds it, else it comes
from the hub at a fixed commit. SST-2 are GLUE's phrases, tested on its 872 validation sentences;
SQuAD is ``squad_tydiqa``, the training questions of it that lie in the folder with TyDiQA's English
ones, tested on the dev set of v1.1. Both come through ``tqlearn.data.load``.

A call goes on for ``--minutes`` (9.5) and stops what runs then; the same call goes on from its
newest checkpoint, and the call that ends the last part writes the table. Every seed has its own
teacher. For each paper there is a control: the dense model with the same data, losses, batches,
steps and schedule, whose learning rate is a fine-tuning's (3e-5) where the student's would wreck
it. "retention" is the score as a percentage of the better of teacher and control. No checkpoint is
chosen: every row is the last step of its training. Of several seeds the rows hold the mean, and the
largest minus the smallest as "..._spread".

Epochs, batches and rates are those that the spec sheets name for BERT-base, and the sheets' choice
where they name none (Deep Compression; QTC on SQuAD; Block Pruning on SST-2 has MNLI's). Stage 1 of
KroneckerBERT reads the folder's ``text``, not Wikipedia. Everything is FP32.
"""

import os
import re
import sys
import time
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # common.py

from common import write
from deep_compression import averaged
from devices import device_for, told
from runs import OutOfTime, row, run_recipe, score, settle, task_parser

from tqlearn import teachers

TEACHER = "BERT-base fine-tuned"
MODEL, REVISION = "google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"
FILES = ["config.json", "model.safetensors", "tokenizer*.json", "vocab.txt"]
DATA = {"sst2": "sst2_phrases", "squad": "squad_tydiqa"}
LENGTHS = {"sst2": 64, "squad": 384}
SHARED = {
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": 1,
    "logging_strategy": "steps",
    "logging_steps": 100,
    "lr_scheduler_type": "linear",
    "disable_tqdm": True,
}
TEXT = {
    "stage": "general",
    "text": "text",
    "general_epochs": 3,
    "general_max_length": 512,
    "warmup_steps": 0.05,
}


def lessons(epochs: float, batch: int, rate: float, **more: object) -> dict:
    """Return the options that every recipe has."""
    found = {"num_train_epochs": epochs, "per_device_train_batch_size": batch}
    return found | {"learning_rate": rate} | more


LESSONS: dict[str, dict[str, dict]] = {  # recipe -> task -> options
    "finetune": {
        "sst2": lessons(3, 32, 2e-5, weight_decay=0.01, warmup_steps=0.06),
        "squad": lessons(2, 12, 3e-5),
    },
    "qtc": dict.fromkeys(
        DATA,
        lessons(10, 32, 1e-3, final_learning_rate=5e-5, lr_scheduler_type="constant",
                max_grad_norm=10.0),
    ),
    "kronecker_bert": {
        "sst2": lessons(5, 32, 1e-4, warmup_steps=0.06),
        "squad": lessons(5, 64, 1e-4, warmup_steps=0.06),
    },
    "kdlsq_bert": {
        "sst2": lessons(3, 16, 5e-5, weight_decay=0.01),
        "squad": lessons(3, 4, 5e-5),
    },
    "block_pruning": {
        "sst2": lessons(12, 32, 3e-5, warmup=0.08, warmup_steps=0.08, cooldown=0.33,
                        filled_epochs=6.0),
        "squad": lessons(20, 16, 3e-5, filled_epochs=4.0),
    },
    "deep_compression": {
        "sst2": lessons(6, 32, 3e-5, warmup_steps=0.06),
        "squad": lessons(6, 12, 3e-5, warmup_steps=0.06),
    },
}  # fmt: skip
HYBRID = {"block": 32, "score_learning_rate": 1e-2, "rule": "authors", "every_phase": False}
ARMS: dict[str, tuple[str, dict]] = {
    "QTC A4, 4-bit cores": ("qtc", {"shapes": "A4"}),
    "QTC A4, 8-bit cores": ("qtc", {"shapes": "A4", "bits": 8}),
    "KroneckerBERT KB8": ("kronecker_bert", {"setting": "KB8"}),
    "KroneckerBERT KB21": ("kronecker_bert", {"setting": "KB21", "learning_rate": 5e-4}),
    "KDLSQ 8-8-8": ("kdlsq_bert", {"bits": "8-8-8"}),
    "KDLSQ 4-4-8": ("kdlsq_bert", {"bits": "4-4-8"}),
    "KDLSQ 2-2-8": ("kdlsq_bert", {"bits": "2-2-8"}),
    "block pruning, lambda 20": ("block_pruning", HYBRID | {"penalty": 20, "dense_penalty": 0.25}),
    "W4A4 2:4": ("deep_compression", {"phases": ["prune", "quantize"]}),
}
FULL = {"method": "random", "attention_density": 1.0, "dense_density": 1.0}  # all blocks stay
CONTROLS: dict[str, tuple[str, dict]] = {
    "dense, QTC's lessons": (
        "qtc",
        {"dense": True, "learning_rate": 3e-5, "final_learning_rate": None},
    ),
    "dense, KroneckerBERT's lessons": (
        "kronecker_bert",
        {"setting": "dense", "learning_rate": 3e-5, "general_learning_rate": 3e-5},
    ),
    "dense, KDLSQ's lessons": ("kdlsq_bert", {"bits": "32-32-32", "learning_rate": 3e-5}),
    "dense, block pruning's lessons": ("block_pruning", HYBRID | FULL),
    "dense, Deep Compression's lessons": ("deep_compression", {"phases": ["dense", "dense"]}),
}
CONTROL_OF = {recipe: name for name, (recipe, _) in CONTROLS.items()}
QUICK = {"max_steps": 2, "save_strategy": "no", "use_cpu": True, "per_device_train_batch_size": 8}


def tiny(folder: Path) -> Path:
    """Write a random BERT of one layer, 128 wide, with the embedded tokenizer; for trials."""
    tokenizer = AutoTokenizer.from_pretrained(teachers.embedded_folder())
    ends = [(word, tokenizer.convert_tokens_to_ids(word)) for word in ("[CLS]", "[SEP]")]
    pairs = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    tokenizer.backend_tokenizer.post_processor = pairs
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=512, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pretrained(args) -> Path:
    """Return the folder of the pre-trained model."""
    if args.model:
        return args.model
    if args.quick:
        return tiny(args.work / "tiny")
    print(f"{MODEL} at {REVISION[:7]}, from the cache or the hub; --model names a folder instead")
    return Path(snapshot_download(MODEL, revision=REVISION, allow_patterns=FILES))


def folder_name(name: str, seed: int) -> str:
    """Return where a part lies in the folder of work."""
    words = re.sub("[:,']", "", name).split()
    return "_".join([*words, str(seed)])


def trained(name: str, recipe: str, own: dict, args, seed: int) -> dict:
    """Run one part, from where it was stopped; return its record."""
    folder, teacher = (args.work / folder_name(which, seed) for which in (name, TEACHER))
    if recipe in ("finetune", "deep_compression"):  # they begin with the pre-trained model
        teacher = args.model
    options = {"data": DATA[args.task], "source": args.source, "max_length": LENGTHS[args.task]}
    options |= SHARED | LESSONS[recipe][args.task] | own
    if recipe == "kronecker_bert":
        rate = options.pop("general_learning_rate", 1e-3)
        options |= {"stage": "task", "student": first_stage(options["setting"], rate, args, seed)}
    if args.quick:
        options |= QUICK | ({"shapes": None} if recipe == "qtc" else {})
    options = {key: value for key, value in options.items() if value is not None}
    return run_recipe(recipe, folder, deadline=args.deadline, **options, teacher=teacher, seed=seed)


def first_stage(setting: str, rate: float, args, seed: int) -> Path:
    """Run KroneckerBERT's stage 1, from where it was stopped; return its folder."""
    folder = args.work / f"stage_1_{setting}_{seed}"
    options = SHARED | TEXT | {"setting": setting, "general_learning_rate": rate}
    options |= {"text_source": args.source, "teacher": args.model, "seed": seed}
    if args.quick:
        options |= QUICK | {"general_steps": 2}
    run_recipe("kronecker_bert", folder, deadline=args.deadline, **options)
    return folder


def averaged_part(runs: list[dict]) -> dict:
    """Return the record of a part: means over its seeds, sizes of its first."""
    metrics = averaged(runs)
    if "compacted_density" in runs[0]:
        metrics["compacted_density"] = runs[0]["compacted_density"]
    each = ", ".join(f"{score(run['metrics']):.2f}" for run in runs)
    steps = f"{runs[0]['steps']} steps{', the last phase' if 'phases' in runs[0] else ''}"
    return {key: runs[0][key] for key in ("bytes", "ratio") if key in runs[0]} | {
        "metrics": metrics, "note": f"{steps}; seeds: {each}",
    }  # fmt: skip


def rows_of(records: dict[str, list[dict]]) -> list[dict]:
    """Return the rows: teacher, controls, students beside the better of the two."""
    found = {name: averaged_part(runs) for name, runs in records.items()}
    first = next(runs[0] for name, runs in records.items() if name in ARMS)
    found[TEACHER]["bytes"] = first["reference_bytes"]
    rows = []
    for name, record in found.items():
        if name in ARMS:
            control = CONTROL_OF[ARMS[name][0]]
            rivals = [found[rival]["metrics"] for rival in (TEACHER, control)]
            if best := max(map(score, rivals)):  # a teacher of a few steps may know nothing yet
                record["metrics"]["retention"] = 100 * score(record["metrics"]) / best
        role = "student" if name in ARMS else "baseline"
        rows.append(row(name, role, record, record["note"]))
    return rows


def main() -> None:
    """Train what is missing until the minutes are over; with all of it, write the table."""
    options = task_parser("gpu_bert_base", __doc__, DATA)
    options.add_argument("--model", type=Path, help="folder of bert-base-uncased; else the hub")
    options.add_argument("--data", type=Path, help="local data; else $TQLEARN_DATA")
    options.add_argument("--source", choices=("local", "hub"), default="local")
    options.add_argument("--arms", nargs="+", default=[*ARMS], help=f"out of {[*ARMS]}")
    options.add_argument("--seeds", nargs="+", type=int, help="else three from --seed on")
    options.add_argument("--minutes", type=float, default=9.5, help="stop then, with a checkpoint")
    args = options.parse_args()
    if unknown := [arm for arm in args.arms if arm not in ARMS]:
        options.error(f"arms are {[*ARMS]}, got {unknown[0]!r}")
    recipes = dict.fromkeys(ARMS[arm][0] for arm in args.arms)
    if args.source == "hub" and (args.task == "squad" or "kronecker_bert" in recipes):
        options.error("the hub has SST-2 only, no SQuAD and no text for KroneckerBERT's stage 1")
    name, device = settle("gpu_bert_base", args), device_for(options, args)
    if args.data:
        os.environ["TQLEARN_DATA"] = str(args.data)
    args.deadline = time.monotonic() + 60 * args.minutes
    args.model = pretrained(args)
    parts = {TEACHER: ("finetune", {})}
    parts |= {CONTROL_OF[recipe]: CONTROLS[CONTROL_OF[recipe]] for recipe in recipes}
    parts |= {arm: ARMS[arm] for arm in args.arms}
    seeds = args.seeds or range(args.seed, args.seed + (1 if args.quick else 3))
    records: dict[str, list[dict]] = {which: [] for which in parts}
    try:
        for seed in seeds:
            for which, (recipe, own) in parts.items():
                records[which].append(trained(which, recipe, own, args, seed))
    except OutOfTime as stop:
        done = sum(map(len, records.values()))
        print(f"{stop}; {done} of {len(parts) * len(seeds)} parts are done, call again to go on")
        return
    if not args.train_only:
        write(name, None, rows_of(records), args, device=told(device), seeds=[*seeds])


if __name__ == "__main__":
    main()
