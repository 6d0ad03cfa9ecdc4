"""The benchmark scripts of QTC run from end to end (``--quick``), and their results are whole."""

import json

import pytest
from conftest import BENCHMARKS


@pytest.mark.slow
def test_scratch_script(quick, data_folder, tmp_path, capsys):
    words = ("qtc_atis_scratch", "--work", str(tmp_path / "work"))
    record = quick(*words)
    assert [row["role"] for row in record["rows"]] == ["baseline", "student", "student"]
    dense, fp32, int4 = record["rows"]
    file = tmp_path / "work" / "dense" / "model.safetensors"
    assert dense["bytes"]["nominal"] < dense["bytes"]["file"] == file.stat().st_size
    assert 20 < fp32["ratio"]["nominal"] < int4["ratio"]["nominal"]
    capsys.readouterr()
    assert quick(*words)["rows"] == record["rows"]  # finished arms are kept, not trained again
    assert capsys.readouterr().out.count("done before, kept") == 3


def results():
    return {
        p.stem: json.loads(p.read_text()) for p in sorted((BENCHMARKS / "results").glob("*.json"))
    }


def speeds(row):
    return row["speed"]["seconds"], row["speed"]["speedup"]


def test_layer_results_reach_the_bars():
    """Tensor trains: forward 4x and forward + backward 3x over dense, 5x over the peer."""
    by = {row["model"]: row for row in results()["layers"]["rows"]}
    ours = [name for name in by if name.startswith("TTLinear")]
    assert len(ours) == 8
    for name in ours:
        seconds, speedup = speeds(by[name])
        assert speedup >= (3 if "backward" in name else 4), name
        peer = by[name.replace("TTLinear", "tensorly-torch")]
        assert peer["speed"]["seconds"] >= 5 * seconds
        assert peer["metrics"]["parameters"] <= by[name]["metrics"]["parameters"]


def test_kronecker_results_reach_the_bars():
    """KB21: forward 3x, forward + backward 2x over dense; every shape beats the naive product."""
    by = {row["model"]: row for row in results()["layers"]["rows"]}
    ours = [name for name in by if name.startswith("KroneckerLinear")]
    assert len(ours) == 12
    for name in ours:
        seconds, speedup = speeds(by[name])
        assert seconds < by[name.replace("KroneckerLinear", "naive kron")]["speed"]["seconds"]
        if "KB21" in name:
            assert speedup >= (2 if "backward" in name else 3), name


def test_decomposition_results_reach_the_bars():
    """Trains and products: 5x faster than tensorly, same error to 1e-5, below two copies more."""
    by = {row["model"]: row for row in results()["decompose"]["rows"]}
    for kind in ("TT A4", "Kronecker KB8"):
        ours, peer = by[f"{kind}, tqlearn"], by[f"{kind}, tensorly"]
        assert peer["speed"]["seconds"] >= 5 * ours["speed"]["seconds"]
        gap = ours["metrics"]["relative_error"] - peer["metrics"]["relative_error"]
        assert abs(gap) < 1e-5 and ours["metrics"]["extra_memory"] < 2


@pytest.mark.parametrize("name", sorted(results()))
def test_a_stored_result_is_no_quick_run(name):
    record = results()[name]
    assert record["quick"] is False and record["name"] == name
    assert record["command"].startswith("python benchmarks/") and "--quick" not in record["command"]
