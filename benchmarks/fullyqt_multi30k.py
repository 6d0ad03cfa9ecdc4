"""FullyQT on Multi30k, English to German: floats, then everything at 8, 6 and 4 bits.

    TQLEARN_DATA=... python benchmarks/fullyqt_multi30k.py --work runs/fullyqt_multi30k

A Transformer of 3 + 3 layers, width 192, 512 nodes, 4 heads, 4000 BPE pieces for both languages:
3.3 million parameters. "shared" trains the first 70 % of the steps in floats (bfloat16, for speed);
every trained arm goes on from its checkpoint to the same last step, with the same data, seed and
learning rates, in float32: "float" as it is, the others with all quantizers rounding from 50
steps on, in which their ranges watch; "late" ones train in floats till 90 % of the steps. "early"
is the paper's way: from scratch, rounding from step 100 on.

"post-training" rounds the float arm's result, with ranges averaged over 40 training batches;
"ranges anew" does the same to what a trained arm has learned: its own ranges watched with dropout.
"control" has one range for each tensor, none fixed at zero, and counts padding. Test set:
test_2016_flickr, beam 4, length penalty 0.6, no checkpoint averaging.

"paired_bootstrap" in the result says what a difference in BLEU is worth: 1,000 resamples of the
test sentences, and how often one as large would come up between equal models (sacrebleu's p).

Hours on one core; a killed run goes on when the command is given again, and finished parts are
kept. ``--arms`` takes some of them (the float arm is trained where post-training needs it); with
``--train_only`` it writes no table, so that two cores can share the work; with ``--out``
and ``--add`` their rows also join an older table, whose "added" says when and by which command.
"""

import json
from pathlib import Path

from common import parser, write
from runs import row, run_recipe
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from tqlearn import data
from tqlearn.hf.translation import load_translator, translate
from tqlearn.writing import write as write_file

STEPS, SHARED, WATCH, LATE, EARLY = 3000, 2100, 50, 0.9, 100  # LATE: a share
TRAINING = {
    "data": "multi30k",
    "source": "local",
    "vocabulary": 4000,
    "width": 192,
    "ffn": 512,
    "heads": 4,
    "layers": 3,
    "dropout": 0.2,
    "per_device_train_batch_size": 128,
    "max_steps": STEPS,
    "learning_rate": 1.5e-3,
    "warmup_steps": 300,
    "lr_scheduler_type": "linear",
    "save_steps": 200,
    "logging_steps": 100,
    "use_cpu": True,
    "disable_tqdm": True,
}
CONTROL = {"bucket": "tensor", "zero_care": False}
TRAINED = {
    "float": {"bits": 32},
    "FullyQT 8": {"bits": 8},
    "FullyQT 6": {"bits": 6},
    "FullyQT 4": {"bits": 4},
    "control 8": {"bits": 8} | CONTROL,
    "FullyQT 6, late": {"bits": 6, "from_step": LATE},
    "FullyQT 4, late": {"bits": 4, "from_step": LATE},
    "control 6, late": {"bits": 6, "from_step": LATE} | CONTROL,
}
SCRATCH = {"FullyQT 6, early": {"bits": 6}}
ROUNDED = {
    "post-training 8": {"bits": 8},
    "post-training 6": {"bits": 6},
    "post-training 4": {"bits": 4},
    "post-training control 8": {"bits": 8} | CONTROL,
    "post-training control 6": {"bits": 6} | CONTROL,
    "post-training control 4": {"bits": 4} | CONTROL,
}
RANGED = {
    "FullyQT 6, late, ranges anew": {"bits": 6},
    "FullyQT 4, late, ranges anew": {"bits": 4},
    "control 6, late, ranges anew": {"bits": 6} | CONTROL,
}
ANEW = ", ranges anew"
ARMS = TRAINED | SCRATCH | ROUNDED | RANGED
PAIRS = {
    "post-training 6": (
        "FullyQT 6",
        "FullyQT 6, late",
        "FullyQT 6, late, ranges anew",
        "FullyQT 6, early",
    ),
    "post-training 4": ("FullyQT 4", "FullyQT 4, late", "FullyQT 4, late, ranges anew"),
    "post-training control 6": ("control 6, late", "control 6, late, ranges anew"),
}
QUICK = {"max_steps": 6, "width": 32, "ffn": 32, "layers": 1, "beams": 1, "warmup_steps": 1,
         "per_device_train_batch_size": 8, "vocabulary": 300}  # fmt: skip


def settings(args) -> tuple[dict, int]:
    """Return the options of a training, and the step at which the arms part."""
    options = TRAINING | (QUICK if args.quick else {})
    return options | {"seed": args.seed}, 3 if args.quick else SHARED


def shared(args) -> Path:
    """Train the part that all arms share, if it is not there; return its checkpoint."""
    options, step = settings(args)
    folder = args.work / "shared"
    checkpoint = folder / f"checkpoint-{step}"
    if not (checkpoint / "trainer_state.json").exists():
        run_recipe("fullyqt", folder, **options, bits=32, stop_after=step, bf16=True)
    return checkpoint


def place(arm: str, args) -> Path:
    """Return an arm's folder."""
    return args.work / "_".join(arm.replace(",", "").split())


def trained(arm: str, args) -> dict:
    """Train one arm, from the shared checkpoint on but for the early one; return its record."""
    options, step = settings(args)
    watch = 1 if args.quick else WATCH
    if arm in SCRATCH:
        start = {"from_step": 2 if args.quick else EARLY, "watch": watch}
    else:
        start = {"start": shared(args), "from_step": step + watch, "watch": watch}
    return run_recipe("fullyqt", place(arm, args), **options | start | ARMS[arm])


