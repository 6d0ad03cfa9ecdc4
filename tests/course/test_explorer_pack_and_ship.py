"""Notebook 14: what its explorer counts and draws, and the edges of its exercises."""

import time
from itertools import product

import pytest
import torch
from transformers import BertConfig, BertModel

import tqlearn as tq
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n14_pack_and_ship as n14
from tqlearn.lab.explorers import pack_and_ship as explorer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.results import measured
from tqlearn.storage import Packed, pack_bits

ROOF = explorer.Roof(bandwidth=1e9, peak=5e9)


def bert(device="cpu"):
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, vocab_size=100)  # fmt: skip
    with torch.device(device):
        return BertModel(config)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return bert()


@pytest.fixture(scope="module")
def table(monkeypatch_module):
    monkeypatch_module.setattr(explorer, "RANKS", (0, 8))
    return explorer.ship_table(bert("meta"))


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def find(table, rank, bits):
    (row,) = [row for row in table if (row["rank"], row["bits"]) == (rank, bits)]
    return row


@pytest.mark.parametrize("rank, bits", [(0, 32), (0, 3), (8, 32), (8, 4)])
def test_sizes_are_those_of_the_model_that_is_there(model, table, rank, bits):
    student = tq.calibrate(tq.compress(model, explorer.ship_plan(rank, bits)))
    row, packed = find(table, rank, bits), tq.pack(student)
    assert row["file"] == tq.report(student).file
    held = {id(t): t for t in (*packed.parameters(), *packed.buffers())}.values()
    unsaved = sum(b.nbytes for name, b in packed.named_buffers() if "_ids" in name)
    assert row["stored"] == sum(t.nbytes for t in held) - unsaved
    stages = [m for m in packed.modules() if isinstance(m, Packed)]
    assert row["coded"] == sum(torch.Size(m.shape).numel() for m in stages)
    assert len(stages) == (13 if rank == 0 else 25) * (bits < 32)
    assert row["codes"] == (row["coded"] * bits / 8 if bits < 32 else 0)


def test_memory_is_codes_and_what_an_engine_makes_of_them(table):
    row = find(table, 0, 3)
    numbers = 100 * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert row["coded"] == numbers and row["codes"] == numbers * 3 // 8
    assert explorer.memory(row, "floats") == row["stored"] + 4 * numbers
    assert explorer.memory(row, "decoded") == row["stored"] + 4 * 32 * 64
    assert explorer.memory(row, "codes") == row["stored"] + numbers // 8  # spread to four bits
    assert explorer.memory(find(table, 0, 4), "codes") == find(table, 0, 4)["stored"]
    dense = find(table, 0, 32)
    assert {explorer.memory(dense, way) for way in explorer.ENGINES.values()} == {dense["stored"]}


def test_every_product_of_a_token_is_there_once(table):
    dense, pairs = (find(table, rank, 4)["products"] for rank in (0, 8))
    assert sum(p.out * p.width for p in dense) == 2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32
    assert [p for p in dense if not p.coded] == [explorer.Product(32, 32, False)], "the pooler"
    assert len(pairs) == 25 and all(8 in (p.out, p.width) for p in pairs if p.coded)
    assert not any(p.coded for p in find(table, 0, 32)["products"])


def test_time_is_the_larger_of_moving_and_multiplying():
    row = {"bits": 3, "products": [explorer.Product(100, 50, True)]}
    flows = 4 * (100 + 50)
    for way, each in (("floats", 4), ("decoded", 3 / 8 + 8), ("codes", 0.5)):
        whole, moving = explorer.times(row, way, 1, ROOF)
        assert whole == pytest.approx((5000 * each + flows) / 1e9) and moving == 1
        many, moving = explorer.times(row, way, 10_000, ROOF)
        assert many == pytest.approx(max(5e7 / 5e9, 6e6 / 1e9)) and moving == 0
    plain = {"bits": 3, "products": [explorer.Product(100, 50, False)]}
    assert explorer.times(plain, "codes", 1, ROOF)[0] == pytest.approx((20_000 + flows) / 1e9)


