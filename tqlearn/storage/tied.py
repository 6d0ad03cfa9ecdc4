"""One weight in two places, such as a table of words and the output layer that ties it.

Two plain layers share a parameter. Where a mask, a quantizer or cores take its place, one module
owns them and the others follow: their ``weight`` is the owner's, computed once more at each look.
So both places see the same numbers, both gradients reach them, and a file holds them once.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ..arguments import is_sharded
from ..kinds import is_conv1d, keep_hooks, noted_on, relink
from ..stages import Cores

TABLES = "all_tied_weights_keys", "_tied_weights_keys"  # {tied: source}, of transformers' models
Place = tuple[str, str]  # the name of a module and of a tensor in it


def ties(model: nn.Module) -> list[list[Place]]:
    """Return the places of every tensor that several modules of a model share, the owner first.

    >>> net = nn.ModuleDict({"words": nn.Embedding(9, 4), "out": nn.Linear(4, 9, bias=False)})
    >>> net["out"].weight = net["words"].weight
    >>> ties(net)
    [[('words', 'weight'), ('out', 'weight')]]
    """
    names = {module: name for name, module in model.named_modules()}
    found: dict[object, list[Place]] = {}
    for module, name in names.items():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((name, key))
        for key, (owner, of) in getattr(module, "_follows", {}).items():
            if owner in names:
                found.setdefault((owner, of), [(names[owner], of)]).append((name, key))
    return [places for places in found.values() if len(places) > 1]


def declared(model: nn.Module, apart: Sequence[str] = ()) -> list[list[Place]]:
    """Return what a transformers model will tie once its weights are loaded, as ``ties`` does.

    Args:
        apart: tensors that it shall not tie, whatever its config says.
    """
    found: dict[str, list[Place]] = {}
    for target, source in (getattr(model, TABLES[0], None) or {}).items():
        if target in apart:
            continue
        found.setdefault(source, [_place(source)]).append(_place(target))
    return list(found.values())


def untied(model: nn.Module) -> list[str]:
    """Return the tensors that a transformers config calls tied to another, and that are not."""
    before = getattr(model, "_tied_before", {})
    pairs = (before.get(TABLES[0]) or getattr(model, TABLES[0], None) or {}).items()
    together = [{".".join(place) for place in places} for places in ties(model)]
    apart = [pair for pair in pairs if not any(names >= set(pair) for names in together)]
    return [
        target for target, source in apart if not (_plain(model, target) and _plain(model, source))
    ]


def retie(model: nn.Module, groups: list[list[Place]], plain: bool = True) -> nn.Module:
    """Bring the tensors of each group together again, in place, after modules were replaced.

    Args:
        plain: also groups of ordinary parameters; False leaves those to transformers.
    """
    ours: set[str] = set()
    for places in groups:
        found = [(model.get_submodule(name), key) for name, key in places]
        own = [(m, key) for m, key in found if key not in getattr(m, "_follows", {})]
        behind = [(m, key) for m, key in own if key not in m._parameters]
        if len(behind) > 1 or not own:
            continue  # compressed each by itself
        owner, of = (behind or own)[0]
        for module, key in found:
            if (module, key) == (owner, of):
                continue
            if behind:
                follow(module, key, owner, of)
                ours.add(".".join(places[found.index((module, key))]))
            elif plain:
                _unfollow(module, key)._parameters[key] = owner._parameters[of]
    if plain:
        _remember(model)
    forget(model, ours | set(untied(model)))
    return model


def replace(model: nn.Module, made: dict[str, nn.Module]) -> nn.Module:
    """Put new modules in the places of others, in place; what these share with others stays so."""
    groups, swapped = ties(model), {}
    for name, new in made.items():
        swapped[model.get_submodule(name)] = new
        place_module(model, name, new)
    relink(model, swapped)
    return retie(model, groups)


def place_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in every place where the one of that name stands."""
    old = model.get_submodule(name)
    if isinstance(old, Cores) != isinstance(new, Cores):
        noted = old.noted if isinstance(old, Cores) else noted_on(old)
        for key in [key for key in noted if not hasattr(new, key)]:
            setattr(new, key, getattr(old, key))
        if isinstance(new, Cores):
            new.noted = tuple(noted)
        keep_hooks(old, new)
    if is_conv1d(old) and isinstance(new, Cores | nn.Linear):
        new.dense_like = type(old)
    if isinstance(old, nn.Embedding) and hasattr(new, "wrap"):
        new.wrap(old)
    for place in [n for n, m in model.named_modules(remove_duplicate=False) if m is old]:
        model.set_submodule(place, new)


def follow(module: nn.Module, key: str, owner: nn.Module, of: str) -> None:
    """Let a tensor of a module be that of another one from now on, in place."""
    module._parameters.pop(key, None)
    follows = getattr(module, "_follows", {})
    if key not in follows:
        cls = type(module)
        shown = {key: property(lambda self: _look(self, key)), "__module__": cls.__module__}
        module.__class__ = type(cls.__name__, (cls,), shown)
    module._follows = follows | {key: (owner, of)}
    if gather not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(gather)


def gather(module: nn.Module, inputs: tuple) -> None:
    """Forward hook: let FSDP2 bring the owner's numbers together where they are a group by
    themselves, as ``accelerate`` makes of a table. The backward pass sends them apart again.

    Raises:
        ValueError: they are sharded with another part of the model, which is not at work now.
    """
    for key, (owner, of) in getattr(module, "_follows", {}).items():
        if any(map(is_sharded, owner.parameters())):
            if not hasattr(owner, "unshard"):
                raise ValueError(
                    f"{key} of this {type(module).__name__} is {of} of a {type(owner).__name__} "
                    "that is sharded with another part of the model; give both to one call, "
                    "fully_shard([table, norm, head]), or leave both to the whole model's"
                )
            owner.unshard()


def _look(module: nn.Module, key: str) -> Tensor:
    owner, of = module._follows[key]
    return getattr(owner, of)


def _unfollow(module: nn.Module, key: str) -> nn.Module:
    if key in getattr(module, "_follows", {}):
        module._follows = {k: v for k, v in module._follows.items() if k != key}
        module.__class__ = type(module).__bases__[0]
    return module


def _place(name: str) -> Place:
    front, _, key = name.rpartition(".")
    return front, key


def _plain(model: nn.Module, name: str) -> bool:
    front, key = _place(name)
    return key in model.get_submodule(front)._parameters


def forget(model: nn.Module, names: set[str]) -> None:
    """Let transformers' ``tie_weights`` leave these tensors alone: it would look for parameters."""
    for front, module in model.named_modules():
        full = f"{front}." if front else ""
        for table in TABLES:
            keys = getattr(module, table, None)
            if isinstance(keys, dict) and any(full + key in names for key in keys):
                module._tied_before = {table: keys} | getattr(module, "_tied_before", {})
                setattr(module, table, {k: v for k, v in keys.items() if full + k not in names})


def _remember(model: nn.Module) -> None:
    """Undo ``forget``."""
    for module in model.modules():
        for table, keys in vars(module).pop("_tied_before", {}).items():
            setattr(module, table, keys)
