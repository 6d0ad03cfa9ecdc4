"""What the notebooks lean on: figures, explorers and their pure functions, readings, results."""

import json
import time

import plotly.graph_objects as go
import pytest

from tqlearn.lab import explorers, plots, results
from tqlearn.lab.reading import Reading

GROUPS = ("word embeddings", "attention", "feed-forward", "pooler")


def after(rows: list[dict], *groups: str) -> int:
    return sum(row["after"] for row in rows if not groups or row["group"] in groups)


def test_budget_of_the_dense_model_is_437_9_megabytes():
    rows = explorers.budget(rank=0, bits=32)
    assert sum(row["parameters"] for row in rows) == 109_482_240
    assert after(rows) == sum(row["before"] for row in rows) == 437_928_960


def test_budget_agrees_with_the_spec_sheet():
    """QTC spec sheet 6.2, row B6: totals there include a 3-class head of 2,307 numbers."""
    for rank, total in ((30, 2_363_883), (50, 5_001_883), (64, 7_526_307)):
        assert after(explorers.budget(rank, 32)) == 4 * (total - 2_307)
    # 4 bits: half a byte per number in a core, one FP32 scale per core, the rest as it was
    cores, scales = 1_844_712, 4 + 48 * 6 + 24 * 6 + 6
    rest = 2_361_576 - cores
    assert after(explorers.budget(30, 4)) == cores // 2 + 4 * scales + 4 * rest


def test_budget_quantizes_dense_weights_too():
    dense, four = explorers.budget(0, 32), explorers.budget(0, 4)
    weights = 23_440_896 + 84_934_656 + 768 * 768
    assert after(dense) - after(four) == weights * 4 - weights // 2 - 4 * (1 + 48 + 24 + 1)
    assert after(four, "biases") == after(dense, "biases")


def test_budget_positions_are_a_choice_of_their_own():
    floats, codes = explorers.budget(30, 4, 32), explorers.budget(30, 4, 8)
    assert after(floats, "position embeddings") == 512 * 768 * 4
    assert after(codes, "position embeddings") == 512 * 768 + 4
    assert after(floats, *GROUPS) == after(codes, *GROUPS)


@pytest.fixture
def explorer():
    return explorers.budget_explorer()


def test_a_moved_slider_changes_data_title_and_caption(explorer):
    figure, caption = explorer.figure.to_plotly_json(), explorer.caption.value
    assert "146.4 times smaller" in caption
    explorer.controls["rank"].value = 10
    assert explorer.caption.value != caption
    now = explorer.figure.to_plotly_json()
    assert now["data"][2]["x"] != figure["data"][2]["x"]
    assert now["data"][1]["x"] == figure["data"][1]["x"], "BERT-base itself stays where it is"
    assert now["layout"]["title"] != figure["layout"]["title"]


def test_a_moved_slider_draws_what_a_fresh_figure_would(explorer):
    for rank, bits in ((5, 2), (0, 32), (96, 8)):
        explorer.controls["rank"].value, explorer.controls["bits"].value = rank, bits
        fresh, words = explorers.draw_budget(rank, bits)
        assert explorer.caption.value == words
        shown = [trace.to_plotly_json() for trace in explorer.figure.data]
        for mine, other in zip(shown, fresh.data, strict=True):
            assert mine["x"] == other.to_plotly_json()["x"]


def test_a_callback_takes_less_than_300_ms(explorer):
    start = time.perf_counter()
    explorer.controls["bits"].value = 2
    assert time.perf_counter() - start < 0.3


def test_bundles_are_deterministic_and_stills_are_for_the_build(explorer, monkeypatch):
    widget = "application/vnd.jupyter.widget-view+json"
    monkeypatch.delenv("TQLEARN_STILLS", raising=False)
    plain = explorer._repr_mimebundle_()
    assert set(plain) == {widget, "text/plain"}
    assert plain["text/plain"] == explorers.budget_explorer()._repr_mimebundle_()["text/plain"]
    monkeypatch.setenv("TQLEARN_STILLS", "1")
    assert set(explorer._repr_mimebundle_()) == {widget, "text/plain", plots.PLOTLY}


def test_a_figure_is_small_and_its_words_are_the_same_each_time():
    fig = plots.figure(go.Heatmap(z=[[1, 2], [3, 4]]), title="Two<br>rows.")
    bundle = plots.bundle(fig)
    assert bundle["text/plain"] == "Figure: Two rows. heatmap 2 rows"
    assert len(json.dumps(bundle)) < 10_000, "no plotly.js inside"
    assert bundle == plots.bundle(fig)


def test_show_publishes_one_bundle(monkeypatch):
    published = []
    monkeypatch.setattr(plots, "display", lambda data, raw: published.append((data, raw)))
    fig = plots.figure(go.Bar(y=[1]), title="one")
    plots.show(fig)
    assert published == [(plots.bundle(fig), True)]


def test_reading_joins_tags_to_spans():
    words = "fly from new york to boston today".split()
    tags = ["O", "O", "B-from", "I-from", "O", "B-to", "I-when"]
    reading = Reading(words, "flight", tags)
    assert reading.spans == [("from", "new york"), ("to", "boston"), ("when", "today")]
    assert str(reading).splitlines()[:2] == ["intent: flight", "  from: new york"]
    assert "from</small>" in reading._repr_html_() and "&lt;" in Reading(["<"], "a", ["O"])._repr_html_()


def test_results_come_from_the_file_alone(tmp_path):
    rows = [
        {"model": "teacher", "role": "baseline", "metrics": {"intent_accuracy": 98.66}},
        {
            "model": "student",
            "role": "student",
            "bytes": {"file": 1_420_000},
            "ratio": {"file": 64},
        },
    ]
    record = {"name": "x", "command": "python x", "seed": 0, "date": "2026-01-02T03", "rows": rows}
    (tmp_path / "x.json").write_text(json.dumps(record))
    found = results.measured("x", tmp_path)
    assert found.cells == [
        ["model", "role", "intent accuracy", "file", "smaller (file)"],
        ["teacher", "baseline", "98.7", "", ""],
        ["student", "student", "", "1.42 MB", "64.0x"],
    ]
    assert "seed 0, 2026-01-02: python x" in str(found) and "<td>98.7</td>" in found._repr_html_()


def test_results_that_are_not_there_say_how_to_get_them(tmp_path):
    found = results.measured("x", tmp_path)
    assert found.rows == [] and "python benchmarks/x.py" in str(found)
    assert "python benchmarks/x.py" in found._repr_html_()
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks"):
        results.measured("x", tmp_path)
