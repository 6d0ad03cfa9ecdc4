"""What a workbench tells of a model: its layers, and what a plan costs and loses."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ...storage import Report
from ...surgery.plan import Plan, Preview

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Layer:
    """A layer of the model: its name, class, shape of the weight, bytes, and its group."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def group(self) -> str:
        """The name with wildcards for numbers: layers of one role, as a plan's pattern.

        >>> Layer("encoder.layer.3.query", "Linear", (4, 4), 64).group
        'encoder.layer.*.query'
        """
        return NUMBER.sub("*", self.name)


@dataclass(frozen=True)
class Answer:
    """What a plan costs and loses, as far as it is known.

    ``sizes`` (a ``Report`` with the dense model as its reference) is None while an error is still
    being turned into ranks; ``weights`` and ``outputs`` have the relative errors that are known, by
    layer; ``refused`` what a layer's numbers rule out; ``asked`` all layers that the plan changes.
    """

    plan: Plan
    asked: dict[str, Sequence]
    sizes: Report | None
    preview: Preview | None
    weights: dict[str, float]
    outputs: dict[str, float]
    refused: dict[str, str]

    @property
    def whole(self) -> bool:
        """Say whether nothing is missing."""
        return len(self.weights) + len(self.refused) == len(self.asked)

    @property
    def mean(self) -> float | None:
        """The mean of the layers' errors of weights; None until all are known."""
        done = self.whole and self.weights and not self.refused
        return fmean(self.weights.values()) if done else None


def in_turn(chosen: Mapping[str, Sequence]) -> dict[str, Sequence]:
    """Return the edits of layers with the first layer of every group first, then the second ones:
    soon there is something to say of each group.
    """
    met: Counter = Counter()
    turn = {}
    for name in chosen:
        group = NUMBER.sub("*", name)
        turn[name] = met[group]
        met[group] += 1
    return {name: chosen[name] for name in sorted(chosen, key=turn.get)}
