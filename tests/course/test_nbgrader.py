"""The teacher's set in nbgrader's hands: its validators, its assignments, its points.

nbgrader runs as its users run it, by its commands, with a home of its own. Each command is a
process, but all are forks of one that has imported nbgrader: that costs more than most of them do.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from conftest import require
from test_teach import ONE, TWO, by_id, planted
from warm import FRESH

from tqlearn.lab import exercises, teach
from tqlearn.lab.build import NOTEBOOKS
from tqlearn.lab.check import check

LESSON = "00_start_here"
SCORES = """
import json
from nbgrader.api import Gradebook

with Gradebook("sqlite:///gradebook.db", "tqlearn") as book:
    print(json.dumps({
        submission.student.id: {grade.name: grade.score for grade in notebook.grades}
        for submission in book.assignment_submissions(book.assignments[0].name)
        for notebook in submission.notebooks
    }))
"""
VALID = """
import sys
from nbgrader.nbgraderformat import MetadataValidator, read

for path in sys.argv[1:]:
    nb = read(path, as_version=4)  # refuses older and newer schemas
    MetadataValidator().validate_nb(nb)
    assert sum("nbgrader" in cell.metadata for cell in nb.cells) == int(sys.stdin.readline())
"""


class Course:
    """An nbgrader course folder with a home of its own."""

    def __init__(self, folder: Path, notebook: Path):
        require(find_spec("nbgrader"), "nbgrader is not installed: pip install 'tqlearn[teach]'")
        self.folder, self.lesson = folder / "course", notebook.stem
        (folder / "home").mkdir()
        here = str(Path(sys.executable).parent)  # nbgrader looks for alembic on the PATH
        names = {name for name in os.environ if "JUPYTER" in name} - {"JUPYTER_PATH"}
        clean = {name: str(folder / "home" / name) for name in names}
        mine = {
            "HOME": str(folder / "home"),
            "PATH": here + os.pathsep + os.environ["PATH"],
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "TQLEARN_LEDGER": str(folder / "teachers" / "ledger.json"),  # no such folder
        }
        self.environment = os.environ | clean | mine
        assert teach.main([str(notebook), "--out", str(self.folder)]) == 0

    def run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(
            [*FRESH, *command], cwd=self.folder, env=self.environment, input=text,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def nbgrader(self, *command: str) -> str:
        return self.run("-m", "nbgrader", *command)

    def notebook(self, *folders: str):
        path = self.folder.joinpath(*folders, self.lesson, f"{self.lesson}.ipynb")
        return nbformat.read(path, as_version=4)

    def submit(self, learner: str, **answers: str | None) -> None:
        """Hand in the release with other sources in some cells; None takes the cell out."""
        nb = self.notebook("release")
        for id, source in answers.items():
            cell = by_id(nb)[id.replace("_", "-")]
            if source is None:
                nb.cells.remove(cell)
            else:
                cell.source = source
        path = self.folder / "submitted" / learner / self.lesson / f"{self.lesson}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(nb, path)

    def grade(self) -> dict[str, list[float]]:
        """Learner -> points of each exercise, in order."""
        self.nbgrader("autograde", self.lesson, "--ExecutePreprocessor.kernel_name=warm")
        found = json.loads(self.run("-c", SCORES).splitlines()[-1])
        return {who: [grades[id] for id in sorted(grades)] for who, grades in found.items()}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The planted lesson as an assignment."""
    folder = tmp_path_factory.mktemp("planted")
    nbformat.write(planted(), folder / "00_planted.ipynb")
    made = Course(folder, folder / "00_planted.ipynb")
    made.nbgrader("generate_assignment", "00_planted")
    return made


def body(exercise) -> str:
    """What a solution has and its stub has not."""
    return exercise.solution.removeprefix(
        exercise.stub.removesuffix("    raise NotImplementedError")
    )


def parroted(exercise) -> str:
    """An answer that knows the visible inputs by heart and nothing else."""
    known = [(repr(case), exercise.answer(*case)) for case in exercise.arguments(0)]
    table = ", ".join(f"{case!r}: {value!r}" for case, value in known)
    return (
        f"def {exercise.name}(*given):\n    from torch import tensor\n"
        f"    import torch\n    known = {{{table}}}\n    return known.get(repr(given), 0)"
    )


def mistaken(exercise, number: int = 0) -> str:
    """A named mistake as a learner's cell."""
    module = f"tqlearn.lab.exercises.{exercises.lessons()[exercise.id[:2]]}"
    wrong = exercise.mistakes[number].answer.__name__
    return f"from {module} import {wrong} as {exercise.name}"


@pytest.mark.parametrize("exercise", [ONE, TWO], ids=lambda exercise: exercise.id)
def test_parrots_pass_the_visible_check(exercise):
    space = {}
    exec(parroted(exercise), space)
    assert check(exercise.id, space[exercise.name]).passed
    assert not check(exercise.id, space[exercise.name], teach.HIDDEN_SEEDS[0]).passed


