"""Run a sweep with several workers: ``python -m tqlearn.sweep FILE.py --workers 2 --trials 100``.

FILE.py makes a ``Sweep`` with a storage and calls it ``sweep``. Every worker runs the file for
itself and takes part in the same study; so do workers on other machines, on a database. A worker
that dies costs the trial it was at, and another worker begins that plan anew.
"""

import argparse
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .study import Sweep


def of(path: Path) -> Sweep:
    """Run the file and return its sweep.

    Raises:
        ValueError: it makes none.
    """
    made = runpy.run_path(str(path), run_name="__sweep__").get("sweep")
    if not isinstance(made, Sweep):
        raise ValueError(f"{path} makes no Sweep called sweep, as in: sweep = Sweep(model, ...)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Start the workers, wait, and print the front."""
    parser = argparse.ArgumentParser(
        prog="python -m tqlearn.sweep", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path, help="Python file that makes a Sweep called sweep")
    parser.add_argument("--trials", type=int, default=100, help="finished trials in the end")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    args = parser.parse_args(argv)
    if args.workers == 1:
        print(of(args.file).run(args.trials).table())
        return 0
    words = [sys.executable, "-m", "tqlearn.sweep", str(args.file), "--trials", str(args.trials)]
    workers = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(args.workers)]
    ended = [one.wait() for one in workers]
    print(of(args.file).table())
    return int(any(ended))


if __name__ == "__main__":
    sys.exit(main())
