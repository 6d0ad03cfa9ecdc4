"""Explorers without a kernel: grids that hold every setting, and show what the explorers draw."""

import json
from itertools import product
from math import prod
from pathlib import Path

import ipywidgets
import nbformat
import plotly.graph_objects as go
import pytest

from tqlearn.lab import explorers, grids, plots
from tqlearn.lab.explorers.grid import record, replay, rounded, shown, stops
from tqlearn.lab.results import measured

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
WITH = [p for p in NOTEBOOKS if grids.cell(nbformat.read(p, as_version=4)) is not None]


def load(path: Path) -> dict:
    return json.loads((ROOT / "docs" / "explorers" / f"{path.stem}.json").read_text("utf-8"))


def numbers(figure: dict) -> list[dict]:
    """What the traces of a figure show, without looks: plotly may color them anew."""
    return [{key: t[key] for key in "xyz" if key in t} for t in figure["data"]]


@pytest.mark.parametrize("path", WITH, ids=lambda path: path.stem)
def test_a_stored_grid_is_small_and_whole_and_begins_as_the_notebook_does(path):
    grid, cells = load(path), nbformat.read(path, as_version=4).cells
    assert (grids.GRIDS / f"{path.stem}.json").stat().st_size <= grids.MOST == 300_000
    counts = [len(control["stops"]) for control in grid["controls"]]
    thinned = sum(control["thinned"] for control in grid["controls"])
    assert thinned == len(grids.STOPS.get(path.name[:2], {}))
    for change in grid["changes"]:
        assert len(change["at"]) == prod(counts[axis] for axis in change["by"])
        assert 0 <= min(change["at"]) and max(change["at"]) < len(grid["pool"])
    assert {axis for change in grid["changes"] for axis in change["by"]} == {*range(len(counts))}
    stored = next(o.data for o in cells[grids.cell(nbformat.read(path, 4))].outputs if "data" in o)
    begins = replay(grid, [control["at"] for control in grid["controls"]])
    kept = rounded(stored[plots.PLOTLY])
    assert begins["figure"]["layout"]["title"]["text"] == kept["layout"]["title"]["text"]
    assert numbers(begins["figure"]) == numbers(kept), "python -m tqlearn.lab.grids makes it anew"


def test_every_explorer_has_a_grid_and_every_grid_an_explorer():
    assert {p.stem for p in WITH} == {p.stem for p in grids.GRIDS.glob("*.json")}
    assert len(WITH) >= 17


@pytest.fixture(scope="module")
def live() -> dict[str, explorers.Explorer]:
    """Those that draw what is counted or was measured once, not a training of their notebook."""
    plans = explorers.plan_table(measured("deep_compression_ablation").rows)
    return {
        "00": explorers.budget_explorer(),
        "08": explorers.distillation_explorer(measured("embedded_distillation").rows),
        "12": explorers.deep_compression_explorer(plans),
    }


@pytest.mark.parametrize("number", ["00", "08", "12"])
def test_a_stored_grid_equals_what_the_explorer_computes(live, number):
    grid = load(next(path for path in WITH if path.name.startswith(number)))
    controls = live[number].controls
    counts = [len(control["stops"]) for control in grid["controls"]]
    for at in ([0] * len(counts), [n - 1 for n in counts], [n // 2 for n in counts]):
        labels = [control["stops"][k] for control, k in zip(grid["controls"], at, strict=True)]
        values = [stops(c)[label] for c, label in zip(controls.values(), labels, strict=True)]
        now = rounded(shown(live[number], dict(zip(controls, values, strict=True))))
        then = replay(grid, at)
        assert then["caption"] == now["caption"]
        assert numbers(then["figure"]) == numbers(now["figure"])
        assert then["figure"]["layout"]["title"] == now["figure"]["layout"]["title"]


def sketch(size: int, name: str, extra: bool) -> tuple[go.Figure, str]:
    """A figure that changes in every way: values, lengths, number of traces, words."""
    traces = [go.Bar(x=[*range(size)], y=[k / 7 for k in range(size)], name=name)]
    traces += [go.Scatter(x=[1], y=[None], text=["a 1.5"])] * extra
    title = "nothing" if size == 0 else f"{name}: {size} of 1,000, {size / 7:.2f}"
    return plots.figure(*traces, title=title), "7 <b>words</b>" if extra else f"<i>{name}</i>"


@pytest.fixture
def explorer():
    return explorers.Explorer(
        sketch,
        size=ipywidgets.IntSlider(2, 0, 3, description="how many"),
        name=ipywidgets.Dropdown(options=["one", "two 2"]),
        extra=ipywidgets.Checkbox(False),
    )


def test_a_grid_plays_back_every_combination(explorer):
    grid = json.loads(json.dumps(record(explorer)))
    names = [control["name"] for control in grid["controls"]]
    assert names == ["how many", "name", "extra"]
    assert [control["kind"] for control in grid["controls"]] == ["range", "select", "select"]
    assert [control["at"] for control in grid["controls"]] == [2, 0, 0]
    values = [[*stops(control).values()] for control in explorer.controls.values()]
    for at in product(*[range(len(known)) for known in values]):
        settings = [known[k] for known, k in zip(values, at, strict=True)]
        drawn = shown(explorer, dict(zip(explorer.controls, settings, strict=True)))
        assert replay(grid, at) == drawn
    follows = {tuple(change["by"]) for change in grid["changes"] if change["path"][-1] == "caption"}
    assert follows == {(1, 2)}, "the caption does not follow the size"


def test_a_thinned_grid_keeps_the_first_setting_and_refuses_unknown_stops(explorer):
    grid = record(explorer, {"size": 2})
    assert grid["controls"][0]["stops"] == ["0", "2"] and grid["controls"][0]["at"] == 1
    assert [control["thinned"] for control in grid["controls"]] == [True, False, False]
    assert record(explorer, {"size": ["2", "3"]})["controls"][0]["stops"] == ["2", "3"]
    for wrong in (["2", "9"], ["1", "3"]):
        with pytest.raises(ValueError, match="size has the stops .* and shows 2"):
            record(explorer, {"size": wrong})


def test_numbers_are_rounded_to_four_digits():
    assert rounded([1.23456, 0.000123456, 123456.7, 2.0, 7, None, "x 1.23456"]) == [
        *(1.235, 0.0001235, 123457, 2, 7, None, "x 1.23456")
    ]
