"""One weight in two places, such as a table of words and the output layer that ties it.

Two plain layers share a parameter. Where a mask, a quantizer or cores take its place, one module
owns them and the others follow: their ``weight`` is the owner's, computed once more at each look.
So both places see the same numbers, both gradients reach them, and a file holds them once.
"""

from torch import Tensor, nn

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


def declared(model: nn.Module) -> list[list[Place]]:
    """Return what a transformers model will tie once its weights are loaded, as ``ties`` does."""
    found: dict[str, list[Place]] = {}
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        found.setdefault(source, [_place(source)]).append(_place(target))
    return list(found.values())


def untied(model: nn.Module) -> list[str]:
    """Return the tensors that a transformers config calls tied to another, and that are not."""
    if not hasattr(model, "get_expanded_tied_weights_keys"):
        return []
    together = [{".".join(place) for place in places} for places in ties(model)]
    pairs = model.get_expanded_tied_weights_keys(all_submodels=True).items()
    apart = [pair for pair in pairs if not any(names >= set(pair) for names in together)]
    return [
        target for target, source in apart if not (_plain(model, target) and _plain(model, source))
    ]


def retie(model: nn.Module, groups: list[list[Place]]) -> nn.Module:
    """Bring the tensors of each group together again, in place, after modules were replaced."""
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
            else:
                _unfollow(module, key)._parameters[key] = owner._parameters[of]
        _forget(model, places, bool(behind))
    return model


def follow(module: nn.Module, key: str, owner: nn.Module, of: str) -> None:
    """Let a tensor of a module be that of another one from now on, in place."""
    module._parameters.pop(key, None)
    follows = getattr(module, "_follows", {})
    if key not in follows:
        cls = type(module)
        shown = {key: property(lambda self: _look(self, key)), "__module__": cls.__module__}
        module.__class__ = type(cls.__name__, (cls,), shown)
    module._follows = follows | {key: (owner, of)}


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


def _forget(model: nn.Module, places: list[Place], ours: bool) -> None:
    """Leave the tie to us: transformers' ``tie_weights`` would look for a parameter."""
    names = {".".join(place) for place in places}
    for front, module in model.named_modules():
        for table in ("all_tied_weights_keys", "_tied_weights_keys"):
            keys = getattr(module, table, None)
            if not isinstance(keys, dict):
                continue
            if not ours and table in vars(module) and table.startswith("_"):
                delattr(module, table)  # plain again: what the class says
            elif ours:
                full = f"{front}." if front else ""
                left = {k: v for k, v in keys.items() if not {full + k, full + v} <= names}
                if left != keys:
                    setattr(module, table, left)
