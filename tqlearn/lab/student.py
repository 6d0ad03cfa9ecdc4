"""The compressed BERT that lies in the package, taught by the embedded teacher."""

import json
from pathlib import Path

from .. import teachers
from ..hf import BertForJointIntentSlot

FOLDER = Path(__file__).parent / "embedded_student"
TEACHER = Path(__file__).parents[1] / "data" / "embedded" / "model.safetensors"


def load_student(folder: Path = FOLDER) -> BertForJointIntentSlot:
    """Return the packed student in eval mode, after checking its files and its teacher's.

    ``benchmarks/embedded_student.py`` made it; ``metrics.json`` beside it says how.

    Raises:
        ValueError: a file is not the one that was written, or another teacher is in the package.
    """
    digests = json.loads((folder / "metrics.json").read_text("utf-8"))["sha256"]
    for file, digest in digests["student"].items():
        teachers.verify(folder / file, digest)
    teachers.verify(TEACHER, digests["teacher"])
    model = BertForJointIntentSlot.from_pretrained(folder)
    print("student embedded: the teacher in tensor trains at 4 bits, in the package")
    return model.eval()
