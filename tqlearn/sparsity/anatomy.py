"""Where the matrices of a Transformer are: the layers of a model, by the table of anatomies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..kinds import linear_of
from .entries import FFN, Anatomy, Attention
from .families import ANATOMIES

ATTENTION = ("query", "key", "value", "output")
ROWS = ATTENTION[:3]


@dataclass(frozen=True)
class TransformerLayer:
    """An attention with or without the FFN behind it, or a FFN alone: full names, "" for none.

    ``query``, ``key``, ``value`` are (heads * head_size, width), the latter two with ``group`` times
    fewer heads where heads share them, and ``output`` is (width, heads * head_size). ``up`` and
    ``gate`` are (dimensions, width) and ``down`` is (width, dimensions). One layer may stand under
    several names. ``entry`` describes the attention. Layers with the same ``stack`` keep the same
    heads, and ``table`` is an embedding with a column for each. ``stays`` says why a part stays.
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
    kinds = {kind for name in modules if (kind := _model_type(name, modules))}
    alike = sorted(
        {known for name in modules for known, a in ANATOMIES.items() if _parts(a, name, modules)}
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
    kind = _model_type(name, modules)
    for family in reversed(ANATOMIES):
        anatomy = ANATOMIES[family]
        if kind and kind not in anatomy.families:
            continue
        parts = _parts(anatomy, name, modules)
        if parts:
            return [*_described(name, family, anatomy, parts, modules)]
    return []


def _model_type(name: str, modules: dict[str, nn.Module]) -> str | None:
    """Return the type in the nearest config around a module."""
    while True:
        config = getattr(modules.get(name), "config", None)
        if kind := getattr(config, "model_type", None):
            return kind
        if not name:
            return None
        name = name.rpartition(".")[0]


def _parts(anatomy: Anatomy, name: str, modules: dict[str, nn.Module]) -> list[Attention | FFN]:
    """Return the parts of an anatomy that a module has: all that it must have, or none."""
    front = f"{name}." if name else ""
    found: list[Attention | FFN] = []
    for attention in (anatomy.attention, anatomy.cross):
        if isinstance(attention, Attention) and _has(attention, front, modules):
            found.append(attention)
    if isinstance(anatomy.attention, Attention) and anatomy.attention not in found:
        return []
    if isinstance(anatomy.ffn, str):
        return found
    for ffn in anatomy.ffn:
        names = {ffn.up, ffn.down, ffn.activation, ffn.gate or ffn.up}
        if all(front + n in modules for n in names):
            return [*found, ffn]
    return []


def _has(attention: Attention, front: str, modules: dict[str, nn.Module]) -> bool:
    owner = front + attention.module
    names = [f"{owner}.{p}" for p in attention.projections.split()] + [front + attention.output]
    return all(n in modules for n in names) and hasattr(modules[owner], attention.size)


def _described(
    name: str,
    family: str,
    anatomy: Anatomy,
    parts: Sequence[Attention | FFN],
    modules: dict[str, nn.Module],
) -> Iterator[TransformerLayer]:
    front = f"{name}." if name else ""
    attentions = [part for part in parts if isinstance(part, Attention)]
    ffns = [part for part in parts if isinstance(part, FFN)]
    stays = [f"heads stay: {anatomy.attention}"] if isinstance(anatomy.attention, str) else []
    stays += [f"FFN stays: {anatomy.ffn}"] if isinstance(anatomy.ffn, str) else []
    first = {}
    if ffns:
        whole = {k: getattr(ffns[0], k) for k in ("gate", "up", "down", "activation")}
        first = {k: front + v for k, v in whole.items() if v}
    for attention in attentions or [None]:
        here = name if attention in (None, anatomy.attention) else front + attention.module
        found = {} if attention is None else _names(attention, name, modules)
        yield TransformerLayer(here, family, **found, **first, stays="; ".join(stays))
        first, stays = {}, []


def _names(attention: Attention, name: str, modules: dict[str, nn.Module]) -> dict:
    """Return what a layer says of its attention, after a look at what else is inside."""
    front = f"{name}." if name else ""
    owner = front + attention.module
    projections = [f"{owner}.{p}" for p in attention.projections.split()]
    query, key, value = projections if len(projections) == 3 else projections * 3
    output, size = front + attention.output, int(getattr(modules[owner], attention.size))
    stack = name.rpartition(".")[0]
    scope = stack.rpartition(".")[0] if attention.stack else owner
    ends = f".{attention.table}"
    tables = [n for n in modules if attention.table and n.endswith(ends) and _inside(n, scope)]
    told = [*projections, output, *tables]
    told += [f"{owner}.{n}" for n in (*attention.rows, *attention.tensors, *attention.beside)]
    for inside, parameter in modules[owner].named_parameters():
        full = f"{owner}.{inside}"
        if any(_inside(full, n) for n in told) or (*parameter.shape,) == (size,):
            continue
        raise ValueError(
            f"{full} of shape {(*parameter.shape,)} is not in the anatomy of this family, and heads "
            "may depend on it; name it in rows, tensors or beside of an entry in "
            "tqlearn.sparsity.ANATOMIES"
        )
    shapes = [linear_of(modules[n]) for n in (query, key)]
    group = 1
    if not attention.fused and all(hasattr(m, "out_features") for m in shapes):
        group = max(1, shapes[0].out_features // shapes[1].out_features)
    return {
        "query": query, "key": key, "value": value, "output": output, "head_size": size,
        "group": group, "entry": attention, "table": tables[0] if tables else "",
        "stack": f"{stack}:{attention.module}" if attention.stack else "",
    }  # fmt: skip


def _inside(name: str, module: str) -> bool:
    return not module or f"{name}.".startswith(f"{module}.")


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
