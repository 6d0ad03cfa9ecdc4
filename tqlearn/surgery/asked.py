"""What a plan may hold, and what an edit has to give back; both are refused by name."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass

from torch import nn

from ..spaces import read

EXAMPLE = "{'*.query': [TT(rank=8), LSQ(bits=4)]}"


def check_plan(plan: object) -> dict[str, Sequence]:
    """Return a plan with its edits, those that JSON holds as edits again; refuse what is no plan.

    Raises:
        TypeError: it is no mapping of patterns to lists of edits.
        ValueError: a name of an edit that there is not.
    """
    if not isinstance(plan, Mapping):
        raise TypeError(
            f"a plan maps patterns of module names to lists of edits, such as {EXAMPLE}; got a "
            f"{type(plan).__name__}"
        )
    found = {}
    for pattern, edits in plan.items():
        if not isinstance(pattern, str):
            raise TypeError(f"a pattern is a string, such as '*.query', got {pattern!r}")
        if not isinstance(edits, Sequence) or isinstance(edits, str):
            way = f"; write [{edits!r}]" if callable(edits) else ", and [] leaves a layer alone"
            raise TypeError(f"plan pattern {pattern!r} needs a list of edits, got {edits!r}{way}")
        found[pattern] = read(edits)
        for edit in found[pattern]:
            if isinstance(edit, type) and is_dataclass(edit):
                raise TypeError(
                    f"plan pattern {pattern!r}: {edit.__name__} is the class; write "
                    f"{edit.__name__}(...), with its arguments"
                )
            if not callable(edit):
                raise TypeError(f"plan pattern {pattern!r}: {edit!r} is no edit (module -> module)")
    return found


def applied(edit: object, layer: nn.Module, name: str, by: object = None) -> nn.Module:
    """Return what an edit makes of a layer.

    Args:
        by: what is called instead of the edit, such as its ``skeleton``.

    Raises:
        TypeError: it is no module; or whatever the edit raises, with the layer's name.
    """
    with naming(name):
        new = (edit if by is None else by)(layer)
    if not isinstance(new, nn.Module):
        way = "; let it return the layer" if new is None else ""
        raise TypeError(f"{edit!r} returned a {type(new).__name__} for {name!r}, not a module{way}")
    return new


def edited(layer: nn.Module, edits: Sequence, name: str) -> nn.Module:
    """Return what edits make of a layer, one after the other; they may change it."""
    for edit in edits:
        training = layer.training
        layer = applied(edit, layer, name)
        layer.train(training)
    return layer


def outlined(layer: nn.Module, edits: Sequence, name: str) -> nn.Module:
    """Return the layer that edits make, on meta; with numbers where one is given as an error."""
    by_error = any(getattr(edit, "error", None) is not None for edit in edits)
    new = copy.deepcopy(layer)
    new = new if by_error else new.to("meta")  # an error is a matter of the values
    for edit in edits:
        new = applied(edit, new, name, getattr(edit, "skeleton", None))
    return new


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let an edit that refuses a layer say which one, as long as it does not say so itself."""
    try:
        yield
    except (TypeError, ValueError) as error:
        words = str(error)
        if type(error) not in (TypeError, ValueError) or words.startswith(name):
            raise
        raise type(error)(f"{name}: {words}") from error
