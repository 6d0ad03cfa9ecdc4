"""The classes that a saved model may name; loading never imports anything a file asks for."""

REGISTRY: dict[str, type] = {}


def register(cls: type) -> type:
    """Make a layer or quantizer class known to ``describe`` and ``rebuild``; use it as a decorator.

    The class needs ``config()``, which returns the keyword arguments that rebuild it.

    Raises:
        TypeError: the class has no ``config`` method.
        ValueError: another class is registered under that name.
    """
    if not callable(getattr(cls, "config", None)):
        raise TypeError(f"{cls.__name__} needs a config() method that returns its arguments")
    known = REGISTRY.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{cls.__name__!r} is taken by {known.__module__}; rename your class")
    REGISTRY[cls.__name__] = cls  # a notebook cell that is run again registers its new version
    return cls


def build(spec: dict) -> object:
    """Return an instance from {"class": name, "args": {...}}.

    Raises:
        ValueError: the class is not registered.
    """
    if spec["class"] not in REGISTRY:
        raise ValueError(
            f"the layout names the class {spec['class']!r}, known are {sorted(REGISTRY)}; import "
            "the module that defines it and decorate it with @tqlearn.register before loading"
        )
    return REGISTRY[spec["class"]](**spec["args"])


def spec_of(module: object) -> dict:
    """Return {"class": name, "args": {...}} of an instance of a registered class."""
    return {"class": registered_name(module), "args": module.config()}


def registered_name(module: object) -> str | None:
    """Return the name under which an instance's class is registered, or None."""
    cls = type(module)
    if cls.__name__.startswith("Parametrized"):  # parametrize puts a class of its own in front
        cls = cls.__mro__[1]
    return cls.__name__ if REGISTRY.get(cls.__name__) is cls else None