@pytest.mark.slow
def test_source_is_valid_nbgrader(course):
    path = course.folder / "source" / "00_planted" / "00_planted.ipynb"
    course.run("-c", VALID, str(path), text=f"{1 + 4 * 2}\n")
    nb = course.notebook("source")
    nbformat.validate(nb)
    assert not any(cell.get("outputs") for cell in nb.cells)
    found = by_id(nb)
    kinds = {id: tuple(cell.metadata.nbgrader[key] for key in ("grade", "solution", "locked"))
             for id, cell in found.items()}  # fmt: skip
    assert kinds["answer-00-1"] == (False, True, False)
    assert kinds["check-00-1"] == (True, False, True)
    for id in ("tools-00", "statement-00-1", "rejoin-00-1"):
        assert kinds[id] == (False, False, True)
    assert found["answer-00-2"].source == TWO.graded
    points = [found[f"check-{e.id.replace('.', '-')}"].metadata.nbgrader.points for e in (ONE, TWO)]
    assert points == [1, 2]
    assert nb.cells[0].source.endswith(
        "[all](../09_compressed_bert/09_compressed_bert.ipynb#Recap)."
    )
    assert nb.cells[1].metadata.tags == ["nbval-skip", "skip-execution"]


@pytest.mark.slow
def test_release_gives_nothing_away(course):
    nb, found = course.notebook("release"), by_id(course.notebook("release"))
    text = "\n".join(cell.source for cell in nb.cells)
    for word in ("SOLUTION", "HIDDEN", "seed", "judge"):
        assert word not in text
    for exercise in (ONE, TWO):
        slug = exercise.id.replace(".", "-")
        assert found[f"answer-{slug}"].source == exercise.stub, "word for word the learners' cell"
        assert found[f"check-{slug}"].source == f'check("{exercise.id}", {exercise.name})'
        assert body(exercise) not in text
    with pytest.raises(NotImplementedError):
        space = {}
        exec(found["answer-00-1"].source, space)
        space[ONE.name](1, 1, 1, 1, 1)


@pytest.mark.slow
def test_points_whatever_a_learner_hands_in(course):
    """Each learner costs the start of a kernel, so each exercise of each shows something else."""
    loud = "    import warnings\n    warnings.warn('slow')\n    print('here')\n"
    cheat = "\ncheck = lambda *a, **k: type('Yes', (), {'require': print})"
    cheat += "\nimport torch\nfrom tqlearn.lab.check import Outcome\nOutcome.require = print"
    cheat += "\ntorch.allclose = torch.equal = lambda *a, **k: True"
    said = TWO.solution.replace(body(TWO), loud + body(TWO))
    course.submit("wrong", answer_00_1=mistaken(ONE), answer_00_2=parroted(TWO))
    course.submit("cheat", answer_00_1=ONE.stub + cheat, answer_00_2=said)
    broken = f"def {ONE.name}(:"
    course.submit("eraser", answer_00_1=broken, check_00_1=None, answer_00_2=TWO.solution)
    course.submit("editor", answer_00_1=ONE.solution, rejoin_00_1="1 / 0", check_00_2="pass")
    assert course.grade() == {
        "wrong": [0, 0],
        "cheat": [0, 2],
        "eraser": [0, 2],
        "editor": [1, 0],  # the second is as it was released
    }
    course.nbgrader("generate_feedback", course.lesson, "--student", "wrong")
    page = course.folder / "feedback" / "wrong" / course.lesson / f"{course.lesson}.html"
    assert f"FAIL 00.1 {ONE.mistakes[0].says}" in page.read_text("utf-8")
    course.nbgrader("export")
    assert (course.folder / "grades.csv").read_text().count("00_planted") == 4


@pytest.mark.slow
def test_points_in_a_real_lesson(tmp_path):
    """Release, a parroted and a right answer of lesson 00: the rest runs from top to bottom."""
    course = Course(tmp_path, NOTEBOOKS / f"{LESSON}.ipynb")
    course.nbgrader("generate_assignment", LESSON)
    text = "\n".join(cell.source for cell in course.notebook("release").cells)
    assert not re.search("SOLUTION|HIDDEN", text) and not any(body(e) in text for e in (ONE, TWO))
    course.submit("one", answer_00_1=parroted(ONE), answer_00_2=TWO.solution)
    assert course.grade() == {"one": [0, 2]}
    cells = [cell for cell in course.notebook("autograded", "one").cells if "outputs" in cell]
    failed = [(cell.source.splitlines()[0], output.evalue) for cell in cells
              for output in cell.outputs if output.output_type == "error"]  # fmt: skip
    assert [first for first, _ in failed] == [f'check("{ONE.id}", {ONE.name})'], failed
