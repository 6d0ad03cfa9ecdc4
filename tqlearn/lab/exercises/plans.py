"""What exercises that ask for a plan share: budgets, and a goal in bytes and held-out slots."""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import cache

import torch


class Case(tuple):
    """The arguments of one case; ``held`` is what only the goal sees."""

    held = None

    @classmethod
    def of(cls, arguments: Iterable, held: object) -> "Case":
        """Arguments with something held out."""
        case = cls(arguments)
        case.held = held
        return case


def alike(bits: int, per: str = "tensor") -> Callable:
    """Return an answer whose plan treats all matrices alike."""

    def answer(budget):
        from tqlearn import LSQ

        return {"*": [LSQ(bits=bits, init="mse", per=per)]}

    return answer


def budgets(least: int, sentences: int) -> Callable:
    """Return what makes two cases: a budget of ``least`` bytes and up to 9,500 more, and sentences
    that only the goal sees.
    """

    def cases(generator):
        for _ in range(2):
            spare = int(torch.randint(0, 20, (), generator=generator))
            order = torch.randperm(500, generator=generator).tolist()
            yield Case.of((least + 500 * spare,), tuple(order[:sentences]))

    return cases


@cache
def _teacher():
    import tqlearn

    with redirect_stdout(io.StringIO()):
        (model, tokenizer), data = tqlearn.teachers.load("embedded"), tqlearn.data.load("flights")
    return model, tokenizer, data["test"]


@cache
def made(plan):
    """A student and the bytes of its file; ``plan`` is a dict's items."""
    import tqlearn

    student = tqlearn.compress(_teacher()[0], {key: [*edits] for key, edits in plan})
    student = tqlearn.calibrate(student).eval()
    return student, tqlearn.report(student).file


@cache
def slots(plan, held):
    """Slot F1 of a plan's student on the held-out sentences; None: of the teacher."""
    from ...hf import evaluate_joint

    model, tokenizer, sentences = _teacher()
    model = made(plan)[0] if plan else model
    return evaluate_joint(model, tokenizer, sentences.select(held))["slot_f1"]


def reaches(wanted: Callable[[tuple], float]) -> Callable:
    """Return the goal of a plan whose file fits the budget and whose slots reach ``wanted(held)``.

    It says in words what is missing, and nothing where nothing is.
    """

    def goal(value, case):
        lists = isinstance(value, dict) and (isinstance(v, list | tuple) for v in value.values())
        if not lists or not all(lists):
            return "return a plan: a dict from patterns of names to lists of edits"
        edits = [edit for found in value.values() for edit in found]
        if not all(type(edit).__module__.startswith("tqlearn.") for edit in edits):
            return "use the library's edits alone"
        plan = tuple((key, tuple(found)) for key, found in value.items())
        try:
            size = made(plan)[1]
        except (ValueError, TypeError, RuntimeError) as error:
            return f"the plan is refused: {str(error).splitlines()[0]}"
        if size > case[0]:
            return f"its file has {size:,} bytes, and {case[0]:,} are allowed"
        found, least = slots(plan, case.held), wanted(case.held)
        if found < least:
            return f"slots {found:.1f} % on held-out sentences, and {least:.1f} are wanted"
        return None

    return goal
