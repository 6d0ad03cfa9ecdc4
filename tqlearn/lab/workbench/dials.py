"""The dials of one row: a pattern and what is put under it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import ipywidgets

from .positions import AMOUNTS, BITS
from .rows import PATTERNS, QUANTIZERS, STRUCTURES, Row

FIRST = {"rank": 16, "ratio": 4, "error": 0.3}
PER = ("tensor", "channel", 16, 32, 64, 128)
BLOCKS = {"16 x 16": (16, 16), "32 x 32": (32, 32), "rows": (1, None)}
NONE = "none"


def _choose(
    label: str, options: object, value: object, width: str = "170px"
) -> ipywidgets.Dropdown:
    style, layout = {"description_width": "initial"}, {"width": width}
    return ipywidgets.Dropdown(
        options=options, value=value, description=label, style=style, layout=layout
    )


def _slide(label: str, options: Sequence, value: object) -> ipywidgets.SelectionSlider:
    style, layout = {"description_width": "initial"}, {"width": "200px"}
    return ipywidgets.SelectionSlider(
        options=options, value=value, description=label, style=style, layout=layout,
        continuous_update=False,
    )  # fmt: skip


class Dials(ipywidgets.VBox):
    """Widgets for a row.

    Args:
        row: where they stand first.
        patterns: what the pattern's field offers.
        moved: called when any of them has moved.

    ``row`` is what they say now; ``remove`` is the button that takes the row away.
    """

    def __init__(self, row: Row, patterns: Sequence[str], moved: Callable[[], None]) -> None:
        self.moved, self.quiet, self.first = moved, False, row
        self.pattern = ipywidgets.Combobox(
            value=row.pattern, options=["*", *patterns], description="layers",
            continuous_update=False, layout={"width": "430px"},
            style={"description_width": "initial"},
        )  # fmt: skip
        self.structure = _choose("structure", [NONE, *STRUCTURES], row.structure or NONE)
        self.by = _choose("by", [*AMOUNTS], row.by, "110px")
        self.amount = _slide(row.by, _with(AMOUNTS[row.by], row.amount), row.amount)
        self.nm = _choose("N:M", [NONE, *PATTERNS], row.nm or NONE, "110px")
        self.blocks = BLOCKS | ({} if row.block is None else {_block(row.block): row.block})
        self.block = _choose("blocks", [NONE, *self.blocks], _block(row.block), "130px")
        self.quantizer = _choose("quantizer", [NONE, *QUANTIZERS], row.quantizer or NONE)
        self.bits = _slide("bits", _with(BITS, row.bits), row.bits)
        self.per = _choose("a scale per", _with(PER, row.per), row.per, "190px")
        bits = dict.fromkeys([*BITS, row.inputs or BITS[0]])
        self.inputs = _choose("inputs", [NONE, *map(_bits, sorted(bits))], _bits(row.inputs))
        self.remove = ipywidgets.Button(description="remove", layout={"width": "80px"})
        lines = (
            (self.pattern, self.remove),
            (self.structure, self.by, self.amount, self.nm, self.block),
            (self.quantizer, self.bits, self.per, self.inputs),
        )
        super().__init__([ipywidgets.HBox(line) for line in lines])
        for line in self.children:
            line.layout.flex_flow, line.layout.grid_gap = "row wrap", "0 14px"
        self.layout.border_left, self.layout.padding = "3px solid #9AA0A6", "2px 8px"
        self.layout.margin = "4px 0"
        self.by.observe(self._other_amounts, names="value")
        for control in self.controls.values():
            control.observe(self._moved, names="value")
        self._dim()

    @property
    def controls(self) -> dict[str, ipywidgets.ValueWidget]:
        """The widgets by the fields of a row."""
        names = ("pattern", "structure", "by", "amount", "nm", "block")
        names += ("quantizer", "bits", "per", "inputs")
        return {name: getattr(self, name) for name in names}

    @property
    def row(self) -> Row:
        """What the dials say."""
        said = {name: control.value for name, control in self.controls.items()}
        for name in ("structure", "nm", "quantizer"):
            said[name] = None if said[name] == NONE else said[name]
        said["block"] = self.blocks.get(said["block"])
        said["inputs"] = None if said["inputs"] == NONE else int(said["inputs"].split()[0])
        return replace(self.first, **said)

    def _other_amounts(self, change: dict) -> None:
        self.quiet = True
        try:  # options and value are set one after the other
            by = change["new"]
            self.amount.options = AMOUNTS[by]
            self.amount.value, self.amount.description = FIRST[by], by
        finally:
            self.quiet = False

    def _dim(self) -> None:
        plain, raw = self.structure.value == NONE, self.quantizer.value == NONE
        self.by.disabled = self.amount.disabled = plain
        self.bits.disabled, self.per.disabled = raw or self.quantizer.value == "Ternary", raw

    def _moved(self, _change: object) -> None:
        if not self.quiet:
            self._dim()
            self.moved()


def _bits(count: int | None) -> str:
    return NONE if count is None else f"{count} bits"


def _block(block: tuple[int | None, int | None] | None) -> str:
    """Return a block in words: one of ours by its name."""
    names = {value: name for name, value in BLOCKS.items()}
    return NONE if block is None else names.get(block, str(block))


def _with(options: Sequence, value: object) -> list:
    """Return the options and a value among them."""
    same = [option for option in options if option == value and type(option) is type(value)]
    if same:
        return [*options]
    number = isinstance(value, int | float)
    return sorted([*options, value]) if number and _numbers(options) else [*options, value]


def _numbers(options: Sequence) -> bool:
    return all(isinstance(option, int | float) for option in options)
