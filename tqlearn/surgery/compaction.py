"""Physical removal: heads and FFN dimensions that masks emptied go; a smaller dense model stays.

    student = tq.compact(pruned)          # the same outputs, fewer numbers, real speed

``survey`` says beforehand what would go. Masks become plain zeros first; quantize afterwards.
"""

import copy
from dataclasses import dataclass

from torch import nn

from ..arguments import require_gathered, require_model
from ..kinds import is_conv1d, linear_of
from ..sparsity.anatomy import transformer_layers
from ..stages import is_quantizer
from ..storage.layout import attach_layout
from ..storage.pack import bake_tensors
from .cuts import Cut, apply, cuts_of

RULES = ("exact", "authors")


@dataclass(frozen=True)
class Survey:
    """What compaction takes away: one row per layer, and weights before and after.

    Each row has layer, heads and dimensions kept, of how many, ``changed``, and why a part
    ``stays``; a second attention of a layer has a row of its own. ``weights`` and
    ``weights_before`` count the layers' matrices alone; ``density`` is their ratio.
    """

    rule: str
    rows: list[dict]
    weights: int
    weights_before: int

    @property
    def density(self) -> float:
        """The share of the layers' weights that stays."""
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
        lines += dict.fromkeys(row["stays"] for row in self.rows if row["stays"])
        of = f"{self.weights:,} of {self.weights_before:,}"
        return "\n".join([*lines, f"weights {of}, density {self.density:.4f}"])


def survey(model: nn.Module, rule: str = "exact") -> Survey:
    """Return what ``compact`` would remove, without changing the model.

    Raises:
        ValueError: whatever ``compact`` would refuse.
    """
    plain = _plain(model, rule)
    return _survey(cuts_of(plain, transformer_layers(plain), rule), plain, rule)


def compact(model: nn.Module, rule: str = "exact") -> nn.Module:
    """Return a smaller dense model, without the heads and FFN dimensions that are switched off.

    Args:
        model: any that ``sparsity.ANATOMIES`` describes, with masks or with plain zeros.
        rule: "exact" removes what leaves the outputs equal: a head whose value or whose columns of
            the output projection are all zero, and a dimension whose row of the first FFN matrix
            or column of the second is. Constants that these added (a value's bias, the activation
            of a bias) move into the next bias; a layer that has none gets one. "authors" removes a
            head if query, key or value is all zero, a dimension if any of its rows or its column
            is, and folds nothing; what that changes is printed, and ``survey`` lists it.

    One head and one dimension stay in every layer. Heads that share a key and a value go together,
    and so do those of all layers where one table of positions serves a stack. A gated dimension
    goes if gate and first matrix are both zero, or one of them with its constant.

    The sizes are in the layout, so that ``save_pretrained`` and ``from_pretrained`` carry the
    model; with head counts in the config as they were, for layers differ.

    Raises:
        ValueError: an unknown rule, no layer that we know, or quantizers (compact first, quantize
            then).

    Source: spec sheet Block Pruning, section 7. A query that is all zero makes a head average its
    values: that is no equivalence.
    """
    plain = _plain(model, rule)
    cuts = cuts_of(plain, transformer_layers(plain), rule)
    found = _survey(cuts, plain, rule)
    if found.changed:
        print(f"compact, rule {rule!r}: the outputs change by what goes in")
        for name, gone in found.changed.items():
            print(f"    {name}: " + ", ".join(f"{n} {what}" for what, n in gone.items()))
    for cut in cuts:
        apply(plain, cut)
    return attach_layout(plain)


def _plain(model: nn.Module, rule: str) -> nn.Module:
    """Return a copy with baked masks, after all checks."""
    require_model("compact", model)
    require_gathered("compact", model)
    if rule not in RULES:
        raise ValueError(f"rule is 'exact' or 'authors', got {rule!r}")
    matrices = {name for layer in transformer_layers(model) for name in layer.matrices}
    for name, module in model.named_modules():
        chains = getattr(module, "parametrizations", {})
        stages = [stage for chain in chains.values() for stage in chain]
        if name in matrices:
            stages += module.children()  # quantizers of activations
        if any(is_quantizer(stage) or getattr(stage, "bits", None) for stage in stages) or (
            name in matrices and not (isinstance(module, nn.Linear) or is_conv1d(module))
        ):
            raise ValueError(
                f"{name} is factored, quantized or packed; compact first, then compress "
                "further: zeros need not be zero on a grid"
            )
    return bake_tensors(copy.deepcopy(model))


def _survey(cuts: list[Cut], model: nn.Module, rule: str) -> Survey:
    rows, after, before = [], 0, 0
    for cut in cuts:
        kept = cut.kept()
        for name in cut.layer.matrices:
            weight = linear_of(model.get_submodule(name)).weight
            sides = zip(kept[name], weight.shape, strict=True)
            height, width = (n if mask is None else int(mask.sum()) for mask, n in sides)
            after, before = after + height * width, before + weight.numel()
        rows.append(
            {
                "layer": cut.layer.name,
                "heads": int(cut.heads.sum()),
                "heads_before": cut.heads.numel(),
                "dimensions": int(cut.dimensions.sum()),
                "dimensions_before": cut.dimensions.numel(),
                "changed": cut.changed,
                "stays": cut.layer.stays,
            }
        )
    return Survey(rule, rows, after, before)
