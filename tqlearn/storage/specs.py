"""What a layout may say of one module: JSON that its class itself would have written."""

import inspect
import json
import types
import typing
from collections.abc import Sequence
from math import isfinite

from torch import nn

from ..registry import REGISTRY, RESIZED, build, size_of
from .digests import WAY_OUT

VERSION = 1
AXES = 64  # no list of ours is longer: modes, ranks, shapes
CANNOT = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError)


def refuse(words: str) -> typing.NoReturn:
    """Raise a ValueError that ends with the way out."""
    raise ValueError(f"{words}; {WAY_OUT}")


def require_version(layout: dict) -> None:
    """Raise a ValueError for a layout of another version."""
    version = layout.get("version")
    if version != VERSION or type(version) is not int:
        raise ValueError(
            f"this tqlearn reads layout version {VERSION}, the file has {version!r}; install the "
            "tqlearn that wrote it"
        )


def parse(text: object, where: str) -> dict:
    """Return the layout that a text holds.

    Raises:
        ValueError: it is no JSON, names a thing twice, is nested without end, or has not the form
            of a layout of this version.
    """

    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError(f"a name twice in {[name for name, _ in pairs][:9]}")
        return found

    def no_number(word: str) -> typing.NoReturn:
        raise ValueError(f"{word} is no number of a layout")

    try:
        layout = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"the tqlearn layout in {where} is missing or damaged ({error}); save the model anew, "
            f"or get the {'folder' if where == 'config.json' else 'file'} again"
        ) from error
    _check_form(layout)
    return layout


def _check_form(layout: object) -> None:
    if not isinstance(layout, dict) or not isinstance(layout.get("modules"), dict):
        refuse(f"a layout is a dict with 'modules', got {str(layout)[:60]!r}")
    require_version(layout)
    if unknown := set(layout) - {"version", "modules", "untied"}:
        refuse(f"a layout has 'version', 'modules' and 'untied', got {sorted(unknown)[:3]} too")
    apart = layout.get("untied", [])
    if not isinstance(apart, list) or not all(isinstance(name, str) for name in apart):
        refuse(f"'untied' of a layout is a list of names, got {str(apart)[:60]!r}")
    for name, entry in layout["modules"].items():
        keys = set(entry) if isinstance(entry, dict) else set()
        known = {"class", "args"} <= keys or not keys & {"class", "args"}
        if not keys or keys - {"class", "args", "parametrizations"} or not known:
            refuse(
                f"the layout's entry of {name!r} needs 'class' with 'args', or 'parametrizations', "
                f"got {str(entry)[:60]!r}"
            )
        chains = entry.get("parametrizations", {"": [1]})
        if not isinstance(chains, dict) or not chains or not all(
            isinstance(chain, list) and chain for chain in chains.values()
        ):  # fmt: skip
            refuse(
                f"'parametrizations' of {name!r} are lists of stages by the name of a tensor, got "
                f"{str(chains)[:60]!r}"
            )


def made(spec: object, where: str) -> nn.Module:
    """Return what a spec of a layout builds, on the present device.

    Raises:
        ValueError: it is no spec, of an unknown class, or with arguments that are not what the
            class itself would have written.
    """
    if not (isinstance(spec, dict) and set(spec) == {"class", "args"}
            and isinstance(spec["class"], str) and isinstance(spec["args"], dict)):  # fmt: skip
        refuse(f"the layout of {where!r} needs a 'class' and its 'args', got {str(spec)[:60]!r}")
    name, args = spec["class"], spec["args"]
    if name in REGISTRY:
        _check_types(REGISTRY[name], args, where)
    try:
        module = build(spec)
        config = size_of(module) if name == RESIZED else module.config()
        same = json.dumps(config, sort_keys=True) == json.dumps(args, sort_keys=True)
    except CANNOT as error:
        if name not in REGISTRY:
            raise
        raise ValueError(
            f"the layout of {where!r} cannot be built as a {name} of {str(args)[:90]} ({error}); "
            f"{WAY_OUT}"
        ) from error
    if not same:
        refuse(f"the layout gives the {name} of {where!r} {str(args)[:90]}, it would write "
                f"{str(config)[:90]}")  # fmt: skip
    return module


def _check_types(cls: object, args: dict, where: str) -> None:
    if not cls.__module__.startswith("tqlearn."):
        return  # a class of the user's own may take what it likes
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in args and not _fits(args[name], parameter.annotation):
            refuse(f"{name} of the {cls.__name__} of {where!r} cannot be {str(args[name])[:60]!r}")


def _fits(value: object, kind: object) -> bool:
    """Say whether a value of JSON is of an annotated kind; a kind that we do not know takes all."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (list, tuple, Sequence):
        ok = isinstance(value, list) and len(value) <= AXES
        return ok and all(_fits(one, inner[0] if inner else object) for one in value)
    if kind is int or kind is float:
        number = isinstance(value, int if kind is int else int | float)
        return number and not isinstance(value, bool) and isfinite(value)
    if kind in (bool, str, dict, types.NoneType):
        return isinstance(value, kind)
    return True
