"""The house itself: who may import whom, what is pinned, what a reader would trip over."""

import ast
import fnmatch
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import beartype
import jaxtyping
import pytest
import torch
from conftest import CHECKED, checked, pytest_xdist_auto_num_workers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from warm import FRESH

from tqlearn.factors.svd import squares
from tqlearn.lab import environment

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tqlearn"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = environment.read_pins(ROOT / "requirements.lock")

ROWS = [  # DESIGN: who may import whom; a room imports only what stands in rows before its own
    {"arguments", "extras", "spaces", "writing"},
    {"shapes", "registry", "computed", "steps", "kinds", "precision", "locks"},
    {"deferred", "guarded"},
    {"stages", "averages"},
    {"factors", "quantizers", "sparsity", "distill", "data"},
    {"storage", "models"},
    {"surgery"},
    {"posttraining"},
    {"hf", "export"},
    {"teachers"},
    {"recipes", "sweep"},
    {"lab"},
]
FLOOR = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
CORE = {"torch", "jaxtyping", "safetensors"}
BRIDGE = {"transformers", "tokenizers", "huggingface_hub", "datasets", "accelerate"}
BRIDGE |= {"seqeval", "sacrebleu", "sklearn", "numpy"}
# recipes are programs for transformers' own argument parser and trainer
GUESTS = {"data": {"datasets", "numpy", "sklearn", "PIL"}}
GUESTS |= {"hf": BRIDGE, "teachers": BRIDGE, "recipes": BRIDGE}
GUESTS |= {
    "export": {"onnx", "onnxruntime", "onnxscript", "numpy", "compressed_tensors", "transformers"}
}
GUESTS |= {"sweep": {"optuna", "tqdm", "psutil", "plotly", "numpy"}}
GUESTS["hf"] = BRIDGE | {"gguf"}  # imported at the call, to read such a file
GUESTS |= {"factors": {"tensorly"}}  # imported at the call, to hand cores over


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what is committed cannot be listed")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """Full dotted names of everything a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ["tqlearn", *file.relative_to(PACKAGE).parts][: -node.level] if node.level else []
            )
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def rooms_imported(file: Path) -> set[str]:
    inside = (name.split(".") for name in imports(file) if name.startswith("tqlearn."))
    return {parts[1] for parts in inside if parts[1] in FLOOR} - {room_of(file)}


MODULES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms(file):
    room = room_of(file)
    assert room in FLOOR, f"{file} stands in no row of the house"
    for name in sorted(rooms_imported(file)):
        assert FLOOR[name] < FLOOR[room], f"{room} may not import {name}"
    outside = {name.split(".")[0] for name in imports(file)} - {"tqlearn"}
    strangers = outside - sys.stdlib_module_names - CORE - GUESTS.get(room, set())
    assert room == "lab" or not strangers, f"{room} may not import {sorted(strangers)}"


def test_recipes_stand_alone():
    for file in (PACKAGE / "recipes").glob("*.py"):
        taken = {name for name in imports(file) if name.startswith("tqlearn.recipes.")}
        assert not taken, f"{file.name} imports another recipe: {taken}"


def test_lab_uses_public_names_only():
    for file in (PACKAGE / "lab").glob("*.py"):
        private = {n for n in imports(file) if n.startswith("tqlearn.") and "._" in n}
        assert not private, f"{file.name} imports {private}"


