"""The exercises of the course.

``n02_...`` holds those at the end of notebook 02. Lines to fill in on the way are exercises as
well, with letters in place of numbers: "02.a". They are one line each, so five modules hold them.
Those that are judged by their result alone stand together, too, and come last in their notebooks.
"""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from . import base, compare, guard, judge, limits, plans
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


LINES = (
    "lines_fewer_numbers",
    "lines_fewer_bits",
    "lines_students",
    "lines_pareto",
    "lines_language_models",
)


@cache
def lessons() -> dict[str, str]:
    """Notebook number -> module name, for every notebook that has exercises.

    >>> lessons()["00"]
    'n00_start_here'
    """
    files = sorted(Path(__file__).parent.glob("n[0-9][0-9]_*.py"))
    return {file.stem[1:3]: file.stem for file in files}


@cache
def _in(name: str) -> tuple[Exercise, ...]:
    module = import_module(f".{name}", __name__)
    guard.seal(module, *module.EXERCISES)
    return module.EXERCISES


@cache
def of(number: str) -> tuple[Exercise, ...]:
    """The exercises of a notebook in the order of its page, by its number such as "02".

    None if it has none.
    """
    if number not in lessons():
        return ()
    lines = [line for name in LINES for line in _in(name) if line.id.startswith(f"{number}.")]
    ends = [one for one in _in("open_ended") if one.id.startswith(f"{number}.")]
    return (*lines, *_in(lessons()[number]), *ends)


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


for _module in (base, compare, guard, judge, limits, plans, sys.modules[__name__]):
    guard.seal(_module)
