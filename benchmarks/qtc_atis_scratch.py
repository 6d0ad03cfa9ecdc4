"""ATIS from scratch: configuration T of the QTC spec sheet, in float and with 4-bit cores.

    TQLEARN_DATA=... python benchmarks/qtc_atis_scratch.py --work runs/qtc_atis_scratch

The dense baseline has the same shape (2 layers, 768 wide), data, tokenizer, batch size and way of
choosing the epoch (best on validation); its learning rate is a tenth (spec sheet 5.1: 1e-4 dense,
1e-3 tensor) and it gets fewer epochs, each of which costs more. About 60 minutes on one core; a
killed run goes on when the command is given again.
"""

from pathlib import Path

from common import parser, write
from runs import row, run_recipe

SHARED = {
    "data": "atis",
    "source": "local",
    "per_device_train_batch_size": 32,
    "adam_beta2": 0.98,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "disable_tqdm": True,
}


def main() -> None:
    """Run the three arms and write the table."""
    options = parser("qtc_atis_scratch", __doc__)
    options.add_argument("--work", type=Path, default=Path("runs/qtc_atis_scratch"))
    options.add_argument("--epochs", type=int, default=40, help="of the tensor models")
    options.add_argument("--dense_epochs", type=int, default=12)
    args = options.parse_args()
    tensor, dense = args.epochs, args.dense_epochs
    shared = SHARED | {"seed": args.seed} | ({"max_steps": 2} if args.quick else {})
    student = shared | {
        "setting": "end_to_end",
        "num_train_epochs": tensor,
        "learning_rate": 1e-3,
    }
    int4 = run_recipe("qtc", args.work / "int4", **student, bits=4)
    base = run_recipe(
        "finetune",
        args.work / "dense",
        **shared,
        teacher="scratch",
        num_train_epochs=dense,
        learning_rate=1e-4,
    )
    fp32 = run_recipe("qtc", args.work / "fp32", **student, bits=32)
    size = (args.work / "dense" / "model.safetensors").stat().st_size
    base |= {"bytes": int4["reference_bytes"] | {"file": size}}
    rows = [
        row("dense FP32", "baseline", base, f"{dense} epochs at 1e-4"),
        row("TT/TTM FP32", "student", fp32, f"{tensor} epochs at 1e-3"),
        row("TT/TTM 4-bit cores", "student", int4, f"{tensor} epochs at 1e-3"),
    ]
    write("qtc_atis_scratch", "QTC", rows, args)


if __name__ == "__main__":
    main()
