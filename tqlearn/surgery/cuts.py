"""What goes of a layer under compaction, and the slicing itself: heads, dimensions, constants."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..kinds import keep_hooks, linear_of
from ..precision import widened
from ..registry import resize, resized_linear
from ..sparsity.anatomy import ROWS, TransformerLayer


@dataclass
class Cut:
    """What stays of one layer, and what its removals add to two biases.

    ``heads`` and ``dimensions`` are True where they stay; a part that the layer does not have has
    none. ``changed`` counts removals, such as "heads", that are no equivalence: the outputs change.
    """

    layer: TransformerLayer
    heads: Bool[Tensor, " heads"]
    dimensions: Bool[Tensor, " dimensions"]
    output_bias: Float[Tensor, " width"] | None = None
    down_bias: Float[Tensor, " width"] | None = None
    changed: dict[str, int] = field(default_factory=dict)

    def kept(self) -> dict[str, tuple[Tensor | None, Tensor | None]]:
        """Return name of a matrix -> which rows and which columns stay, None for all."""
        layer, heads, dims = self.layer, self.heads, self.dimensions
        rows: dict[str, Tensor] = {}
        columns: dict[str, Tensor] = {}
        if len(heads):
            shared = heads.view(-1, layer.group)[:, 0]  # what heads of keys and values stay
            parts = dict(zip(ROWS, (heads, shared, shared), strict=True))
            fused = 3 * len(heads) if layer.entry.fused else 0
            for part, alive in parts.items():
                size = (fused or len(alive)) * layer.head_size
                mask = rows.setdefault(getattr(layer, part), torch.ones(size, dtype=torch.bool))
                mask[layer.rows(part, len(alive))[~alive]] = False
            features = heads.repeat_interleave(layer.head_size)
            rows |= {f"{layer.attention}.{name}": features for name in layer.entry.rows}
            columns[layer.output] = features
        if len(dims):
            halves = 2 if layer.gate == layer.up else 1
            rows |= {name: dims.repeat(halves) for name in (layer.gate, layer.up) if name}
            columns[layer.down] = dims
        names = [*rows, *columns]
        return {name: (rows.get(name), columns.get(name)) for name in names}


@torch.no_grad()
def cuts_of(model: nn.Module, layers: list[TransformerLayer], rule: str) -> list[Cut]:
    """Decide what goes of every layer, and what that adds to the two biases behind it."""
    heads = [_heads(model, layer, rule) for layer in layers]
    stacks: dict[str, Tensor] = {}
    for layer, found in zip(layers, heads, strict=True):
        if found is not None and layer.stack:
            stacks[layer.stack] = stacks.get(layer.stack, found[0]) & found[0]
    cuts = []
    for layer, found in zip(layers, heads, strict=True):
        none = torch.ones(0, dtype=torch.bool)
        cut = Cut(layer, none, none)
        if found is not None:
            gone, constant, wrong = found
            gone = _but_one(stacks.get(layer.stack, gone)).repeat_interleave(layer.group)
            cut.heads = ~gone.cpu()
            cut.output_bias = widened(constant)[gone].sum(0)
            if rule == "authors" and (gone & wrong).any():
                cut.changed["heads"] = int((gone & wrong).sum())
        if layer.down:
            gone, added, wrong = _dimensions(model, layer, rule)
            cut.dimensions, cut.down_bias = ~gone.cpu(), widened(added)[gone].sum(0)
            if rule == "authors" and (gone & wrong).any():
                cut.changed["dimensions"] = int((gone & wrong).sum())
        if rule == "authors":  # which folds nothing
            cut.output_bias = cut.down_bias = None
        cuts.append(cut)
    return cuts


def _heads(
    model: nn.Module, layer: TransformerLayer, rule: str
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return which groups of heads go, what each head adds if its value is its bias, and which
    heads' going would be wrong; None without an attention.
    """
    if layer.entry is None:
        return None
    o = linear_of(model.get_submodule(layer.output))
    count = o.in_features // layer.head_size
    blocks, biases = {}, {}
    for part in ROWS:
        module = linear_of(model.get_submodule(getattr(layer, part)))
        many = count if part == "query" else count // layer.group
        rows = layer.rows(part, many)
        blocks[part] = module.weight[rows]  # (heads, size, width)
        biases[part] = torch.zeros_like(module.weight[:, 0]) if module.bias is None else module.bias
        biases[part] = biases[part][rows]
    if layer.entry.value_bias:
        more = model.get_submodule(layer.attention).get_parameter(layer.entry.value_bias)
        biases["value"] = biases["value"] + more.view_as(biases["value"])
    dead = {part: ~block.any(-1).any(-1) for part, block in blocks.items()}
    no_value = dead["value"].repeat_interleave(layer.group)
    by_head = o.weight.unflatten(1, (count, layer.head_size))  # (width, heads, size)
    bias = biases["value"].repeat_interleave(layer.group, 0)
    constant = torch.einsum("whs,hs->hw", by_head, bias)
    exact = no_value | ~by_head.any(-1).any(0)
    groups = exact.view(-1, layer.group).all(1)
    if rule == "authors":
        no_query = dead["query"].view(-1, layer.group).all(1)
        groups = no_query | dead["key"] | dead["value"]
    return groups, constant, ~exact | (no_value & constant.any(1))


