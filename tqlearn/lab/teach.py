"""Write the teacher's set: a complete nbgrader course folder, made from the learners' notebooks.

    python -m tqlearn.lab.teach                            # all lessons, into teaching/
    python -m tqlearn.lab.teach notebooks/02_*.ipynb --out elsewhere
    python -m tqlearn.lab.teach --run                      # also run the solved notebooks

    teaching/source/<lesson>/<lesson>.ipynb    solutions and hidden tests, for ``nbgrader``
    teaching/solved/<lesson>.ipynb             every exercise solved, to look at or to show
    teaching/nbgrader_config.py                yours to edit: written once, then left alone
    teaching/README.md                         the commands to hand out, collect and grade

All of it is made from the learners' notebooks and ``tqlearn.lab.exercises``; what stands under
``source`` and ``solved`` is written anew each time. A notebook whose exercises somebody has solved
in place is read as it was committed, and the output says so. Nothing is written unless every lesson
is in order.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat
from nbformat import NotebookNode

from ..writing import write as write_file
from . import exercises
from .build import NOTEBOOKS, WIDGET, execute, tagged
from .course import fitted
from .exercises import Exercise
from .stored import usable

HIDDEN_SEEDS = (1, 2)  # the learner's own check uses seed 0
TOOLS = "from tqlearn.lab.check import "
HANDOUT = Path(__file__).with_name("handout")


def places(nb: NotebookNode, number: str) -> dict[Exercise, tuple[int, int, int, int]]:
    """Find the four cells of every exercise: its statement, stub, check and rejoin.

    Args:
        number: of the notebook, such as "02".

    Raises:
        ValueError: a cell is missing or there twice, or they are out of order.
    """
    return {exercise: _places(nb, exercise) for exercise in exercises.of(number)}


def _places(nb: NotebookNode, exercise: Exercise) -> tuple[int, int, int, int]:
    id, name = exercise.id, exercise.name
    head, check = f"### Exercise {id}: {exercise.title}", f'check("{id}", {name})'
    rejoin = f'{name} = rejoin("{id}", {name})'

    def only(kind: str, what: str, fits: Callable[[str], bool]) -> int:
        found = [i for i, c in enumerate(nb.cells) if c.cell_type == kind and fits(c.source)]
        if len(found) != 1:
            raise ValueError(
                f"exercise {id} needs one {kind} cell {what}, but notebook {id[:2]} has "
                f"{len(found)}; add it or remove the others"
            )
        return found[0]

    found = (
        only("markdown", f'that begins "{head}"', lambda s: s.splitlines()[:1] == [head]),
        only("code", f'that is find("{id}").stub, word for word', lambda s: s == exercise.stub),
        only("code", f"that is {check}", lambda s: s == check),
        only("code", f"that begins {rejoin}", lambda s: s.splitlines()[:1] == [rejoin]),
    )
    if found != tuple(sorted(found)):
        raise ValueError(
            f"exercise {id} needs statement, stub, check and rejoin in this order, but they are "
            f"cells {', '.join(map(str, found))}; move them"
        )
    return found


def hidden(exercise: Exercise) -> str:
    """The test cell: the learner's own check, then the same one on inputs that nobody saw."""
    call = f'("{exercise.id}", {exercise.name}'
    return f"""check{call})
### BEGIN HIDDEN TESTS
{TOOLS}check as judge  # the page may call something else check by now

for seed in {(0, *HIDDEN_SEEDS)}:
    judge{call}, seed=seed).require()
### END HIDDEN TESTS"""


