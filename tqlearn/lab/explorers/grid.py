"""What every setting of an explorer shows, in a JSON that a page without a kernel plays back."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product

import ipywidgets
import numpy as np

from .. import plots
from .base import Explorer
from .live import bundle

DIGITS = 4  # of every number with decimals
NUMBER = re.compile(r"\d[\d,.]*\d|\d")  # in a text
HOLE = "\0"  # in the place of a number
Thinned = Mapping[str, int | Sequence[str]]


def stops(control: ipywidgets.ValueWidget) -> dict[str, object]:
    """Return the values that a control can take, by what it shows for them."""
    if isinstance(control, ipywidgets.Checkbox):
        return {"no": False, "yes": True}
    if isinstance(control, ipywidgets.IntSlider):
        return {str(n): n for n in range(control.min, control.max + 1, control.step)}
    options = control.options.items() if isinstance(control.options, dict) else control.options
    return dict(o if isinstance(o, tuple) else (str(o), o) for o in options)


def kind(control: ipywidgets.ValueWidget) -> str:
    """Return which element of a page stands for a control."""
    sliders = (ipywidgets.IntSlider, ipywidgets.SelectionSlider)
    return "range" if isinstance(control, sliders) else "select"


def some(which: int | Sequence[str], known: Sequence[str], now: str) -> list[str]:
    """Return the stops that a grid takes of those of a control.

    >>> some(2, ["a", "b", "c", "d"], now="b"), some(["a", "b"], ["a", "b", "c"], now="b")
    (['b', 'd'], ['a', 'b'])
    """
    if isinstance(which, int):
        return [*known[known.index(now) % which :: which]]
    return [*which]


def rounded(node: object) -> object:
    """Return JSON with ``DIGITS`` significant digits; what is whole stays as it is."""
    if isinstance(node, dict):
        return {key: rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [rounded(value) for value in node]
    if isinstance(node, float):
        near = float(f"{node:.{DIGITS}g}") if abs(node) < 10**DIGITS else round(node)
        return int(near) if near == int(near) else near
    return node


def shown(explorer: Explorer, settings: dict) -> dict:
    """Return what an explorer shows for its settings: ``figure`` and ``caption``, rounded."""
    figure, caption = explorer.draw(**settings)
    spec = bundle(figure)[plots.PLOTLY]
    return {"figure": rounded(spec), "caption": caption}


def record(explorer: Explorer, thinned: Thinned | None = None) -> dict:
    """Draw every combination of an explorer's controls, and return what a page needs for them.

    Args:
        thinned: control -> the stops that the grid has, or n for every n-th of them, counted from
            the one that is shown first; a control that is not named keeps all.

    Returns:
        ``controls``; ``first``, what the first setting shows; ``changes`` to it: each has the
        ``path`` of what changes, the numbers ``by`` of the controls that it follows, and for every
        combination of their stops the place in ``pool`` of what stands there. Texts lie in the pool
        as the place of their ``words`` and their numbers.

    Raises:
        ValueError: a stop that a control lacks, or that it shows first is thinned out.
    """
    controls, values = [], []
    for name, control in explorer.controls.items():
        known = stops(control)
        now = next(label for label, value in known.items() if value == control.value)
        taken = some(thinned.get(name, 1), [*known], now) if thinned else [*known]
        if missing := {*taken, now} - {*known} | {now} - {*taken}:
            raise ValueError(f"{name} has the stops {[*known]} and shows {now}; not {missing}")
        controls.append(
            {"name": control.description or name, "kind": kind(control), "stops": taken}
            | {"at": taken.index(now), "thinned": len(taken) < len(known)}
        )
        values.append([known[label] for label in taken])
    points = [
        shown(explorer, dict(zip(explorer.controls, point, strict=True)))
        for point in product(*values)
    ]
    found = _Changes([len(those) for those in values])
    found.between([], points)
    return {
        "controls": controls,
        "first": points[0],
        "changes": found.changes,
        "pool": [json.loads(entry) for entry in found.pool],
        "words": [*found.words],
    }


class _Changes:
    """What differs between the points of a grid, and which controls it follows."""

    def __init__(self, counts: Sequence[int]):
        self.counts, self.changes = tuple(counts), []
        self.pool: dict[str, int] = {}
        self.words: dict[str, int] = {}

    def between(self, path: list, nodes: list) -> None:
        """Compare what stands at one place in all the points."""
        first = nodes[0]
        if all(node == first for node in nodes):
            return
        if isinstance(first, dict) and all(
            isinstance(node, dict) and [*node] == [*first] for node in nodes
        ):
            for key in first:
                self.between([*path, key], [node[key] for node in nodes])
        elif isinstance(first, list) and all(
            isinstance(node, list)
            and len(node) == len(first)
            and node
            and isinstance(node[0], dict)
            for node in nodes
        ):
            for place in range(len(first)):
                self.between([*path, place], [node[place] for node in nodes])
        else:
            self.add(path, nodes)

    def add(self, path: list, nodes: list) -> None:
        """Note what stands at one place, by the controls that it follows."""
        text = all(isinstance(node, str) for node in nodes)
        entries = [self.text(node) if text else json.dumps(node) for node in nodes]
        ids = np.array([self.pool.setdefault(e, len(self.pool)) for e in entries])
        ids, by = ids.reshape(self.counts), []
        for axis in range(len(self.counts)):
            if (ids == ids.take([0], axis)).all():
                ids = ids.take([0], axis)
            else:
                by.append(axis)
        self.changes.append({"path": path, "by": by, "text": text, "at": ids.ravel().tolist()})

    def text(self, text: str) -> str:
        """Return a text as the place of its words, and its numbers."""
        words, numbers = NUMBER.sub(HOLE, text), NUMBER.findall(text)
        return json.dumps([self.words.setdefault(words, len(self.words)), " ".join(numbers)])


def replay(grid: dict, at: Sequence[int]) -> dict:
    """Return what the site shows: ``figure`` and ``caption``.

    Args:
        grid: from ``record``.
        at: for each control, which of its stops.
    """
    point = json.loads(json.dumps(grid["first"]))
    for change in grid["changes"]:
        place = 0
        for axis in change["by"]:
            place = place * len(grid["controls"][axis]["stops"]) + at[axis]
        value = grid["pool"][change["at"][place]]
        if change["text"]:
            numbers = iter(value[1].split(" "))
            value = re.sub(HOLE, lambda _, rest=numbers: next(rest), grid["words"][value[0]])
        node = point
        for key in change["path"][:-1]:
            node = node[key]
        node[change["path"][-1]] = value
    return point
