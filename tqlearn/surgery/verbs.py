"""The verbs on models: preview, compress, pack, unpack, bake. Each returns a new model.

All checks come before the first cut, so a refused plan leaves everything as it was.
"""

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from .activations import lift
from .blocks import tie
from .cores import Cores
from .layout import attach_layout, bake_tensors
from .pack import pack_tensors, unpack_tensors
from .points import Spot

Edit = Callable[[nn.Module], nn.Module]
Plan = Mapping[str, Sequence]  # of edits; ``match`` says which one is none

LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, Cores, Spot)


def match(model: nn.Module, plan: Plan) -> dict[str, Sequence[Edit]]:
    """Return the edits of every layer that a plan names; the first pattern that fits wins.

    Raises:
        ValueError: a pattern fits no layer (the message lists the nearest names), or a layer in the
            plan shares its weight with another one.
        TypeError: an edit is not callable.
    """
    if isinstance(model, LAYERS):
        raise ValueError(
            f"the model is itself a {type(model).__name__}; call the edit on it: TT(rank=8)(layer)"
        )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}
    found: dict[str, Sequence[Edit]] = {}
    for pattern, edits in plan.items():
        hits = [name for name in layers if fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(
                f"plan pattern {pattern!r} matches no Linear or Embedding of "
                f"{type(model).__name__}; nearest names: {_nearest(pattern, list(layers))}"
            )
        if wrong := [e for e in edits if not callable(e)]:
            raise TypeError(f"plan pattern {pattern!r}: {wrong[0]!r} is no edit (module -> module)")
        for name in hits:
            found.setdefault(name, edits)
    _refuse_tied(model, [name for name, edits in found.items() if edits])
    return {name: edits for name, edits in found.items() if edits}


def _nearest(pattern: str, names: list[str]) -> list[str]:
    plain = pattern.replace("*", "").strip(".")
    tails = {name: name[-max(len(plain), 1) :] for name in names}
    return sorted(names, key=lambda n: -difflib.SequenceMatcher(None, plain, tails[n]).ratio())[:3]


def _refuse_tied(model: nn.Module, chosen: list[str]) -> None:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        if len(names) > 1 and set(names) & set(chosen):
            raise ValueError(
                f"{' and '.join(names)} share one weight; leave both out of the plan or "
                "untie them first"
            )


@dataclass(frozen=True)
class Preview:
    """What a plan would do: one row per layer with name, layer, edits and parameter counts."""

    rows: list[dict]

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
        return "\n".join([*lines, f"{'together':<{width}} {self.before:>12,} {self.after:>12,}"])

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{r['name']}</td><td>{r['before']:,}</td><td>{r['after']:,}</td>"
            f"<td>{r['becomes']}</td></tr>"
            for r in self.rows
        )
        foot = f"<tr><th>together</th><th>{self.before:,}</th><th>{self.after:,}</th><th></th></tr>"
        head = "<tr><th>layer</th><th>before</th><th>after</th><th>becomes</th></tr>"
        return f"<table>{head}{body}{foot}</table>"


def preview(model: nn.Module, plan: Plan) -> Preview:
    """Show what ``compress`` would do, without an SVD unless an edit is given as an error.

    Raises:
        ValueError, TypeError: whatever ``compress`` would refuse, but for NaN weights.

    >>> print(preview(nn.Sequential(nn.Linear(768, 768)), {"0": [lambda m: m]}))
    layer          before        after  becomes
    0             590,592      590,592  Linear
    together      590,592      590,592
    """
    rows = []
    for name, edits in match(model, plan).items():
        old = model.get_submodule(name)
        by_error = any(getattr(edit, "error", None) is not None for edit in edits)
        new = copy.deepcopy(old)
        new = new if by_error else new.to("meta")  # an error is a matter of the values
        for edit in edits:
            new = getattr(edit, "skeleton", edit)(new)
        rows.append(
            {
                "name": name,
                "before": _count(old),
                "after": _count(new),
                "becomes": _words(new),
                "edits": [repr(edit) for edit in edits],
            }
        )
    return Preview(rows)


