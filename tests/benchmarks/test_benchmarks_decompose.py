"""The two scripts behind the speed tables: contestants do the same job, rows have one shape."""

from argparse import Namespace
from math import prod

import pytest
import tensorly
import torch
from conftest import BENCHMARKS


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def errors(decompose, kind, part, w):
    """The error of tensorly, of ours, and of ours by full SVDs."""
    with tensorly.backend_context("pytorch"):
        theirs = decompose.squares(w) + decompose.theirs(kind, part, w)
    return theirs, *(decompose.ours(kind, part, w, method=m) for m in ("auto", "exact"))


@pytest.mark.parametrize("kind", ["TT A4", "Kronecker KB8", "low rank"])
def test_contestants_reach_the_same_error(kind):
    import decompose

    theirs, *ours = errors(decompose, kind, "small", torch.randn(192, 192))
    assert [(found / theirs) ** 0.5 for found in ours] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("kind", ["TT A4", "Kronecker KB8", "low rank"])
def test_contestants_reach_the_same_error_on_a_word_table(kind, monkeypatch):
    import decompose

    monkeypatch.setattr(decompose, "TABLE", ((8, 10, 5, 5), (2, 2, 4, 3), (1, 8, 8, 8, 1)))
    monkeypatch.setitem(decompose.PRODUCTS, "table", ((1990, 1), (12, 4)))
    monkeypatch.setitem(decompose.RANKS, "table", 6)
    theirs, *ours = errors(decompose, kind, "table", torch.randn(1990, 48))
    assert [(found / theirs) ** 0.5 for found in ours] == pytest.approx([1, 1], abs=1e-5)


def test_every_shape_is_that_of_its_matrix():
    import decompose
    from layers import PRODUCTS

    for name, ((m1, m2), (n1, n2)) in [*decompose.PRODUCTS.items(), *PRODUCTS.items()]:
        wanted = decompose.SIZES.get(name) or tuple(map(int, name.split()[1].split("x")))
        assert (m1 * m2, n1 * n2) == wanted
    for name, (modes, ranks) in decompose.TRAINS.items():
        assert prod(modes) == prod(decompose.SIZES[name]) and len(ranks) == len(modes) + 1
    rows, columns, _ = decompose.TABLE
    words, width = decompose.SIZES["table"]
    assert prod(rows) >= words and prod(columns) == width


def test_naive_peers_compute_the_same():
    import layers

    contestants = layers.product_layers("KB21 768x768")
    naive, x = contestants["naive kron"], torch.randn(3, 768)
    torch.testing.assert_close(naive(x), naive.layer(x), atol=1e-4, rtol=1e-4)
    assert layers.weights(naive) == layers.weights(contestants["KroneckerLinear"]) == 18_464
    assert layers.weights(contestants["LowRankLinear"]) <= 18_464


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # tltorch's
@pytest.mark.parametrize("name", ["layers", "decompose"])
def test_script_runs(quick, name):
    rows = quick(name)["rows"]
    assert {"baseline", "student", "peer"} == {row["role"] for row in rows}
    assert all(row["speed"]["seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_a_job_runs_in_a_process_of_its_own():
    """Of two runs the faster counts; both have the same error, and memory is measured."""
    import decompose

    args = Namespace(seed=0, layers=0, repeats=2)
    found = decompose.measured("low rank", "tqlearn", args)
    assert found["seconds"] > 0 and found["extra"] > 0
    inside = decompose.job("low rank", "tqlearn", 0, layers=0)
    assert found["error"] == pytest.approx(inside["error"], rel=1e-5)