def test_a_moved_slider_is_a_fresh_figure(table, monkeypatch):
    monkeypatch.setattr(explorer, "RANKS", (0, 8))
    widget = explorer.pack_and_ship_explorer(table, ROOF)
    assert widget.settings() == {"bits": 4, "rank": 0, "engine": "codes", "tokens": 1}
    for bits, rank, engine in product((32, 3), (0, 8), explorer.ENGINES.values()):
        start = time.perf_counter()
        for name, value in (("bits", bits), ("rank", rank), ("engine", engine), ("tokens", 128)):
            widget.controls[name].value = value
        assert (time.perf_counter() - start) / 4 < 0.3, "an answer takes at most 300 ms"
        fresh, words = explorer.draw_shipping(bits, rank, engine, 128, table, ROOF)
        assert widget.caption.value == unbroken(words)
        assert [t.x for t in widget.figure.data] == [t.x for t in fresh.data]


def test_what_is_drawn_is_what_is_counted(table):
    fig, words = explorer.draw_shipping(4, 0, "codes", 1, table, ROOF)
    dense, row = find(table, 0, 32), find(table, 0, 4)
    bar, *dots = fig.data
    now, before = (explorer.times(one, "codes", 1, ROOF)[0] for one in (row, dense))
    assert bar.x[0] == pytest.approx(100 * now / before)
    assert bar.x[2] == pytest.approx(100 * row["file"] / dense["file"])
    assert [dot.name for dot in dots] == [*explorer.ENGINES]
    assert list(dots[2].x) == pytest.approx(list(bar.x[:2]))
    assert "1 GB and 5 billion" in words and "Moving limits 100 %" in words
    whole, _ = explorer.draw_shipping(32, 0, "floats", 8, table, ROOF)
    assert list(whole.data[0].x) == pytest.approx([100, 100, 100])


def test_runs_of_engines_are_told():
    def row(name, size, threads, **metrics):
        return {"model": f"{name}, BERT-base, {size}, {threads} threads", "metrics": metrics,
                "bytes": {"file": 7}, "speed": {"speedup": 3.5}}  # fmt: skip

    rows = [row("W4, ORT", "1x128", 1, resident=9), row("W4, ORT", "8x128", 1),
            row("torch FP32", "1x128", 2)]  # fmt: skip
    assert explorer.served(rows) == [("W4, ORT", 3.5, 7, 9)]
    assert explorer.served(rows, threads=2) == [("torch FP32", 3.5, 7, 0)] and not explorer.served(
        ()
    )


def test_the_measured_runs_are_told():
    rows = measured("runtime").rows
    if not rows:
        pytest.skip("runtime.json is not measured yet")
    found = explorer.served(rows)
    assert len(found) >= 4 and dict((name, speed) for name, speed, *_ in found)["torch FP32"] == 1


def test_other_right_answers_pass():
    def by_numbers(codes, bits):
        whole = sum(int(q) << bits * k for k, q in enumerate(codes.tolist()))
        size = -(-len(codes) * bits // 8)
        return torch.tensor([*whole.to_bytes(size, "little")], dtype=torch.uint8)

    def by_trying(out, width, bits, bandwidth, peak):
        for tokens in range(1, 10_000):
            moved = out * width * bits / 8 + 4 * tokens * (out + width)
            if tokens * out * width / peak >= moved / bandwidth:
                return tokens
        return 0

    def by_loops(x, stream, values):
        tables = [[a * values[b % 16] + c * values[b // 16] for b in range(256)]
                  for a, c in zip(x[::2], x[1::2], strict=True)]  # fmt: skip
        tables = torch.tensor(tables)
        rows = [sum(tables[k, b] for k, b in enumerate(row)) for row in stream.tolist()]
        return tables, torch.stack(rows)

    def by_search(sums, factor, zero, bits):
        z = 0
        while round(factor * 2**z) < 2**30:
            z += 1
        m = round(factor * 2**z)
        found = (2 * sums * m + 2**z) // 2 ** (z + 1) + zero
        return m, z, found.clamp(min=0).clamp(max=2**bits - 1)

    for id, answer in (
        ("14.1", by_numbers),
        ("14.2", by_trying),
        ("14.3", by_loops),
        ("14.4", by_search),
    ):
        assert check(id, answer).passed, check(id, answer)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_stream_is_the_librarys(bits):
    codes = torch.arange(29) * 37 % 2**bits
    assert torch.equal(n14.pack_codes(codes, bits), pack_bits(codes, bits, 0))
