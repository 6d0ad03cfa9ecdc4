"""What the notebooks lean on: figures, explorers and their pure functions, readings, results."""

import json
import re
import time

import plotly.graph_objects as go
import pytest
import torch

import tqlearn as tq
from tqlearn.lab import explorers, plots, results, student
from tqlearn.lab.explorers import block_pruning, live
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.explorers.grid import shown
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
        assert explorer.caption.value == unbroken(words)
        shown = [trace.to_plotly_json() for trace in explorer.figure.data]
        for mine, other in zip(shown, fresh.data, strict=True):
            assert mine["x"] == other.to_plotly_json()["x"]


def test_no_line_of_a_caption_ends_between_a_number_and_its_percent_sign(explorer):
    for rank in (5, 50):
        explorer.controls["rank"].value = rank
        words = explorer.caption.value
        assert "\N{NO-BREAK SPACE}%" in words and " %" not in words
        assert shown(explorer, explorer.settings())["caption"] == words, "on the site, too"


def test_a_callback_takes_less_than_300_ms(explorer):
    start = time.thread_time()
    explorer.controls["bits"].value = 2
    assert time.thread_time() - start < 0.3


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


def test_no_button_uploads_a_figure():
    """plotly draws "Share chart...", which sends a figure to its cloud, unless told not to."""
    fig = plots.figure(go.Bar(y=[1]), title="one")
    for made in (plots.bundle(fig), live.bundle(fig)):
        assert made[plots.PLOTLY]["config"]["showSendToCloud"] is False


def test_one_of_two_fits_a_figure_to_the_page():
    """JupyterLab does it for its own outputs; with plotly's as well they lose their height."""
    fig = plots.figure(go.Bar(y=[1]), title="one")
    assert plots.bundle(fig)[plots.PLOTLY]["config"]["responsive"] is False
    assert live.bundle(fig)[plots.PLOTLY]["config"]["responsive"] is True


PAGES = {"light": ("#FFFFFF",), "dark": ("#111111", "#14181E")}  # JupyterLab's, and the site's


def test_every_text_is_legible_in_both_themes():
    """WCAG's 4.5: a figure's own words, colored words in it, and the names of slots."""
    assert plots.contrast("#FFFFFF", "#767676") == pytest.approx(4.54, abs=0.01)  # WebAIM's
    look = plots.TEMPLATE.layout
    assert look.font.color == plots.INK and look.paper_bgcolor == plots.PAPER == "white"
    assert plots.contrast(plots.INK, "#FFFFFF") >= 4.5
    for ground in PAGES["dark"]:
        assert plots.contrast(plots.NIGHT[plots.INK], ground) >= 4.5
        for color in (plots.NIGHT[plots.BLUE], *plots.COLORS[1:-1], plots.GRAY):
            assert plots.contrast(color, ground) >= 3  # lines and dots
    assert plots.contrast(plots.NIGHT[plots.BLUE], plots.SKY) >= 1.6  # side by side in lesson 10
    for ground in (plots.GONE, plots.NIGHT[plots.GONE]):  # pale and dark blocks of lesson 07
        edge = min(plots.contrast(shade, ground) for _, shade in block_pruning.SHADES)
        assert edge >= 1.4 and plots.contrast(block_pruning.SHADES[1][1], ground) >= 2.4
    assert plots.contrast(plots.NIGHT[plots.GONE], "#FFFFFF") > 4, "no white areas on a dark page"
    for color in (*plots.COLORS, plots.GRAY):
        assert plots.contrast(plots.legible(color), "#FFFFFF") >= 4.5
        assert plots.contrast(plots.over(color), color) >= 4.5
    assert plots.legible(plots.BLUE) == plots.BLUE, "what is legible stays"
    best = max(
        min(plots.contrast(f"#{k:02X}{k:02X}{k:02X}", page) for page in ("#FFFFFF", "#111111"))
        for k in range(256)
    )
    assert best < 4.5, "no color would do on both: stills need paper of their own"


def test_words_in_a_figure_are_made_legible():
    fig = plots.figure(go.Bar(y=[1]), title="one").add_annotation(text="a", font_color=plots.SKY)
    fig.add_annotation(text="b")
    first, second = plots.bundle(fig)[plots.PLOTLY]["layout"]["annotations"]
    assert first["font"]["color"] == plots.legible(plots.SKY) != plots.SKY and "font" not in second
    assert fig.layout.annotations[0].font.color == plots.SKY, "the figure is as it was"


def test_the_names_of_slots_bring_their_ground():
    page = Reading(["a", "b", "c"], "x", ["B-from", "B-to", "B-day"])._repr_html_()
    pairs = re.findall(r"background:(#\w{6});color:(#\w{6})", page)
    assert len(pairs) == 3 and all(plots.contrast(*pair) >= 4.5 for pair in pairs)


def test_reading_joins_tags_to_spans():
    words = "fly from new york to boston today".split()
    tags = ["O", "O", "B-from", "I-from", "O", "B-to", "I-when"]
    reading = Reading(words, "flight", tags)
    assert reading.spans == [("from", "new york"), ("to", "boston"), ("when", "today")]
    assert str(reading).splitlines()[:2] == ["intent: flight", "  from: new york"]
    page = reading._repr_html_()
    assert page.count("from</small>") == 1 and ">new york</span>" in page  # a span is one box
    assert "&lt;" in Reading(["<"], "a", ["O"])._repr_html_()
    assert "student" in Reading(["a"], "b", ["O"], "student")._repr_html_()


