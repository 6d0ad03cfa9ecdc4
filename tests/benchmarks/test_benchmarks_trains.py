"""The script behind notebook 02's comparison of tensor trains and low-rank pairs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tqlearn as tq
from tqlearn.teachers import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import train_or_pair

    return train_or_pair


@pytest.fixture(scope="module")
def teacher():
    return load("embedded")[0]


@pytest.mark.parametrize("rank", [16, 32])
def test_a_pair_is_the_largest_within_its_train(script, rank):
    for shape in script.MODES:
        rows, columns = shape
        linear = torch.nn.Linear(columns, rows, bias=False)
        train, pair = (edit(shape, rank)(linear) for edit in (script.train, script.pair))
        numbers, fewer = (sum(p.numel() for p in layer.parameters()) for layer in (train, pair))
        assert fewer <= numbers < fewer + rows + columns
        assert fewer == pair.ranks[1] * (rows + columns)


def test_both_plans_change_the_same_layers_and_the_error_is_known(script, teacher):
    sizes, errors = [], []
    for edit in (script.train, script.pair):
        student = tq.compress(teacher, script.plan(edit, 16))
        names = {n for n, m in student.named_modules() if type(m) is tq.factors.TTLinear}
        assert len(names) == 2 * 6 + 2
        sizes.append(tq.report(student).parameters)
        errors.append(script.relative_error(student, teacher))
    assert sizes[1] <= sizes[0] and errors[1] < errors[0]
    whole = tq.compress(teacher, script.plan(lambda shape, rank: script.train(shape, 512), 0))
    assert script.relative_error(whole, teacher) < 0.01


@pytest.mark.slow
def test_script_runs(tmp_path):
    out = tmp_path / "t.json"
    command = [sys.executable, "train_or_pair.py", "--quick", "--out", str(out)]
    subprocess.run(command, cwd=BENCHMARKS, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    rows = json.loads(out.read_text())["rows"]
    assert [row["role"] for row in rows] == ["baseline"] + 4 * ["student"]
    assert rows[1]["bytes"]["file"] >= rows[3]["bytes"]["file"]
