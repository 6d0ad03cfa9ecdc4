"""What an exercise is made of: a reference answer, inputs to try, checks, and named mistakes.

An exercise holds no page: the statement stands in the notebook. Everything else stands here once,
and the notebook's stub, the checks, the shown solution and the teacher's set are made from it.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .compare import copied, difference, gradients, plain

POINTS = {"easy": 1, "medium": 2, "hard": 3}


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that many people give, and what to tell them.

    Args:
        says: one line, in lower case, without a full stop: it follows "FAIL 02.1".
        answer: the wrong function. An answer that behaves like it gets this line.
    """

    says: str
    answer: Callable


@dataclass(frozen=True)
class Invariant:
    """Something that must hold for every case, such as "zero stays zero".

    Args:
        says: the line for an answer that breaks it.
        holds: (value, *arguments) -> bool.
    """

    says: str
    holds: Callable[..., bool]


@dataclass(frozen=True)
class Gradient:
    """The answer's gradients for its floating-point tensors must be the reference's."""


@dataclass(frozen=True)
class Cost:
    """The answer may multiply at most ``most`` times as much as the reference.

    Args:
        says: the line for an answer that costs more; "{ratio}" becomes how many times more.
    """

    says: str
    most: float = 1.05


@dataclass(frozen=True)
class Observed:
    """What a function did with one case: its value, and where checks ask for it, more."""

    value: Any
    gradients: tuple | None = None
    flops: int | None = None


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Args:
        id: "02.1" is the first exercise of notebook 02.
        title: a few words, in lower case.
        difficulty: "easy", "medium" or "hard"; worth 1, 2 or 3 points.
        minutes: that most readers need.
        answer: the reference. Its name, signature and docstring are the stub's; its body uses
            ``torch`` and what it imports itself, so that it runs when pasted into the notebook.
        cases: generator -> argument tuples. The same seed gives the same cases.
        checks: ``Invariant``, ``Gradient`` and ``Cost``; kind, shape, dtype and values are always
            compared.
        mistakes: at least one.
        hints: from a nudge to nearly the answer.
        goal: (value, case) -> what is missing, in words, or None. It judges in place of the
            comparison, checks and all, where any answer counts that gets there.
        view: (value, *arguments) -> what is compared in place of the value, where more than one
            value is right, such as the signs of singular vectors.
        rtol, atol: how close the values have to be.
    """

    id: str
    title: str
    difficulty: str
    minutes: int
    answer: Callable
    cases: Callable[[torch.Generator], Iterable[tuple]]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    checks: tuple[Invariant | Gradient | Cost, ...] = ()
    view: Callable | None = None
    goal: Callable[..., str | None] | None = None
    rtol: float = 1e-4
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.difficulty not in POINTS or not self.mistakes or not self.hints:
            raise ValueError(
                f"exercise {self.id} needs a difficulty of {[*POINTS]}, a mistake and a hint"
            )

    @property
    def name(self) -> str:
        """The name of the function that the reader writes."""
        return self.answer.__name__

    @property
    def points(self) -> int:
        """What it is worth when it is graded."""
        return POINTS[self.difficulty]

    @cached_property
    def _parts(self) -> tuple[str, str]:
        """The reference's head with its docstring, and its body."""
        source = textwrap.dedent(inspect.getsource(self.answer)).rstrip()
        function = ast.parse(source).body[0]
        if ast.get_docstring(function) is None:
            raise ValueError(f"the reference of {self.id} has no docstring for the stub to show")
        lines, cut = source.splitlines(), function.body[0].end_lineno
        return "\n".join(lines[:cut]), "\n".join(lines[cut:]).strip("\n")

    @property
    def stub(self) -> str:
        """The cell that the reader finds."""
        return f"{self._parts[0]}\n    raise NotImplementedError"

    @property
    def solution(self) -> str:
        """The reference's source."""
        return "\n".join(self._parts)

    @property
    def graded(self) -> str:
        """The reference's source with nbgrader's marks around its body."""
        head, body = self._parts
        return f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"

    def arguments(self, seed: int) -> list[tuple]:
        """The cases that a seed stands for."""
        return list(self.cases(torch.Generator().manual_seed(seed)))

    def observe(self, function: Callable, arguments: tuple) -> Observed:
        """Call a function with copies of the arguments and note what the checks ask for.

        Raises:
            ValueError: the function changed its arguments.
        """
        wants = {type(check) for check in self.checks}
        given = copied(arguments, grad=Gradient in wants)
        if Cost in wants:
            with FlopCounterMode(display=False) as counter:
                value = function(*given)
            flops = counter.get_total_flops()
        else:
            value, flops = function(*given), None
        value = plain(value)
        if difference(plain(given), arguments, 0.0, 0.0):
            raise ValueError("the function changes its arguments: work on copies")
        return Observed(value, gradients(value, given) if Gradient in wants else None, flops)

    def seen(self, value: Any, arguments: tuple) -> Any:
        """The value as it is compared."""
        return value if self.view is None else self.view(value, *arguments)
