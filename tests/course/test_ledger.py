"""The ledger: rows measured on real models, kept in the reader's folder, begun anywhere."""

import json

import pytest

import tqlearn as tq
from tqlearn.lab import ledger
from tqlearn.lab.student import load_student


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TQLEARN_LEDGER", str(tmp_path / "mine.json"))


@pytest.fixture(scope="module")
def flights():
    return tq.data.load("flights")["test"].select(range(40))


@pytest.fixture(scope="module")
def teacher():
    return tq.teachers.load("embedded")


def test_a_row_holds_bytes_work_and_accuracy(teacher, flights):
    model, tokenizer = teacher
    (row,) = ledger.add("00", {"teacher": model}, tokenizer, flights)
    assert row.keys() == ledger.KEYS and row["notebook"] == "--"
    assert row["bytes"] == 2_302_596, "the whole file, header included"
    assert 90 <= row["intent_accuracy"] <= 100 and 70 <= row["slot_f1"] <= 100
    assert 0 < row["cpu_ms"] < 50
    assert model.config._attn_implementation == "sdpa", "left as it was"


def test_multiply_adds_are_those_of_the_matrices(teacher, flights):
    """Two layers of 128 and 512, counted by hand; attention at the batch's padded length."""
    model, tokenizer = teacher
    row = ledger.measure(model, tokenizer, flights)
    batch = tokenizer(flights[:32]["tokens"], is_split_into_words=True, padding=True)
    tokens = len(batch["input_ids"][0])
    layer = tokens * (4 * 128 * 128 + 2 * 128 * 512) + 2 * tokens * tokens * 128
    intents, slots = len(model.config.intent_labels), len(model.config.slot_labels)
    heads = 128 * 128 + 128 * intents + tokens * (128 * 128 + 128 * slots)
    assert row["macs"] == 2 * layer + heads


def test_rows_are_replaced_and_sorted(teacher, flights):
    model, tokenizer = teacher
    student = load_student()
    ledger.add("09", {"packed": student, "teacher": model}, tokenizer, flights)
    ledger.add("02", {"packed": student}, tokenizer, flights)
    ledger.add("09", {"packed": student}, tokenizer, flights)
    assert [(r["notebook"], r["model"]) for r in ledger.rows()] == [
        ("--", "teacher"), ("02", "packed"), ("09", "packed")]  # fmt: skip
    assert ledger.rows()[1]["bytes"] == tq.report(student).file < ledger.rows()[0]["bytes"]
    assert ledger.rows()[1]["macs"] < ledger.rows()[0]["macs"]


def test_an_empty_ledger_says_how_to_begin(capsys):
    ledger.show()
    assert "Your ledger is empty" in capsys.readouterr().out


def test_show_prints_and_plots(teacher, flights, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(ledger.plots, "show", drawn.append)
    ledger.add("00", {"teacher": teacher[0]}, teacher[1], flights)
    ledger.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("--  teacher") and "2,302,596" in lines[-1]
    assert list(drawn[0].data[0].x) == [2302.596] and drawn[0].data[0].text == ("teacher",)


@pytest.mark.parametrize("text", ['[{"notebook": 1}]', "{}", "[1]", "[", '"a"'])
def test_a_foreign_file_is_refused_and_kept(text, teacher, flights):
    ledger.path().write_text(text)
    if text == "{}":  # an empty mapping holds no row
        text = '{"a": 1}'
        ledger.path().write_text(text)
    with pytest.raises(ValueError, match="is no ledger of this course; delete it"):
        ledger.rows()
    with pytest.raises(ValueError, match="is no ledger"):
        ledger.add("00", {"teacher": teacher[0]}, teacher[1], flights)
    assert ledger.path().read_text() == text


def test_the_file_is_whole_json_without_leftovers(teacher, flights):
    ledger.add("00", {"teacher": teacher[0]}, teacher[1], flights)
    folder = ledger.path().parent
    assert [file.name for file in folder.iterdir()] == ["mine.json"]
    assert len(json.loads(ledger.path().read_text())) == 1