def test_what_was_not_measured_names_its_script_and_its_task(tmp_path):
    for name, command in (
        ("layers", "layers.py"), ("kdlsq_sst2", "kdlsq.py sst2"),
        ("deep_compression_vit_cifar10", "deep_compression.py vit_cifar10"),
        ("deep_compression_ablation", "deep_compression_ablation.py"),
    ):  # fmt: skip
        assert results.measured(name, tmp_path).command == f"python benchmarks/{command}"


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
        ["model", "intent %", "file", "whole file"],
        ["teacher", "98.7", "", ""],
        ["student", "", "1.42 MB", "64.0x"],
    ]
    assert "seed 0, 2026-01-02: python x" in str(found) and "<td>98.7</td>" in found._repr_html_()


def test_results_that_are_not_there_say_how_to_get_them(tmp_path):
    found = results.measured("x", tmp_path)
    assert found.rows == [] and "python benchmarks/x.py" in str(found)
    assert "python benchmarks/x.py" in found._repr_html_()
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks"):
        results.measured("x", tmp_path)


@pytest.fixture
def students():
    """Two of four students of a small model; the metric is the norm they have kept, in percent."""
    teacher = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False))
    whole = teacher[0].weight.detach().norm()

    def plan(rank, bits):
        return {"0": [tq.TT(rank, (64,), (64,)), tq.LSQ(bits, init="mse")]}

    def kept(model):
        weight = tq.bake(model, dense=True)[0].weight.detach()
        share = 100 * (1 - (weight - teacher[0].weight.detach()).norm() / whole)
        return {"slot_f1": float(share), "intent_accuracy": 50.0}

    return explorers.untrained(teacher, plan, kept, ranks=(4, 32), bits=(2, 8))


def trained(students: list[dict]) -> list[dict]:
    """What a benchmark would have written: every student reaches 90."""
    return [
        {
            "model": f"rank {row['rank']}, {row['bits']} bits",
            "bytes": {"file": row["bytes"]},
            "metrics": {"slot_f1": 90.0, "intent_accuracy": 95.0},
        }
        for row in students
    ]


def test_untrained_students_grow_and_improve_with_rank_and_bits(students):
    assert [(row["rank"], row["bits"]) for row in students] == [(4, 2), (4, 8), (32, 2), (32, 8)]
    sizes, scores = zip(
        *((row["bytes"], row["before"]["slot_f1"]) for row in students), strict=True
    )
    assert sizes[0] < sizes[1] < sizes[3] and sizes[2] < sizes[3]
    assert scores[0] < scores[3] and scores[2] < scores[3] and scores[1] < scores[3]
    for row in students:
        codes = 2 * 64 * row["rank"] * row["bits"] // 8
        assert codes + 8 < row["bytes"] < codes + 800, "codes, two scales, a header"
        assert row["ratio"] * row["bytes"] == pytest.approx(students[0]["ratio"] * sizes[0])


def test_join_wants_every_student_at_its_own_size(students):
    rows = trained(students)
    assert [row["after"]["slot_f1"] for row in explorers.join(students, rows)] == [90.0] * 4
    with pytest.raises(ValueError, match="rank 4, 2 bits.*embedded_tradeoff"):
        explorers.join(students, rows[1:])
    rows[2]["bytes"] = {"file": 1}
    with pytest.raises(ValueError, match="rank 32, 2 bits"):
        explorers.join(students, rows)


def test_tradeoff_marks_the_chosen_student(students):
    rows = explorers.join(students, trained(students))
    teacher = {"slot_f1": 100.0, "intent_accuracy": 99.0}
    fig, words = explorers.draw_tradeoff(32, 2, "slot_f1", rows, teacher)
    line, before, after, chosen = fig.data
    assert list(line.y) == [100.0, 100.0] and list(after.y) == [90.0] * 4
    assert list(chosen.y) == [rows[2]["before"]["slot_f1"], 90.0]
    assert chosen.x[0] == before.x[2] == rows[2]["bytes"] / 1e3
    assert f"{rows[2]['ratio']:.1f} times smaller" in words and "90.0 % after" in words
    other, _ = explorers.draw_tradeoff(32, 2, "intent_accuracy", rows, teacher)
    assert list(other.data[3].y) == [50.0, 95.0]


def test_measured_students_are_those_of_the_explorer():
    """The committed benchmark holds every student that notebook 09 draws."""
    names = {row["model"] for row in results.measured("embedded_tradeoff").rows}
    grid = [(rank, bits) for rank in explorers.RANKS for bits in explorers.BITS]
    assert names == {f"rank {rank}, {bits} bits" for rank, bits in grid}


def test_the_student_in_the_package_loads_and_is_small():
    model = student.load_student()
    assert not model.training
    size = (student.FOLDER / "model.safetensors").stat().st_size
    assert size == tq.report(model).file < 144_000


def test_a_student_of_another_teacher_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"another teacher")
    monkeypatch.setattr(student, "TEACHER", tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="sha256"):
        student.load_student()
