"""Is this environment fit for the course? ``python -m tqlearn.lab.environment`` answers in a table.

Exit code 0: yes. 1: something is missing or too old, and its line says what to do. A version other
than the tested one in ``requirements.lock`` is pointed out; with ``--strict`` that is an error too.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version
except ImportError as error:  # the core alone is installed
    if __name__ != "__main__":
        raise
    sys.exit(f"Not fit yet: {error}")

LOCK = Path(__file__).parents[2] / "requirements.lock"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GOOD, NOTE, DIFFERS, WRONG = "ok", "-", "differs", "WRONG"


class Row(NamedTuple):
    """One line of the table; only WRONG (and, when strict, DIFFERS) makes the environment unfit."""

    what: str
    found: str
    verdict: str
    remark: str = ""


def read_pins(lock: Path) -> dict[str, str]:
    """Package name -> version, from the ``name==version`` lines of a lock file."""
    lines = (line.split("#")[0].strip() for line in lock.read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def installed(name: str) -> Version | None:
    """The version that is installed, without its build suffix: 2.13.0+cpu counts as 2.13.0."""
    try:
        return Version(Version(metadata.version(name)).public)
    except metadata.PackageNotFoundError:
        return None


def needed(name: str, extras: Iterable[str] = (), skip: Iterable[str] = ()) -> dict[str, list]:
    """Everything that ``name[extras]`` needs, directly or not: package -> requirements made on it.

    A package that is not installed is listed, but what it would need in turn is unknown. The own
    needs of the packages in ``skip`` are not followed.
    """
    found: dict[str, list] = {}
    done, todo = set(skip), [(canonicalize_name(name), frozenset(extras))]
    while todo:
        package, wanted = todo.pop()
        if (package, wanted) in done or package in done or installed(package) is None:
            continue
        done.add((package, wanted))
        for line in metadata.requires(package) or []:
            requirement = Requirement(line)
            marker, target = requirement.marker, canonicalize_name(requirement.name)
            if marker and not any(marker.evaluate({"extra": extra}) for extra in {"", *wanted}):
                continue
            found.setdefault(target, []).append(requirement)
            todo.append((target, frozenset(requirement.extras)))
    return found


def package_row(name: str, requirements: list, pins: dict[str, str]) -> Row:
    """Judge one package: missing, outside what its users accept, other than the lock, or fine."""
    version = installed(name)
    if version is None:
        return Row(
            name, "missing", WRONG, f"pip install '{name}=={pins[name]}'" if name in pins else ""
        )
    refused = [r for r in requirements if not r.specifier.contains(version, prereleases=True)]
    if refused:
        return Row(name, str(version), WRONG, f"needs {refused[0].specifier}")
    if name in pins and version != Version(Version(pins[name]).public):
        return Row(name, str(version), DIFFERS, f"tested with {pins[name]}")
    return Row(name, str(version), GOOD)


def package_rows(extra: str = "lab") -> Iterator[Row]:
    """A row for each package that tqlearn names itself, and one for all the others it pulls in."""
    if installed("tqlearn") is None:
        yield Row("tqlearn", "missing", WRONG, "in the checkout: pip install --no-deps -e .")
        return
    pins = read_pins(LOCK) if LOCK.is_file() else {}
    yield Row("tqlearn", str(installed("tqlearn")), GOOD)
    everything = {n: r for n, r in needed("tqlearn", [extra]).items() if n != "tqlearn"}
    direct = set(needed("tqlearn", [extra], skip=set(everything) - {"tqlearn"}))
    rows = [
        (name in direct, package_row(name, rs, pins)) for name, rs in sorted(everything.items())
    ]
    yield from (row for named, row in rows if named)
    others = [row for named, row in rows if not named]
    yield from (row for row in others if row.verdict != GOOD)
    fine = sum(row.verdict == GOOD for row in others)
    remark = "as in requirements.lock" if pins else "no requirements.lock here to compare with"
    yield Row("packages behind these", f"{fine} of {len(others)}", GOOD if pins else NOTE, remark)


def machine_rows() -> Iterator[Row]:
    """Python, threads, and the optional things outside Python's packages."""
    old = sys.version_info < (3, 11)
    yield Row("python", platform.python_version(), WRONG if old else GOOD, "3.11 or newer" * old)
    device = "a GPU is there too" if torch.cuda.is_available() else "no GPU: none is needed"
    yield Row("torch threads", str(torch.get_num_threads()), GOOD, device)
    browser = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    remark = "" if browser else "optional: only the browser tests use one"
    yield Row("chromium", browser or "none", GOOD if browser else NOTE, remark)
    data = os.environ.get("TQLEARN_DATA")
    there = data is None or Path(data).is_dir()
    remark = (
        "optional: the course brings its own data" if data is None else "not a folder" * (not there)
    )
    yield Row(
        "TQLEARN_DATA", data or "not set", (GOOD if data else NOTE) if there else WRONG, remark
    )


def table(rows: list[Row]) -> str:
    """The rows in four columns."""
    wide = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{r.what:<{wide[0]}}  {r.found:<{wide[1]}}  {r.verdict:<{wide[2]}}  {r.remark}".rstrip()
        for r in rows
    )


def main(arguments: list[str]) -> int:
    """Print the table and a closing line; the exit code is what a script needs to know."""
    rows = [*machine_rows(), *package_rows()]
    bad = {WRONG, DIFFERS} if "--strict" in arguments else {WRONG}
    unfit = [row.what for row in rows if row.verdict in bad]
    print(table(rows))
    print(f"\nNot fit yet: {', '.join(unfit)}" if unfit else "\nFit for the course.")
    if any(row.found == "missing" for row in rows):
        print("All that is missing comes with: pip install 'tqlearn[lab]'")
    return 1 if unfit else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
