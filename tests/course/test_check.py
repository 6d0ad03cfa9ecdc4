"""Exercises: right, wrong, plausibly wrong and untouched answers get the promised line.

That lessons run with all solutions pasted in is the part of ``make test-notebooks``: see
``nbval_solutions.py``.
"""

from pathlib import Path

import pytest
import torch

from tqlearn.lab import check as checking
from tqlearn.lab import exercises
from tqlearn.lab.check import check, hint, rejoin, solution
from tqlearn.lab.exercises.base import Exercise, Gradient, Invariant, Mistake
from tqlearn.lab.exercises.compare import difference

ROOT = Path(__file__).parents[2]
ALL = [exercise for number in exercises.lessons() for exercise in exercises.of(number)]
MISTAKES = [(exercise, k) for exercise in ALL for k in range(len(exercise.mistakes))]
of_each = pytest.mark.parametrize("exercise", ALL, ids=[exercise.id for exercise in ALL])


def written(source: str, name: str):
    """The function that a cell with this source would define, in a notebook that knows torch."""
    namespace = {"torch": torch}
    exec(source, namespace)
    return namespace[name]


def nothing(*arguments, **options):
    return None


@of_each
def test_untouched(exercise):
    outcome = check(exercise.id, written(exercise.stub, exercise.name))
    assert outcome.line == f"TODO {exercise.id} not attempted" and not outcome.passed


@of_each
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_solution_passes_as_it_is_shown(exercise, seed):
    answer = written(solution(exercise.id, reveal=True).code, exercise.name)
    outcome = check(exercise.id, answer, seed)
    assert outcome.line == f"PASS {exercise.id} {exercise.title}", outcome
    outcome.require()


@of_each
def test_wrong(exercise):
    first = check(exercise.id, nothing)
    assert first.line.startswith(f"FAIL {exercise.id} ") and first == check(exercise.id, nothing)
    with pytest.raises(AssertionError, match=f"FAIL {exercise.id}"):
        first.require()

    def crashes(*arguments):
        return arguments[99]

    assert "raises IndexError" in check(exercise.id, crashes).line


@pytest.mark.parametrize("exercise, k", MISTAKES, ids=[f"{e.id}-{k}" for e, k in MISTAKES])
@pytest.mark.parametrize("seed", [0, 1])
def test_plausibly_wrong(exercise, k, seed):
    mistake = exercise.mistakes[k]
    assert check(exercise.id, mistake.answer, seed).line == f"FAIL {exercise.id} {mistake.says}"


@of_each
def test_the_same_seed_gives_the_same_cases(exercise):
    one, same, other = (exercise.arguments(seed) for seed in (3, 3, 4))
    assert difference(one, same, 0.0, 0.0) is None and len(one) >= 2


@of_each
def test_an_exercise_says_what_it_should(exercise):
    assert len(exercise.hints) >= 2 and 2 <= exercise.minutes <= 30
    assert exercise.title[0].islower() and not exercise.title.endswith(".")
    for says in [m.says for m in exercise.mistakes]:
        assert len(says) <= 110 and not says.endswith(".") and "\n" not in says
    assert len({m.says for m in exercise.mistakes}) == len(exercise.mistakes)
    assert exercise.stub.endswith("raise NotImplementedError")
    assert all(len(line) <= 100 for line in exercise.solution.splitlines())


