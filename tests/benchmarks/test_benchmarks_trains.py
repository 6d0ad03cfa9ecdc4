"""The script behind notebook 02's comparison of tensor trains and low-rank pairs."""

import pytest
import torch

import tqlearn as tq
from tqlearn.teachers import load


@pytest.fixture
def bench(script):
    return script("train_or_pair")


@pytest.fixture(scope="module")
def teacher():
    return load("embedded")[0]


@pytest.mark.parametrize("rank", [16, 32])
def test_a_pair_is_the_largest_within_its_train(bench, rank):
    for shape in bench.MODES:
        rows, columns = shape
        linear = torch.nn.Linear(columns, rows, bias=False)
        train, pair = (edit(shape, rank)(linear) for edit in (bench.train, bench.pair))
        numbers, fewer = (sum(p.numel() for p in layer.parameters()) for layer in (train, pair))
        assert fewer <= numbers < fewer + rows + columns
        assert fewer == pair.ranks[1] * (rows + columns)


def test_both_plans_change_the_same_layers_and_the_error_is_known(bench, teacher):
    sizes, errors = [], []
    for edit in (bench.train, bench.pair):
        student = tq.compress(teacher, bench.plan(edit, 16))
        names = {
            name for name, layer in student.named_modules() if type(layer) is tq.factors.TTLinear
        }
        assert len(names) == 2 * 6 + 2
        sizes.append(tq.report(student).parameters)
        errors.append(bench.relative_error(student, teacher))
    assert sizes[1] <= sizes[0] and errors[1] < errors[0]
    whole = tq.compress(teacher, bench.plan(lambda shape, rank: bench.train(shape, 512), 0))
    assert bench.relative_error(whole, teacher) < 0.01


@pytest.mark.slow
def test_script_runs(quick):
    rows = quick("train_or_pair")["rows"]
    assert [row["role"] for row in rows] == ["baseline"] + 4 * ["student"]
    assert rows[1]["bytes"]["file"] >= rows[3]["bytes"]["file"]
