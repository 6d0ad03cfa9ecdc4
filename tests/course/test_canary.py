"""Canaries: planted notebooks that ``make test-notebooks`` has to find green, or red.

Nobody would notice if nbval or the plugin beside this file stopped looking.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from test_teach import planted
from warm import FRESH

from tqlearn.lab import teach

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CANARY = ROOT / "tests" / "course" / "canary"


def nbval(target: Path) -> subprocess.CompletedProcess:
    """Run nbval as the Makefile does on another notebook, or on a folder of them."""
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    line = re.search(r"^NBVAL := (.*)$", recipe, re.M).group(1)
    more = ["-q", "-rA", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*FRESH, "-m", "pytest", *shlex.split(line), *more, str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    )


@pytest.fixture(scope="module")
def canaries(tmp_path_factory) -> subprocess.CompletedProcess:
    """One run over the stored canaries and two planted lessons.

    The last line but one of ``00_reference`` is true of the reference alone: it is green as the
    page stands, and red with a learner's function.
    """
    folder = tmp_path_factory.mktemp("canaries")
    shutil.copytree(CANARY, folder, dirs_exist_ok=True)
    rows = new_code_cell("print('nb  model\\n--  teacher\\n00  student')")
    for name, line in (("solved", "1"), ("reference", "assert unpack.__module__ != '__main__'")):
        lesson = teach.cleared(planted(), "{0}.ipynb")
        lesson.cells[2].source = "import torch"
        lesson.cells += [new_code_cell(line), rows]
        nbformat.write(lesson, folder / f"00_{name}.ipynb")
    return nbval(folder)


def ended(canaries, name: str) -> list[str]:
    """How the items of one notebook ended, in order."""
    lines = re.findall(rf"^(PASSED|FAILED) \S*{name}::(.*)", canaries.stdout, re.M)
    return sorted(f"{what} {item.partition(' - ')[0]}" for what, item in lines)


def test_canary_right_is_green(canaries):
    assert ended(canaries, "right.ipynb") == ["PASSED Cell 0", "PASSED Cell 1"], canaries.stdout


def test_canary_wrong_is_red(canaries):
    assert ended(canaries, "wrong.ipynb") == ["FAILED Cell 1", "PASSED Cell 0"], canaries.stdout
    assert canaries.returncode == 1 and "mismatch" in canaries.stdout


def test_canary_noisy_is_red(canaries):
    assert ended(canaries, "noisy.ipynb") == ["FAILED Cell 1", "PASSED Cell 0"], canaries.stdout
    assert "Cell wrote to stderr" in canaries.stdout and "a stray warning" in canaries.stdout


def test_canary_solved_is_green(canaries):
    found = ended(canaries, "00_solved.ipynb")
    assert "PASSED solutions pasted in" in found and len(found) > 8, canaries.stdout
    assert not [line for line in found if line.startswith("FAILED")]


def test_canary_that_fits_the_reference_alone_is_red(canaries):
    found = ended(canaries, "00_reference.ipynb")
    red = [line for line in found if line.startswith("FAILED")]
    assert red == ["FAILED solutions pasted in"] and len(found) > 8, canaries.stdout
    assert "assert unpack.__module__" in canaries.stdout, "the line that raised is shown"
