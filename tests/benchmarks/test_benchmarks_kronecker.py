"""The script behind notebook 03's comparison of Kronecker products and low-rank pairs."""

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
    import kronecker_or_pair

    return kronecker_or_pair


def test_nothing_holds_more_numbers_than_the_one_product(script):
    for rows, columns in script.ONE:
        linear = torch.nn.Linear(columns, rows, bias=False)
        edits = (script.one, script.several, script.pair)
        layers = [edit((rows, columns), 0)(linear) for edit in edits]
        one, several, pair = (sum(p.numel() for p in layer.parameters()) for layer in layers)
        assert several <= one < several + several // layers[1].rank
        assert pair <= one < pair + rows + columns
        left, right = layers[1].factors[0]
        assert left.numel() == right.numel(), "even factors: the most products for the numbers"


def test_all_plans_change_the_same_layers(script):
    import train_or_pair

    teacher, _ = load("embedded")
    errors = []
    for edit in (script.one, script.several, script.pair):
        student = tq.compress(teacher, train_or_pair.plan(edit, 0))
        kinds = (tq.factors.KroneckerLinear, tq.factors.LowRankLinear)
        assert sum(isinstance(layer, kinds) for layer in student.modules()) == 2 * 6 + 2
        errors.append(train_or_pair.relative_error(student, teacher))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.slow
def test_script_runs(tmp_path):
    out = tmp_path / "k.json"
    command = [sys.executable, "kronecker_or_pair.py", "--quick", "--out", str(out)]
    subprocess.run(command, cwd=BENCHMARKS, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    rows = json.loads(out.read_text())["rows"]
    assert [row["role"] for row in rows] == ["baseline"] + 6 * ["student"]
