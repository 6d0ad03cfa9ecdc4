"""A plan as rows of dials: a pattern, and what the layers under it become; and the plan as code."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields

from ...factors import TT, TTM, Kronecker, LowRank
from ...quantizers.edits import LSQ, PACT, SAWB, Inputs, LearnedClip, LSQPlus, Ternary, Uniform
from ...sparsity import BlockPrune, TwoFour
from ...surgery.plan import Plan

STRUCTURES = {edit.__name__: edit for edit in (LowRank, TT, TTM, Kronecker)}
QUANTIZERS = {e.__name__: e for e in (LSQ, LSQPlus, SAWB, LearnedClip, Uniform, Ternary)}
INPUTS = {edit.__name__: edit for edit in (PACT, LSQ, LSQPlus, Uniform)}
PATTERNS = ("2:4", "1:2", "1:4", "4:8", "2:8")


@dataclass(frozen=True)
class Row:
    """One row of a plan: shell wildcard -> structure, then zeros, then bits.

    Args:
        pattern: of layer names, as in a plan.
        structure: name of a structure edit, or None.
        by, amount: its size: "rank", "ratio" or "error", and how much.
        nm: an N:M pattern such as "2:4", or None.
        block: (rows, columns) of the blocks to prune while training, or None.
        quantizer: name of a quantizer of weights, or None; ``bits`` and ``per`` are its.
        inputs: bits of what enters the layer, or None; ``inputs_by`` names their quantizer.

    >>> Row("*.query", structure="LowRank", amount=8, quantizer="Ternary").edits()
    [LowRank(rank=8), Ternary(limit=2.5, per='tensor')]
    """

    pattern: str
    structure: str | None = None
    by: str = "rank"
    amount: int | float = 8
    nm: str | None = None
    block: tuple[int | None, int | None] | None = None
    quantizer: str | None = None
    bits: int = 4
    per: str | int = "tensor"
    inputs: int | None = None
    inputs_by: str = "PACT"

    def edits(self) -> list:
        """Return the edits of this row, in the order in which they are applied; none: left alone.

        Raises:
            ValueError, TypeError: what an edit refuses.
        """
        found: list = []
        if self.structure is not None:
            found.append(STRUCTURES[self.structure](**{self.by: self.amount}))
        if self.block is not None:
            found.append(BlockPrune(self.block))
        if self.nm is not None:
            found.append(TwoFour(self.nm))
        if self.quantizer is not None:
            bits = {} if self.quantizer == "Ternary" else {"bits": self.bits}
            found.append(QUANTIZERS[self.quantizer](**bits, per=self.per))
        if self.inputs is not None:
            found.append(Inputs(INPUTS[self.inputs_by](bits=self.inputs)))
        return found


def plan_of(rows: Sequence[Row]) -> dict[str, list]:
    """Return the plan that rows stand for.

    Raises:
        ValueError: two rows have one pattern; or what an edit refuses.
    """
    patterns = [row.pattern for row in rows]
    if twice := [pattern for pattern in patterns if patterns.count(pattern) > 1]:
        raise ValueError(f"two rows have the pattern {twice[0]!r}; a plan has one for each")
    return {row.pattern: row.edits() for row in rows}


def words(edit: object) -> str:
    """Return an edit as code, defaults left out.

    >>> words(Inputs(PACT(bits=8))), words(TT(rank=4))
    ('tq.Inputs(tq.PACT(bits=8))', 'tq.TT(rank=4)')
    """
    if isinstance(edit, Inputs):
        return f"tq.Inputs({words(edit.by)})"
    said = []
    for f in fields(edit):
        value = getattr(edit, f.name)
        if f.default is MISSING or value != f.default:
            said.append(f"{f.name}={value!r}")
    return f"tq.{type(edit).__name__}({', '.join(said)})"


def code(plan: Plan, batches: bool = False) -> str:
    """Return the lines that make a plan and the student that it stands for.

    Args:
        batches: hand ``batches`` to ``calibrate``, as quantized inputs need it.

    >>> print(code({"*.query": [LowRank(rank=8)]}))
    import tqlearn as tq
    <BLANKLINE>
    plan = {
        '*.query': [tq.LowRank(rank=8)],
    }
    student = tq.calibrate(tq.compress(model, plan))
    """
    lines = [f"    {p!r}: [{', '.join(map(words, edits))}]," for p, edits in plan.items()]
    data = ", batches" if batches or quantizes_inputs(plan) else ""
    last = f"student = tq.calibrate(tq.compress(model, plan){data})"
    return "\n".join(["import tqlearn as tq", "", "plan = {", *lines, "}", last])


def quantizes_inputs(plan: Mapping[str, Sequence]) -> bool:
    """Say whether a plan needs batches to be calibrated."""
    return any(isinstance(edit, Inputs) for edits in plan.values() for edit in edits)