def rounded(arm: str, args) -> dict:
    """Round the weights of a trained arm, the float one mostly, and return the record."""
    source = arm.removesuffix(ANEW) if arm in RANGED else "float"
    trained(source, args)
    options = {key: TRAINING[key] for key in ("data", "source", "use_cpu")}
    options |= {"seed": args.seed} | ({"beams": 1} if args.quick else {})
    start = {"post_training": True, "start": place(source, args)}
    return run_recipe("fullyqt", place(arm, args), **options | ARMS[arm] | start)


def translations(arm: str, split, args) -> list[str]:
    """Return an arm's translations of a split, by the model in its folder; keep them there."""
    file = place(arm, args) / "translations.txt"
    if not file.exists():
        model, tokenizer = load_translator(file.parent)
        found = translate(model, tokenizer, split["source"], beams=1 if args.quick else 4)
        write_file(file, "".join(f"{' '.join(sentence.split())}\n" for sentence in found))
    return file.read_text().split("\n")[:-1]


def paired(records: dict, args) -> list[dict]:
    """Test the pairs of arms that are there; return a line per pair.

    Raises:
        RuntimeError: a folder's model does not translate with the BLEU of its record.
    """
    pairs = {old: [new for new in news if new in records] for old, news in PAIRS.items()}
    pairs = {old: news for old, news in pairs.items() if old in records and news}
    split, lines = data.load("multi30k", "local")["test"], []
    references = [list(split["target"])]
    for old, news in pairs.items():
        systems = [(arm, translations(arm, split, args)) for arm in (old, *news)]
        metric = {"BLEU": BLEU(references=references)}
        test = PairedTest(systems, metric, references=None, test_type="bs")
        scores = test()[1]
        for (arm, _), found in zip(systems, scores["BLEU"], strict=True):
            if abs(found.score - records[arm]["metrics"]["bleu"]) > 0.01:
                raise RuntimeError(f"{arm}: {found.score} BLEU from its folder, else in its record")
            if arm != old:
                difference = round(found.score - scores["BLEU"][0].score, 2)
                line = {"model": arm, "against": old, "difference": difference}
                lines.append(line | {"p": round(found.p_value, 3)})
    return lines


def added(record: dict, file: Path) -> dict:
    """Put a new record's rows and pairs into the table in ``file``; return the whole table.

    Raises:
        ValueError: the table comes from other settings or packages.
    """
    table = json.loads(file.read_text())
    for key in ("settings", "versions", "sacrebleu", "seed", "quick", "machine"):
        if table[key] != record[key]:
            raise ValueError(f"{file}: {key} is {table[key]}, these arms have {record[key]}")
    fresh = [row["model"] for row in record["rows"]]
    for key in ("rows", "paired_bootstrap"):
        table[key] = [line for line in table[key] if line["model"] not in fresh] + record[key]
    line = {key: record[key] for key in ("command", "date")} | {"models": fresh}
    table["added"] = [*table.get("added", []), line]
    return table


def role(arm: str) -> str:
    """Return what an arm stands for."""
    return "baseline" if arm == "float" else "ablation" if "control" in arm else "student"


def main() -> None:
    """Run every arm, then write the table."""
    options = parser("fullyqt_multi30k", __doc__)
    options.add_argument("--work", type=Path, default=Path("runs/fullyqt_multi30k"))
    options.add_argument("--arms", nargs="+", help='such as "FullyQT 8" "post-training 8"')
    options.add_argument("--train_only", action="store_true", help="write no table")
    options.add_argument("--add", type=Path, help="a table that the arms' rows shall join")
    args = options.parse_args()
    if args.add and args.add.resolve() == args.out.resolve():
        raise ValueError(f"--add needs another file than --out, {args.out}")
    arms = args.arms or [*ARMS]
    if unknown := [arm for arm in arms if arm not in (*ARMS, "shared")]:
        raise ValueError(f"arms are {['shared', *ARMS]}, got {unknown[0]!r}")
    if arms == ["shared"]:
        shared(args)
        return
    records = {
        a: (trained if a in TRAINED | SCRATCH else rounded)(a, args) for a in arms if a in ARMS
    }
    if args.train_only:
        return
    signatures = next(iter(records.values()))["sacrebleu"]
    pairs = paired(records, args)
    said = {
        p["model"]: "; {difference:+.2f} BLEU against {against} (p {p})".format(**p) for p in pairs
    }
    rows = [
        row(arm, role(arm), record, note(arm) + said.get(arm, ""))
        for arm, record in records.items()
    ]
    used, step = settings(args)
    extra = {"sacrebleu": signatures, "settings": used | {"shared_steps": step}}
    extra["paired_bootstrap"] = pairs
    record = write("fullyqt_multi30k", "FullyQT", rows, args, **extra)
    if args.add:
        write_file(args.add, json.dumps(added(record, args.add), indent=2) + "\n")


def note(arm: str) -> str:
    """Say what is special about an arm."""
    if arm == "float":
        return ""
    many = "ranges per output row and per feature"
    one = "one range per tensor, no zero fixed, padding counted"
    late = f"; rounds from {LATE:.0%} of the steps on" if "late" in arm else ""
    late += f"; in floats for {EARLY} steps alone" if arm in SCRATCH else ""
    anew = "; then new ranges for the activations, without dropout" if arm in RANGED else ""
    return (one if "control" in arm else many) + late + anew


if __name__ == "__main__":
    main()
