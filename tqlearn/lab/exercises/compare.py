"""Values as checks see them: copies, gradients, and how two of them differ, in a few words."""

import sys
from typing import Any

import torch
from torch import Tensor

LARGEST = sys.float_info.max


def plain(value: Any) -> Any:
    """Return a value made of plain tensors, tuples, lists and numbers: equal means equal there.

    A parameter becomes a tensor; a class of somebody's own that is a tensor stays, and is refused
    where a tensor is expected. Gradients still pass.
    """
    of = type(value)
    if (of is Tensor or of is torch.nn.Parameter) and _strange(value) is None:
        return Tensor.as_subclass(value, Tensor)  # another object, without what hangs on the first
    if issubclass(of, tuple):
        return tuple(plain(item) for item in tuple.__iter__(value))
    if issubclass(of, list):
        return [plain(item) for item in list.__iter__(value)]
    if issubclass(of, float):
        return float.__float__(value)
    if issubclass(of, int) and of is not bool:
        return int.__int__(value)
    return str.__str__(value) if issubclass(of, str) else value


def copied(value: Any, grad: bool = False) -> Any:
    """Return a copy that shares no memory; with ``grad``, its float tensors ask for gradients."""
    if isinstance(value, Tensor):
        copy = value.detach().clone()
        return copy.requires_grad_() if grad and copy.is_floating_point() else copy
    if isinstance(value, tuple | list):
        return type(value)(copied(item, grad) for item in value)
    return value


def tensors(value: Any) -> list[Tensor]:
    """All floating-point tensors inside tuples and lists."""
    if isinstance(value, tuple | list):
        return [t for item in value for t in tensors(item)]
    return [value] if isinstance(value, Tensor) and value.is_floating_point() else []


def gradients(value: Any, given: tuple) -> tuple | None:
    """Gradients of a fixed mix of all outputs for all float inputs; None where there are none."""
    generator = torch.Generator().manual_seed(1)
    total = None
    for out in tensors(value):
        if out.requires_grad:
            mix = torch.randn(out.shape, generator=generator, dtype=out.dtype)
            total = (out * mix).sum() + (0 if total is None else total)
    if total is None:
        return None
    inputs = tensors(given)
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def difference(mine: Any, other: Any, rtol: float, atol: float) -> str | None:
    """Say in a few words how two values differ, or return None if they are close.

    >>> difference((torch.zeros(2), 3), (torch.zeros(2), 4), 0.0, 0.0)
    'part 2 of 2: it is 3, expected 4'
    >>> difference(torch.zeros(2, 3), torch.zeros(3, 2), 0.0, 0.0)
    'it has shape (2, 3), expected (3, 2)'
    """
    if isinstance(other, tuple | list):
        if not isinstance(mine, tuple | list) or len(mine) != len(other):
            return f"it returns {kind(mine)}, expected {kind(other)}"
        for number, (a, b) in enumerate(zip(mine, other, strict=True), 1):
            if words := difference(a, b, rtol, atol):
                return f"part {number} of {len(other)}: {words}"
        return None
    if isinstance(other, Tensor):
        return _tensor_difference(mine, other, rtol, atol)
    if type(mine) is Tensor and _strange(mine) is None and mine.numel() == 1:
        mine = mine.item()
    if isinstance(other, float):
        if type(mine) not in (int, float):
            return f"it returns {kind(mine)}, expected {kind(other)}"
        close = -LARGEST <= mine <= LARGEST and abs(mine - other) <= atol + rtol * abs(other)
        return None if close else f"it is {_short(mine)}, expected {other:.4g}"
    if type(mine) is not type(other) and not _whole(mine, other):
        return f"it returns {kind(mine)}, expected {kind(other)}"
    return None if mine == other else f"it is {_short(mine, '')}, expected {other!r}"


def _short(number: Any, form: str = ".4g") -> str:
    """Write a value; nobody wants to see all digits of an integer that is too large for a float."""
    if isinstance(number, int) and abs(number) > LARGEST:
        return f"an integer of {number.bit_length()} bits"
    return format(number, form) if form else repr(number)


def _whole(mine: Any, other: Any) -> bool:
    """An integer may come as a float without a fraction (a count from torch or numpy)."""
    return isinstance(other, int) and isinstance(mine, float) and mine.is_integer()


def _strange(mine: Tensor) -> str | None:
    """Say what is unusual about where or how a tensor keeps its numbers."""
    if mine.is_nested or mine.layout is not torch.strided:
        layout = "nested" if mine.is_nested else str(mine.layout).removeprefix("torch.")
        return f"it is a {layout} tensor, expected a dense one"
    return None if mine.device.type == "cpu" else f"it lies on {mine.device}, expected cpu"


def _tensor_difference(mine: Any, other: Tensor, rtol: float, atol: float) -> str | None:
    if type(mine) is not Tensor:
        return f"it returns {kind(mine)}, expected {kind(other)}"
    if words := _strange(mine):
        return words
    if mine.shape != other.shape:
        return f"it has shape {(*mine.shape,)}, expected {(*other.shape,)}"
    if mine.dtype != other.dtype:
        return f"it holds {mine.dtype}, expected {other.dtype}"
    mine, other = mine.detach(), other.detach()
    if torch.allclose(mine, other, rtol=rtol, atol=atol, equal_nan=True):
        return None
    if not torch.isfinite(mine).all() and torch.isfinite(other).all():
        return "it has NaN or infinite entries"
    off = (mine.double() - other.double()).abs().max().item()
    return f"values are off by up to {off:.2g}"


def kind(value: Any) -> str:
    """Name a value's kind.

    >>> kind(None), kind(3), kind([1, 2]), kind(torch.zeros(2))
    ('nothing (is a return missing?)', 'an integer', 'a list of 2', 'a tensor')
    """
    if value is None:
        return "nothing (is a return missing?)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    names = {bool: "True or False", int: "an integer", float: "a number", str: "a text"}
    return "a tensor" if type(value) is Tensor else names.get(type(value), type(value).__name__)
