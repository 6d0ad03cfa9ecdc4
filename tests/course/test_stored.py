"""What a reader has done in the checkout does not spoil what is made from the notebooks."""

import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sitekit.lessons import pictured
from test_teach import ONE, by_id, planted

from tqlearn.lab import teach
from tqlearn.lab.plots import PLOTLY
from tqlearn.lab.stored import committed, usable


def git(folder: Path, *words: str) -> None:
    """Run git as somebody, whatever the machine's own settings are."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """Commit notebooks into a repository of their own: ``checkout(name, notebook)`` is the file."""
    git(tmp_path, "init", "-q")

    def commit(name: str, nb) -> Path:
        nbformat.write(nb, tmp_path / name)
        git(tmp_path, "add", name)
        git(tmp_path, "commit", "-qm", name)
        return tmp_path / name

    return commit


def drawn(**data: str):
    """A notebook with one figure."""
    output = new_output("display_data", {PLOTLY: {}, "text/plain": "Figure: x"} | data)
    return new_notebook(
        cells=[new_markdown_cell("# A"), new_code_cell("show(1)", outputs=[output])]
    )


def test_a_run_notebook_is_shown_with_the_committed_pictures(checkout):
    path = checkout("01_one.ipynb", drawn(**{"image/png": "UE5H"}))
    assert usable(path, pictured)[1] == ""
    nbformat.write(drawn(), path)  # what JupyterLab stores after Run All
    nb, remark = usable(path, pictured)
    assert nb.cells[1].outputs[0].data["image/png"] == "UE5H"
    assert "as it was committed" in remark and "1 figures have lost" in remark


def test_without_any_picture_the_way_out_is_named(checkout, tmp_path):
    lost = checkout("01_one.ipynb", drawn())
    never = tmp_path / "02_new.ipynb"
    nbformat.write(drawn(), never)
    for path in (lost, never):
        with pytest.raises(ValueError, match="lost their still picture.*`make notebooks`"):
            usable(path, pictured)
    assert committed(never) is None and committed(tmp_path / "nowhere" / "x.ipynb") is None


def test_teach_hands_out_the_stub_of_an_exercise_that_was_solved_here(checkout, capsys):
    path = checkout("00_planted.ipynb", planted())
    nb = nbformat.read(path, as_version=4)
    (stub,) = [cell for cell in nb.cells if cell.source == ONE.stub]
    stub.source = ONE.solution
    nbformat.write(nb, path)
    out = path.parent / "out"
    assert teach.main([str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "written (as it was committed" in said and "exercise 00.1 needs one code cell" in said
    source = nbformat.read(out / "source" / "00_planted" / "00_planted.ipynb", as_version=4)
    assert by_id(source)["answer-00-1"].source == ONE.graded

    git(path.parent, "commit", "-qam", "solved, and committed")
    with pytest.raises(SystemExit):
        teach.main([str(path), "--out", str(out)])
    assert "exercise 00.1 needs one code cell" in capsys.readouterr().err
