"""Judge an answer: run it on the cases, compare, and say in one line what is wrong."""

from collections.abc import Callable

import torch

from .base import Cost, Exercise, Gradient, Invariant, Mistake, Observed
from .compare import difference


class NotAttempted(Exception):
    """The function is still the stub."""


def complaint(exercise: Exercise, function: Callable, seed: int = 0) -> str | None:
    """Return what is wrong with an answer, or None if nothing is.

    A named mistake is recognized by what the answer does: it behaves like the wrong function in the
    table, on every case, and unlike the reference.

    Raises:
        NotAttempted: the function raises NotImplementedError.
    """
    cases = exercise.arguments(seed)
    right = [exercise.observe(exercise.answer, case) for case in cases]
    mine: list[Observed] = []
    for number, case in enumerate(cases, 1):
        try:
            with torch.random.fork_rng():
                mine.append(exercise.observe(function, case))
        except NotImplementedError:
            raise NotAttempted from None
        except Exception as error:  # whatever a reader's code raises is told, not thrown
            first = str(error).strip().splitlines() or ["no message"]
            return f"case {number} of {len(cases)} raises {type(error).__name__}: {first[0]}"
    for mistake in exercise.mistakes:
        if _recognized(exercise, mistake, cases, mine, right):
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
            return check.says.format(ratio=f"{mine.flops / right.flops:.1f}")
    return None


def _recognized(
    exercise: Exercise,
    mistake: Mistake,
    cases: list[tuple],
    mine: list[Observed],
    right: list[Observed],
) -> bool:
    """Say whether the answer did what the mistake does, and the mistake shows on these cases."""
    theirs = []
    for case in cases:
        try:
            theirs.append(exercise.observe(mistake.answer, case))
        except (RuntimeError, ValueError, IndexError):
            return False  # the mistake cannot even run on these shapes, and the answer could
    same = all(_alike(exercise, *trio) for trio in zip(cases, mine, theirs, strict=True))
    shows = not all(_alike(exercise, *trio) for trio in zip(cases, theirs, right, strict=True))
    return same and shows


def _alike(exercise: Exercise, case: tuple, one: Observed, other: Observed) -> bool:
    rtol, atol = exercise.rtol, exercise.atol
    if difference(one.value, other.value, 0.0, float("inf")):
        return False
    a, b = (exercise.seen(observed.value, case) for observed in (one, other))
    if difference(a, b, rtol, atol) or difference(one.gradients, other.gradients, rtol, atol):
        return False
    return one.flops == other.flops
