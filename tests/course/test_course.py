"""The course from a wheel: what ``pip install`` gives a reader who has no checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import nbformat
import pytest

from tqlearn.lab import course

ROOT = Path(__file__).parents[2]
PARTS = "tqlearn", "notebooks", "benchmarks/results"
RUN = """
import sys
from pathlib import Path
import nbformat
import tqlearn
from tqlearn.lab.build import execute

assert Path(tqlearn.__file__).is_relative_to(sys.prefix), tqlearn.__file__
path = Path(sys.argv[1])
nb = nbformat.read(path, as_version=4)
execute(nb, path.parent)
nbformat.write(nb, path)
"""


def cells_of(page: Path) -> list:
    """Its code and what that shows: copying changes links alone."""
    cells = nbformat.read(page, as_version=4).cells
    return [(cell.source, cell.outputs) for cell in cells if cell.cell_type == "code"]


def run(*command: str | Path, **options) -> str:
    """Run a command without our source on its path, our kernels, and with no ledger but its own."""
    ours = "PYTHONPATH", "TQLEARN_LEDGER", "JUPYTER_PATH"
    env = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment that has the wheel of the sdist, and what it needs from this environment."""
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    for part in PARTS:
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, source / part, ignore=left_out)
    (source / "docs").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "docs/methods.md"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    run(sys.executable, "-c", build, cwd=source)
    (sdist,) = home.glob("*.tar.gz")
    pip = sys.executable, "-m", "pip", "--disable-pip-version-check"
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", home, sdist)
    (wheel,) = home.glob("*.whl")
    assert max(sdist.stat().st_size, wheel.stat().st_size) < 15e6
    with tarfile.open(sdist) as tar:
        assert sum(name.endswith(".ipynb") for name in tar.getnames()) == 18
    run(sys.executable, "-m", "venv", "--without-pip", home / "fresh")
    python = home / "fresh" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # after the environment's own packages, so the checkout's tqlearn is not found
    (Path(where) / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_a_lesson_from_the_wheel_passes(python, tmp_path):
    said = run(python, "-m", "tqlearn.lab.course", tmp_path / "mine", cwd=tmp_path)
    assert "21 files of the course written" in said and "jupyter lab" in said
    page = tmp_path / "mine" / "02_tensor_train.ipynb"
    assert cells_of(page) == cells_of(ROOT / "notebooks" / page.name)
    run(python, "-c", RUN, page, cwd=tmp_path)
    cells = nbformat.read(page, as_version=4).cells
    printed = "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))
    assert "not measured yet" not in printed, "the results come with the notebooks"
    said = run(python, "-m", "tqlearn.lab.course", tmp_path / "mine", cwd=tmp_path)
    assert "20 files" in said and "kept as they were, because they differ: 02_" in said


def test_a_learners_page_is_replaced_only_where_that_is_agreed_to(tmp_path):
    names = [p.name for p in (ROOT / "notebooks").iterdir() if p.suffix in (".ipynb", ".md")]
    names = sorted([*names, "methods.md"])
    assert course.copied(tmp_path, agreed=bool) == (names, [])
    page = tmp_path / "03_kronecker.ipynb"
    page.write_text("my answers")
    asked = []
    written, kept = course.copied(tmp_path, agreed=asked.append)  # None: no
    assert (asked, kept) == ([page], [page.name]) and page.read_text() == "my answers"
    assert course.copied(tmp_path, agreed=lambda path: True) == (names, [])
    assert cells_of(page) == cells_of(ROOT / "notebooks" / page.name)


def test_every_link_of_a_copied_course_leads_somewhere(tmp_path):
    course.copied(tmp_path, agreed=bool)
    count = 0
    for page in sorted(tmp_path.iterdir()):
        text = page.read_text("utf-8")
        if page.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for target in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
        ):
            if not target.startswith(("https://", "#")):
                assert (tmp_path / target.partition("#")[0]).is_file(), f"{page.name}: {target}"
                count += "methods.md" in target
    assert count >= 14, "each lesson leads to the page of methods"


def test_nobody_to_ask_means_no(tmp_path, capsys, monkeypatch):
    course.copied(tmp_path, agreed=bool)
    (tmp_path / "glossary.md").write_text("mine")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert course.main([str(tmp_path)]) == 0
    assert "kept as they were, because they differ: glossary.md" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert course.main([str(tmp_path)]) == 0
    assert (tmp_path / "glossary.md").read_text() != "mine"


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert course.main([str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_package_without_its_course_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setattr(course.metadata, "files", lambda name: None)
    course.shipped.cache_clear()
    with pytest.raises(FileNotFoundError, match="installed without share/tqlearn/notebooks"):
        course.shipped("notebooks")
    course.shipped.cache_clear()
