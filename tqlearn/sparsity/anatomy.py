"""Where the matrices of a Transformer are: the layers of a model, by the table of anatomies."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..kinds import linear_of
from .entries import FFN, Anatomy, Attention
from .families import ANATOMIES
from .matching import attention_names, ffn_names, model_type, parts_at

ATTENTION = ("query", "key", "value", "output")
ROWS = ATTENTION[:3]


@dataclass(frozen=True)
class TransformerLayer:
    """An attention with or without the FFN behind it, or a FFN alone: full names, "" for none.

    ``query``, ``key``, ``value`` are (heads * head_size, width), the latter two with ``group``
    times fewer heads where heads share them, and ``output`` is (width, heads * head_size). ``up``
    and ``gate`` are (dimensions, width) and ``down`` is (width, dimensions). One layer may stand
    under several names. ``entry`` describes the attention. Layers with the same ``stack`` keep the
    same heads, and ``table`` is an embedding with a column for each. ``stays`` says why a part
    stays.
    """

    name: str
    family: str
    query: str = ""
    key: str = ""
    value: str = ""
    output: str = ""
    gate: str = ""
    up: str = ""
    down: str = ""
    activation: str = ""
    head_size: int = 0
    group: int = 1
    entry: Attention | None = None
    stack: str = ""
    table: str = ""
    stays: str = ""

    @property
    def attention(self) -> str:
        """The attention module, where there is one."""
        return self.query.rpartition(".")[0]

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the matrices, each once: query, key, value, output, gate, up, down."""
        names = *(getattr(self, part) for part in ATTENTION), self.gate, self.up, self.down
        return tuple(dict.fromkeys(name for name in names if name))

    def rows(self, part: str, heads: int) -> Int[Tensor, "heads size"]:
        """Return the rows of a projection that belong to each head, or the columns of "output"."""
        fused, size = self.entry.fused, self.head_size
        if part == "output" or not fused:
            return torch.arange(heads * size).view(heads, size)
        which, every = ROWS.index(part), torch.arange(3 * heads * size)
        if fused == "3 h d":
            return every.view(3, heads, size)[which]
        return every.view(heads, 3, size)[:, which]

    def gates(self, dimensions: int) -> tuple[Bool[Tensor, "rows"], Bool[Tensor, "rows"]]:
        """Return which rows of ``gate`` are its own, and which rows of ``up``."""
        whole = torch.ones(dimensions, dtype=torch.bool)
        if self.gate != self.up:
            return whole, whole
        both = torch.cat([whole, ~whole])
        return both, ~both


def transformer_layers(model: nn.Module) -> list[TransformerLayer]:
    """Return the layers of encoders and decoders, in order; a second attention is a layer itself.

    Raises:
        ValueError: there are none that we know, or they have what their anatomy does not tell.
    """
    modules = dict(model.named_modules())
    found = [layer for name in modules for layer in _layers_at(name, modules)]
    if found:
        return found
    kinds = {kind for name in modules if (kind := model_type(name, modules))}
    alike = sorted(
        {known for name in modules for known, a in ANATOMIES.items() if parts_at(a, name, modules)}
    )
    told = f" of type {', '.join(sorted(kinds))}" if kinds else ""
    if alike:
        raise ValueError(
            f"{type(model).__name__}{told} has layers with the names of {' and '.join(alike)}, but "
            "nobody has tried whether they compute alike; add an entry to "
            "tqlearn.sparsity.ANATOMIES with its type in families, and compare the outputs"
        )
    raise ValueError(
        f"{type(model).__name__}{told} has no layer that the table of anatomies describes "
        f"({', '.join(ANATOMIES)}); compaction and block plans need an entry for it in "
        "tqlearn.sparsity.ANATOMIES"
    )


def _layers_at(name: str, modules: dict[str, nn.Module]) -> list[TransformerLayer]:
    """Return what the last fitting entry makes of a module: nothing, or its attentions and FFN."""
    kind = model_type(name, modules)
    for family in reversed(ANATOMIES):
        anatomy = ANATOMIES[family]
        partly = isinstance(anatomy.attention, str) or isinstance(anatomy.ffn, str)
        if kind not in anatomy.families and (kind or (partly and anatomy.families)):
            continue  # without a config, a reason why a part stays may not hold
        if parts := parts_at(anatomy, name, modules):
            return _described(name, family, anatomy, parts, modules)
    return []


def _described(
    name: str,
    family: str,
    anatomy: Anatomy,
    parts: list[Attention | FFN],
    modules: dict[str, nn.Module],
) -> list[TransformerLayer]:
    attentions = [part for part in parts if isinstance(part, Attention)]
    told = {"heads stay": anatomy.attention, "FFN stays": anatomy.ffn}
    stays = "; ".join(f"{what}: {why}" for what, why in told.items() if isinstance(why, str))
    first = {"stays": stays} | ffn_names(parts, name, modules)
    layers = []
    for attention in attentions or [None]:
        here, found = name, {}
        if attention is not None:
            found = attention_names(attention, name, modules)
        if layers:
            here = found["query"].rpartition(".")[0]
        layers.append(TransformerLayer(here, family, **found, **first))
        first = {}
    return layers


def layer_sizes(model: nn.Module) -> dict[str, list[int]]:
    """Return {"heads": [...], "dimensions": [...]} as the layers stand.

    One number for every attention and one for every FFN, in order; queries count as heads.
    """
    layers = transformer_layers(model)
    sizes = [
        (x, *(model.get_submodule(n) if n else None for n in (x.output, x.down))) for x in layers
    ]
    return {
        "heads": [linear_of(o).in_features // x.head_size for x, o, _ in sizes if o is not None],
        "dimensions": [linear_of(down).in_features for _, _, down in sizes if down is not None],
    }


def encoder_weights(
    heads: Sequence[int], dimensions: Sequence[int], width: int, head_size: int = 64
) -> int:
    """Count the weights of an encoder's matrices, biases left out.

    Source: spec sheet Block Pruning, section 10; the example is its headline model, whose density
    is 22,248,960 / 84,934,656.

    >>> heads = [4, 4, 6, 7, 7, 5, 6, 7, 5, 5, 5, 3]
    >>> dimensions = [552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238]
    >>> encoder_weights(heads, dimensions, 768), encoder_weights([12] * 12, [3072] * 12, 768)
    (22248960, 84934656)
    """
    return width * (4 * head_size * sum(heads) + 2 * sum(dimensions))
