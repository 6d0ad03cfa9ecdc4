"""Judge an answer: run it on the cases, compare, and say in one line what is wrong."""

import linecache
from collections.abc import Callable
from functools import partial
from traceback import walk_tb
from types import CodeType
from typing import Any

import torch

from . import guard
from .base import Cost, Exercise, Gradient, Invariant, Mistake, Observed
from .compare import difference
from .limits import Interrupted, TimeUp, limited

SECONDS = 10.0  # references take milliseconds


class NotAttempted(Exception):
    """The function is still the stub."""


def complaint(
    exercise: Exercise, function: Callable, seed: int = 0, seconds: float = SECONDS
) -> str | None:
    """Return what is wrong with an answer, or None if nothing is.

    The answer may take ``seconds`` for all of its cases.

    A named mistake is recognized by what the answer does: it behaves like the wrong function in the
    table, on every case, and unlike the reference.

    Raises:
        NotAttempted: the function raises NotImplementedError, bare as the stub does: torch raises
            it with words where an operation does not know a dtype.
        KeyboardInterrupt: the reader pressed stop.
    """
    with guard.pristine(), torch.enable_grad():
        cases = exercise.arguments(seed)
        right = [exercise.observe(exercise.answer, case) for case in cases]
        mine, words = _tried(exercise, function, cases, seconds)
        return words or _compared(exercise, cases, mine, right)


def _tried(
    exercise: Exercise, function: Callable, cases: list[tuple], seconds: float
) -> tuple[list[Observed], str | None]:
    """What the answer does with each case, and what is wrong if it does not get through them."""
    mine: list[Observed] = []
    caught = None
    try:
        with guard.kept() as replaced, limited(seconds):
            for case in cases:
                with torch.random.fork_rng():
                    mine.append(exercise.observe(function, case))
    except BaseException as error:  # whatever a reader's code raises is told, not thrown
        caught = error
    if isinstance(caught, Interrupted):
        raise caught
    if isinstance(caught, NotImplementedError) and not caught.args:
        raise NotAttempted
    if replaced:
        return mine, f"it replaces {replaced[0]}, which others use: leave that as it is"
    if caught is None:
        return mine, None
    if isinstance(caught, TimeUp):
        words = f"was stopped after {seconds:g} seconds"
    else:
        words = f"raises {type(caught).__name__}: {_said(caught)}"
    return mine, f"case {len(mine) + 1} of {len(cases)} {words}{_where(function, caught)}"


def _said(error: BaseException) -> str:
    """The first line of an error's message, which may be a reader's code, too."""
    try:
        with guard.kept(), limited(1.0):
            lines = str(error).strip().splitlines()
    except BaseException:
        lines = []
    return lines[0] if lines else "no message"


def _where(function: Any, error: BaseException) -> str:
    """Name the line of the answer that was running, as far as that is known."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    found = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_filename == code.co_filename
    ]
    if not found:
        return ""
    text = linecache.getline(*found[-1]).strip()
    return f", in line {found[-1][1]}" + (f": {text}" if text else "")


def _compared(
    exercise: Exercise, cases: list[tuple], mine: list[Observed], right: list[Observed]
) -> str | None:
    """Name the mistake, or the first difference."""
    counted = any(isinstance(check, Cost) for check in exercise.checks)
    for cost in (True, False) if counted else (True,):  # wrong values may cost anything
        for mistake in exercise.mistakes:
            if _recognized(exercise, mistake, cases, mine, right, cost):
                return mistake.says
    for number, (case, here, there) in enumerate(zip(cases, mine, right, strict=True), 1):
        if words := _first_difference(exercise, case, here, there):
            told = words in _sayings(exercise)
            return words if told else f"case {number} of {len(cases)}: {words}"
    return None


def _sayings(exercise: Exercise) -> set[str]:
    return {check.says for check in exercise.checks if isinstance(check, Invariant)}


def _first_difference(
    exercise: Exercise, case: tuple, mine: Observed, right: Observed
) -> str | None:
    """Compare one case: kind and shape first, then invariants, values, gradients, cost."""
    if exercise.goal is not None:
        try:
            return exercise.goal(mine.value, case)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            return f"what it returns cannot be used: {_said(error)}"
    if words := difference(mine.value, right.value, 0.0, float("inf")):
        return words  # with a boundless tolerance only kinds, shapes, dtypes and integers count
    for check in exercise.checks:
        if isinstance(check, Invariant) and not check.holds(mine.value, *case):
            return check.says
    a, b = (exercise.seen(observed.value, case) for observed in (mine, right))
    if words := difference(a, b, exercise.rtol, exercise.atol):
        return words
    for check in exercise.checks:
        if isinstance(check, Gradient):
            if mine.gradients is None:
                return "the values are right, but no gradient passes through"
            if words := difference(mine.gradients, right.gradients, exercise.rtol, exercise.atol):
                return f"the values are right, the gradient is not: {words}"
        if isinstance(check, Cost) and mine.flops > check.most * right.flops:
            return check.says.format(ratio=f"{mine.flops / max(1, right.flops):.1f}")
    return None


def _recognized(
    exercise: Exercise,
    mistake: Mistake,
    cases: list[tuple],
    mine: list[Observed],
    right: list[Observed],
    cost: bool,
) -> bool:
    """Say whether the answer did what the mistake does, and the mistake shows on these cases."""
    theirs = []
    for case in cases:
        try:
            theirs.append(exercise.observe(mistake.answer, case))
        except (RuntimeError, ValueError, IndexError):
            return False  # the mistake cannot even run on these shapes, and the answer could
    same = all(_alike(exercise, *t, cost) for t in zip(cases, mine, theirs, strict=True))
    shows = not all(_alike(exercise, *t, cost) for t in zip(cases, theirs, right, strict=True))
    return same and shows


def _alike(exercise: Exercise, case: tuple, one: Observed, other: Observed, cost: bool) -> bool:
    rtol, atol = exercise.rtol, exercise.atol
    if difference(one.value, other.value, 0.0, float("inf")):
        return False
    a, b = (exercise.seen(observed.value, case) for observed in (one, other))
    if difference(a, b, rtol, atol) or difference(one.gradients, other.gradients, rtol, atol):
        return False
    return not cost or one.flops == other.flops
