"""The exercises of the course, one module per notebook: ``n02_...`` holds those of notebook 02."""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from . import base, compare, guard, judge, limits
from .base import Cost, Exercise, Gradient, Invariant, Mistake
from .judge import SECONDS, NotAttempted, complaint

__all__ = [
    "Cost",
    "Exercise",
    "Gradient",
    "Invariant",
    "Mistake",
    "NotAttempted",
    "SECONDS",
    "complaint",
    "find",
    "lessons",
    "of",
]


@cache
def lessons() -> dict[str, str]:
    """Notebook number -> module name, for every notebook that has exercises.

    >>> lessons()["00"]
    'n00_start_here'
    """
    files = sorted(Path(__file__).parent.glob("n[0-9][0-9]_*.py"))
    return {file.stem[1:3]: file.stem for file in files}


@cache
def of(number: str) -> tuple[Exercise, ...]:
    """The exercises of a notebook, by its number such as "02"; none if it has none."""
    if number not in lessons():
        return ()
    module = import_module(f".{lessons()[number]}", __name__)
    guard.seal(module, *module.EXERCISES)
    return module.EXERCISES


def find(id: str) -> Exercise:
    """Return an exercise by its id.

    Raises:
        ValueError: there is no such exercise; the message lists the notebook's.
    """
    number = str(id).partition(".")[0]
    for exercise in of(number):
        if exercise.id == id:
            return exercise
    known = [exercise.id for exercise in of(number)] or [f"{n}.1" for n in lessons()]
    raise ValueError(f"there is no exercise {id!r}; there are {', '.join(known)}")


for _module in (base, compare, guard, judge, limits, sys.modules[__name__]):
    guard.seal(_module)