def _dimensions(
    model: nn.Module, layer: TransformerLayer, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which dimensions go, what each adds as a constant, and whose going would be wrong."""
    down = linear_of(model.get_submodule(layer.down))
    act, size = model.get_submodule(layer.activation), down.in_features
    weights, biases = {}, {}
    for name, own in zip(("gate", "up"), layer.gates(size), strict=True):
        if getattr(layer, name):
            module = linear_of(model.get_submodule(getattr(layer, name)))
            bias = module.weight[:, 0] * 0 if module.bias is None else module.bias
            weights[name], biases[name] = module.weight[own], bias[own]
    dead = {name: ~weight.any(1) for name, weight in weights.items()}
    silent = ~down.weight.any(0)
    if layer.gate:
        factors = act(biases["gate"]), biases["up"]
        hidden = factors[0] * factors[1]
        zero = [dead["gate"] & (factors[0] == 0), dead["up"] & (factors[1] == 0)]
        exact = silent | zero[0] | zero[1] | (dead["gate"] & dead["up"])
        any_dead = silent | dead["gate"] | dead["up"]
    else:
        hidden = act(biases["up"])
        exact = any_dead = silent | dead["up"]
    added = (down.weight * hidden).T  # (dimensions, width)
    if layer.gate:
        added = added * (dead["gate"] & dead["up"])[:, None]
    gone = _but_one(exact if rule == "exact" else any_dead)
    return gone, added, ~exact | added.any(1)


def _but_one(gone: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Return the mask with its first entry spared if nothing else would stay."""
    spared = gone.clone()
    if bool(gone.all()):
        spared[0] = False
    return spared


@torch.no_grad()
def apply(model: nn.Module, cut: Cut) -> None:
    """Slice the matrices of a layer, and what else counts its heads; fold the constants."""
    layer, added = cut.layer, {cut.layer.output: cut.output_bias, cut.layer.down: cut.down_bias}
    present = dict(model.named_modules())
    for name, (rows, columns) in cut.kept().items():
        if name in present:  # some members of a family lack some projections
            made = _slice(present[name], rows, columns, added.get(name))
            if made is not present[name]:
                model.set_submodule(name, made)
    if not len(cut.heads) or cut.heads.all():
        return
    module = model.get_submodule(layer.attention)
    counts = {"heads": int(cut.heads.sum())}
    counts["features"] = counts["heads"] * layer.head_size
    here = {k: counts[what] for k, what in layer.entry.counts.items() if hasattr(module, k)}
    resize(module, here)
    for name in layer.entry.tensors:
        old = module._parameters.get(name)
        if old is not None:
            per = len(old) // len(cut.heads)
            _resized(module, name, old[cut.heads.repeat_interleave(per)])
    if layer.table:
        table = model.get_submodule(layer.table)
        if table.embedding_dim == len(cut.heads):  # the first layer of a stack does it for all
            resize(table, {"embedding_dim": counts["heads"]})
            _resized(table, "weight", table.weight[:, cut.heads])


def _resized(module: nn.Module, name: str, value: Tensor) -> None:
    value = value.detach().clone()
    resize(module, {name: list(value.shape)})
    getattr(module, name).copy_(value)


def _slice(
    old: nn.Module, rows: Tensor | None, columns: Tensor | None, added: Tensor | None = None
) -> nn.Module:
    """Return a linear layer with these output and input features; itself where nothing goes.

    A layer without a bias gets one where there is something to add.
    """
    layer = linear_of(old)
    if (rows is None or rows.all()) and (columns is None or columns.all()):
        return old
    weight, bias = layer.weight, layer.bias
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    if added is not None and bool(added.any()):
        bias = added if bias is None else bias + added
    made = resized_linear(weight.shape[1], weight.shape[0], bias is not None).to(weight)
    made.weight.copy_(weight)
    made.weight.requires_grad_(layer.weight.requires_grad)
    if bias is not None:
        made.bias.copy_(bias)
        like = layer.weight if layer.bias is None else layer.bias
        made.bias.requires_grad_(like.requires_grad)
    return keep_hooks(old, made.train(layer.training))
