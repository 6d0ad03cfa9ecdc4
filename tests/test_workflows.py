"""The workflows on GitHub run the very commands that `.ci/run` and `make book` run here."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"


def job(name: str) -> dict:
    (found,) = yaml.safe_load((WORKFLOWS / name).read_text())["jobs"].values()
    return found


def commands(name: str) -> list[str]:
    return [step["run"] for step in job(name)["steps"] if "run" in step]


def test_ci_runs_the_steps_of_the_check():
    """What stands in .ci/run after its settings and after the browser that GitHub has anyway."""
    text = (ROOT / ".ci" / "run").read_text()
    steps = [line for line in text.rpartition("\nfi\n")[2].splitlines() if line.strip()]
    assert len(steps) >= 4 and steps == commands("ci.yml")


def test_pages_publishes_what_make_book_writes():
    assert commands("pages.yml") == ["make env", "make book"]
    (upload,) = [s for s in job("pages.yml")["steps"] if "upload-pages" in s.get("uses", "")]
    assert upload["with"]["path"] == "_site"
    recipe = re.search(r"^book:.*\n\t(.+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert recipe == "@$(BIN)/python docs", "and that writes to _site/ unless told otherwise"


@pytest.mark.parametrize("name", ["ci.yml", "pages.yml"])
def test_workflows_use_the_python_of_the_project(name):
    (python,) = [s for s in job(name)["steps"] if "setup-python" in s.get("uses", "")]
    conda = re.search(r"python=(\S+)", (ROOT / "environment.yml").read_text())[1]
    assert python["with"]["python-version"] == conda
