"""Train the student that ships in the package: the embedded teacher, compressed and distilled.

    python benchmarks/embedded_student.py

The QTC recipe on ``flights``: tensor trains and 4-bit cores, positions and heads at 8 bits. Writes
the packed model and metrics.json with the sha256 of teacher and student to
tqlearn/lab/embedded_student, and the figures as JSON. ``--quick`` trains for two epochs and leaves
the package alone unless --folder says otherwise.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import common

from tqlearn.lab import student
from tqlearn.recipes import qtc
from tqlearn.writing import folder_beside, write

FILES = ("config.json", "model.safetensors")


def digest(file: Path) -> str:
    """Return a file's sha256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def train(folder: Path, epochs: int, seed: int) -> dict:
    """Run the recipe and return its record."""
    options = {
        "teacher": "embedded",
        "rank": 20,
        "embedding_rank": 60,
        "rest_bits": 8,
        "scale_init": "mse",
        "scale_learning_rate": 1e-4,
        "num_train_epochs": epochs,
        "steps_per_stage": 80,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "seed": seed,
        "output_dir": folder,
    }
    return qtc.main([word for key, value in options.items() for word in (f"--{key}", str(value))])


def main():
    """Train, copy what the package keeps, write."""
    parser = common.parser("embedded_student", __doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the model goes, default the package")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    keep = args.folder or (None if args.quick else student.FOLDER)
    taught_by = digest(student.TEACHER)
    with tempfile.TemporaryDirectory() as folder:
        record = train(Path(folder), 2 if args.quick else args.epochs, args.seed)
        if keep is not None:
            digests = {
                "teacher": taught_by,
                "student": {name: digest(Path(folder) / name) for name in FILES},
            }
            kept = {key: record[key] for key in ("metrics", "bytes", "ratio")}
            kept |= {"command": common.command(), "seed": args.seed, "sha256": digests}
            with folder_beside(keep) as new:
                for name in FILES:
                    shutil.copyfile(Path(folder) / name, new / name)
                write(new / "metrics.json", json.dumps(kept, indent=2) + "\n")
    row = {key: record[key] for key in ("metrics", "bytes", "ratio")}
    row |= {"model": "QTC student of the embedded teacher", "role": "student"}
    common.write("embedded_student", "QTC", [row], args)


if __name__ == "__main__":
    main()
