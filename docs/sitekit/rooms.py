"""The API pages: one per package of tqlearn, found by walking it, and one for tqlearn itself.

A name is public if its package lists it in ``__all__``; in a module without ``__all__``, if it is
defined there and has no underscore. It is described where it is nearest: ``tqlearn.TT`` at the top,
and the package that TT comes from has a link to it. Nothing here names a package: a new one has its
page as soon as it is there.
"""

import inspect
import pkgutil
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType


@dataclass
class Room:
    """A package or a module with its public names, and with rooms of its own if it lists none."""

    name: str
    doc: str
    names: dict[str, object]
    inner: list["Room"] = field(default_factory=list)


def public(module: ModuleType) -> dict[str, object]:
    """Return public name -> object of a module, modules left out.

    >>> import textwrap
    >>> list(public(textwrap))
    ['dedent', 'fill', 'indent', 'shorten', 'TextWrapper', 'wrap']
    """
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]
    found = {name: getattr(module, name) for name in sorted(names, key=str.lower)}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def room(name: str) -> Room:
    """Return a package or module as a room; its inner ones only where it lists no names itself."""
    module = import_module(name)
    found = Room(name, inspect.getdoc(module) or "", public(module))
    if not found.names and hasattr(module, "__path__"):
        found.inner = [room(inside) for inside in within(module)]
    return found


def within(package: ModuleType) -> list[str]:
    """Return the full names of what lies in a package, private modules left out."""
    inside = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [f"{package.__name__}.{name}" for name in inside if not name.startswith("_")]


def pages(package: ModuleType) -> dict[str, str]:
    """Return page name -> Markdown for a package: itself first, then every room inside it."""
    top = Room(package.__name__, inspect.getdoc(package) or "", public(package))
    rooms = [top, *map(room, within(package))]
    seen: dict[int, str] = {}
    return {found.name: "\n\n".join(described(found, 1, seen)) + "\n" for found in rooms}


def described(found: Room, level: int, seen: dict[int, str]) -> list[str]:
    """Return the Markdown of a room; ``seen`` says where an object stands already."""
    parts = [f"{'#' * level} {found.name}", found.doc]
    if found.name not in seen.values():  # a verb may have the name of its room
        parts.append(f"```{{eval-rst}}\n.. py:module:: {found.name}\n```")
    own, rows = [], ["| | |", "|---|---|"]
    for name, value in found.names.items():
        full = f"{found.name}.{name}"
        alone = directive(value) == "autodata"  # equal constants are often one object
        here = alone or seen.setdefault(id(value), full) == full
        target = full if here else seen[id(value)]
        rows.append(f"| {{py:obj}}`{name} <{target}>` | {first_line(value)} |")
        if here:
            # a table of ours: autodoc would describe Python's dict
            kind = "py:data" if isinstance(value, dict) else directive(value)
            own.append(f"```{{eval-rst}}\n.. {kind}:: {full}\n```")
    if found.names:
        parts += ["\n".join(rows), *own]
    for inside in found.inner:
        parts += described(inside, level + 1, seen)
    return parts


def directive(value: object) -> str:
    """Return which of autodoc's directives describes an object.

    >>> directive(Room), directive(room), directive(3), directive(ValueError)
    ('autoclass', 'autofunction', 'autodata', 'autoexception')
    """
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def first_line(value: object) -> str:
    """Return the first line of an object's docstring, as a cell of a table.

    >>> first_line(first_line)
    "Return the first line of an object's docstring, as a cell of a table."
    """
    doc = inspect.getdoc(value) if inspect.isroutine(value) or inspect.isclass(value) else ""
    return (doc or "").split("\n")[0].replace("|", "\\|")
