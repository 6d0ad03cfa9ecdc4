"""Fresh processes, one for each contestant of ``runtime.py``, that take turns."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

from runs import HUGE_PAGES

HERE = Path(__file__).parent
PYTHON = [sys.executable]


class Process:
    """A fresh process that holds one contestant; ``script`` says how it answers."""

    def __init__(self, spec: dict, threads: int = 1, script: str = "engines.py") -> None:
        command = [*PYTHON, str(HERE / script), json.dumps(spec | {"threads": threads})]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
            env={**HUGE_PAGES, **os.environ},
        )  # fmt: skip

    def ask(self, do: str, **request: int) -> object:
        """Return the answer to a request.

        Raises:
            RuntimeError: the process has ended.
        """
        with suppress(BrokenPipeError):  # it has ended, which the answer tells
            self.child.stdin.write(json.dumps({"do": do} | request) + "\n")
            self.child.stdin.flush()
        if not (line := self.child.stdout.readline()):
            raise RuntimeError(f"{self.child.args} ended with {self.child.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.communicate()


def turns(specs: dict[str, dict], threads: int, size: tuple[int, int], repeats: int) -> dict:
    """Return the seconds of each contestant in each turn."""
    request = dict(zip(("batch", "tokens"), size, strict=True))
    found: dict[str, list[float]] = {name: [] for name in specs}
    with ExitStack() as stack:
        running = {n: stack.enter_context(Process(spec, threads)) for n, spec in specs.items()}
        for process in running.values():
            process.ask("load", **request)
        calls = {n: max(1, int(0.02 / p.ask("call", **request))) for n, p in running.items()}
        for _ in range(repeats):
            for name, process in running.items():
                found[name].append(process.ask("call", calls=calls[name], **request))
    return found


def loads(specs: dict[str, dict], repeats: int) -> dict[str, dict]:
    """Return seconds and bytes of loading, the median of some fresh processes."""
    found: dict[str, list[dict]] = {name: [] for name in specs}
    for _ in range(repeats):
        for name, spec in specs.items():
            with Process(spec) as process:
                found[name].append(process.ask("load"))
    return {n: {k: median(one[k] for one in all_) for k in all_[0]} for n, all_ in found.items()}


def profiles(specs: dict[str, dict], size: tuple[int, int]) -> dict[str, dict]:
    """Return the milliseconds of one call by operator; torch's int8 tells little, and is left."""
    found = {}
    for name, spec in specs.items():
        with Process(spec) as process:
            process.ask("load")
            found[name] = process.ask("profile", batch=size[0], tokens=size[1])
    return found
