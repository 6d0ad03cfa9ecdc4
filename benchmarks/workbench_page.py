"""How long a reader waits at a workbench over a BERT-base: in a real JupyterLab, by the clock.

The first look ends when every matrix is decomposed. Then sliders are moved by a key, and the page's
own clock runs until the title has another size and no error is missing.

    python benchmarks/workbench_page.py
"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

CELL = """
import torch
from transformers import BertConfig, BertModel

from tqlearn.lab.workbench import Row, workbench

torch.manual_seed(0)
model = BertModel(BertConfig()).eval()
rows = [
    Row("encoder*", structure="LowRank", amount=64, quantizer="LSQ"),
    Row("*", quantizer="LSQ", bits=6),
]
page = workbench(model, rows=rows)
page
"""
REST = "page.worker.rest()"
PRESSED = """area => { window.answered = new Promise((done, failed) => {
    const title = () => [...area.querySelectorAll('.js-plotly-plot')]
        .find(e => e.offsetHeight)?.querySelector('.gtitle')?.textContent;
    const before = title(), start = performance.now();
    const look = () => {
        const now = title();
        if (now && now !== before && !now.includes('…') && !area.querySelector('progress'))
            done((performance.now() - start) / 1000);
        else if (performance.now() - start > 60000) failed(`no answer in a minute: ${now}`);
        else setTimeout(look, 10);
    };
    look();
}); }"""
SLIDERS = {"rank of the pairs": 0, "bits of the pairs": 1, "bits of everything else": 3}  # not rank
OUT = {}  # options of the script, for the test


def test_every_slider(page, lab):
    import nbformat
    from common import write
    from jupyter_page import explorer, open_notebook, run_cells

    from tqlearn import writing
    from tqlearn.lab.build import METADATA

    cells = [nbformat.v4.new_code_cell(cell) for cell in (CELL, REST)]
    nb = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    writing.write(lab[2] / "base.ipynb", nbformat.writes(nb))
    open_notebook(page, "base")
    start = page.evaluate("performance.now()")
    run_cells(page, [0])
    area = explorer(page)
    drawn = (page.evaluate("performance.now()") - start) / 1000
    run_cells(page, [1])
    known = (page.evaluate("performance.now()") - start) / 1000
    rows = []

    def tell(what, seconds, note):
        print(f"{what:50} {seconds:6.2f} s  {note}", flush=True)
        metrics = {"seconds": round(seconds, 3)}
        rows.append({"model": what, "role": "student", "metrics": metrics, "note": note})

    tell("first look: bytes and some errors", drawn, "imports and the model included")
    tell("first look: every matrix decomposed", known, "imports and the model included")
    for name, place in SLIDERS.items():
        handle = area.locator(".noUi-handle:visible").nth(place)
        for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
            handle.focus()
            page.evaluate(PRESSED, area.element_handle())
            handle.press(key)
            seconds = page.evaluate("window.answered")
            tell(f"{name}: {key}, {len(rows) - 1}", seconds, "no pause after the move before")
    write("workbench_page", "none: a tool of this course", rows, OUT["args"])


if __name__ == "__main__":
    from common import parser

    kept = parser("workbench_page", __doc__.splitlines()[0]).parse_args()
    options = [
        "-q",
        "-s",
        "-p",
        "conftest",
        "-p",
        "jupyter_page",
        "-o",
        "addopts=",
        "-o",
        "python_files=*.py",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",  # tqlearn was imported for the options
    ]

    class Told:
        """Hands the script's options to the test."""

        @staticmethod
        def pytest_collection_finish(session):
            for item in session.items:
                item.module.OUT["args"] = kept

    sys.exit(pytest.main([*options, __file__], plugins=[Told()]))