def cleared(nb: NotebookNode, link: str) -> NotebookNode:
    """A copy without outputs and counts; ``link`` leads to a lesson, other links become words."""
    nb, lessons = copy.deepcopy(nb), [path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")]
    there = {f"notebooks/{lesson}.ipynb": link.format(lesson) for lesson in lessons}
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = fitted(cell.source, "notebooks", there)
    return nb


def solved(nb: NotebookNode, number: str) -> NotebookNode:
    """A copy of a learner's notebook with every stub replaced by the solution; outputs cleared.

    Args:
        number: of the notebook, such as "02".

    Raises:
        ValueError: the notebook lacks a cell of one of its exercises.
    """
    found = places(nb, number)
    nb = cleared(nb, "{0}.ipynb")
    for exercise, (_, stub, _, _) in found.items():
        nb.cells[stub].source = exercise.solution
    return nb


def graded(nb: NotebookNode, number: str) -> NotebookNode:
    """A copy of a learner's notebook as nbgrader wants its source (metadata schema 3).

    Locked are the statements, the line that imports check and its companions, and the rejoin
    cells, so that a wrong answer costs its own points only. The rest stays the learner's to change.

    Args:
        number: of the notebook, such as "02".

    Raises:
        ValueError: the notebook lacks a cell of one of its exercises or the one that imports
            check.
    """
    found = places(nb, number)
    nb = cleared(nb, "../{0}/{0}.ipynb")  # each lesson becomes a folder of its own
    first = min(statement for statement, *_ in found.values())
    tools = [i for i, cell in enumerate(nb.cells[:first]) if cell.source.startswith(TOOLS)]
    if len(tools) != 1:
        raise ValueError(
            f'the exercises of notebook {number} need one cell before them that begins "{TOOLS}", '
            f"but it has {len(tools)}; add or remove one"
        )
    nb.cells[tools[0]].source += "\n\nimport torch  # for the answers, whatever was changed above"
    _mark(nb.cells[tools[0]], f"tools-{number}", locked=True)
    for exercise, place in found.items():
        slug = exercise.id.replace(".", "-")
        statement, stub, check, rejoin = (nb.cells[i] for i in place)
        stub.source, check.source = exercise.graded, hidden(exercise)
        _mark(statement, f"statement-{slug}", locked=True)
        _mark(stub, f"answer-{slug}", solution=True)
        _mark(check, f"check-{slug}", grade=True, locked=True, points=exercise.points)
        _mark(rejoin, f"rejoin-{slug}", locked=True)
    for cell in nb.cells:
        if tagged(cell, "nbval-skip"):  # needs a network or a GPU: not while grading either
            cell.metadata.tags.append("skip-execution")
    return nb


def _mark(cell: NotebookNode, id: str, **settings: bool | int) -> None:
    meta = {"grade": False, "locked": False, "solution": False, "task": False}
    cell.metadata.nbgrader = nbformat.from_dict(
        meta | {"grade_id": id, "schema_version": 3} | settings
    )


def page(lessons: list[str]) -> str:
    """The README of the folder.

    Args:
        lessons: names such as "02_tensor_train".
    """
    lines = [
        f"| {lesson} | {len(of)} | {sum(exercise.points for exercise in of)} |"
        for lesson in lessons
        for of in [exercises.of(lesson[:2])]
    ]
    text = (HANDOUT / "README.md").read_text("utf-8").replace("{lesson}", lessons[0])
    return text.replace("{lessons}", "\n".join(lines))


def _run(nb: NotebookNode) -> None:
    """Run in a folder of its own, with a ledger of its own, and drop what needs a live kernel."""
    with TemporaryDirectory() as fresh:
        with patch.dict(os.environ, TQLEARN_LEDGER=str(Path(fresh) / "ledger.json")):
            execute(nb, Path(fresh))
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        output.get("data", {}).pop(WIDGET, None)


def _write(nb: NotebookNode, path: Path) -> None:
    nbformat.validate(nb)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, nbformat.writes(nb) + "\n")


def write(paths: list[Path], out: Path, run: bool = False) -> dict[str, str]:
    """Write the folder for some notebooks, and return lesson -> remark, empty if there is none.

    Raises:
        ValueError: a notebook is not in order, or none has exercises; nothing is written.
        nbclient.exceptions.CellExecutionError: with ``run``, a cell raised.
    """
    sets, remarks = {}, {}
    for path in paths:
        if exercises.of(path.stem[:2]):
            sets[path.stem], remarks[path.stem] = usable(
                path, lambda nb, number=path.stem[:2]: (graded(nb, number), solved(nb, number))
            )
    if not sets:
        names = ", ".join(path.name for path in paths) or "none at all"
        raise ValueError(f"no notebook with exercises was named ({names}); see notebooks/")
    if run:
        for _, answers in sets.values():
            _run(answers)
    for lesson, (source, answers) in sets.items():
        _write(source, out / "source" / lesson / f"{lesson}.ipynb")
        _write(answers, out / "solved" / f"{lesson}.ipynb")
    there = sorted(path.name for path in (out / "source").iterdir() if exercises.of(path.name[:2]))
    write_file(out / "README.md", page(there))
    config = out / "nbgrader_config.py"
    if not config.exists():
        write_file(config, (HANDOUT / "nbgrader_config.txt").read_text("utf-8"))
    return remarks


def main(argv: list[str] | None = None) -> int:
    """Write the set for the named notebooks, or for all; print what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--out", type=Path, default=Path("teaching"), help="default: teaching/")
    parser.add_argument("--run", action="store_true", help="run the solved notebooks (30 s each)")
    args = parser.parse_args(argv)
    paths = args.notebook or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    try:
        lessons = write(paths, args.out, args.run)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for path in paths:
        done = "written" if path.stem in lessons else "left out: it has no exercises"
        print(f"{path.name:32} {done} {lessons.get(path.stem, '')}".rstrip())
    print(f"Now read {args.out / 'README.md'}: how to hand out, collect and grade.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
