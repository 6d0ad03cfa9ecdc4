"""A plan and what it would do: which layers its patterns name, and ``preview``.

A plan is a dict: shell wildcard on module names -> list of edits. The first pattern that fits wins,
``[]`` leaves alone, and a pattern that fits nothing is an error.
"""

import copy
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ..arguments import require_model
from ..kinds import is_known, require_no_hook, unsaved_in
from ..quantizers.named_points import Spot
from ..stages import Cores, weight_names
from ..storage.tied import ties
from .asked import check_plan, outlined
from .outliers import Coarse, coarse, words

Edit = Callable[[nn.Module], nn.Module]
Plan = Mapping[str, Sequence]  # of edits; ``match`` says which one is none
LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, Cores, Spot)  # or ``is_known``


def match(model: nn.Module, plan: Plan) -> dict[str, Sequence[Edit]]:
    """Return the edits of every layer that a plan names; the first pattern that fits wins.

    Of layers that share a weight, such as a table of words and the output layer, the first owns it:
    what the plan says of any of them is done to that one, and serves all.

    Raises:
        ValueError: a pattern fits no layer (the message lists the nearest names), or a layer in the
            plan shares its weight with one that has other edits.
        TypeError: the plan is no mapping of patterns to lists of edits.
    """
    require_model("a plan", model)
    plan = check_plan(plan)
    if isinstance(model, LAYERS):
        raise ValueError(
            f"the model is itself a {type(model).__name__}; call the edit on it: TT(rank=8)(layer)"
        )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS) or is_known(m)}
    layers = {n: m for n, m in layers.items() if not hasattr(m, "factored")}  # around a table
    unsaved = unsaved_in(model)
    named = dict(model.named_modules())
    for pattern in plan:  # a full name finds any module with a weight
        if pattern in named and weight_names(named[pattern]):
            layers[pattern] = named[pattern]
    found: dict[str, Sequence[Edit]] = {}
    for pattern, edits in plan.items():
        hits = [name for name in layers if fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(
                f"plan pattern {pattern!r} matches no Linear or Embedding of "
                f"{type(model).__name__}; nearest names: {_nearest(pattern, list(layers))}"
            )
        if edits and not (hits := [name for name in hits if name not in unsaved]):
            raise ValueError(
                f"{pattern}: {type(model).__name__} computes these numbers anew and stores none of "
                "them, so there is nothing to gain; leave it out of the plan"
            )
        for name in hits:
            found.setdefault(name, edits)
            if edits:
                require_no_hook(name, layers[name])
    return {name: edits for name, edits in _owned(model, found, layers).items() if edits}


def _nearest(pattern: str, names: list[str]) -> list[str]:
    plain = pattern.replace("*", "").strip(".")
    tails = {name: name[-max(len(plain), 1) :] for name in names}
    return sorted(names, key=lambda n: -difflib.SequenceMatcher(None, plain, tails[n]).ratio())[:3]


def _owned(model: nn.Module, chosen: dict[str, Sequence], layers: Mapping) -> dict[str, Sequence]:
    """Give the edits of a weight that several layers share to the one that owns it.

    That is a table of words, wherever it stands: what replaces it serves the output layer too.
    """
    for places in ties(model):
        names = [name for name, key in places if key == "weight"]
        asked = [chosen.pop(name) for name in names if name in chosen]
        if not asked:
            continue
        modules = {name: model.get_submodule(name) for name in names}
        if not any(hasattr(module, "_follows") for module in modules.values()):  # still plain
            names.sort(key=lambda name: not isinstance(modules[name], nn.Embedding))
        if names[0] not in layers or any(edits != asked[0] for edits in asked):
            raise ValueError(
                f"{' and '.join(names)} share one weight, which the plan gives different edits; "
                "name one of them, or all alike, or untie them first"
            )
        chosen[names[0]] = asked[0]
    return {name: chosen[name] for name in layers if name in chosen}


def left_out(model: nn.Module, plan: Plan, made: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the bytes of every matrix under a plan's patterns that no edit reaches.

    Most stand in modules of other kinds, which their full names find, without a wildcard. Others
    stand beside the weights of a layer, such as the biases of fused experts.

    Args:
        made: what became of the layers that ``match`` finds.
    """
    found, chosen, unsaved = {}, match(model, plan), unsaved_in(model)
    for name, new in made.items():
        if any(getattr(edit, "only", None) for edit in chosen[name]):
            continue  # as it was asked for
        own = {k: p for k, p in model.get_submodule(name)._parameters.items() if _is_matrix(p)}
        rest = {k: p for k, p in own.items() if new._parameters.get(k) is not None}
        if len(rest) < len(own):  # an edit of all of them is the edit's own affair
            found |= {f"{name}.{k}": p.numel() * p.element_size() for k, p in rest.items()}
    for name, module in model.named_modules():
        edits = next((edits for pattern, edits in plan.items() if fnmatchcase(name, pattern)), ())
        known = isinstance(module, LAYERS) or is_known(module)
        if name in chosen or not edits or (known and name not in unsaved):
            continue
        if ".parametrizations." in f".{name}.":  # a found layer keeps these behind its stages
            continue
        chains = getattr(module, "parametrizations", {})
        for key in (*module._parameters, *(k for k, c in chains.items() if c.is_tensor)):
            tensor = getattr(module, key)
            if _is_matrix(tensor):
                found[f"{name}.{key}".lstrip(".")] = tensor.numel() * tensor.element_size()
    return found


def _is_matrix(tensor: Tensor | None) -> bool:
    return tensor is not None and sum(n > 1 for n in tensor.shape) > 1


def copied(model: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """Return a copy of a model, or say which module cannot be copied.

    Args:
        shared: tensors that the copy holds too, as it will soon replace them: no memory for them.
    """
    for name, module in model.named_modules():
        require_no_hook(name, module)
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


@dataclass(frozen=True)
class Preview:
    """What a plan would do: one row per layer with name, layer, edits and parameter counts.

    ``left`` has the bytes of the matrices under the plan's patterns that stay as they are,
    ``coarse`` the weights whose outliers one scale at 4 bits or fewer does not suit.
    """

    rows: list[dict]
    left: dict[str, int] = field(default_factory=dict)
    coarse: dict[str, Coarse] = field(default_factory=dict)

    @property
    def before(self) -> int:
        """Parameters of the named layers now."""
        return sum(row["before"] for row in self.rows)

    @property
    def after(self) -> int:
        """Parameters of the named layers under the plan."""
        return sum(row["after"] for row in self.rows)

    def __str__(self) -> str:
        width = max(len(name) for name in ("together", *(row["name"] for row in self.rows)))
        lines = [f"{'layer':<{width}} {'before':>12} {'after':>12}  becomes"]
        for row in self.rows:
            line = f"{row['name']:<{width}} {row['before']:>12,} {row['after']:>12,}  "
            lines.append(line + row["becomes"])
        lines.append(f"{'together':<{width}} {self.before:>12,} {self.after:>12,}")
        return "\n".join([*lines, *self._remarks()])

    def _remarks(self) -> list[str]:
        return [*(f"stays as it is: {name}" for name in self.left), *words(self.coarse)]

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{r['name']}</td><td>{r['before']:,}</td><td>{r['after']:,}</td>"
            f"<td>{r['becomes']}</td></tr>"
            for r in self.rows
        )
        foot = f"<tr><th>together</th><th>{self.before:,}</th><th>{self.after:,}</th><th></th></tr>"
        head = "<tr><th>layer</th><th>before</th><th>after</th><th>becomes</th></tr>"
        left = "".join(f"<p>{remark}</p>" for remark in self._remarks())
        return f"<table>{head}{body}{foot}</table>{left}"


def preview(model: nn.Module, plan: Plan) -> Preview:
    """Show what ``compress`` would do, without an SVD unless an edit is given as an error.

    Warns of weights whose outliers do not suit one scale at 4 bits or fewer; see ``outliers``.

    Raises:
        ValueError, TypeError: whatever ``compress`` would refuse, but for NaN weights.

    >>> print(preview(nn.Sequential(nn.Linear(768, 768)), {"0": [lambda m: m]}))
    layer          before        after  becomes
    0             590,592      590,592  Linear
    together      590,592      590,592
    """
    rows, made = [], {}
    for name, edits in match(model, plan).items():
        made[name] = outlined(model.get_submodule(name), edits, name)
        rows.append(row_of(model, name, made[name], edits))
    return Preview(rows, left_out(model, plan, made), coarse(model, made))


def row_of(model: nn.Module, name: str, new: nn.Module, edits: Sequence) -> dict:
    """Return the row of a preview for a layer and what becomes of it."""
    return {
        "name": name,
        "before": _count(model.get_submodule(name)),
        "after": _count(new),
        "becomes": _words(new),
        "edits": [repr(edit) for edit in edits],
    }


def _count(module: nn.Module) -> int:
    """Count weights and biases; scales of quantizers are metadata, see ``report``."""
    chains = getattr(module, "parametrizations", {})
    plain = sum(p.numel() for p in module.parameters(recurse=False))
    return plain + sum(chain.original.numel() for chain in chains.values())


def _stored(module: nn.Module, name: str) -> Tensor:
    """Return a tensor as it is stored: nothing is masked or quantized for its shape."""
    chains = getattr(module, "parametrizations", {})
    return chains[name].original if name in chains else getattr(module, name)


def _words(module: nn.Module) -> str:
    ranks = f" ranks {module.ranks}" if hasattr(module, "ranks") else ""
    if isinstance(module, Cores) and hasattr(module, "rank"):
        cores = [_stored(module, f"core_{k}") for k in range(min(2, module.order))]
        sizes = ["x".join(map(str, core.shape)) for core in cores]
        ranks = f" rank {module.rank} of {' and '.join(sizes)}"
    stages = [stage for c in getattr(module, "parametrizations", {}).values() for stage in c]
    on = sorted({f"{type(s).__name__} {getattr(s, 'bits', '')}".strip() for s in stages})
    kind = type(module).__name__.removeprefix("Parametrized")
    return kind + ranks + "".join(f" + {word}" for word in on)
