"""A user with the core alone: every door says what to install, and what needs no extra opens."""

import ast
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

import tqlearn
from tqlearn import extras
from tqlearn.lab import environment

EXTRA = extras.HF | extras.LAB | extras.LM | extras.SHIP | extras.SWEEP
PACKAGE = Path(tqlearn.__file__).parent
ROOT = PACKAGE.parent
NEEDS = re.compile(r"(tqlearn[\w.]*) needs (\w+), which is not installed: "
                   r"pip install 'tqlearn\[(hf|lab|lm|ship|sweep)\]'")  # fmt: skip
CORE_ROOMS = {  # all that torch is enough for
    *("arguments", "averages", "computed", "data", "deferred", "distill", "extras", "factors"),
    *("guarded", "kinds", "locks", "models", "posttraining", "precision", "quantizers", "registry"),
    *("shapes", "sparsity", "spaces", "stages", "steps", "storage", "surgery", "writing"),
}
WALK = """
import importlib, io, json, pkgutil, runpy, sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import PathFinder
from pathlib import Path

kept = set(sys.argv[1].split())

class Core(PathFinder):
    \"\"\"Finds the standard library, the core's packages and tqlearn, nothing else.\"\"\"
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None and name.split(".")[0] not in kept | sys.stdlib_module_names:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [*(f for f in sys.meta_path if "Importer" in getattr(f, "__name__", "")), Core]

def door(call):
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out):
            call()
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return ["", out.getvalue()]

found = {}
import tqlearn
for module in pkgutil.walk_packages(tqlearn.__path__, "tqlearn.", onerror=lambda name: None):
    found[module.name] = door(lambda: importlib.import_module(module.name))
for path in json.loads(sys.argv[2]):  # below packages that do not open
    found[path] = door(lambda: importlib.import_module(path))
for name in ("tqlearn.lab.environment", "tqlearn.recipes.qtc", "tqlearn.lab.build"):
    sys.argv[1:] = []
    found["-m " + name] = door(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))
import torch
cores = tqlearn.factors.tt_svd(torch.ones(2, 2), ranks=1)[0]
calls = {
    "tq.hf": lambda: tqlearn.hf, "tq.teachers": lambda: tqlearn.teachers,
    "tq.data": lambda: tqlearn.data.load("flights"),
    "to_tensorly": lambda: tqlearn.factors.to_tensorly(cores),
    "core": lambda: print(tqlearn.report(tqlearn.pack(tqlearn.calibrate(tqlearn.compress(
        torch.nn.Sequential(torch.nn.Linear(8, 8)), {"0": [tqlearn.LSQ(4)]}))))),
}
found |= {name: door(call) for name, call in calls.items()}

def user():
    exec("import transformers", {"__name__": "mine"})

found["user"] = door(user)
print(json.dumps(found))
"""


@functools.cache
def distributions():
    return metadata.packages_distributions()


@pytest.fixture(scope="module")
def doors():
    """What every module and a few calls answer where no other distribution than the core's is."""
    closure = {*environment.needed("tqlearn", []), "tqlearn", "numpy"}
    tops = distributions()
    kept = {top for top, names in tops.items() if closure & set(map(canonicalize_name, names))}
    inside = [*PACKAGE.glob("hf/*.py"), *PACKAGE.glob("recipes/*.py"), *PACKAGE.glob("lab/**/*.py")]
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in inside]
    names = sorted(name for name in names if not name.endswith("__init__"))
    assert "torch" in kept and not kept & EXTRA
    command = [sys.executable, "-c", WALK, " ".join({*kept, "tqlearn"}), json.dumps(names)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_core_opens_and_works(doors):
    closed = {name for name, (kind, _) in doors.items() if kind and name.startswith("tqlearn.")}
    rooms = {name.split(".")[1] for name in closed}
    assert not rooms & CORE_ROOMS, {name: doors[name] for name in closed}
    assert {
        name.split(".")[1] for name in doors if name.startswith("tqlearn.")
    } - rooms == CORE_ROOMS
    assert not doors["core"][0] and "whole file" in doors["core"][1]


def test_every_other_door_says_what_to_install(doors):
    """Also of modules below a package that does not open; by the extra that its room belongs to."""
    for name, (kind, words) in doors.items():
        if not kind or name == "user":
            continue
        said = NEEDS.search(words)
        assert said and kind in ("ModuleNotFoundError", "ImportError", "SystemExit"), (name, words)
        room = name.removeprefix("-m ").removeprefix("tqlearn.").split(".")[0]
        extras_of = {"lab": "lab", "to_tensorly": "lab", "export": "ship", "sweep": "sweep"}
        extra = extras_of.get(room, "hf")
        assert said[3] == extra, (name, words)
    assert "datasets" in doors["tq.data"][1] and "transformers" in doors["tqlearn.hf"][1]
    shut = {name for name, (kind, _) in doors.items() if kind}
    some = "hf.joint lab.plots lab.ledger lab.student lab.teach recipes.qtc teachers".split()
    wanted = {f"tqlearn.{name}" for name in some} | {"tq.hf", "tq.teachers", "tq.data"}
    assert wanted | {"to_tensorly", "-m tqlearn.recipes.qtc", "-m tqlearn.lab.build"} <= shut


def test_the_check_of_the_environment_answers_without_a_traceback(doors):
    kind, words = doors["-m tqlearn.lab.environment"]
    assert kind == "SystemExit"
    needs = "tqlearn.lab.environment needs packaging, which is not installed"
    assert words == f"Not fit yet: {needs}: pip install 'tqlearn[lab]'"


def test_what_others_import_is_their_own_affair(doors):
    assert doors["user"] == ["ModuleNotFoundError", "No module named 'transformers'"]


def test_the_table_ends_with_the_way_to_what_is_missing(monkeypatch, capsys):
    row = environment.package_row("no-such-package", [], {})
    monkeypatch.setattr(environment, "package_rows", lambda: iter([row]))
    assert environment.main([]) == 1
    out = capsys.readouterr().out
    assert "Not fit yet: no-such-package" in out
    assert out.endswith("All that is missing comes with: pip install 'tqlearn[lab]'\n")


def test_every_guest_belongs_to_the_extra_that_is_named():
    """All that the package imports, at the top or in a function, is in one of the lists."""
    tops, guests = distributions(), set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            guests |= {name.split(".")[0] for name in names}
    core = {"tqlearn", "torch", "jaxtyping", "safetensors", "numpy", "msvcrt"}
    guests -= sys.stdlib_module_names | core
    assert guests == EXTRA, "a guest is in no list, or is none any more"
    for extra in ("hf", "lab", "lm", "ship", "sweep"):
        listed = getattr(extras, extra.upper())
        brought = {canonicalize_name(name) for name in environment.needed("tqlearn", [extra])}
        for name in listed:
            assert importlib.util.find_spec(name), name
            assert set(map(canonicalize_name, tops[name])) & brought, f"[{extra}] brings no {name}"
