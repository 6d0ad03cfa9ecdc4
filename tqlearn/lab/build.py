"""Run notebooks and store them the way the course wants them.

    python -m tqlearn.lab.build                        # all of notebooks/
    python -m tqlearn.lab.build notebooks/09_*.ipynb

Each notebook is run top to bottom in its own kernel; then widget state goes, every figure gets a
still picture (this needs kaleido and a Chromium; readers need neither), the header is told what the
run has cost, and the file is written back. A cell that raises stops the build before anything is
written.
"""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat
import plotly.io
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from ..writing import write
from .course import shipped
from .plots import HEIGHT, PLOTLY, WIDTH
from .usage import Usage, process_usage, speed

NOTEBOOKS = shipped("notebooks")
WIDGET = "application/vnd.jupyter.widget-view+json"
SPENT = re.compile(r"<!--spent-->.*?<!--/spent-->", re.DOTALL)
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Say whether a cell carries the tag."""
    return tag in cell.metadata.get("tags", [])


def execute(nb: NotebookNode, folder: Path, timeout: int = 300) -> Usage:
    """Run the cells in place, in a new kernel whose working directory is ``folder``.

    Cells tagged ``nbval-skip`` (they need a network or a GPU) keep the outputs they have.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the message shows which.
    """
    client = NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        coalesce_streams=True,
    )
    with client.setup_kernel(stderr=subprocess.DEVNULL):  # its log; cells' stderr is kept
        for index, cell in enumerate(nb.cells):
            if cell.cell_type == "code" and not tagged(cell, "nbval-skip"):
                client.execute_cell(cell, index)
        return process_usage(client.km.provisioner.pid)


def still(spec: dict) -> str:
    """Return a figure's PNG in base64, in 256 colors: a third of the bytes."""
    spec = {key: value for key, value in spec.items() if key != "config"}
    height = spec["layout"].get("height", HEIGHT)
    png = plotly.io.to_image(spec, format="png", width=WIDTH, height=height)
    drawn = Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    drawn.save(small := BytesIO(), "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode() + "\n"


def clean(nb: NotebookNode) -> None:
    """Number the cells 1..n, drop what differs from run to run, and add the still pictures."""
    nb.metadata = nbformat.from_dict(METADATA)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, 1):
        cell.execution_count = count
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            data = output.get("data", {})
            data.pop(WIDGET, None)  # without its kernel it would read "model not found"
            if PLOTLY in data:
                data["image/png"] = still(data[PLOTLY])
                output.metadata["image/png"] = {"alt": data["text/plain"]}


def build(path: Path) -> Usage:
    """Run one notebook, store it, and return what the run has cost."""
    nb = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as fresh:  # as for a reader who begins here
        with patch.dict(os.environ, TQLEARN_LEDGER=str(Path(fresh) / "ledger.json")):
            usage = execute(nb, path.parent)
    clean(nb)
    seconds = max(1, round(usage.scaled(speed())))  # of the processor that the cap is for
    spent = f"about {seconds} CPU-seconds, {usage.peak_bytes / 2**30:.1f} GiB"
    for cell in nb.cells:
        cell.source = SPENT.sub(f"<!--spent-->{spent}<!--/spent-->", cell.source)
    nbformat.validate(nb)
    write(path, json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    return usage


def main(argv: list[str] | None = None) -> int:
    """Build the named notebooks, or all; print what each has cost; return 1 if a cap is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all of notebooks/")
    paths = parser.parse_args(argv).notebook or sorted(NOTEBOOKS.glob("*.ipynb"))
    if "TQLEARN_CHROMIUM" in os.environ:
        os.environ["BROWSER_PATH"] = os.environ["TQLEARN_CHROMIUM"]  # kaleido's name for it
    os.environ["TQLEARN_STILLS"] = "1"  # explorers add the figure of their default setting
    complaints = 0
    for path in paths:
        usage = build(path)
        complaint = usage.complaint(speed())
        complaints += bool(complaint)
        print(
            f"{path.name:32} {complaint or usage}, {path.stat().st_size / 1e3:.0f} kB", flush=True
        )
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
