"""The instructors' page says what the notebooks' headers and the exercises say."""

import re
from pathlib import Path

import nbformat
import pytest

from tqlearn.lab import exercises, instructors
from tqlearn.lab.build import NOTEBOOKS

TEXT = instructors.PAGE.read_text("utf-8")
PATHS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def rows(name: str) -> list[list[str]]:
    """The cells of one of the page's tables, without its head."""
    part = TEXT.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.split("\n")[3:-1]]


def test_page_is_up_to_date():
    assert instructors.main(["--check"]) == 0, "run python -m tqlearn.lab.instructors"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_minutes_are_those_of_the_header(path):
    """Counted here by other means than the page is made by."""
    header = nbformat.read(path, as_version=4).cells[0].source
    (time,) = [line for line in header.splitlines() if line.startswith("| Time |")]
    numbers = [int(n) for n in re.findall(r"(\d+) (?:minutes|for|CPU)", time)]
    (row,) = [row for row in rows("lessons") if row[0] == f"[{path.stem[:2]}]({path.name})"]
    shown = [int(cell) for cell in row[4:]]
    assert shown == numbers or (len(numbers) == 2 and shown[::2] == numbers)
    assert shown[1] == sum(exercise.minutes for exercise in exercises.of(path.stem[:2]))
    assert row[1] == header.splitlines()[0][2:]


def test_points_are_those_of_the_exercises():
    of = [e for path in PATHS for e in exercises.of(path.stem[:2])]
    *shown, total = rows("points")
    assert [(row[0], row[2], row[3], row[4]) for row in shown] == [
        (e.id, e.difficulty, str(e.minutes), str({"easy": 1, "medium": 2, "hard": 3}[e.difficulty]))
        for e in of
    ]
    assert total[3:] == [str(sum(int(row[k]) for row in shown)) for k in (3, 4)]


def test_no_lesson_is_missing():
    assert [path.stem[:2] for path in PATHS] == [f"{n:02}" for n in range(17)]
    assert "not written yet" not in TEXT


def test_schedules_add_up():
    minutes = {row[0]: (int(row[4]), int(row[5])) for row in rows("lessons") if row[0]}
    plans = [row[0] for row in rows("schedules") if row[0]]
    assert plans == ["One evening", "One week", "One term"]
    for _, _, lesson, shown, what in rows("schedules"):
        read, work = minutes[lesson]
        assert int(shown) == (read if "exercises go home" in what else read + work)


def test_commands_and_links_are_real():
    makefile = (NOTEBOOKS.parent / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", TEXT):
        if target in ("lab", "teach", "book"):
            assert re.search(rf"^{target}: ", makefile, re.MULTILINE), target
    for target in re.findall(r"\]\((?!https)([^)#]+)", TEXT):
        assert (NOTEBOOKS / target).exists(), target
    lessons = {path.stem for path in PATHS}
    commands = re.findall(r"^nbgrader (\w+)(?: (\w+))?$", TEXT, re.MULTILINE)
    assert len(commands) == 4 and {lesson for _, lesson in commands if lesson} <= lessons


def test_old_figures_are_noticed(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    (minutes,) = re.findall(r"\| (\d+ \| \d+ \| \d+) \|\n\| \[02\]", TEXT)
    page.write_text(TEXT.replace(f"| {minutes} |", "| 1 | 2 | 3 |", 1), "utf-8")
    monkeypatch.setattr(instructors, "PAGE", page)
    assert instructors.main(["--check"]) == 1 and "out of date: run" in capsys.readouterr().out
    assert instructors.main([]) == 0 and page.read_text("utf-8") == instructors.page(TEXT)
    page.write_text("no tables", "utf-8")
    with pytest.raises(ValueError, match="lessons: begin --> and .* once each"):
        instructors.main([])


def test_headers_without_a_time_are_refused(tmp_path):
    path: Path = tmp_path / "16_more.ipynb"
    cell = nbformat.v4.new_markdown_cell("# More\n\n| Goals | some |\n| Time | long |")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(ValueError, match="16_more.ipynb needs rows for Goals, Prerequisites"):
        instructors.lesson(path)
