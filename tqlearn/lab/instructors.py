"""Bring the figures of notebooks/README.md, the instructors' page, up to date.

    python -m tqlearn.lab.instructors            # write them
    python -m tqlearn.lab.instructors --check    # only say whether they are up to date

Minutes, cost and goals are those of the notebooks' headers, points those of the exercises; what is
written by hand on the page stays as it is.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

from ..writing import write
from . import exercises
from .build import NOTEBOOKS

PAGE = NOTEBOOKS / "README.md"
TIME = re.compile(
    r"\| Time \| (?P<read>\d+) minutes to read(?:, (?P<work>\d+) for the exercises)?; "
    r"<!--spent-->about (?P<spent>\d+) CPU-seconds"
)
# plan -> (when, lesson, with its exercises, what to do)
SCHEDULES = {
    "One evening": (
        ("first half", "00", True, "everyone at a laptop; collect the guesses aloud"),
        ("second half", "09", False, "you drive, they predict; its exercises go home"),
    ),
    "One week": (
        ("Monday", "00", True, "end with everyone's first ledger"),
        ("Tuesday", "02", True, "on paper first: how many numbers has a train?"),
        ("Wednesday", "04", True, "let two groups choose scales by hand, then learn them"),
        ("Thursday", "08", True, "which signal would you keep if you could keep one?"),
        ("Friday", "09", True, "close with the full ledgers on one screen"),
    ),
    "One term": (
        ("week 1", "00", True, "and the installation"),
        ("week 2", "01", True, "graded"),
        ("week 3", "02", True, "graded"),
        ("week 4", "03", True, "graded; read the KroneckerBERT paper beside it"),
        ("week 5", "04", True, "graded; read the LSQ paper beside it"),
        ("week 6", "05", True, "graded"),
        ("week 7", "06", True, "graded; read the Deep Compression paper beside it"),
        ("week 8", "07", True, "graded; time it on the oldest laptop in the room"),
        ("week 9", "08", True, "graded"),
        ("week 10", "09", True, "graded; read the QTC paper beside it"),
        ("week 11", "10", True, "graded; which published counts come out, and which do not?"),
        ("week 12", "11", True, "graded; who finds the bits that the abstract leaves out?"),
        ("week 13", "12", True, "graded; which of its bars are wider than they are apart?"),
        ("week 14", "13", True, "graded; translate a sentence of your own at 8 and at 4 bits"),
        ("week 15", "14", True, "graded; hang the roofs of all laptops side by side"),
        ("week 16", "15", True, "graded; who hands in the best model under 190 kB?"),
        ("week 17", "16", True, "graded; whose guess of the perplexity at 3 bits was nearest?"),
    ),
}


@dataclass(frozen=True)
class Lesson:
    """What a notebook's header says."""

    file: str
    title: str
    goals: str
    after: str
    read: int
    work: int
    spent: int

    @property
    def number(self) -> str:
        """Such as "02"."""
        return self.file[:2]


def lesson(path: Path) -> Lesson:
    """Read the header of a notebook.

    Raises:
        ValueError: the header lacks a row, or its times are not written as in the other notebooks.
    """
    header = nbformat.read(path, as_version=4).cells[0].source
    rows = dict(re.findall(r"^\| (\w[\w ]*?) \| (.*) \|$", header, re.MULTILINE))
    time = TIME.search(header)
    if time is None or not {"Goals", "Prerequisites"} <= rows.keys():
        raise ValueError(
            f"the header of {path.name} needs rows for Goals, Prerequisites, Time, the last like "
            f'"10 minutes to read, 15 for the exercises; ... to run"; it has {rows}'
        )
    before = re.findall(r"\]\((\d\d)_", rows["Prerequisites"].partition(";")[0])
    work = time["work"] or sum(exercise.minutes for exercise in exercises.of(path.stem[:2]))
    return Lesson(
        path.name,
        header.splitlines()[0].removeprefix("# "),
        rows["Goals"],
        ", ".join(before) or "nothing",
        int(time["read"]),
        int(work),
        int(time["spent"]),
    )


def lessons() -> dict[str, Lesson]:
    """Number -> lesson, for every notebook there is."""
    found = map(lesson, sorted(NOTEBOOKS.glob("[0-9]*.ipynb")))
    return {one.number: one for one in found}


def table(heads: str, rows: list[tuple]) -> str:
    """A Markdown table; ``heads`` is its first line."""
    lines = [heads, "|" + "---|" * (heads.count("|") - 1)]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def tables(there: dict[str, Lesson]) -> dict[str, str]:
    """Everything on the page that is made from somewhere else: name -> Markdown."""
    course = [
        (f"[{n}]({one.file})", one.title, one.goals, one.after, one.read, one.work, one.spent)
        for n, one in there.items()
    ]
    total = [
        sum(getattr(one, name) for one in there.values()) for name in ("read", "work", "spent")
    ]
    course.append(("", "all", "", "", *total))
    of = [exercise for number in there for exercise in exercises.of(number)]
    graded = [(e.id, e.title, e.difficulty, e.minutes, e.points) for e in of]
    graded.append(("", "all", "", sum(e.minutes for e in of), sum(e.points for e in of)))
    plans = [
        (plan if row == 0 else "", when, f"[{n}]({there[n].file})", minutes, what)
        for plan, sessions in SCHEDULES.items()
        for row, (when, n, all_, what) in enumerate(sessions)
        if n in there
        for minutes in [there[n].read + all_ * there[n].work]
    ]
    return {
        "lessons": table(
            "| | lesson | goals | after | read, min | exercises, min | run, CPU-s |", course
        ),
        "schedules": table("| plan | when | lesson | minutes | what you do |", plans),
        "points": table("| exercise | | difficulty | minutes | points |", graded),
    }


def page(text: str) -> str:
    """The page with its tables as they should be.

    Raises:
        ValueError: the page lacks the markers of a table.
    """
    for name, made in tables(lessons()).items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{PAGE.name} needs {begin} and {end} once each")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{made}\n{end}{rest.partition(end)[2]}"
    return text


def main(argv: list[str] | None = None) -> int:
    """Write the page; with --check, return 1 if it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(argv).check
    old = PAGE.read_text("utf-8")
    new = page(old)
    if new == old:
        print(f"{PAGE.name} is up to date")
    elif check:
        print(f"{PAGE.name} is out of date: run python -m tqlearn.lab.instructors")
    else:
        write(PAGE, new)
        print(f"{PAGE.name} written")
    return int(check and new != old)


if __name__ == "__main__":
    sys.exit(main())
