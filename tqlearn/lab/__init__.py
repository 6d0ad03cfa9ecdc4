"""What only the notebooks need: figures, explorers, measured results, and the build of the course.

Nothing is imported here, so that ``python -m tqlearn.lab.environment`` can say what is missing.
"""


def __getattr__(name: str):
    if name == "workbench":  # a package that can be called
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
