"""ATIS distilled: a fine-tuned all-MiniLM-L6-v2 teacher, a tensor-compressed 4-bit student.

    TQLEARN_DATA=... python benchmarks/qtc_atis.py --work runs/qtc_atis

Sizes are those of the written files; the teacher's is its FP32 file. With --teacher the script
takes a folder that ``python -m tqlearn.recipes.finetune`` made, otherwise it makes one. About two
hours on one core; a killed run goes on when the command is given again.
"""

from pathlib import Path

from common import parser, write
from runs import row, run_recipe

from tqlearn import data, teachers
from tqlearn.hf import evaluate_joint

TEACHER = {
    "data": "atis",
    "source": "local",
    "teacher": "minilm",
    "num_train_epochs": 22,
    "learning_rate": 2e-4,
    "warmup_steps": 0.06,
    "weight_decay": 0.01,
    "disable_tqdm": True,
}
STUDENT = {
    "data": "atis",
    "source": "local",
    "bits": 4,
    "scale_init": "mse",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.02,
    "max_grad_norm": 10.0,
    "disable_tqdm": True,
}


def main() -> None:
    """Run teacher and students, then write the table."""
    options = parser("qtc_atis", __doc__)
    options.add_argument("--work", type=Path, default=Path("runs/qtc_atis"))
    options.add_argument("--teacher", type=Path, help="a folder that the finetune recipe wrote")
    options.add_argument("--teacher_note", default="", help="how that folder came about")
    options.add_argument("--steps", type=int, default=4000, help="of the student")
    options.add_argument("--rest_bits", type=int, nargs="+", default=[8], help="one student each")
    options.add_argument("--scale_learning_rate", type=float, default=1e-4)
    args = options.parse_args()
    epochs = {"num_train_epochs": 1} if args.quick else {}
    steps = {"max_steps": 20 if args.quick else args.steps}
    folder = args.teacher or args.work / "teacher"
    note = args.teacher_note
    if not args.teacher:
        note = run_recipe("finetune", folder, **(TEACHER | epochs), seed=args.seed)["command"]
    base = {
        "metrics": evaluate_joint(*teachers.load(str(folder)), data.load("atis", "local")["test"])
    }
    rows = []
    for rest in args.rest_bits:
        student = run_recipe(
            "qtc",
            args.work / f"rest{rest}",
            **STUDENT,
            **steps,
            steps_per_stage=max(1, steps["max_steps"] // 40),
            teacher=str(folder),
            rest_bits=rest,
            scale_learning_rate=args.scale_learning_rate,
            seed=args.seed,
        )
        how = f"{steps['max_steps']} steps; positions and heads {rest} bits"
        rows.append(row("QTC student, 4-bit cores", "student", student, how))
    base |= {"bytes": student["reference_bytes"]}
    rows.insert(0, row("MiniLM fine-tuned", "baseline", base, note))
    write("qtc_atis", "QTC", rows, args)


if __name__ == "__main__":
    main()
