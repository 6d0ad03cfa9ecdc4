"""The script behind notebook 03's comparison of Kronecker products and low-rank pairs."""

import pytest
import torch

import tqlearn as tq
from tqlearn.teachers import load


@pytest.fixture
def bench(script):
    return script("kronecker_or_pair")


def test_nothing_holds_more_numbers_than_the_one_product(bench):
    for rows, columns in bench.ONE:
        linear = torch.nn.Linear(columns, rows, bias=False)
        edits = (bench.one, bench.several, bench.pair)
        layers = [edit((rows, columns), 0)(linear) for edit in edits]
        one, several, pair = (sum(p.numel() for p in layer.parameters()) for layer in layers)
        assert several <= one < several + several // layers[1].rank
        assert pair <= one < pair + rows + columns
        left, right = layers[1].factors[0]
        assert left.numel() == right.numel(), "even factors: the most products for the numbers"


def test_all_plans_change_the_same_layers(bench, script):
    train_or_pair = script("train_or_pair")
    teacher, _ = load("embedded")
    errors = []
    for edit in (bench.one, bench.several, bench.pair):
        student = tq.compress(teacher, train_or_pair.plan(edit, 0))
        kinds = (tq.factors.KroneckerLinear, tq.factors.LowRankLinear)
        assert sum(isinstance(layer, kinds) for layer in student.modules()) == 2 * 6 + 2
        errors.append(train_or_pair.relative_error(student, teacher))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.slow
def test_script_runs(quick):
    rows = quick("kronecker_or_pair")["rows"]
    assert [row["role"] for row in rows] == ["baseline"] + 6 * ["student"]