IN_PLACE = re.compile(
    r"\.write_(text|bytes)\(|\bopen\([^)]*[\"'][wax]b?\+?[\"']|(?<![.\w])save_(file|model)\(|torch\.save\("
    r"|json\.dump\(|nbformat\.write\(|np\.save\w*\(|savefig\(|write_(html|image|json)\("
)
IN_FOLDERS_OF_THEIR_OWN = {  # temporary, a log, or a file that another name replaces at once
    "tqlearn/lab/portable.py": '    with open(os.environ[FILE], "a") as file:',
    "tqlearn/export/folders.py": "        save_file(state, new / ",
    "tqlearn/lab/workbench/spectra.py": "                save_file({",
    "tqlearn/storage/files.py": "        save_file(state, str(new), metadata=notes)",
    "tqlearn/storage/report.py": "            save_model(packed, str(path), metadata=",
    "tqlearn/recipes/fullyqt.py": "        save_file(kept, new / translation.WEIGHTS,",
    "benchmarks/architectures.py": "        torch.save({",
    "benchmarks/architectures_read.py": "        new.write_text(json.dumps(found))",
    "benchmarks/engines.py": '    Path("/proc/self/clear_refs")',
    "benchmarks/kills.py": ("        with open(said,", "        said.write_text("),
    "benchmarks/runtime_students.py": "        torch.save(student.state_dict(), new)",
    "benchmarks/smollm2_speed.py": "                torch.save(coded(model, coder, dtype), new)",
    "benchmarks/stream.py": "        save_file(values, ",
    "benchmarks/workbench_memory.py": '    Path("/proc/self/clear_refs").write_text("5")',
    "docs/sitekit/stage.py": "        file.write_text(self.links.rewrite(",
    "docs/sitekit/explorers.py": ("    (html / SCRIPTS", "        (html / SCRIPTS"),
}


def test_every_writer_writes_beside_and_then_replaces():
    """A full disk or a kill leaves the old file: ``tqlearn.writing`` does it for all."""
    for file in tracked():
        name = file.relative_to(ROOT).as_posix()
        if file.suffix != ".py" or name.startswith("tests/") or name == "tqlearn/writing.py":
            continue
        own = IN_FOLDERS_OF_THEIR_OWN.get(name, "no line")
        for line in file.read_text().splitlines():
            if IN_PLACE.search(line) and not line.startswith("def "):
                words = f"{name} writes in place, see tqlearn.writing: {line.strip()}"
                assert line.startswith(own), words


