"""Bytes under a plan, as ``tq.report`` counts them, fast enough to follow a slider.

A layer's part of the report and of the file depends on its shape and its edits alone. So each kind
is sketched once, and the model's sizes are put together from these parts.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from ...storage import Report, file_size, weigh
from ...storage.pack import pack_tensors
from ...storage.report import rows_of
from ...storage.tied import ties
from ...storage.weighing import plain_file
from ...surgery import match, skeleton_of, sketch
from ...surgery.asked import outlined
from ...surgery.plan import Plan, Preview, left_out, row_of


@dataclass(frozen=True)
class Part:
    """What one layer adds: rows of the report, and tensors of the file by name within the layer."""

    layer: nn.Module
    rows: list[dict]
    state: dict[str, Tensor]


class Sizes:
    """Bytes of a model under any plan.

    Args:
        model: any torch model; its structure is copied, none of its numbers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.skeleton = skeleton_of(model)
        self.hf = hasattr(model, "save_pretrained")
        self.tied = {name for places in ties(self.skeleton) for name, _ in places}
        self.rows = rows_of(self.skeleton)
        self.parts: dict[tuple, Part] = {}
        self.dense = weigh(skeleton_of(self.skeleton), self._file_of)
        if self.hf:
            from ...hf.sealing import untied_state

            self.state = untied_state(self.skeleton)
        else:
            self.state = plain_file(self.skeleton)[0]

    def _file_of(self, model: nn.Module) -> tuple:
        if not self.hf:
            return plain_file(model)
        from ...hf.sealing import file_of

        return file_of(model)

    def match(self, plan: Plan) -> dict[str, Sequence]:
        """Return the edits of every layer, as ``compress`` will find them."""
        return match(self.skeleton, plan)

    def report(self, chosen: Mapping[str, Sequence]) -> Report:
        """Return what ``tq.report(student)`` will say.

        Args:
            chosen: layer -> edits, those that were given as an error resolved to ranks.
        """
        if not chosen:
            return replace(self.dense, reference=self.dense)
        if self.tied & set(chosen):  # one of them serves several places
            whole = weigh(sketch(self.skeleton, dict(chosen)), self._file_of)
            return replace(whole, reference=self.dense)
        parts = {name: self.part(name, edits) for name, edits in chosen.items()}
        rows: list[dict] = []
        for row in self.rows:
            part = parts.get(row["name"])
            rows += [row] if part is None else self._named(row["name"], part)
        state = self.state.copy()
        for name, part in parts.items():
            for key in self.skeleton.get_submodule(name).state_dict():
                state.pop(f"{name}.{key}", None)
            state |= {f"{name}.{key}": tensor for key, tensor in part.state.items()}
        return Report(
            parameters=sum(row["parameters"] for row in rows),
            nominal=sum(row["nominal"] for row in rows),
            with_metadata=sum(row["bytes"] for row in rows),
            file=file_size(*self._converted(state)),
            rows=rows,
            reference=self.dense,
        )

    def _converted(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        if not self.hf:
            return state, plain_file(self.skeleton)[1]
        from ...hf.sealing import as_saved

        return as_saved(self.skeleton, state, sealed=True)

    @staticmethod
    def _named(name: str, part: Part) -> list[dict]:
        return [row | {"name": f"{name}.{row['name']}".rstrip(".")} for row in part.rows]

    def part(self, name: str, edits: Sequence) -> Part:
        """Return what a layer adds under some edits; layers of one shape share it."""
        layer = self.skeleton.get_submodule(name)
        own = [*layer.named_parameters(), *layer.named_buffers()]
        kinds = tuple((key, tuple(t.shape), t.dtype, t.requires_grad) for key, t in own)
        key = (type(layer), repr(layer), kinds, tuple(map(repr, edits)))
        if key not in self.parts:
            made = outlined(layer, edits, name).to("meta")
            packed = pack_tensors(copy.deepcopy(made))
            self.parts[key] = Part(made, rows_of(made), packed.state_dict())
        return self.parts[key]

    def preview(self, plan: Plan, chosen: Mapping[str, Sequence]) -> Preview:
        """Return what ``tq.preview(model, plan)`` says, and what the plan leaves alone."""
        made = {name: self.part(name, edits).layer for name, edits in chosen.items()}
        told = self.match(plan)
        row = partial(row_of, self.skeleton)
        rows = [row(name, made[name], edits) for name, edits in told.items()]
        return Preview(rows, left_out(self.skeleton, plan, made))
