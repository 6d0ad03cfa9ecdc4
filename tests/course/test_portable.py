"""The tool that tells authors which printed numbers and claims move with a processor or a seed."""

import ast
import json
import os
import platform
import subprocess
import sys

import nbformat
import pytest
import torch

from tqlearn.lab import portable
from tqlearn.lab.portable import INSTRUCTION_SETS, Watch, compared, judged, rounded


def watched(source: str, file) -> list[dict]:
    tree = ast.fix_missing_locations(Watch().visit(ast.parse(source)))
    exec(ast.unparse(tree), {"_compared": compared, "_rounded": rounded, "torch": torch})
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_watched_cell_prints_the_same_and_writes_down_what_it_hides(
    tmp_path, monkeypatch, capsys
):
    file = tmp_path / "watch.jsonl"
    monkeypatch.setenv(portable.FILE, str(file))
    source = (
        "x = torch.tensor(1.2345)\n"
        "print(f'{x:8.2f}|≈ {x:.1f}', 1 < x <= 1.5, (x > torch.zeros(2)).all())"
    )
    exec(source, {"torch": torch})
    plain = capsys.readouterr().out
    entries = watched(source, file)
    assert capsys.readouterr().out == plain == "    1.23|≈ 1.2 tensor(True) tensor(True)\n"
    x = pytest.approx(1.2345)
    number, claim = entries  # a whole tensor has no one value, and nobody compares what ≈ marks
    assert number == {"kind": "rounded", "text": "x", "sides": [x], "form": "8.2f"}
    assert claim["sides"] == [1, x, 1.5] and claim["signs"] == ["<", "<="]


def test_room_is_the_way_to_the_next_digit_or_answer():
    def room(value, form):
        return portable.room({"kind": "rounded", "sides": [value], "form": form})

    assert room(1.1496, ".3f") == pytest.approx(1e-4)  # 1.1495 would still be 1.150
    assert room(1.15, ".3f") == pytest.approx(5e-4)
    assert room(0.1234, "6.1%") == pytest.approx(1e-4)  # 12.3 %, and 12.35 % is the edge
    assert room(1234.0, ".2e") == pytest.approx(1.0)  # 1.23e+03 up to 1235
    claim = {"kind": "compared", "sides": [1.0, 3.0, 3.5], "signs": ["<", "<"]}
    assert portable.room(claim) == 0.5


@pytest.mark.parametrize(
    "values, form, word",
    [
        ((1.1494, 1.1496), ".3f", "FLIPS"),
        ((1.1494, 1.14935), ".3f", "near"),
        ((1.1, 1.1), ".3f", None),
    ],
)
def test_numbers_flip_or_are_near_or_are_nothing_to_tell(values, form, word):
    key = 5, "rounded", "x", 0
    lines = judged({str(v): {key: {"kind": "rounded", "sides": [v], "form": form}} for v in values})
    assert lines == [] if word is None else word in lines[0] and "cell   5" in lines[0]


@pytest.mark.parametrize("slots, word", [((80, 82), "FLIPS"), ((82, 84), "near"), ((90, 91), None)])
def test_claims_flip_or_are_near_or_are_nothing_to_tell(slots, word):
    key = 5, "compared", "x > 81", 0
    runs = {str(x): {key: {"kind": "compared", "sides": [x, 81.0], "signs": [">"]}} for x in slots}
    lines = judged(runs)
    assert lines == [] if word is None else word in lines[0]


@pytest.fixture
def plain_seeds(monkeypatch):
    """What ``shift_seeds`` replaces for the rest of a process is as it was after the test."""
    for name in ("manual_seed", "Generator"):
        monkeypatch.setattr(torch, name, getattr(torch, name))


def test_shifted_seeds_are_other_seeds(plain_seeds):
    wanted = torch.rand(1, generator=torch.Generator().manual_seed(2))
    portable.shift_seeds(2)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), wanted)
    assert torch.equal(torch.rand(1, generator=torch.Generator().manual_seed(0)), wanted)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 names its sets so")
def test_each_set_is_in_force():
    seen = {}
    for name, setting in INSTRUCTION_SETS.items():
        code = (
            "import torch; torch.manual_seed(0); a = torch.randn(300, 517);"
            "print(torch.backends.cpu.get_cpu_capability(), (a @ a.T).sum(1)[:9].tolist())"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=os.environ | setting, capture_output=True, check=True)
        seen[name] = done.stdout.decode().split(maxsplit=1)
    assert seen["default"][0] == "DEFAULT" and seen["avx2"][0] in ("AVX2", "DEFAULT")
    assert seen["native"][0] == "DEFAULT" or seen["default"][1] != seen["native"][1]


def here(nb, folder):
    """Run a notebook's cells in this process: a kernel's start costs more than they do."""
    space = {}
    for cell in nb.cells:
        exec(cell.source, space)


@pytest.mark.slow
def test_a_notebook_with_a_claim_of_one_seed_is_told(tmp_path, capsys, monkeypatch, plain_seeds):
    claim = "x = torch.rand(1).item()\nprint(f'{x:.2f}', x > 0.4)"
    cells = [
        nbformat.v4.new_code_cell("import torch\ntorch.manual_seed(0)"),
        nbformat.v4.new_code_cell(claim, metadata={"tags": ["nbval-check-output"]}),
    ]
    path = tmp_path / "claim.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert portable.main([str(path), "--sets", "native", "--seeds", "2"]) == 1
    said = capsys.readouterr().out
    assert "cell   1 FLIPS x (room" in said and "cell   1 near  x > 0.4" in said
    monkeypatch.setattr(portable, "execute", here)
    assert portable.main([str(path), "--sets", "native", "--seeds", "2", "--begin", "1"]) == 0
