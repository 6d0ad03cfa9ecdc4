"""Is my answer right? ``check``, ``hint``, ``solution`` and ``rejoin`` for the exercises.

check("02.1", my_function)               PASS, TODO or FAIL, and one line that says why
hint("02.1"), hint("02.1", 2)            a nudge, then a clearer one
solution("02.1")                         the tested reference, once you have tried
f = rejoin("02.1", f)                    your function if it passes, else the reference
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from . import exercises

# background, border; the text is dark in both of JupyterLab's themes
LOOKS = {
    "PASS": ("#E6F4EA", "#1E8E3E"),
    "TODO": ("#FFF4E0", "#E69F00"),
    "FAIL": ("#FCE8E6", "#D93025"),
    "NOTE": ("#E8F0FE", "#0072B2"),
}
_attempted: set[str] = set()


@dataclass(frozen=True, repr=False)
class Outcome:
    """What ``check`` and its companions answer: a colored box in JupyterLab, text elsewhere.

    ``state`` is PASS, TODO or FAIL (NOTE for hints and solutions); ``line`` is the first line, the
    same each time for the same answer; ``more`` says what to do next.
    """

    state: str
    line: str
    more: str = ""
    code: str = ""

    @property
    def passed(self) -> bool:
        """True for PASS alone."""
        return self.state == "PASS"

    def require(self) -> None:
        """Raise an AssertionError with the line, unless passed: for automatic grading."""
        if not self.passed:
            raise AssertionError(self.line)

    def __repr__(self) -> str:
        return "\n".join(filter(None, (self.line, self.more, self.code)))

    def _repr_html_(self) -> str:
        back, border = LOOKS[self.state]
        style = f"background:{back};border-left:5px solid {border};color:#202124"
        more = f"<br><small>{escape(self.more)}</small>" if self.more else ""
        code = f'<pre style="color:#202124;background:{back}">{escape(self.code)}</pre>'
        folded = f"<details open><summary>one way</summary>{code}</details>" if self.code else ""
        body = f"<b>{escape(self.line)}</b>{more}{folded}"
        return f'<div style="{style};padding:8px 12px;margin:4px 0">{body}</div>'


def check(id: str, function: object, seed: int = 0, seconds: float = exercises.SECONDS) -> Outcome:
    """Judge an answer.

    Whatever an answer raises (``sys.exit`` included), an endless loop, and functions of torch,
    Python or this check that it replaces are a FAIL, and the next check is unharmed. Two things
    cannot be stopped from inside: ``os._exit``, and a single call that never returns from C, for
    which the kernel has to be restarted.

    Args:
        id: the exercise's number, such as "02.1".
        function: the function itself, without parentheses.
        seed: of the random inputs; hidden tests use another one.
        seconds: that the answer may take, for all inputs together.

    Returns:
        PASS, TODO (the function still raises NotImplementedError) or FAIL with what is wrong.

    Raises:
        ValueError: there is no such exercise.
        TypeError: ``function`` is no function.

    >>> def bert_numbers(vocabulary, positions, width, inner, layers):
    ...     raise NotImplementedError
    >>> check("00.1", bert_numbers)
    TODO 00.1 not attempted
    Write your answer in place of "raise NotImplementedError", run that cell, then this one.
    """
    exercise = exercises.find(id)
    if not callable(function):
        raise TypeError(
            f"check looks at the function itself, as in check({id!r}, {exercise.name}), "
            f"got {type(function).__name__}"
        )
    try:
        words = exercises.complaint(exercise, function, seed, seconds)
    except exercises.NotAttempted:
        todo = 'Write your answer in place of "raise NotImplementedError", run that cell,'
        return Outcome("TODO", f"TODO {id} not attempted", f"{todo} then this one.")
    _attempted.add(id)
    if words is None:
        return Outcome("PASS", f"PASS {id} {exercise.title}")
    more = f'hint("{id}") helps a little, hint("{id}", 2) more; solution("{id}") shows one way.'
    if " was stopped after " in words:
        more += f' check("{id}", {exercise.name}, seconds=60) waits longer.'
    return Outcome("FAIL", f"FAIL {id} {words}", more)


def hint(id: str, number: int = 1) -> Outcome:
    """Return a hint; higher numbers give away more.

    Raises:
        ValueError: there is no such exercise or hint.
    """
    hints = exercises.find(id).hints
    if number not in range(1, len(hints) + 1):
        raise ValueError(f"exercise {id} has {len(hints)} hints, from 1 on, got {number!r}")
    return Outcome("NOTE", f"Hint {number} of {len(hints)}: {hints[number - 1]}")


def solution(id: str, reveal: bool = False) -> Outcome:
    """Return the tested reference's source: after one attempt, or with ``reveal=True``.

    Raises:
        ValueError: there is no such exercise.
    """
    exercise = exercises.find(id)
    if id in _attempted or reveal:
        return Outcome("NOTE", f"Solution {id}: {exercise.title}", code=exercise.solution)
    more = f'check("{id}", {exercise.name}) counts as one; solution("{id}", reveal=True) opens now.'
    return Outcome("NOTE", f"Solution {id} opens after your first try", more)


def rejoin(id: str, function: Callable) -> Callable:
    """Return the reader's function if it passes its check, else the reference; print which.

    What follows on the page is then right for everyone.
    """
    if check(id, function).passed:
        print(f"{id}: from here on with your function")
        return function
    print(f"{id}: from here on with the reference")
    return exercises.find(id).answer


exercises.guard.seal(sys.modules[__name__])
