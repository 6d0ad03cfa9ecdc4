"""Whole-model latency: the script runs, and compaction pays what its arithmetic promises.

Spec sheet Block Pruning, acceptance check 9.
"""

from contextlib import suppress

import pytest
import torch
from conftest import result

CONTESTANTS = ["dense", "masked", "compacted", "compacted half", "tensor trains", "Kronecker",
               "torch int8"]  # fmt: skip


@pytest.fixture
def latency(script):
    return script("latency")


def bars(rows):
    """The issue's bars on the rows of one size: [(name, speed-up, FLOP ratio)]."""
    by = {row["model"].split(",")[0]: row for row in rows}
    speed = {name: row["speed"]["speedup"] for name, row in by.items()}
    work = {name: row["metrics"].get("flops") for name, row in by.items()}
    assert work["masked"] == 1 and work["compacted half"] == pytest.approx(2, abs=0.06)
    assert 3.5 < work["compacted"] < 3.9
    assert 0.9 <= speed["masked"] <= 1.1
    assert speed["compacted"] >= 0.85 * work["compacted"]
    assert 1.6 <= speed["compacted half"] <= 2.1


@pytest.mark.slow
@pytest.mark.timing
def test_compaction_pays_what_its_arithmetic_promises(latency):
    """Check 9: single thread, 1 x 128, medians of 7; masked 0.9 to 1.1, half 1.6 to 2.1.

    A neighbor on the same processor spoils a measurement, and not three in a row. Three layers keep
    of their arithmetic what twelve keep; ``test_results_reach_the_bars`` looks at all.
    """
    models = latency.contestants(CONTESTANTS[:4], layers=3)
    for _ in range(2):
        with suppress(AssertionError):
            return bars(latency.rows_of(models, 1, 128, 1, 7))
    bars(latency.rows_of(models, 1, 128, 1, 7))


@pytest.mark.slow
def test_the_contestants_are_what_they_say(latency):
    """Masked and compacted give the same outputs; the weights are those of the paper."""
    models = latency.contestants(["dense", "masked", "compacted"])
    ids = torch.randint(0, 1000, (2, 5))
    with torch.no_grad():
        masked, compacted = (models[n](input_ids=ids).logits for n in ("masked", "compacted"))
        assert (models["dense"](input_ids=ids).logits - masked).abs().max() > 1e-3
    torch.testing.assert_close(masked, compacted, rtol=0, atol=1e-5)
    encoder = {n: m.bert.encoder for n, m in models.items()}
    counts = {
        name: sum(int(w.ne(0).sum()) for n, w in module.named_parameters() if w.dim() == 2)
        for name, module in encoder.items()
    }
    assert counts["masked"] == counts["compacted"] == 22_248_960
    ratio = latency.flops(models["dense"], ids) / latency.flops(models["compacted"], ids)
    assert 3.7 < ratio < 3.82


@pytest.mark.slow
def test_the_script(quick):
    record = quick("latency")
    assert [row["model"].split(",")[0] for row in record["rows"]] == 2 * CONTESTANTS
    assert [row["role"] for row in record["rows"]][:2] == ["baseline", "student"]
    assert record["rows"][6]["role"] == "peer" and record["rows"][0]["speed"]["speedup"] == 1


def test_results_reach_the_bars():
    """All sizes were measured in one run; the bars hold at 128 tokens and more, batch 1 and 8."""
    record = result("latency")
    assert not record["quick"] and record["repeats"] >= 5
    sizes = {}
    for row in record["rows"]:
        key = tuple(row["metrics"][k] for k in ("threads", "batch", "tokens"))
        sizes.setdefault(key, []).append(row)
    assert len(sizes) == 12
    for (_, _, tokens), rows in sizes.items():
        if tokens >= 128:
            bars(rows)
