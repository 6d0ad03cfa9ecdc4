"""What an entry of the table finds in a module: full names, after a look at what else is inside."""

from torch import nn

from ..kinds import linear_of
from .entries import FFN, Anatomy, Attention


def model_type(name: str, modules: dict[str, nn.Module]) -> str | None:
    """Return the type in the nearest config around a module."""
    while True:
        config = getattr(modules.get(name), "config", None)
        if kind := getattr(config, "model_type", None):
            return kind
        if not name:
            return None
        name = name.rpartition(".")[0]


def parts_at(anatomy: Anatomy, name: str, modules: dict[str, nn.Module]) -> list[Attention | FFN]:
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


def attention_names(attention: Attention, name: str, modules: dict[str, nn.Module]) -> dict:
    """Return what a layer says of its attention.

    Raises:
        ValueError: the attention has a parameter that the entry does not tell.
    """
    front = f"{name}." if name else ""
    owner = front + attention.module
    projections = [f"{owner}.{p}" for p in attention.projections.split()]
    query, key, value = projections if len(projections) == 3 else projections * 3
    output, size = front + attention.output, int(getattr(modules[owner], attention.size))
    stack = name.rpartition(".")[0]
    scope = stack.rpartition(".")[0] if attention.stack else owner
    ends = f".{attention.table}"
    tables = [n for n in modules if attention.table and n.endswith(ends) and _inside(n, scope)]
    more = (*attention.rows, *attention.tensors, *attention.beside)
    told = [*projections, output, *tables, *(f"{owner}.{n}" for n in more)]
    norms = [f"{owner}.{n}" for n in attention.norms]
    for inside, parameter in modules[owner].named_parameters():
        full = f"{owner}.{inside}"
        if any(_inside(full, n) for n in told):
            continue
        if (*parameter.shape,) != (size,) or not any(_inside(full, n) for n in norms):
            raise ValueError(
                f"{full} of shape {(*parameter.shape,)} is not in the anatomy of this family, and "
                "heads may depend on it; name it in rows, tensors, norms or beside of an entry in "
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


def ffn_names(parts: list[Attention | FFN], name: str, modules: dict[str, nn.Module]) -> dict:
    """Return what a layer says of its FFN, if it has one.

    Raises:
        ValueError: a parameter beside its matrices has one number per dimension.
    """
    found = [part for part in parts if isinstance(part, FFN)]
    if not found:
        return {}
    front, ffn = f"{name}." if name else "", found[0]
    names = {k: getattr(ffn, k) for k in ("gate", "up", "down", "activation")}
    names = {k: front + v for k, v in names.items() if v}
    down = linear_of(modules[names["down"]])
    sizes = getattr(down, "in_features", 0), getattr(down, "out_features", 0)
    for owner in {n.rpartition(".")[0] for n in (names["up"], names["down"])} - {name}:
        for inside, parameter in modules[owner].named_parameters():
            full, shape = f"{owner}.{inside}", (*parameter.shape,)
            told = any(_inside(full, n) for n in names.values())
            if not told and shape == sizes[:1] and sizes[0] != sizes[1]:
                raise ValueError(
                    f"{full} has one number for each of the {sizes[0]} dimensions, which no "
                    "anatomy tells; give the family an entry in tqlearn.sparsity.ANATOMIES with a "
                    "reason in the place of its ffn"
                )
    return names


def _inside(name: str, module: str) -> bool:
    return not module or f"{name}.".startswith(f"{module}.")