def test_import_is_light():
    code = (
        "import sys, time, torch; start = time.process_time(); import tqlearn;"
        "print(time.process_time() - start);"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    seconds, loaded = run.stdout.splitlines()
    heavy = {"transformers", "datasets", "plotly", "pandas", "sklearn", "IPython"}
    assert not heavy & set(loaded.split())
    assert float(seconds) < 1.0


def test_shapes_are_checked_in_every_test_until_its_loops_begin():
    whole = torch.ones(3, dtype=torch.int64)  # where floats are asked for
    with pytest.raises(jaxtyping.TypeCheckError, match="of tqlearn.factors.svd.squares"):
        squares(whole)
    for _ in range(CHECKED):
        squares(torch.ones(3))
    assert squares(whole) == 3


def test_all_tests_have_a_worker_on_each_core_and_a_file_none():
    source = pytest.Config.ArgsSource

    def workers(asked, words=""):
        option = SimpleNamespace(keyword=words)
        config = SimpleNamespace(args_source=asked, ArgsSource=source, option=option)
        return pytest_xdist_auto_num_workers(config)

    assert workers(source.TESTPATHS) == os.cpu_count()
    assert workers(source.ARGS) == workers(source.TESTPATHS, "svd") == 0


def test_a_function_within_a_function_is_checked_once():
    def made():
        def inner(x: jaxtyping.Float[torch.Tensor, " n"]):
            return x

        return checked(inner, typechecker=beartype.beartype)

    first, second = made(), made()
    with pytest.raises(jaxtyping.TypeCheckError):
        first(torch.ones(2, 2))
    assert second(torch.ones(2, 2)).shape == (2, 2)


def test_lock_is_installed():
    wrong = {name: (str(environment.installed(name)), pin) for name, pin in PINS.items()
             if environment.installed(name) != Version(pin)}  # fmt: skip
    assert not wrong, f"installed, locked: {wrong}"


@pytest.mark.parametrize("extra", sorted(PROJECT["project"]["optional-dependencies"]))
def test_lock_covers_extra(extra):
    for name, requirements in environment.needed("tqlearn", [extra]).items():
        if name == "tqlearn":
            continue
        assert name in PINS, f"{name}, which tqlearn[{extra}] needs, is not in requirements.lock"
        for requirement in requirements:
            assert requirement.specifier.contains(PINS[name], prereleases=True), str(requirement)


def test_metadata_is_that_of_pyproject():
    """The tests above read the installed metadata; it must not be older than pyproject.toml."""
    wanted = [*PROJECT["project"]["dependencies"]]
    wanted += sum(PROJECT["project"]["optional-dependencies"].values(), [])
    known = [Requirement(line) for line in environment.metadata.requires("tqlearn")]
    known = {(canonicalize_name(r.name), str(r.specifier)) for r in known}
    missing = [w for w in map(Requirement, wanted)
               if (canonicalize_name(w.name), str(w.specifier)) not in known]  # fmt: skip
    assert not missing, f"install again (make env): {[str(m) for m in missing]}"


def test_conda_files():
    """Both environment.yml are one file; its pins are the lock's and cover the whole course."""
    text = (ROOT / "environment.yml").read_text()
    assert (ROOT / "binder" / "environment.yml").read_text() == text
    assert not (ROOT / "binder" / "environment.yml").is_symlink()
    pip = dict(re.findall(r"^    - ([\w.-]+)==(\S+)$", text, re.M))
    assert pip == {name: PINS[name] for name in pip}
    assert re.search(r"^  - pytorch-cpu=(\S+)$", text, re.M)[1] == PINS["torch"]
    minor = re.search(r"^  - python=(\S+)$", text, re.M)[1]
    assert Version(minor) >= Version("3.11")
    needed = set(environment.needed("tqlearn", ["lab"], skip=["torch"])) - {"tqlearn", "torch"}
    assert needed == set(pip)


def test_checker_sees_what_is_wrong(monkeypatch, capsys):
    judge = environment.package_row
    assert judge("numpy", [Requirement("numpy>=99")], {}).verdict == environment.WRONG
    assert judge("no-such-package", [], {}).verdict == environment.WRONG
    row = judge("numpy", [], {"numpy": "0.1"})
    assert row.verdict == environment.DIFFERS and "0.1" in row.remark
    monkeypatch.setattr(environment, "package_rows", lambda: iter([row]))
    assert (environment.main([]), environment.main(["--strict"])) == (0, 1)
    assert "Not fit yet: numpy" in capsys.readouterr().out


def test_package_data_is_shipped():
    globs = PROJECT["tool"]["setuptools"]["package-data"]["tqlearn"]
    for file in tracked():
        if PACKAGE in file.parents and file.suffix != ".py":
            name = file.relative_to(PACKAGE).as_posix()
            assert any(fnmatch.fnmatch("/" + name, g) for g in globs), f"{name} is not in the wheel"


def test_files_are_small():
    for file in tracked():
        assert file.stat().st_size <= 2_000_000, f"{file} is above 2 MB"
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 250, f"{file}: does it hold two ideas?"


def test_no_package_index_is_named():
    """Which index serves the packages is the user's affair, so no file may carry its address."""
    address = re.compile(
        r"https?://[\w.-]*(pypi|pythonhosted|anaconda\.org|download\.pytorch)", re.I
    )
    for file in tracked():
        if file.suffix not in {".safetensors", ".png"}:
            found = address.search(file.read_text(encoding="utf-8"))
            assert not found, f"{file} names a package index: {found[0]}"


def test_readme_tables_are_those_of_the_results():
    script = [sys.executable, str(ROOT / "benchmarks" / "readme_tables.py"), "--check"]
    run = subprocess.run(script, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_readme_tables_say_what_the_json_says(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/readme_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    rows = [
        {"model": "dense", "role": "baseline", "bytes": {"file": 91_000_000}, "note": "one seed"},
        {
            "model": "t|t",
            "role": "student",
            "metrics": {"slot_f1": 93.456},
            "ratio": {"file": 63.04},
        },
    ]
    head = {
        "name": "qtc_atis",
        "command": "python x.py --work y",
        "seed": 0,
        "date": "2026-01-02T03:04",
    }
    for name in ("qtc_atis", "zebra"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**head, "rows": rows}))
    sizes = [(m, s, x) for m, x in (("dense", 1), ("half", 1.987)) for s in ("1 x 8", "2 x 8")]
    rows = [{"model": f"{m}, {s}, 1 threads", "speed": {"speedup": x}} for m, s, x in sizes]
    timed = {**head, "name": "latency", "rows": rows}
    (tmp_path / "latency.json").write_text(json.dumps(timed))
    text = tables.page(f"before {tables.BEGIN} old {tables.END} after", tmp_path)
    assert text.startswith("before ") and text.endswith(" after") and " old " not in text
    assert "| model | role | file | slot f1 | smaller (file) |" in text
    assert "| dense | baseline | 91.00 MB |  |  |" in text
    assert "| t\\|t | student |  | 93.46 | 63.0x |" in text
    assert "| model | threads | faster at 1 x 8 | faster at 2 x 8 |" in text
    assert "| half | 1 | 1.99x | 1.99x |" in text and text.count("| half |") == 1
    assert "\none seed.\n" in text and "More: [zebra](results/zebra.json)." in text
    assert (
        "`python x.py`" in text and "2026-01-02\n" in text and tables.page(text, tmp_path) == text
    )
    with pytest.raises(ValueError, match="once each"):
        tables.page("no markers", tmp_path)


def test_a_recipes_line_shows_the_smallest_student_within_a_point(monkeypatch):
    """Whatever the clock says of two models of one shape; the best where all lose more."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from readme_recipes import chosen

    table = [("a", 0.3, 0.1, 2.0), ("b", 0.2, 0.8, 3.1), ("c", 0.2, -0.3, 2.9), ("d", 0.1, 1.2, 5)]
    rows = [
        {
            "model": name,
            "role": "student",
            "metrics": {"compacted_density": size, "loss": loss},
            "speed": {"speedup": speed},
        }
        for name, size, loss, speed in table
    ]
    assert [row["model"] for row in chosen(rows, ())] == ["c"]
    assert [row["model"] for row in chosen(rows[3:], ())] == ["d"]
    assert [row["model"] for row in chosen(rows, ("b", "a"))] == ["b", "a"]


def test_a_paper_gets_one_line(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme_recipes

    lines = readme_recipes.short(ROOT / "benchmarks" / "results").splitlines()
    assert len(lines) == 2 + len(readme_recipes.RECIPES)
    assert "slot F1 94.15 (95.38), file 66.9x smaller" in lines[2]


README = (ROOT / "README.md").read_text()


def test_readme_fits_a_reader():
    assert len(README.splitlines()) <= 150
    long = [line for line in README.splitlines() if len(line) > 200 and not line.startswith("|")]
    assert not long


SAME = """
import torch
same = all(torch.equal(a, b) for a, b in zip(
    small.state_dict().values(), tq.pack(student_).state_dict().values(), strict=True))
right = [evaluate_sentences(m, tokenizer, data["test"])["accuracy"] for m in (teacher, small)]
print("CHECK", *right, tq.report(teacher).file / tq.report(small).file, same)
"""
AGAIN = """
from tqlearn.hf import BertForJointIntentSlot
again = BertForJointIntentSlot.from_pretrained("runs/shift")
for name, layer in again.named_modules():
    for key in getattr(layer, "parametrizations", {}):
        assert torch.equal(getattr(layer, key), getattr(student.get_submodule(name), key)), name
scales = torch.cat([m.scale.flatten() for m in student.modules() if isinstance(m, ShiftScale)])
assert torch.equal(scales.log2(), scales.log2().round()) and len(scales) > 1000
print("CHECK", tq.report(teacher).file / tq.report(student).file)
"""


@pytest.mark.slow
def test_what_readme_and_contributing_show_runs_in_order(tmp_path):
    """Every command and every line of code, as it stands, in one folder and one process.

    What CONTRIBUTING's quantizer has packed is reloaded to the bit.
    """
    blocks = re.findall(r"```(bash|python)\n(.*?)```", README, re.S)
    assert [kind for kind, _ in blocks] == ["bash", "python", "python"]
    (_, command), (_, first), (_, second) = blocks
    python, module, recipe, *options = shlex.split(command.replace("\\\n", " "))
    assert (python, module) == ("python", "-m")
    (quantizer,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    code = [f"import runpy, sys; sys.argv[1:] = {options}\nrunpy.run_module({recipe!r}, "
            "run_name='__main__', alter_sys=True)\n"]  # fmt: skip
    code += [first, "student_ = student\n", second, SAME, quantizer, AGAIN]
    (tmp_path / "all.py").write_text("".join(code))
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [*FRESH, "all.py"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    (teacher, small, ratio, same), (smaller,) = (
        line.split()[1:] for line in run.stdout.splitlines() if line.startswith("CHECK")
    )
    assert float(teacher) > 90 and float(small) > 80 and float(ratio) > 8 and same == "True"
    assert float(smaller) > 4
