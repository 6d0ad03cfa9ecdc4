"""N:M patterns as integers: what a group keeps, how its places are written down, and the bytes.

A group is ``group`` neighbors along the input dimension, of which ``keep`` stay. With ``run`` 2
they stay or go in adjacent pairs, as NVIDIA's sparse 4-bit format wants it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from ..arguments import require
from ..shapes import packed_bytes


@dataclass(frozen=True)
class Pattern:
    """How many neighbors of a group stay; ``Pattern.of`` reads it from a word such as "2:4".

    Args:
        keep: how many of a group stay.
        group: how many neighbors make a group.
        run: how many neighbors stay or go together.

    A place is written in as many bits as the group has runs: 2 bits for 2:4, 1 for 1:2, 3 for 4:8,
    and 2 for each pair of "4:8 pairs".

    Source: spec sheet Deep Compression, sections 6.1 and 7, and 10.4 (pairs).

    >>> Pattern.of("2:4"), Pattern.of("4:8 pairs")
    (Pattern(keep=2, group=4, run=1), Pattern(keep=4, group=8, run=2))
    """

    keep: int
    group: int
    run: int = 1

    def __post_init__(self) -> None:
        k, g, r = self.keep, self.group, self.run
        if not (0 < k < g <= 256 and r > 0 and k % r == g % r == 0):
            raise ValueError(
                f"a group of at most 256 keeps some numbers and drops some, in whole runs; got "
                f"{k} of {g} in runs of {r}"
            )

    @classmethod
    def of(cls, word: str) -> "Pattern":
        """Read "N:M" (N of M neighbors stay) or "N:M pairs".

        Raises:
            ValueError: the word is not of that form, or keeps nothing, everything or half a pair.
        """
        require("a pattern", word, str)
        numbers, _, tail = word.partition(" ")
        keep, colon, group = numbers.partition(":")
        if not (colon and keep.isdecimal() and group.isdecimal() and tail in ("", "pairs")):
            raise ValueError(f"a pattern reads 'N:M' or 'N:M pairs', such as '2:4', got {word!r}")
        return cls(int(keep), int(group), 2 if tail else 1)

    @property
    def density(self) -> float:
        """The share of the numbers that stays."""
        return self.keep / self.group

    @property
    def place_bits(self) -> int:
        """Bits that say which run of its group a kept run is."""
        return (self.group // self.run - 1).bit_length()

    def groups(self, shape: Sequence[int], axis: int = -1) -> int:
        """Count the groups along an axis; a last group that is not full counts as one.

        >>> Pattern.of("2:4").groups((768, 3072)), Pattern.of("2:4").groups((8, 6))
        (589824, 16)
        """
        width = shape[axis]
        return prod(shape) // width * ceil(width / self.group)

    def value_bytes(self, groups: int, bits: int) -> int:
        """Count the bytes of the kept numbers.

        >>> Pattern.of("2:4").value_bytes(589824, bits=4)
        589824
        """
        return packed_bytes(groups * self.keep, bits)

    def place_bytes(self, groups: int) -> int:
        """Count the bytes that say where the kept numbers stand.

        >>> Pattern.of("2:4").place_bytes(589824)
        294912
        """
        return packed_bytes(groups * self.keep // self.run, self.place_bits)


def sparse_model_bytes(
    parameters: int,
    backbone: int,
    *,
    pattern: str = "2:4",
    bits: int = 4,
    table: int = 0,
    table_bits: int = 32,
) -> tuple[int, int]:
    """Count the bytes of a model whose backbone is sparse and quantized and whose rest is in FP32.

    Args:
        parameters: all of the model's.
        backbone: the weights under the pattern.
        pattern, bits: how these are stored; whole groups.
        table: numbers of a word table that is quantized too, to ``table_bits`` bits.

    Returns:
        (nominal, with_metadata): without and with the places of the kept weights. Scales, four
        bytes for each tensor, are in neither: they depend on the quantizer.

    Raises:
        ValueError: the backbone is not in whole groups, or the parts exceed the whole.

    Source: spec sheet Deep Compression, section 7.

    >>> sparse_model_bytes(109_482_240, 84_934_656)  # BERT-base: 437,928,960 in FP32
    (119424000, 130040832)
    """
    found = Pattern.of(pattern)
    if backbone % found.group or backbone + table > parameters:
        raise ValueError(
            f"a backbone of {backbone:,} weights in whole groups of {found.group} and a table of "
            f"{table:,} must fit into {parameters:,} parameters"
        )
    groups = backbone // found.group
    rest = packed_bytes(parameters - backbone - table, 32) + packed_bytes(table, table_bits)
    nominal = rest + found.value_bytes(groups, bits)
    return nominal, nominal + found.place_bytes(groups)
