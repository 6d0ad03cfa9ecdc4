"""Physical removal: heads and FFN dimensions that masks emptied go; a smaller dense model stays.

    student = tq.compact(pruned)          # the same outputs, fewer numbers, real speed

``survey`` says beforehand what would go. Masks become plain zeros first; quantize afterwards.
"""

import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..precision import widened
from ..registry import resized_linear
from ..sparsity.anatomy import EncoderLayer, encoder_layers
from ..stages import is_quantizer
from ..storage.layout import attach_layout
from ..storage.pack import bake_tensors

RULES = ("exact", "authors")


@dataclass
class Cut:
    """What stays of one layer, and what its removals add to two biases.

    ``heads`` and ``dimensions`` are True where they stay. ``changed`` counts removals, such as
    "heads", that are no equivalence: the outputs change.
    """

    layer: EncoderLayer
    heads: Bool[Tensor, " heads"]
    dimensions: Bool[Tensor, " dimensions"]
    output_bias: Float[Tensor, " width"]
    down_bias: Float[Tensor, " width"]
    changed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """What compaction takes away: one row per layer, and weights before and after.

    Each row has layer, heads and dimensions kept, of how many, and ``changed``. ``weights`` and
    ``weights_before`` count the encoder's matrices alone; ``density`` is their ratio.
    """

    rule: str
    rows: list[dict]
    weights: int
    weights_before: int

    @property
    def density(self) -> float:
        """The share of the encoder's weights that stays."""
        return self.weights / self.weights_before

    @property
    def changed(self) -> dict[str, dict[str, int]]:
        """Removals that are no equivalence, by layer; empty means equal outputs."""
        return {row["layer"]: row["changed"] for row in self.rows if row["changed"]}

    def __str__(self) -> str:
        width = max(len(row["layer"]) for row in self.rows)
        lines = [f"{'layer':<{width}}  {'heads':>9}  {'dimensions':>13}"]
        for row in self.rows:
            heads = f"{row['heads']} of {row['heads_before']}"
            dims = f"{row['dimensions']} of {row['dimensions_before']}"
            words = ", ".join(f"{n} {what}" for what, n in row["changed"].items())
            line = f"{row['layer']:<{width}}  {heads:>9}  {dims:>13}"
            lines.append(line + (f"  changes the outputs: {words}" if words else ""))
        of = f"{self.weights:,} of {self.weights_before:,}"
        return "\n".join([*lines, f"weights {of}, density {self.density:.4f}"])


def survey(model: nn.Module, rule: str = "exact") -> Survey:
    """Return what ``compact`` would remove, without changing the model.

    Raises:
        ValueError: whatever ``compact`` would refuse.
    """
    plain = _plain(model, rule)
    return _survey([_cut(plain, layer, rule) for layer in encoder_layers(plain)], plain, rule)


def compact(model: nn.Module, rule: str = "exact") -> nn.Module:
    """Return a smaller dense model, without the heads and FFN dimensions that are switched off.

    Args:
        model: BERT, RoBERTa, DistilBERT or ViT, with masks or with plain zeros.
        rule: "exact" removes what leaves the outputs equal: a head whose value or whose columns of
            the output projection are all zero, and a dimension whose row of the first FFN matrix
            or column of the second is. Constants that these added (a value's bias, the activation
            of a bias) move into the next bias. "authors" removes a head if query, key or value is
            all zero, and folds nothing; what that changes is printed, and ``survey`` lists it.

    One head and one dimension stay in every layer. The sizes are in the layout, so that
    ``save_pretrained`` and ``from_pretrained`` carry the model; with head counts in the config as
    they were, for layers differ.

    Raises:
        ValueError: an unknown rule, no encoder we know, quantizers (compact first, quantize then),
            or a constant to fold and no bias that could take it.

    Source: spec sheet Block Pruning, section 7. A query that is all zero makes a head average its
    values: that is no equivalence.
    """
    plain = _plain(model, rule)
    cuts = [_cut(plain, layer, rule) for layer in encoder_layers(plain)]
    found = _survey(cuts, plain, rule)
    if found.changed:
        print(f"compact, rule {rule!r}: the outputs change by what goes in")
        for name, gone in found.changed.items():
            print(f"    {name}: " + ", ".join(f"{n} {what}" for what, n in gone.items()))
    for cut in cuts:
        _apply(plain, cut)
    return attach_layout(plain)


def _plain(model: nn.Module, rule: str) -> nn.Module:
    """Return a copy with baked masks, after all checks."""
    if rule not in RULES:
        raise ValueError(f"rule is 'exact' or 'authors', got {rule!r}")
    matrices = {name for layer in encoder_layers(model) for name in layer.matrices}
    for name, module in model.named_modules():
        chains = getattr(module, "parametrizations", {})
        stages = [stage for chain in chains.values() for stage in chain]
        if name in matrices:
            stages += module.children()  # quantizers of activations
        if any(is_quantizer(stage) or getattr(stage, "bits", None) for stage in stages) or (
            name in matrices and not isinstance(module, nn.Linear)
        ):
            raise ValueError(
                f"{name} is factored, quantized or packed; compact first, then compress "
                "further: zeros need not be zero on a grid"
            )
    return bake_tensors(copy.deepcopy(model))


