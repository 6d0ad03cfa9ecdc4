"""Explorers on pages without a kernel: scripts that play back the grids of ``docs/explorers/``."""

import json
from pathlib import Path

from plotly.offline import get_plotlyjs

from tqlearn.lab import explorers, plots

STILL = "A still picture of the explorer's first setting; in JupyterLab it moves."
SCRIPTS = Path("_static") / "explorers"
EXPORT = "export default { render };"


def grid(root: Path, stem: str) -> Path:
    """Return where the grid of a lesson's explorer lies."""
    return root / "docs" / "explorers" / f"{stem}.json"


def block(root: Path, stem: str) -> str:
    """Return what stands below an explorer: that it is a still picture, until its script runs."""
    if not grid(root, stem).is_file():
        return f"*{STILL}*"
    source = f"../{SCRIPTS.as_posix()}/{stem}.js"
    tag = f'<script defer src="{source}"></script>'
    return f'<div class="explorer"><p><em>{STILL}</em></p>{tag}</div>'


def script(file: Path) -> str:
    """Return the script of one explorer: its grid, the notebooks' front end, and the controls.

    Raises:
        ValueError: the front end has changed, and does not export what the script needs.
    """
    front = (Path(explorers.__file__).parent / "live.js").read_text("utf-8")
    if EXPORT not in front:
        raise ValueError(f"live.js has no line {EXPORT!r}; a page without a kernel needs it")
    parts = [
        f"const GRID = {file.read_text('utf-8').strip()};",
        f"const NIGHT = {json.dumps(json.dumps(plots.NIGHT))};",
        front.replace(EXPORT, ""),
        (Path(__file__).parent / "explorer.js").read_text("utf-8"),
    ]
    return "(() => {\n" + "\n".join(parts) + "})();\n"


def publish(root: Path, html: Path) -> None:
    """Write the scripts of all explorers into a site, and plotly beside them."""
    files = sorted(grid(root, "x").parent.glob("*.json"))
    if not files:
        return
    (html / SCRIPTS).mkdir(parents=True, exist_ok=True)
    (html / SCRIPTS / "plotly.min.js").write_text(get_plotlyjs(), "utf-8")
    for file in files:
        (html / SCRIPTS / f"{file.stem}.js").write_text(script(file), "utf-8")
