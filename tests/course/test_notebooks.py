"""The notebooks as they are stored: shape of the page, outputs, pictures, links, and budgets.

That they run, and give the stored outputs again, is nbval's part (``make test-notebooks``).
"""

import base64
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from test_canary import CANARY, nbval

from tqlearn.lab import exercises, usage
from tqlearn.lab.build import PLOTLY, WIDGET, clean, tagged

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))  # the lessons
WORKBENCH = ROOT / "notebooks" / "workbench.ipynb"
SECTIONS = (  # second-level headings, in this order; the idea's own headings stand in between
    "The question",
    "Predict first",
    "The library agrees",
    "Explore",
    "Paper and reality",
    "Exercises",
    "Your ledger",
    "Recap",
    "References",
)
TAGS = {"nbval-check-output", "nbval-skip", "raises-exception"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def nb(path):
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


def code(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def markdown(nb) -> str:
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def bundles(cell) -> list[dict]:
    return [output.data for output in cell.outputs if "data" in output]


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_there_are_notebooks():
    stems = [path.stem for path in NOTEBOOKS]
    assert {"00", "02", "04", "08", "09"} <= {stem[:2] for stem in stems}
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", stem) for stem in stems)
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 10e6
    others = {*(ROOT / "notebooks").glob("*.ipynb")} - {*NOTEBOOKS}
    assert others == {WORKBENCH}, "what is no lesson has its own test"


def test_the_workbench_is_stored_as_the_lessons_are():
    """It has a page with widgets, its picture, and numbers that are compared; no exercises."""
    nb = nbformat.read(WORKBENCH, as_version=4)
    nbformat.validate(nb)
    test_metadata_is_what_any_kernel_can_open(nb)
    test_cells_ran_once_in_order_without_errors(nb)
    test_code_cells_are_short_and_show_what_they_end_with(nb)
    test_links_lead_somewhere(WORKBENCH, nb)
    (page,) = [cell for cell in code(nb) if "workbench(model" in cell.source]
    (data,) = bundles(page)
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and WIDGET not in data
    assert "times smaller; mean error" in data["text/plain"]
    assert len([cell for cell in code(nb) if tagged(cell, "nbval-check-output")]) >= 5


def test_sections_come_in_the_course_order(nb):
    lines = re.sub(r"```.*?```", "", markdown(nb), flags=re.DOTALL).splitlines()
    assert [line for line in lines if line.startswith("# ")] == lines[:1], "one title, at the top"
    headings = [line[3:].strip() for line in lines if line.startswith("## ")]
    assert [h for h in headings if h in SECTIONS] == list(SECTIONS)


def test_header_names_goals_prerequisites_time_and_place(nb):
    header = nb.cells[0].source
    for word in ("goals", "prerequisites", "time", "where it fits"):
        assert f"| {word} |" in header.lower()
    assert re.search(r"<!--spent-->about \d+ CPU-seconds, \d\.\d GiB<!--/spent-->", header)


def test_metadata_is_what_any_kernel_can_open(nb):
    assert nb.metadata.kernelspec.name == "python3"
    assert "widgets" not in nb.metadata
    for cell in nb.cells:
        tags = set(cell.metadata.get("tags", []))
        assert tags <= TAGS, f"unknown tags {tags - TAGS}"
        if "raises-exception" in tags:
            assert "nbval-check-output" in tags
        if "nbval-skip" in tags:
            assert cell.metadata.get("reason"), "say in the metadata why a cell is skipped"


def test_cells_ran_once_in_order_without_errors(nb):
    assert [cell.execution_count for cell in code(nb)] == list(range(1, len(code(nb)) + 1))
    for cell in code(nb):
        kinds = [output.output_type for output in cell.outputs]
        if not tagged(cell, "raises-exception"):
            assert "error" not in kinds, cell.source
        noise = [o.text for o in cell.outputs if o.get("name") == "stderr"]
        assert not noise, f"stored warnings or progress bars: {noise}"


def test_enough_cells_are_compared(nb):
    compared = [cell for cell in code(nb) if tagged(cell, "nbval-check-output")]
    assert len(compared) >= 5, "below five, nbval proves only that nothing raises"
    for cell in compared:
        assert cell.outputs, f"nothing to compare:\n{cell.source}"
        assert PLOTLY not in str(bundles(cell)), "print the plotted numbers and compare those"
        if "≈" in cell.source:  # nbval does not compare what stands behind it
            assert re.search(r"^ *assert ", cell.source, re.MULTILINE), cell.source
        assert ": True\n" not in printed(cell), "show the numbers, not that something holds of them"
        for word in ("interact(", "Output(", "clear_output", "tqdm"):
            assert word not in cell.source
        long = re.findall(r"(?<![\w.])\d*\.\d{5,}", printed(cell))
        assert not long, f"more digits than machines agree on: {long}"


def test_code_cells_are_short_and_show_what_they_end_with(nb):
    for cell in code(nb):
        lines = cell.source.splitlines()
        assert len(lines) <= 20, f"{len(lines)} lines:\n{cell.source}"
        assert all(len(line) <= 100 for line in lines), cell.source
        assert not cell.source.rstrip().endswith(";")
        assert "NBVAL_" not in cell.source, "tags, not comments"


def test_every_figure_has_its_picture(path, nb):
    assert path.stat().st_size < 1e6
    pictures = 0
    for cell in code(nb):
        draws = re.search(r"(?<!def )\bshow\(|_explorer\(", cell.source)
        found = [data for data in bundles(cell) if "image/png" in data]
        assert bool(found) == bool(draws), cell.source
        for data in found:
            assert WIDGET not in data and PLOTLY in data
            assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
            assert data["text/plain"].startswith("Figure: ") and "0x" not in data["text/plain"]
        pictures += len(found)
    assert pictures >= 2
    explorers = [cell for cell in code(nb) if "_explorer(" in cell.source]
    assert len(explorers) == 1, "each explorer sends plotly, 1.4 MB, to the browser"
    assert "plotly.min.js" not in path.read_text("utf-8")


def anchors(notebook: Path) -> set[str]:
    """The names that a notebook's headings can be linked by."""
    lines = markdown(nbformat.read(notebook, as_version=4)).splitlines()
    headings = [line.lstrip("# ").replace(" ", "-") for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w-]", "", heading).lower() for heading in headings}


def test_links_lead_somewhere(path, nb):
    for target in re.findall(r"\]\(([^)\s]+)\)", markdown(nb)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor.lower() in anchors(there), target


def test_exercises_are_those_of_the_module(path, nb):
    """Statement, stub, check and rejoin: four cells each, in the order of the module."""
    number, cells = path.stem[:2], nb.cells
    found = [cell.source for cell in cells if cell.source.startswith("### Exercise ")]
    assert len(found) == len(exercises.of(number)) >= 2
    for exercise, statement in zip(exercises.of(number), found, strict=True):
        id, name = exercise.id, exercise.name
        asked, stub, check, rejoin = cells[(at := cells.index(_cell(cells, statement))) : at + 4]
        level = f"*{exercise.difficulty} · {exercise.minutes} minutes*"
        assert asked.source.startswith(f"### Exercise {id}: {exercise.title}\n\n{level}\n\n")
        assert f'hint("{id}")' in asked.source and f'solution("{id}")' in asked.source
        assert stub.source == exercise.stub and not stub.outputs
        assert check.source == f'check("{id}", {name})' and tagged(check, "nbval-check-output")
        assert check.outputs[0].data["text/plain"].startswith(f"TODO {id} not attempted")
        assert rejoin.source.startswith(f'{name} = rejoin("{id}", {name})\n\n')
        assert f"{id}: from here on with the reference" in rejoin.outputs[0].text


def _cell(cells, source):
    return next(cell for cell in cells if cell.source == source)


def test_each_notebook_writes_its_rows(path, nb):
    (cell,) = [cell for cell in code(nb) if "ledger.add(" in cell.source]
    assert f'ledger.add("{path.stem[:2]}", {{"teacher": teacher,' in cell.source
    assert "ledger.show()" in cell.source and not tagged(cell, "nbval-check-output")
    above = [c for c in nb.cells[: nb.cells.index(cell)] if c.cell_type == "markdown"]
    headings = [line for c in above for line in c.source.splitlines() if line.startswith("##")]
    assert headings[-1] == "## Your ledger", "what stands above is about it"
    assert cell.outputs[0].text.startswith("nb  model ")


def test_learners_notebooks_are_not_graded(nb):
    assert not [cell for cell in nb.cells if "nbgrader" in cell.metadata]
    assert not [cell for cell in nb.cells if "SOLUTION" in cell.source]


@pytest.mark.slow
def test_canary_over_budget_is_red(tmp_path):
    cap = "from tqlearn.lab import usage\nusage.CPU_SECONDS_CAP = 0\n"
    (tmp_path / "conftest.py").write_text(cap)
    page = nbformat.read(CANARY / "right.ipynb", as_version=4)
    page.cells.append(nbformat.v4.new_code_cell("large = bytes(b'1') * (1 << 30)"))
    nbformat.write(page, tmp_path / "right.ipynb")
    result = nbval(tmp_path / "right.ipynb")
    assert result.returncode == 1 and "above the cap of 0 CPU-seconds" in result.stdout
    line = r"right.ipynb +(\S+) CPU-seconds, (\S+) GiB, \d+\.\d scaled \(this machine: "
    seconds, peak = map(float, re.search(line, result.stdout).groups())
    assert seconds > 1 and 1 < peak < 2, "the kernel's, not of what has asked for a fork"


def test_usage_reads_a_process():
    spent = usage.process_usage(os.getpid())
    assert spent.cpu_seconds > 0.1 and 50e6 < spent.peak_bytes < 50e9
    assert usage.Usage(90.0, 2**30).complaint() is None
    assert "cap" in usage.Usage(91.0, 0).complaint()
    assert "cap" in usage.Usage(0.0, int(1.3 * 2**30)).complaint()


def test_a_slow_machine_is_no_failure():
    slow = usage.Usage(120.0, 0)
    assert "120.0 CPU-seconds, 0.00 GiB, 120.0 scaled" in slow.complaint()
    assert slow.complaint(speed=0.7) is None and slow.scaled(0.7) == pytest.approx(84)
    assert "cap" in slow.complaint(speed=0.8)
    assert 0.02 < usage.speed() < 20


def test_clean_drops_widget_state_and_numbers_the_cells():
    cell = nbformat.v4.new_code_cell("1", execution_count=7)
    data = {WIDGET: {"model_id": "x"}, "text/plain": "1"}
    cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=7)]
    nb = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    clean(nb)
    assert "widgets" not in nb.metadata and cell.execution_count == 1
    assert json.loads(json.dumps(cell.outputs[0].data)) == {"text/plain": "1"}
    assert cell.outputs[0].execution_count == 1
