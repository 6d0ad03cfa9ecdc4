"""The workbench without its widgets: a model, rows of dials, and what they cost and lose."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock

from torch import nn

from ... import calibrate, compress
from ...arguments import require, require_model, require_numbers
from ...factors.sizing import Structure
from ...kinds import linear_of
from ...stages import weight_names
from ...surgery.plan import Plan
from .errors import Errors
from .layers import Answer, Layer, in_turn
from .positions import near
from .rows import Row, code, plan_of, quantizes_inputs
from .sizes import Sizes
from .threads import Room, both

START = (Row("*", quantizer="LSQ", bits=8),)


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
        self.bytes = {layer.name: layer.bytes for layer in self.layers}
        self.lock, self.room = Lock(), Room(max(self.bytes.values(), default=0))
        self.others: deque = deque()  # layers of more plans, to find behind the present one's
        self.nearby: tuple = None, deque()  # rows, and layers of the plans a move away from them
        self.whole = deque(self.layers)  # to decompose when nothing else is left
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
        self.missing = deque(asked.items())

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
        asked = in_turn(self.sizes.match(plan))
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
        """Find what is missing of one layer; return False when nothing is. No two threads take the
        same layer.

        Args:
            idle: when all plans are known, look ahead: find the errors of the plans that are a
                move away, then decompose what a later plan may ask for.
        """
        found = self._next(self.missing) or self._next(self.others)
        return found or (idle and (self._next(self._ahead()) or self._decompose()))

    def work(self, wanted: Callable[[], bool] = lambda: True, idle: bool = False) -> None:
        """Take steps in two threads until nothing is missing or no more is wanted."""
        both(lambda: self.step(idle=idle), wanted)

    def _taken(self, layers: deque) -> object:
        with self.lock:
            return layers.popleft() if layers else None

    def _next(self, layers: deque) -> bool:
        """Find the errors of the first layer that misses them."""
        while (layer := self._taken(layers)) is not None:
            if self._find(*layer):
                return True
        return False

    def _find(self, name: str, edits: Sequence) -> bool:
        """Find the errors of a layer; return False where they are known."""
        if (name, str(edits)) in self.refused or self.errors.ready(name, edits):
            return False
        try:
            with self.room.hold(self.bytes[name]):
                self.errors.find(name, edits)
        except (ValueError, TypeError) as error:
            self.refused[name, str(edits)] = str(error)
        return True

    def _ahead(self) -> deque:
        """Return the layers of the plans that are a move of a dial away."""
        with self.lock:
            rows = self._rows
            if self.nearby[0] is not rows:
                self.nearby = rows, deque()
                for moved in near(rows):
                    try:
                        if not self._clipped(moved):
                            self.nearby[1].extend(self.checked(moved)[1].items())
                    except (ValueError, TypeError):
                        continue  # the reader is told when the dial gets there
            return self.nearby[1]

    def _clipped(self, rows: Sequence[Row]) -> bool:
        """Say whether a rank is more than a layer can use, of which the library warns."""
        for name, edits in self.sizes.match(plan_of(rows)).items():
            layer, first = self.sizes.skeleton.get_submodule(name), [*edits, None][0]
            ranked = isinstance(first, Structure) and isinstance(first.rank, int)
            if ranked and first.rank > first.limit(linear_of(layer)):
                return True
        return False

    def _decompose(self) -> bool:
        while (layer := self._taken(self.whole)) is not None:
            if not isinstance(linear_of(self.sizes.skeleton.get_submodule(layer.name)), nn.Linear):
                continue
            if (layer.name, "") not in self.refused and not self.errors.decomposed(layer.name):
                try:
                    with self.room.hold(layer.bytes):
                        self.errors.spectrum(layer.name)
                except ValueError as error:
                    self.refused[layer.name, ""] = str(error)
                return True
        return False

    def wait(self) -> Answer:
        """Find all that is missing of the present plan, here and now, and return the answer."""
        self.missing = deque(self.asked.items())  # what another thread is at, too
        self.work()
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
