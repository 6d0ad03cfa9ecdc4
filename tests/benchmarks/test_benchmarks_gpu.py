"""The scripts that wait for a GPU, tried small on a CPU; the kernels on a real one, if there is."""

import json
import runpy
import sys

import pytest
import torch
from conftest import BENCHMARKS, result

GPU = BENCHMARKS / "gpu"
DENSE = ("dense float16", "dense bfloat16")


@pytest.fixture
def gpu(script, monkeypatch):
    """Import a script of benchmarks/gpu/ by its name."""
    monkeypatch.syspath_prepend(str(GPU))
    return script


def kind(row):
    return row["model"].rpartition(",")[0]


@pytest.mark.slow
def test_the_kernels_on_a_cpu(gpu, quick):
    """Dense and int8 products run and agree; 2:4 is refused by torch, by name, row by row."""
    if torch.cuda.is_available():
        pytest.skip("a CPU's refusals: this machine has a GPU")
    found = quick("gpu/kernels")
    rows = {kind(row): row for row in found["rows"]}
    assert found["command"].startswith("python benchmarks/gpu/kernels.py --quick --out ")
    assert found["device"] == {"name": "cpu"} and len(rows) == len(found["rows"]) == 11
    for name, row in rows.items():
        if name.startswith("2:4"):
            assert "RuntimeError" in row["note"] and "Only CUDA tensors" in row["note"]
            assert "speed" not in row and "relative_error" not in row["metrics"]
        else:
            assert row["speed"]["seconds"] > 0 and "note" not in row
        assert (row["role"] == "baseline") == (name in DENSE)
    assert all(rows[name]["speed"]["speedup"] == 1 for name in DENSE)
    assert rows["int8"]["metrics"]["relative_error"] == 0 < rows[DENSE[0]]["metrics"][
        "relative_error"
    ]  # fmt: skip


def test_without_a_gpu_no_result_is_written(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main, out = gpu("kernels").main, tmp_path / "k.json"
    stored = BENCHMARKS / "results" / "gpu_kernels.json"
    before = stored.exists() and stored.read_bytes()
    for words in (["--out", str(out)], ["--quick"]):
        monkeypatch.setattr(sys, "argv", [str(GPU / "kernels.py"), *words])
        with pytest.raises(SystemExit):
            main()
        assert "torch finds no CUDA device; --quick --out FILE" in capsys.readouterr().err
    assert not out.exists() and before == (stored.exists() and stored.read_bytes())


def test_a_product_that_is_wrong_or_refused_is_not_timed(gpu, monkeypatch):
    """Doubled values have no time; one code off by one is seen; a missing function has a row."""
    products, kernels = gpu("products"), gpu("kernels")

    def doubled(x, w):
        right = products.dense(x, w, torch.bfloat16)
        return products.Product(lambda: 2 * right.call(), right.wanted, right.limit)

    def one_off(x, w):
        right = products.int8(x, w)
        change = torch.zeros(len(x), len(w), dtype=torch.int32)
        change[3, 5] = 1
        return products.Product(lambda: right.call() + change, right.wanted)

    def missing(x, w):
        return torch._no_such_product(x, w)

    few = {"dense float16": products.CONTESTANTS["dense float16"], "doubled": doubled,
           "one off": one_off, "missing": missing}  # fmt: skip
    monkeypatch.setattr(kernels, "CONTESTANTS", few)
    dense, *wrong = kernels.rows_of((64, 128), 32, torch.device("cpu"), 1)
    assert dense["speed"]["speedup"] == 1 and not any("speed" in row for row in wrong)
    notes = [row["note"] for row in wrong]
    assert "values are off by 1, allowed is 0.0078" in notes[0]
    assert notes[1].endswith("allowed is 0") and "_no_such_product" in notes[2]


def test_codes_and_pruned_weights(gpu):
    """Codes give the weight back to half a step; a pruned weight keeps two of four, and zeros."""
    products = gpu("products")
    w = torch.randn(8, 64)
    coded, scale = products.codes(w)
    assert coded.abs().amax(1).eq(127).all()
    assert ((coded * scale - w).abs() <= scale / 2 * 1.001).all()
    half = products.pruned(w)
    assert half.reshape(8, 16, 4).ne(0).sum(-1).eq(2).all()
    assert products.codes(half)[0][half == 0].eq(0).all()


@pytest.mark.gpu
def test_the_kernels_on_a_gpu(gpu, monkeypatch, tmp_path):
    """Few turns at the true shapes: dense and int8 products agree and have times in a graph too."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    out = tmp_path / "gpu.json"
    words = [str(GPU / "kernels.py"), "--repeats", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 9 * 11 and found["device"]["name"] != "cpu"
    check(found)


def check(found):
    """What holds for any GPU: baselines are timed, nothing is silent, sums of codes are exact."""
    for row in found["rows"]:
        assert ("speed" in row) == ("relative_error" in row["metrics"])
        assert "speed" in row or len(row["note"]) > 20, row["model"]
        if kind(row) in DENSE:
            assert row["speed"]["speedup"] == 1 and row["metrics"]["graph_microseconds"] > 0
        if "int8" in row["model"] and "float" not in row["model"] and "speed" in row:
            assert row["metrics"]["relative_error"] == 0, row["model"]


def test_the_committed_table_of_kernels():
    found = result("gpu_kernels")
    assert not found["quick"] and found["device"]["name"] != "cpu" and len(found["rows"]) == 9 * 11
    check(found)