@torch.no_grad()
def _cut(model: nn.Module, layer: EncoderLayer, rule: str) -> Cut:
    """Decide what goes, and what that adds to the two biases behind it."""
    heads_gone, constant, wrong = _heads(model, layer, rule)
    up, down = model.get_submodule(layer.up), model.get_submodule(layer.down)
    hidden = torch.zeros_like(up.weight[:, 0]) if up.bias is None else up.bias
    added = (down.weight * model.get_submodule(layer.activation)(hidden)).T  # (dimensions, width)
    gone = _but_one(~up.weight.any(1) | ~down.weight.any(0))
    cut = Cut(
        layer, ~heads_gone, ~gone, widened(constant)[heads_gone].sum(0), widened(added)[gone].sum(0)
    )
    if rule == "authors":  # which folds nothing
        counts = {"heads": int(wrong.sum()), "dimensions": int((gone & added.any(1)).sum())}
        cut.changed = {what: n for what, n in counts.items() if n}
        cut.output_bias, cut.down_bias = cut.output_bias * 0, cut.down_bias * 0
    for name, extra in ((layer.output, cut.output_bias), (layer.down, cut.down_bias)):
        if model.get_submodule(name).bias is None and extra.any():
            raise ValueError(f"{name} has no bias that could take what is removed before it")
    return cut


def _heads(model: nn.Module, layer: EncoderLayer, rule: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return which heads go, what each adds if its value is its bias, and whose going is wrong."""
    q, k, v, o = (model.get_submodule(name) for name in layer.matrices[:4])
    split = (-1, layer.head_size)
    no_query, no_key, no_value = (~m.weight.unflatten(0, split).any(-1).any(-1) for m in (q, k, v))
    silent = ~o.weight.T.unflatten(0, split).any(-1).any(-1)
    bias = torch.zeros_like(v.weight[:, 0]) if v.bias is None else v.bias
    by_head = o.weight.unflatten(1, split)  # (width, heads, head_size)
    constant = torch.einsum("whs,hs->hw", by_head, bias.unflatten(0, split))
    exact = no_value | silent
    gone = _but_one(exact if rule == "exact" else no_query | no_key | no_value)
    return gone, constant, gone & (~exact | (no_value & constant.any(1)))


def _but_one(gone: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Return the mask with its first entry spared if nothing else would stay."""
    spared = gone.clone()
    if bool(gone.all()):
        spared[0] = False
    return spared


def _survey(cuts: list[Cut], model: nn.Module, rule: str) -> Survey:
    rows, after, before = [], 0, 0
    for cut in cuts:
        heads, dims = int(cut.heads.sum()), int(cut.dimensions.sum())
        width = model.get_submodule(cut.layer.down).out_features
        whole = sum(model.get_submodule(name).weight.numel() for name in cut.layer.matrices)
        after += width * (4 * cut.layer.head_size * heads + 2 * dims)
        before += whole
        rows.append(
            {
                "layer": cut.layer.name,
                "heads": heads,
                "heads_before": cut.heads.numel(),
                "dimensions": dims,
                "dimensions_before": cut.dimensions.numel(),
                "changed": cut.changed,
            }
        )
    return Survey(rule, rows, after, before)


@torch.no_grad()
def _apply(model: nn.Module, cut: Cut) -> None:
    """Slice the six matrices of a layer and fold the constants."""
    features = cut.heads.repeat_interleave(cut.layer.head_size)
    dims, layer = cut.dimensions, cut.layer
    for name in (layer.query, layer.key, layer.value):
        model.set_submodule(name, _slice(model.get_submodule(name), rows=features))
    model.set_submodule(layer.up, _slice(model.get_submodule(layer.up), rows=dims))
    for name, kept, extra in (
        (layer.output, features, cut.output_bias),
        (layer.down, dims, cut.down_bias),
    ):
        smaller = _slice(model.get_submodule(name), columns=kept)
        if smaller.bias is not None:
            smaller.bias += extra
        model.set_submodule(name, smaller)


def _slice(
    layer: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None
) -> nn.Linear:
    """Return a linear layer with these output and input features; itself where nothing goes."""
    weight, bias = layer.weight, layer.bias
    if (rows is None or rows.all()) and (columns is None or columns.all()):
        return layer
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    made = resized_linear(weight.shape[1], weight.shape[0], bias is not None).to(weight)
    made.weight.copy_(weight)
    if bias is not None:
        made.bias.copy_(bias)
    made.weight.requires_grad_(layer.weight.requires_grad)
    return made.train(layer.training)
