"""What an argument must be: a whole number, a number, a switch, a word, a list of them, a model.

``True`` is no number and 2.0 no whole one; numpy's numbers are numbers, and become Python's, so
that a layout can hold them. A refusal says the rule, what came, and what to write.
"""

import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from math import isfinite
from numbers import Integral, Real

from torch import Tensor, nn

NAMES = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a string",
         types.NoneType: "None"}  # fmt: skip
MANY = {int: "whole numbers", float: "numbers", str: "strings", types.NoneType: "None"}


def _is_switch(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's too


def _plain(value: object, kind: object) -> object:
    """Return a value as Python's own of an annotated kind; raise a TypeError if it is of another.

    A kind that we do not know takes all.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in inner:
            try:
                return _plain(value, one)
            except TypeError:
                continue
        raise TypeError
    if origin in (tuple, Sequence):
        listed = value.tolist() if hasattr(value, "tolist") and not _is_switch(value) else value
        if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
            raise TypeError
        if origin is tuple and Ellipsis not in inner and len(listed) != len(inner):
            raise TypeError
        return tuple(_plain(one, inner[0]) for one in listed)
    if kind is bool and _is_switch(value):
        return bool(value)
    if kind is int and isinstance(value, Integral) and not _is_switch(value):
        return int(value)
    if kind is float and isinstance(value, Real) and not _is_switch(value) and isfinite(value):
        return int(value) if isinstance(value, Integral) else float(value)
    other = kind in (bool, int, float) or (isinstance(kind, type) and not isinstance(value, kind))
    if other:
        raise TypeError
    return value


def _words(kind: object) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [one for one in inner if not (one is int and float in inner)]
        return " or ".join(map(_words, kinds))
    if origin in (tuple, Sequence):
        kinds = typing.get_args(inner[0]) or inner[:1]
        return f"a list of {' or '.join(MANY.get(one, str(one)) for one in kinds)}"
    return NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def require(where: str, value: object, kind: object) -> object:
    """Return a value of a kind, numpy's numbers as Python's.

    Args:
        where: who asks for what, such as "TT: rank".
        kind: as in an annotation: int, float, bool, str, None, a union or a Sequence of these.

    Raises:
        TypeError: it is of another kind; the message says which one is needed.

    >>> require("TT: rank", 2.0, int)
    Traceback (most recent call last):
    TypeError: TT: rank must be a whole number, got 2.0; write 2
    """
    try:
        return _plain(value, kind)
    except TypeError:
        way = _way(value, kind)
        raise TypeError(f"{where} must be {_words(kind)}, got {_short(value)}{way}") from None


def _way(value: object, kind: object) -> str:
    """Say what to write instead, where that is plain."""
    ways = []
    if isinstance(value, Tensor) and value.numel() == 1:
        ways.append((value.item(), "call .item() on it"))
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        ways.append((int(value), f"write {value.strip()} without quotes"))
    if isinstance(value, Real) and isfinite(value) and value == int(value):
        ways += [(int(value), f"write {int(value)}"), ((value,), f"write ({value},)")]
    for other, words in ways if not _is_switch(value) else ():
        with suppress(TypeError):
            _plain(other, kind)
            return f"; {words}"
    return ""


def settle(edit: object) -> None:
    """Check the fields of a frozen dataclass by their annotations; numpy's become Python's.

    Raises:
        TypeError: a field is of another kind.
    """
    for field in fields(edit):
        value = getattr(edit, field.name)
        if value is not field.default:
            found = require(f"{type(edit).__name__}: {field.name}", value, field.type)
            object.__setattr__(edit, field.name, found)


def require_model(verb: str, model: object) -> None:
    """Raise a TypeError for what is no torch module.

    >>> require_model("compress", "bert-base-uncased")
    Traceback (most recent call last):
    TypeError: compress takes a torch model, got 'bert-base-uncased'; load it first
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"{verb} takes a model, got the class {model.__name__}; make one of it")
    if not isinstance(model, nn.Module):
        ways = {str: "; load it first", tuple: "; name the model in it, such as pair[0]"}
        way = next((way for kind, way in ways.items() if isinstance(model, kind)), "")
        raise TypeError(f"{verb} takes a torch model, got {_short(model)}{way}")


def require_numbers(verb: str, model: nn.Module, whole: bool = True) -> None:
    """Raise a ValueError for a model whose tensors are on meta: there is nothing to compute with.

    Args:
        whole: also for one of which each process holds a part, or accelerate keeps some on a disk:
            a forward pass brings those, and nothing else does.

    >>> require_numbers("calibrate", nn.Linear(2, 2, device="meta"))
    Traceback (most recent call last):
    ValueError: calibrate needs numbers, but weight is on meta; load the weights first
    """
    if whole:
        require_gathered(verb, model)
    away = hasattr(model, "hf_device_map")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta and away and whole:
            raise ValueError(
                f"{verb} needs numbers, but accelerate keeps {name} elsewhere; load the model "
                "without a device_map that offloads, then offload what you get"
            )
        if tensor.is_meta and not away:
            raise ValueError(f"{verb} needs numbers, but {name} is on meta; load the weights first")


def is_sharded(tensor: Tensor) -> bool:
    """Say whether this process holds a part of a tensor alone, as FSDP2 leaves it (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def require_gathered(verb: str, model: nn.Module) -> None:
    """Raise a ValueError for a model of which this process holds a part alone."""
    name = next((name for name, tensor in model.named_parameters() if is_sharded(tensor)), None)
    if name is not None:
        raise ValueError(
            f"{verb} needs whole tensors, but {name} is sharded over several processes; gather "
            "them with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True, cpu_offload=True)) and load that into "
            "a student that is not sharded"
        )


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, Tensor) else f"a tensor of {tuple(value.shape)}"
    named = f"a {type(value).__name__}" if len(text) > 80 else text
    return f"the function {value.__name__}" if isinstance(value, types.FunctionType) else named
