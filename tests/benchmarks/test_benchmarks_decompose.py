"""The two scripts behind the speed tables: contestants do the same job, rows have one shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorly
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("kind", ["TT A4", "Kronecker KB8", "low rank"])
def test_contestants_reach_the_same_error(kind):
    import decompose

    w = torch.randn(768, 768)
    with tensorly.backend_context("pytorch"):
        theirs = decompose.squares(w) + decompose.theirs(kind, "attention", w)
    for method in ("auto", "exact"):
        ours = decompose.ours(kind, "attention", w, method=method)
        assert (ours / theirs) ** 0.5 == pytest.approx(1, abs=1e-5)


def test_every_shape_is_that_of_its_matrix():
    import decompose
    from layers import PRODUCTS

    for name, ((m1, m2), (n1, n2)) in [*decompose.PRODUCTS.items(), *PRODUCTS.items()]:
        wanted = decompose.SIZES.get(name) or tuple(map(int, name.split()[1].split("x")))
        assert (m1 * m2, n1 * n2) == wanted


def test_naive_peers_compute_the_same():
    import layers

    contestants = layers.product_layers("KB21 768x768")
    naive, x = contestants["naive kron"], torch.randn(3, 768)
    torch.testing.assert_close(naive(x), naive.layer(x), atol=1e-4, rtol=1e-4)
    assert layers.weights(naive) == layers.weights(contestants["KroneckerLinear"]) == 18_464
    assert layers.weights(contestants["LowRankLinear"]) <= 18_464


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layers", "decompose"])
def test_script_runs(tmp_path, name):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"]
    subprocess.run([*command, "--out", str(tmp_path / "t.json")], check=True, capture_output=True)
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert {"baseline", "student", "peer"} == {row["role"] for row in rows}
    assert all(row["speed"]["seconds"] > 0 for row in rows)
