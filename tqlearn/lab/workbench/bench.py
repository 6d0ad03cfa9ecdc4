"""The workbench without its widgets: a model, rows of dials, and what they cost and lose."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import nn

from ... import calibrate, compress
from ...arguments import require, require_model, require_numbers
from ...factors import LowRank
from ...kinds import linear_of
from ...stages import weight_names
from ...storage import Report
from ...surgery.plan import Plan, Preview
from .errors import Errors
from .rows import Row, code, plan_of, quantizes_inputs
from .sizes import Sizes

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
START = (Row("*", quantizer="LSQ", bits=8),)


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


def _in_turn(chosen: Mapping[str, Sequence]) -> dict[str, Sequence]:
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


class Bench:
    """A model under rows of dials.

    Args:
        model: any torch model with numbers; it is never changed.
        batches: what it is called with: errors of outputs, and what quantized inputs are calibrated
            with. Read once, kept.
        score: model -> a number or a dict of numbers, for ``measure``.
        cache: folder for decompositions; None keeps them in memory.

    Raises:
        TypeError, ValueError: no model, or one without numbers.

    >>> bench = Bench(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)))
    >>> bench.rows = [Row("0", structure="LowRank", amount=2), Row("*", quantizer="LSQ", bits=4)]
    >>> bench.wait().sizes.nominal, bench.answer().sizes.reference.nominal
    (192, 432)
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable | None = None,
        score: Callable[[nn.Module], object] | None = None,
        *,
        cache: str | Path | None = None,
    ) -> None:
        require_model("workbench", model)
        require_numbers("workbench", model)
        require("workbench: score", score, Callable | None)
        self.model, self.score = model, score
        self.batches = None if batches is None else list(batches)
        self.sizes = Sizes(model)
        self.errors = Errors(model, None if cache is None else Path(cache), self.batches)
        self.refused: dict[tuple[str, str], str] = {}
        self.layers = self._layers()
        self.others: list[dict] = []  # more plans to find the errors of, behind the present one
        self.rows = list(START)

    def _layers(self) -> list[Layer]:
        found = []
        for row in self.sizes.rows:
            module = self.model.get_submodule(row["name"])
            if names := weight_names(module):
                shape = tuple(getattr(module, names[0]).shape)
                found.append(Layer(row["name"], row["kind"], shape, row["bytes"]))
        return found

    @property
    def groups(self) -> dict[str, list[Layer]]:
        """Layers by the role that their names tell, the heaviest group first."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(layer.group, []).append(layer)
        return dict(sorted(found.items(), key=lambda item: -sum(x.bytes for x in item[1])))

    @property
    def rows(self) -> list[Row]:
        """The rows of dials; what is set is checked first, and refused as ``tq.preview`` does."""
        return list(self._rows)

    @rows.setter
    def rows(self, rows: Sequence[Row]) -> None:
        plan, asked = self.checked(rows)
        self._rows, self.plan, self.asked = list(rows), plan, asked

    def checked(self, rows: Sequence[Row]) -> tuple[Plan, dict[str, Sequence]]:
        """Return the plan of some rows and the edits of each layer.

        Raises:
            ValueError, TypeError: what ``tq.preview`` refuses, but for errors that do not pay; or
                quantized inputs without batches.
        """
        plan = plan_of(rows)
        if quantizes_inputs(plan) and self.batches is None:
            raise ValueError(
                "quantized inputs are calibrated with data: workbench(model, batches=[...])"
            )
        asked = _in_turn(self.sizes.match(plan))
        for name, edits in asked.items():
            if not any(getattr(edit, "error", None) for edit in edits):
                self.sizes.part(name, edits)
        return plan, asked

    def answer(self, rows: Sequence[Row] | None = None) -> Answer:
        """Return what is known of the present plan, or of another one, without waiting."""
        if rows is None:
            plan, asked = self.plan, self.asked
        else:
            plan, asked = self.checked(rows)
        errors, told = self.errors, {name: (name, str(e)) for name, e in asked.items()}
        chosen = {n: errors.resolved.get(told[n], e) for n, e in asked.items()}
        vague = any(getattr(edit, "error", None) for edits in chosen.values() for edit in edits)
        known = {n: e for n, e in asked.items() if errors.ready(n, e)}
        return Answer(
            plan,
            asked,
            None if vague else self.sizes.report(chosen),
            None if vague else self.sizes.preview(plan, chosen),
            {n: errors.weights[errors.key(n, e)] for n, e in known.items()},
            {n: errors.outputs[told[n]] for n in known if told[n] in errors.outputs},
            {n: self.refused[told[n]] for n in asked if told[n] in self.refused},
        )

    def step(self, idle: bool = True) -> bool:
        """Find what is missing of one layer; return False when nothing is.

        Args:
            idle: when all plans are known, decompose what a later plan may ask for.
        """
        for asked in (self.asked, *self.others):
            for name, edits in asked.items():
                if (name, str(edits)) not in self.refused and not self.errors.ready(name, edits):
                    self._find(name, edits)
                    return True
        for layer in self.layers if idle else ():
            module = self.model.get_submodule(layer.name)
            if isinstance(linear_of(module), nn.Linear) and not self.errors.decomposed(layer.name):
                self._find(layer.name, [LowRank(rank=1)])
                return True
        return False

    def _find(self, name: str, edits: Sequence) -> None:
        try:
            self.errors.resolve(name, edits)
            self.errors.weight_error(name, edits)
            self.errors.output_error(name, edits)
        except (ValueError, TypeError) as error:
            self.refused[name, str(edits)] = str(error)

    def wait(self) -> Answer:
        """Find all that is missing of the present plan, here and now, and return the answer."""
        while self.step(idle=False):
            pass
        return self.answer()

    def code(self) -> str:
        """Return the present plan as code: it executes to ``plan`` and makes ``student``."""
        return code(self.plan)

    def student(self, rows: Sequence[Row] | None = None) -> nn.Module:
        """Return the compressed model, calibrated, in evaluation mode."""
        plan = self.plan if rows is None else plan_of(rows)
        data = self.batches if quantizes_inputs(plan) else None
        return calibrate(compress(self.model, plan), data).eval()

    def measure(self, rows: Sequence[Row] | None = None) -> object:
        """Return what ``score`` says of the student.

        Raises:
            ValueError: the workbench was given no ``score``.
        """
        if self.score is None:
            raise ValueError("there is no score: workbench(model, score=function of a model)")
        return self.score(self.student(rows))
