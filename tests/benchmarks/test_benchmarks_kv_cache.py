"""The table of keys and values in few bits, and the page that shows it."""

import re
from pathlib import Path

import pytest
from conftest import result

from tqlearn import teachers

PAGE = Path(__file__).parents[2] / "docs" / "language_models.md"
SHAPES = {"decoder": (2, 2, 32, 128), "SmolLM2": (30, 3, 64, 1024)}  # layers, heads, dim, tokens


@pytest.fixture
def bench(script):
    return script("kv_cache")


def metrics():
    return {row["model"]: row["metrics"] for row in result("kv_cache")["rows"]}


def test_the_committed_table_is_whole(bench):
    rows, found = metrics(), result("kv_cache")
    models = ("decoder", "decoder at 4 bits", "SmolLM2")
    assert set(rows) == {
        *(f"{model}, cache in floats" for model in models),
        *(bench.name(model, *setting) for model in models for setting in bench.SETTINGS),
    }
    assert not found["quick"] and found["settings"]["per"] == 32
    for model in models:
        plain = rows[f"{model}, cache in floats"]["perplexity"]
        scores = {one: rows[bench.name(model, *one)]["perplexity"] for one in bench.SETTINGS}
        for newest in (0, 32):
            assert scores[8, newest, False] == pytest.approx(plain, rel=2e-3)
            assert scores[2, newest, False] > scores[3, newest, False] > plain
        assert scores[2, 32, False] < scores[2, 0, False] < scores[2, 0, True]


def test_its_bytes_are_counted_by_hand(bench):
    for model, (layers, heads, dim, tokens) in SHAPES.items():
        numbers, rows = 2 * layers * heads * dim, metrics()
        assert rows[f"{model}, cache in floats"]["cache_bytes"] == numbers * tokens * 4
        for bits, newest, per_token in bench.SETTINGS:
            coded = tokens - newest
            wanted = numbers * (coded * (bits + 1) // 8 + newest * 4)
            assert rows[bench.name(model, bits, newest, per_token)]["cache_bytes"] == wanted


def test_a_setting_gives_the_committed_number_again(bench):
    model, tokenizer = teachers.load("decoder")
    rows = bench.windows(bench.texts(tokenizer)[1], bench.WINDOW)
    found = bench.decode(model, rows, bench.made(model, 2, 0, True))
    wanted = metrics()[bench.name("decoder", 2, 0, True)]
    assert found == (pytest.approx(wanted["perplexity"], rel=0.01), wanted["cache_bytes"])


def test_the_page_shows_the_table(bench):
    """Every number of its rows, and as many rows as it says."""
    text, rows = PAGE.read_text(), metrics()
    shown = re.findall(r"^\| (?:(\d) bits(, keys per token)?|floats) \|(.+)\|$", text, re.M)
    assert len(shown) == 8
    for bits, per_token, cells in shown:
        wanted = []
        for model in ("decoder", "SmolLM2"):
            full = rows[f"{model}, cache in floats"]
            row = rows[bench.name(model, int(bits), 0, bool(per_token))] if bits else full
            times = full["cache_bytes"] / row["cache_bytes"]
            wanted += [f"{row['perplexity']:.2f}", f"{row['cache_bytes']:,}", f"{times:.1f}x"]
        assert [cell.strip() for cell in cells.split("|")] == wanted


@pytest.mark.slow
def test_the_table_runs(quick):
    rows = quick("kv_cache")["rows"]
    assert len(rows) == 8 and len({row["metrics"]["perplexity"] for row in rows}) == 8
