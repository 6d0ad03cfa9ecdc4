"""Where the dials of a plan can stand, and which places are nearest to where they stand now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .rows import PATTERNS, Row

AMOUNTS = {
    "rank": (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
    "ratio": (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64),
    "error": (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}
BITS = (2, 3, 4, 5, 6, 7, 8)
NEAR = 2  # steps to either side


@dataclass(frozen=True)
class Dial:
    """A field of one row, and the values that it is swept over."""

    index: int
    field: str
    values: tuple
    label: str

    def rows(self, rows: Sequence[Row], value: object) -> list[Row]:
        """Return the rows with the dial at a value."""
        return [replace(r, **{self.field: value}) if k == self.index else r
                for k, r in enumerate(rows)]  # fmt: skip


def dials(rows: Sequence[Row]) -> list[Dial]:
    """Return every dial of a plan that can be swept."""
    found = []
    for k, row in enumerate(rows):
        for field, values, on in (
            ("amount", AMOUNTS[row.by], row.structure),
            ("bits", BITS, row.quantizer and row.quantizer != "Ternary"),
            ("nm", PATTERNS, row.nm),
            ("inputs", BITS, row.inputs),
        ):
            if on:
                value = getattr(row, field)
                values = tuple(dict.fromkeys((*values, value)))
                values = values if field == "nm" else tuple(sorted(values))
                name = row.by if field == "amount" else {"nm": "N:M"}.get(field, field)
                found.append(Dial(k, field, values, f"{name} of {row.pattern}"))
    return found


def near(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Give the plans that are one move of one dial away, the nearest moves first.

    >>> [[one.bits for one in rows] for rows in near([Row("*", quantizer="LSQ", bits=7)])]
    [[8], [6], [5]]
    """
    found = dials(rows)
    for far in range(1, NEAR + 1):
        for dial in found:
            here = dial.values.index(getattr(rows[dial.index], dial.field))
            for place in (here + far, here - far):
                if 0 <= place < len(dial.values):
                    yield dial.rows(rows, dial.values[place])
