"""The teacher's set as it is written; what nbgrader says to it stands in test_nbgrader.py."""

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tqlearn.lab import exercises, teach
from tqlearn.lab.build import METADATA, NOTEBOOKS
from tqlearn.lab.check import check

ALL = [exercise for number in exercises.lessons() for exercise in exercises.of(number)]
ONE, TWO = exercises.of("00")


def cells(exercise) -> list:
    """The four cells that an exercise has in a learner's notebook."""
    id, name = exercise.id, exercise.name
    level = f"*{exercise.difficulty} · {exercise.minutes} minutes*"
    return [
        new_markdown_cell(f"### Exercise {id}: {exercise.title}\n\n{level}\n\nWrite it."),
        new_code_cell(exercise.stub),
        new_code_cell(f'check("{id}", {name})', metadata={"tags": ["nbval-check-output"]}),
        new_code_cell(f'{name} = rejoin("{id}", {name})\n\nprint("and on", {name}.__name__)'),
    ]


def planted(number: str = "00"):
    """A small lesson with the exercises of a real one."""
    tools = "from tqlearn.lab.check import check, hint, rejoin, solution"
    page = [
        new_markdown_cell("# A lesson\n\nNext: [all](09_compressed_bert.ipynb#Recap)."),
        new_code_cell("raise OSError('no network')", metadata={"tags": ["nbval-skip"]}),
        new_code_cell("6 * 7", outputs=[nbformat.v4.new_output("stream", text="old")]),
        new_markdown_cell("## Exercises"),
        new_code_cell(tools),
        *(cell for exercise in exercises.of(number) for cell in cells(exercise)),
    ]
    return new_notebook(cells=page, metadata=METADATA)


def by_id(nb) -> dict:
    """nbgrader's id -> cell."""
    return {c.metadata.nbgrader.grade_id: c for c in nb.cells if "nbgrader" in c.metadata}


@pytest.mark.slow
@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_hidden_tests(exercise):
    """They try other inputs, the reference passes them, and every named mistake fails one."""
    cases = [repr(exercise.arguments(seed)) for seed in (0, *teach.HIDDEN_SEEDS)]
    assert len(set(cases)) == len(cases), (
        "cases that ignore their generator can be learned by heart"
    )
    space = {exercise.name: exercise.answer, "check": check}
    exec(teach.hidden(exercise), space)
    for mistake in exercise.mistakes:
        with pytest.raises(AssertionError, match=f"FAIL {exercise.id} "):
            exec(teach.hidden(exercise), space | {exercise.name: mistake.answer})
    with pytest.raises(AssertionError, match="TODO"):
        exec(exercise.stub + "\n" + teach.hidden(exercise), {"check": check})


def test_every_lesson_makes_a_set():
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        nb, number = nbformat.read(path, as_version=4), path.stem[:2]
        before = json.dumps(nb)
        source, answers = teach.graded(nb, number), teach.solved(nb, number)
        assert json.dumps(nb) == before, "both are copies"
        for exercise in exercises.of(number):
            assert sum(cell.source == exercise.solution for cell in answers.cells) == 1
            assert not any(cell.source == exercise.stub for cell in answers.cells)
            test = by_id(source)[f"check-{exercise.id.replace('.', '-')}"].source
            assert test.startswith(f'check("{exercise.id}", {exercise.name})\n### BEGIN HIDDEN')
        assert not any("nbgrader" in cell.metadata for cell in answers.cells)
        for made, name in ((source, r"\.\./(\d\d_\w+)/\1\.ipynb"), (answers, r"(\d\d_\w+)\.ipynb")):
            text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
            for link in re.findall(r"\]\(((?!https://|#)[^)\s]+)\)", text):
                found = re.fullmatch(name + r"(#[\w-]+)?", link)
                assert found and (NOTEBOOKS / f"{found[1]}.ipynb").is_file(), f"{path.name}: {link}"