def _count(module: nn.Module) -> int:
    """Count weights and biases; scales of quantizers are metadata, see ``report``."""
    chains = getattr(module, "parametrizations", {})
    plain = sum(p.numel() for p in module.parameters(recurse=False))
    return plain + sum(chain.original.numel() for chain in chains.values())


def _words(module: nn.Module) -> str:
    ranks = f" ranks {module.ranks}" if hasattr(module, "ranks") else ""
    if isinstance(module, Cores) and hasattr(module, "rank"):
        sizes = ["x".join(map(str, core.shape)) for core in module.cores[:2]]
        ranks = f" rank {module.rank} of {' and '.join(sizes)}"
    stages = [stage for c in getattr(module, "parametrizations", {}).values() for stage in c]
    on = sorted({f"{type(s).__name__} {getattr(s, 'bits', '')}".strip() for s in stages})
    kind = type(module).__name__.removeprefix("Parametrized")
    return kind + ranks + "".join(f" + {word}" for word in on)


def compress(model: nn.Module, plan: Plan, *, inplace: bool = False) -> nn.Module:
    """Build a compressed student from a trained model.

    Patterns are shell wildcards on module names, matched against Linear, Embedding and Conv layers
    (and layers already compressed). All checks come first: either the whole plan is applied or
    nothing is.

    Args:
        model: any torch model; a transformers model also records the layout in its config.
        plan: pattern -> edits, applied left to right; the first pattern that fits wins and ``[]``
            leaves alone.
        inplace: change ``model`` itself, to save the memory.

    Returns:
        A new model; ``model`` is unchanged, so it can serve as the teacher.

    Raises:
        ValueError: a pattern matches no layer, a layer cannot take its edit, a weight holds a NaN,
            or a weight is shared with another layer.
        TypeError: an edit cannot take that kind of layer, or returned no module.

    >>> from tqlearn import TT
    >>> teacher = nn.Sequential(nn.Linear(24, 36), nn.ReLU(), nn.Linear(36, 2))
    >>> student = compress(teacher, {"0": [TT(rank=4, order=2)], "2": []})
    >>> type(student[0]).__name__, type(teacher[0]).__name__
    ('TTLinear', 'Linear')
    """
    made = {}
    for name, edits in match(model, plan).items():
        new = copy.deepcopy(model.get_submodule(name))
        for edit in edits:
            training = new.training
            new = edit(new)
            if not isinstance(new, nn.Module):
                raise TypeError(
                    f"{edit!r} returned a {type(new).__name__} for {name!r}, not a module"
                )
            new.train(training)
        made[name] = new
    student = model if inplace else copy.deepcopy(model)
    before = {name: student.get_submodule(name) for name in made}
    try:
        for name, new in made.items():
            student.set_submodule(name, new)
        return attach_layout(tie(student))
    except Exception:  # what cannot be described could not be saved: nothing half-done
        for name, old in before.items():
            student.set_submodule(name, old)
        tie(student)
        raise


def pack(model: nn.Module) -> nn.Module:
    """Return a copy whose quantized tensors are real integer codes; the outputs stay bit for bit.

    Raises:
        ValueError: a quantizer has no scale yet.
    """
    return attach_layout(pack_tensors(copy.deepcopy(model)))


def unpack(model: nn.Module) -> nn.Module:
    """Return a trainable copy of a packed model: floats under the quantizers of the codes."""
    return attach_layout(unpack_tensors(copy.deepcopy(model)))


def bake(model: nn.Module, *, dense: bool = False) -> nn.Module:
    """Return a copy whose masks and quantizers have become plain values.

    Args:
        dense: also turn cores back into ordinary Linear and Embedding layers, so that the copy
            loads anywhere (and is as large as the teacher). Quantizers of activations go then, for
            a plain layer has no place for them; without ``dense`` they stay.
    """
    plain = bake_tensors(copy.deepcopy(model))
    if dense:
        for name, module in list(plain.named_modules()):
            if isinstance(module, Cores):
                plain.set_submodule(name, module.dense().train(module.training))
            else:
                lift(module)
    return attach_layout(plain)