def test_ids_belong_to_their_notebooks():
    stems = {path.stem[:2]: path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    for number, module in exercises.lessons().items():
        assert module == f"n{stems[number]}"
        ids = [exercise.id for exercise in exercises.of(number)]
        lines = sum(not id[3:].isdigit() for id in ids)  # to fill in on the way
        numbers = [f"{number}.{k}" for k in range(1, len(ids) - lines + 1)]
        assert ids == [f"{number}.{letter}" for letter in "ab"[:lines]] + numbers
        assert 2 <= len(numbers) <= 4 and bool(lines) == (number != "00")
    assert set(stems) == set(exercises.lessons()), "every notebook has exercises"


def test_answers_may_be_right_in_their_own_way():
    def unpack(packed, count):
        codes = [half for byte in packed.tolist() for half in divmod(byte, 16)]
        return torch.tensor(codes[:count], dtype=torch.int16) - 8

    assert check("00.2", unpack).passed

    def sized(vocabulary, positions, width, inner, layers):
        layer = 4 * width**2 + 2 * width * inner + 9 * width + inner
        return float((vocabulary + positions + 5 + width) * width + layers * layer)

    assert check("00.1", sized).passed, "a whole number may come as a float"


def test_a_kind_a_shape_and_a_dtype_are_told():
    def line(function):
        return check("00.2", function).line

    assert "returns a list" in line(lambda packed, count: [0] * count)
    assert "has shape (0,), expected (2,)" in line(lambda packed, count: packed[:0].short())
    assert "holds torch.int64, expected torch.int16" in line(
        lambda packed, n: torch.zeros(n).long()
    )
    assert "returns nothing" in line(nothing)


def toy(**changes) -> Exercise:
    def double(x):
        """Twice x."""
        return 2 * x

    fields = {
        "id": "99.1",
        "title": "double",
        "difficulty": "easy",
        "minutes": 2,
        "answer": double,
        "cases": lambda generator: [(torch.randn(3, generator=generator),) for _ in range(2)],
        "mistakes": (Mistake("that is the square", torch.square),),
        "hints": ("add", "x + x"),
    }
    return Exercise(**fields | changes)


def test_arguments_must_stay_as_they_are():
    assert "changes its arguments" in exercises.complaint(toy(), lambda x: x.mul_(2))


def test_gradients_are_looked_at():
    graded = toy(checks=(Gradient(),))
    assert exercises.complaint(graded, lambda x: x + x) is None
    assert "no gradient" in exercises.complaint(graded, lambda x: (2 * x).detach())
    assert "the gradient is not" in exercises.complaint(graded, lambda x: x + x.detach())


def test_invariants_come_before_values():
    kept = Invariant("zero is kept", lambda y, x: bool(((x == 0) <= (y == 0)).all()))
    zeros = toy(checks=(kept,), cases=lambda generator: [(torch.tensor([0.0, 1.0]),)] * 2)
    assert exercises.complaint(zeros, lambda x: 2 * x + 1) == "zero is kept"
    assert "off by up to 1" in exercises.complaint(zeros, lambda x: 3 * x)


def test_a_dear_answer_is_told():
    assert "slice the cores" in check("09.1", exercises.find("09.1").mistakes[2].answer).line

    def twice(cores, word):
        exercises.find("09.1").answer(cores, word)
        return exercises.find("09.1").answer(cores, word)

    assert "multiplies 2.0 times as much" in check("09.1", twice).line


def test_random_numbers_of_the_notebook_stay_in_step():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check("00.1", lambda *sizes: torch.rand(1))
    assert torch.equal(torch.rand(3), expected)


def test_refusals():
    with pytest.raises(ValueError, match="no exercise '00.9'; there are 00.1, 00.2"):
        check("00.9", nothing)
    with pytest.raises(ValueError, match="no exercise 'x'; there are 00.1"):
        hint("x")
    with pytest.raises(TypeError, match="the function itself.*got int"):
        check("00.1", 7)
    with pytest.raises(ValueError, match="has 2 hints, from 1 on, got 3"):
        hint("00.1", 3)
    with pytest.raises(ValueError, match="needs a difficulty"):
        toy(mistakes=())


def test_hints_get_clearer():
    first, second = hint("00.1"), hint("00.1", 2)
    assert first.line.startswith("Hint 1 of 2: ") and second.line.startswith("Hint 2 of 2: ")
    assert first.state == second.state == "NOTE"


def test_the_solution_waits_for_a_try():
    checking._attempted.clear()
    assert "opens after your first try" in solution("00.1").line and not solution("00.1").code
    check("00.1", written(exercises.find("00.1").stub, "bert_numbers"))
    assert not solution("00.1").code, "an untouched stub is no try"
    check("00.1", nothing)
    assert solution("00.1").code.startswith("def bert_numbers(")


def test_rejoin_takes_what_is_right(capsys):
    exercise = exercises.find("00.1")
    mine = written(exercise.solution, exercise.name)
    assert rejoin("00.1", mine) is mine
    assert rejoin("00.1", nothing) is exercise.answer
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "00.1: from here on with your function",
        "00.1: from here on with the reference",
    ]


def test_an_outcome_as_text_and_as_a_box():
    todo = check("00.1", written(exercises.find("00.1").stub, "bert_numbers"))
    assert repr(todo).splitlines()[0] == "TODO 00.1 not attempted"
    boxes = {
        checking.Outcome(state, "a < b", code="c < d")._repr_html_() for state in checking.LOOKS
    }
    assert len(boxes) == 4 and all("a &lt; b" in box and "c &lt; d" in box for box in boxes)