@pytest.mark.parametrize(
    "index, words",
    [(5, "markdown cell that begins"), (6, "stub, word for word"), (7, "that is check"),
     (8, "that begins bert_numbers = rejoin"), (4, "one cell before them that begins")],
)  # fmt: skip
def test_missing_cells_are_named(index, words):
    nb = planted()
    cell = nb.cells.pop(index)
    with pytest.raises(ValueError, match=words) as found:
        teach.graded(nb, "00")
    assert ("00.1" in str(found.value) or index == 4) and "has 0" in str(found.value)
    nb.cells.extend([cell, cell])
    if index != 4:
        with pytest.raises(ValueError, match="has 2; add it or remove"):
            teach.solved(nb, "00")


def test_order_is_checked():
    nb = planted()
    nb.cells[6], nb.cells[7] = nb.cells[7], nb.cells[6]
    with pytest.raises(ValueError, match="00.1 needs .* in this order, but they are cells 5, 7, 6"):
        teach.graded(nb, "00")


def test_nothing_is_written_unless_all_is_right(tmp_path, capsys):
    bad = planted()
    del bad.cells[7]
    nbformat.write(planted(), tmp_path / "00_good.ipynb")
    nbformat.write(bad, tmp_path / "00_bad.ipynb")
    nbformat.write(planted("99"), tmp_path / "99_none.ipynb")
    paths = [str(tmp_path / f"{name}.ipynb") for name in ("00_good", "00_bad", "99_none", "gone")]
    out = tmp_path / "out"
    for wrong, words in ((paths[:2], "exercise 00.1"), (paths[2:3], "99_none.ipynb"),
                         (paths[3:], "gone.ipynb")):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            teach.main([*wrong, "--out", str(out)])
        assert ended.value.code == 2 and words in capsys.readouterr().err
        assert not out.exists()
    assert teach.main([paths[0], paths[2], "--out", str(out)]) == 0
    assert "99_none.ipynb                    left out" in capsys.readouterr().out
    files = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert files == {"README.md", "nbgrader_config.py", "solved/00_good.ipynb",
                     "source/00_good/00_good.ipynb"}  # fmt: skip


def test_settings_are_written_once_and_the_page_lists_all_lessons(tmp_path):
    for name in ("00_one", "00_two"):
        nbformat.write(planted(), tmp_path / f"{name}.ipynb")
    teach.main([str(tmp_path / "00_one.ipynb"), "--out", str(tmp_path)])
    config = tmp_path / "nbgrader_config.py"
    ast.parse(config.read_text())
    config.write_text("c = get_config()  # mine\n")
    teach.main([str(tmp_path / "00_two.ipynb"), "--out", str(tmp_path)])
    assert config.read_text() == "c = get_config()  # mine\n"
    page = (tmp_path / "README.md").read_text("utf-8")
    assert "| 00_one | 2 | 3 |\n| 00_two | 2 | 3 |\n" in page and "{lesson" not in page
    known = {"generate_assignment", "zip_collect", "release_assignment", "collect", "autograde",
             "generate_feedback", "export"}  # fmt: skip
    assert set(re.findall(r"nbgrader ([a-z]+_[a-z]+|autograde|collect|export)", page)) == known


@pytest.mark.slow
def test_run_stores_what_the_solved_lesson_shows(tmp_path):
    nb = planted()
    nb.cells[2].source = "import torch"
    nb.cells.append(new_code_cell("from tqlearn.lab import ledger\nprint(ledger.path().parent)"))
    nbformat.write(nb, tmp_path / "00_planted.ipynb")
    teach.main([str(tmp_path / "00_planted.ipynb"), "--out", str(tmp_path), "--run"])
    nb = nbformat.read(tmp_path / "solved" / "00_planted.ipynb", as_version=4)
    shown = [c.outputs[0].data["text/plain"] for c in nb.cells if c.source.startswith("check(")]
    assert [text[:9] for text in shown] == ["PASS 00.1", "PASS 00.2"]
    assert nb.cells[-1].outputs[0].text.strip() not in ("", "."), "not the reader's ledger"
    assert "TQLEARN_LEDGER" not in os.environ or Path(os.environ["TQLEARN_LEDGER"]).parent.exists()
    assert not nb.cells[1].outputs, "cells that need a network do not run"
