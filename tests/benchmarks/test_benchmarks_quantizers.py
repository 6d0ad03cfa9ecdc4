"""The script behind the table of quantizers: rows, peers that are missing, and its refusals."""

import sys

import pytest
import torch

from tqlearn.quantizers.lsq import LSQ


@pytest.fixture
def bench(script):
    return script("quantizers")


def test_a_missing_peer_is_said(bench, monkeypatch, capsys):
    for name in ("brevitas.nn", "torchao.quantization.qat"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(bench, "difference", lambda mine, theirs: 0.0)
    rows = bench.speed_rows("weight", torch.randn(64, 128), 4, repeats=1)
    peers = [row for row in rows if row["role"] == "peer"]
    assert [row["model"].split(",")[0] for row in peers] == ["Brevitas", "torchao per channel"]
    assert all("speed" not in row and "not measured" in row["note"] for row in peers)
    assert capsys.readouterr().out.count("not measured") == 2
    timed = [row for row in rows if row["role"] != "peer"]
    assert len(timed) == 12 and all(row["speed"]["seconds"] > 0 for row in timed)
    assert timed[0]["role"] == "baseline" and timed[0]["speed"]["speedup"] == 1


def test_torchs_op_is_on_the_same_grid(bench):
    x, lsq = torch.randn(64, 128), LSQ(4)
    lsq.calibrate(x)
    peer = bench.TorchLearnable(lsq)
    assert bench.difference(peer(x), lsq(x)) < 1e-3
    g = torch.randn_like(x)
    for quantizer in (peer, lsq):
        quantizer(x).backward(g)
    torch.testing.assert_close(peer.scale.grad, lsq.scale.grad, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="a peer's grid is another one: .* of the values differ"):
        bench.difference(peer(x), LSQ(3).calibrate(x)(x))


@pytest.mark.slow
def test_script_runs(quick):
    rows = quick("quantizers")["rows"]
    starts = {row["model"]: row["metrics"] for row in rows if row["model"].startswith("starts")}
    assert len(starts) == 12
    for metrics in starts.values():
        assert metrics["mse_mse"] <= min(metrics.values()) * 1.01
