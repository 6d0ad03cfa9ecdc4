"""Ranges in place of numbers: an edit that holds one is open, and a sweep fills it in.

    {"*.query": [TT(rank=ints(4, 64)), LSQ(bits=choice(2, 3, 4, 8))],
     "*word_embeddings": choice([LSQ(bits=4)], [TTM(rank=ints(8, 64)), LSQ(bits=8)])}

``TT(rank=ints(4, 64))`` is no ``TT`` yet: the numbers are checked when they are there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

EDITS: dict[str, type] = {}  # class name -> edit


@dataclass(frozen=True)
class Ints:
    """A whole number from ``low`` to ``high``, both included; see ``ints``."""

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True)
class Floats:
    """A number from ``low`` to ``high``; see ``floats``."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several; see ``choice``."""

    options: tuple

    def __repr__(self) -> str:
        return f"choice({', '.join(map(repr, self.options))})"


def ints(low: int, high: int, *, step: int = 1, log: bool = False) -> Ints:
    """Return a range of whole numbers, both ends included.

    Raises:
        ValueError: it is empty, or logarithmic with steps or from below 1.
    """
    if not low <= high or step < 1 or log and (step > 1 or low < 1):
        raise ValueError(
            f"a range goes up in steps of 1 or more, a logarithmic one by 1 from 1 on, got "
            f"ints({low}, {high}, step={step}, log={log})"
        )
    return Ints(low, high, step, log)


def floats(low: float | int, high: float | int, *, log: bool = False) -> Floats:
    """Return a range of numbers.

    Raises:
        ValueError: it is empty, or logarithmic from 0 or below.
    """
    if not low < high or log and low <= 0:
        raise ValueError(f"a range goes up, a logarithmic one from above 0, got ({low}, {high})")
    return Floats(low, high, log)


def choice(*options: object) -> Choice:
    """Return a choice: of numbers, words, edits, lists of edits or whole plans, open ones too.

    Raises:
        ValueError: fewer than two, or two that print alike.
    """
    if len({repr(option) for option in options}) < max(len(options), 2):
        raise ValueError(f"a choice has two or more options that differ, got {options!r}")
    return Choice(options)


@dataclass(frozen=True)
class Open:
    """An edit with ranges among its arguments."""

    kind: type
    args: tuple
    kwargs: Mapping[str, object]

    def __call__(self, module: object) -> None:
        """Refuse.

        Raises:
            TypeError: always; a range is no number.
        """
        raise TypeError(f"{self} has ranges in it; tqlearn.sweep fills them in, or put numbers")

    def __repr__(self) -> str:
        words = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.kind.__name__}({', '.join(words)})"


class Edit:
    """What our edits are made of: a call with a range in it gives an ``Open`` one."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        EDITS.setdefault(cls.__name__, cls)

    def __new__(cls, *args: object, **kwargs: object) -> "Edit | Open":
        """Make the edit, or an open one."""
        if any(map(is_open, (*args, *kwargs.values()))):
            return Open(cls, args, kwargs)
        return super().__new__(cls)


def is_open(value: object) -> bool:
    """Say whether a value is a range, or has one in it."""
    if isinstance(value, Mapping):
        return any(map(is_open, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_open, value))
    return isinstance(value, Ints | Floats | Choice | Open)


def filled(value: object, pick: Callable[[str, object], object], path: str = "") -> object:
    """Return a plan, a list or an edit with something in place of every range.

    Args:
        pick: (name, range) -> what stands there; called in the order of the plan, and for the
            option that was chosen only. Names are unique: pattern, place in its list, argument.

    >>> filled({"*": [Open(dict, (), {"a": ints(1, 9)})]}, lambda name, among: print(name) or 3)
    *[0].a
    {'*': [{'a': 3}]}
    """
    if isinstance(value, Choice):
        names = {repr(option): option for option in value.options}
        return filled(names[pick(path, value)], pick, path)
    if isinstance(value, Ints | Floats):
        return pick(path, value)
    if isinstance(value, Open):
        args = [filled(v, pick, f"{path}.{i}") for i, v in enumerate(value.args)]
        return value.kind(*args, **{k: filled(v, pick, f"{path}.{k}")
                                    for k, v in value.kwargs.items()})  # fmt: skip
    if isinstance(value, Mapping):
        return {key: filled(v, pick, f"{path}{key}") for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [filled(v, pick, f"{path}[{i}]") for i, v in enumerate(value)]
    return value


def written(edits: Sequence) -> list[dict]:
    """Return a list of edits as JSON holds it: {"edit": name, argument: value, ...}.

    Raises:
        TypeError: one is no edit of a class under ``Edit``.
    """
    found = []
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(f"{edit!r} is no tqlearn edit, and JSON holds no others")
        values = ((f.name, getattr(edit, f.name), f.default) for f in fields(edit) if f.init)
        said = {name: value for name, value, default in values if value != default}
        spec = {name: written([v])[0] if isinstance(v, Edit) else v for name, v in said.items()}
        found.append({"edit": type(edit).__name__, **spec})
    return found


def read(specs: Sequence) -> list:
    """Return the edits that ``written`` wrote; edits among them stay.

    Raises:
        ValueError: a name that no edit has.
    """
    return [_one(spec) if isinstance(spec, Mapping) and "edit" in spec else spec for spec in specs]


def _one(spec: Mapping[str, object]) -> Edit:
    name, *_ = given = [spec["edit"]]
    if name not in EDITS:
        raise ValueError(f"no edit is called {given[0]!r}; there are {sorted(EDITS)}")
    nested = {k: read([v])[0] for k, v in spec.items() if k != "edit"}
    return EDITS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in nested.items()})


def ranges_in(value: object) -> Iterator[object]:
    """Yield every range of a plan, those of all options."""
    if isinstance(value, Choice):
        yield value
        yield from ranges_in(value.options)
    elif isinstance(value, Open):
        yield from ranges_in([*value.args, *value.kwargs.values()])
    elif isinstance(value, Mapping):
        yield from ranges_in([*value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from ranges_in(one)
    elif isinstance(value, Ints | Floats):
        yield value
