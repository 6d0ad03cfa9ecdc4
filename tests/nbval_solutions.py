"""A plugin for nbval: behind a lesson's last cell all solutions are pasted in and run as well.

    python -m pytest --nbval-lax -p tests.nbval_solutions notebooks

It does as a learner does: run all, fill in the stubs, run what comes after. The kernel is the one
that has run the page, so nothing is trained twice: of a line to be filled in on the way its own
cells run again, up to the rejoin, and from the first exercise at the end all cells. Every check
must pass, every rejoin take the learner's function, nothing may raise, and the ledger must get its
rows.

No cell may write to stderr, on the page or with its solutions: a reader sees that in red.
"""

import re
from collections import defaultdict

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

PATIENCE = 120  # seconds for an output that is already made; nbval's five are few on a busy machine


def pytest_collection_modifyitems(items):
    """Give every lesson one item more, and every cell more patience."""
    from tqlearn.lab import exercises  # not before tests/conftest.py looks at tqlearn's imports

    ends = {item.parent: place for place, item in enumerate(items) if isinstance(item, IPyNbCell)}
    for page, place in reversed(ends.items()):
        if page.path.stem[:2] in exercises.lessons():
            items.insert(place + 1, Solutions.from_parent(page, name="solutions").item())
    for item in items:
        if isinstance(item, IPyNbCell):
            item.output_timeout = PATIENCE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A cell that has run also has to be silent."""
    result = yield
    if isinstance(item, IPyNbCell):
        silent(item)
    return result


def silent(cell: IPyNbCell) -> None:
    """Fail the cell if it wrote to stderr: a warning, a progress bar."""
    noise = "".join(o.text for o in cell.test_outputs if o.get("name") == "stderr")
    if noise:
        cell.raise_cell_error("Cell wrote to stderr", noise)


class Solutions(pytest.Collector):
    """Stands between a page and its solutions: they are no part of what the page may spend."""

    def item(self) -> pytest.Item:
        # pytest-xdist keeps together what has one file and one colon pair
        id = f"{self.parent.nodeid}::solutions pasted in"
        return Pasted.from_parent(self, name="solutions pasted in", nodeid=id)

    def collect(self):
        return [self.item()]


class Pasted(pytest.Item):
    """Each exercise's cells, and all behind them, with the stubs solved, in the page's kernel."""

    cell: IPyNbCell | None = None

    def runtest(self):
        from tqlearn.lab import exercises, teach  # with plotly and nbclient, for lessons alone

        page: IPyNbFile = self.parent.parent
        number = page.path.stem[:2]
        found = teach.places(page.nb, number)
        last = next(stub for one, (_, stub, *_) in found.items() if one.id == f"{number}.1")
        again = {p for _, stub, _, rejoin in found.values() for p in range(stub, rejoin + 1)}
        outputs = []
        for place, cell in enumerate(teach.solved(page.nb, number).cells):
            if cell.cell_type == "code" and (place >= last or place in again):
                given = {"cell_num": place, "cell": cell, "options": defaultdict(bool)}
                self.cell = IPyNbCell.from_parent(page, name=f"solved {place}", **given)
                self.cell.output_timeout = PATIENCE
                self.cell.runtest()
                silent(self.cell)
                outputs += self.cell.test_outputs
        text = "\n".join(o.get("text") or o["data"].get("text/plain", "") for o in outputs)
        for exercise in exercises.of(number):
            assert f"PASS {exercise.id} {exercise.title}" in text
            assert f"{exercise.id}: from here on with your function" in text
        assert "TODO" not in text and "FAIL" not in text
        assert {"--", number} <= set(re.findall(r"^(--|\d\d)  ", text, re.M)), "rows of the ledger"

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, NbCellError):
            return self.cell.repr_failure(excinfo)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, self.nodeid
