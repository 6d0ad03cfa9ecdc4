"""What an entry in the table of anatomies says: names of an attention, of a FFN, of a layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FUSED = ("", "3 h d", "h 3 d")


@dataclass(frozen=True)
class Attention:
    """Names of an attention, within a layer.

    Args:
        module: the attention module.
        projections: query, key and value inside it, in one string; one name if one layer makes all
            three.
        output: the output projection, within the layer.
        size: attribute of the module with the width of a head.
        fused: order of the rows where one layer makes all three: "3 h d" is all queries, all keys,
            all values; "h 3 d" goes head by head.
        counts: attributes of the module that must follow: name -> "heads" or "features".
        rows: more linear layers inside it whose rows are those of the query.
        tensors: more parameters inside it with one number per head or per row of the query.
        value_bias: the one among them that is added to the value.
        norms: norms inside it, each over one head.
        beside: what else is inside it and does not depend on heads.
        table: an embedding with a column per head: inside it, or one for the whole stack.
        stack: True where all layers share numbers per head: the same heads go in all of them.

    Keys and values may have fewer heads than the query; then whole groups go.
    """

    module: str
    projections: str
    output: str
    size: str = "head_dim"
    fused: str = ""
    counts: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    tensors: Sequence[str] = ()
    value_bias: str = ""
    norms: Sequence[str] = ()
    beside: Sequence[str] = ()
    table: str = ""
    stack: bool = False

    def __post_init__(self) -> None:
        names = self.projections.split()
        if len(names) not in (1, 3) or (len(names) == 1) != bool(self.fused):
            raise ValueError(
                "an attention has three projections, 'query key value', or one and its order of "
                f"rows in fused, got {self.projections!r} and {self.fused!r}"
            )
        if self.fused not in FUSED:
            raise ValueError(f"fused is one of {FUSED}, got {self.fused!r}")
        if wrong := set(self.counts.values()) - {"heads", "features"}:
            raise ValueError(f"counts are of 'heads' or 'features', got {sorted(wrong)}")


@dataclass(frozen=True)
class FFN:
    """Names of a FFN, within a layer: down(activation(up(x))), or with a gate
    down(activation(gate(x)) * up(x)).

    ``gate`` is empty without a gate, and the same name as ``up`` where one layer makes both: its
    first half goes through the activation.
    """

    up: str
    down: str
    activation: str
    gate: str = ""


@dataclass(frozen=True)
class Anatomy:
    """What a layer of one family consists of.

    Args:
        attention: its names; or, in words, why its heads stay.
        ffn: names of its FFN, several where a family has several forms; or why it stays.
        cross: a second attention, that some layers have.
        families: ``model_type`` of the configs that it was tried on. A model with another one is
            refused; a model without a config is taken by its names alone, if all parts have them.
    """

    attention: Attention | str
    ffn: Sequence[FFN] | str
    cross: Attention | None = None
    families: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.attention, str) and isinstance(self.ffn, str):
            raise ValueError("an anatomy names an attention, a FFN or both, got none")
