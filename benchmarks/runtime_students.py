"""The students of ``runtime.py`` that are taught: an epoch of ATIS with their teacher's answers."""

from pathlib import Path

import torch
from pareto_lessons import Lessons, Task
from torch import nn

from tqlearn.writing import beside

TASK = Task("atis", "local", "test", steps=120, seeds=1, rates=(5e-4,))  # 120 batches: an epoch


def learned(student: nn.Module, file: Path, lessons: Lessons, seed: int) -> nn.Module:
    """Return a student that has learned, in evaluation; what it learned is kept in a file.

    Args:
        student: calibrated; it is trained in place.
        file: of its weights; where it exists, they are read and nothing is trained.
        lessons: of its teacher; the same rate and steps for all.
    """
    if file.exists():
        student.load_state_dict(torch.load(file))
        return student.eval()
    found = lessons.teach(student, lessons.task.rates[0], lessons.task.steps, seed, checks=1)
    print(f"{file}: taught, {found}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with beside(file) as new:
        torch.save(student.state_dict(), new)
    return student.eval()
