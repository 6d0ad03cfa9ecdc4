"""What works on which model: a few cells of the matrix here and now, and all of it as stored."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import result
from warm import python

import tqlearn as tq

ROOT = Path(__file__).parents[2]
FEW = {
    "DistilBertForMaskedLM": ["blocks"],
    "GPT2LMHeadModel": ["inputs"],
    "XLNetLMHeadModel": ["4 bits"],
    "T5ForConditionalGeneration": ["tied, trains"],
    "SwinForImageClassification": ["2:4"],
    "MixtralForCausalLM": ["pairs"],
    "Wav2Vec2ForCTC": ["4 bits"],
}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """The script, and the folder of a few cells that a new process has read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import architectures
    folder = tmp_path_factory.mktemp("matrix")
    with architectures.quiet():
        for name, plans in FEW.items():
            architectures.study(name, folder / name, plans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python())
        architectures.read(folder)
    return architectures, folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_a_few_cells(matrix, name):
    script, folder = matrix
    record = script.judged(folder / name)
    assert [*record["cells"]] == FEW[name]
    for plan, found in record["cells"].items():
        assert found["outcome"] in ("ok", "part"), (plan, found)
        assert found["bake_error"] < 1e-4 and 0 < found["file"] < found["dense_file"] * 2
        for layer, words in found["refused"].items():
            assert layer in words and ";" in words, "what is refused, and the way out"


def nothing(layer):
    return layer


@tq.register
class Deaf(torch.nn.Module):
    """A quantizer that lets no gradient through."""

    def forward(self, x):
        return x.detach().round(decimals=1)

    def config(self):
        return {}


def deaf(layer):
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Deaf())
    return layer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edits", "words"),
    [([nothing], "silent skip: .*q_lin.weight"), ([deaf], "no gradient: .*q_lin.*original")],
)
def test_the_checks_can_fail(matrix, edits, words, tmp_path):
    script, _ = matrix
    model, batch = script.build("DistilBertForMaskedLM")
    again, _ = script.build("DistilBertForMaskedLM")
    base = {"model": model, "batch": batch, "moved": script.step(again, batch)}
    base |= {"want": script.outputs(model, batch), "writes": False, "size": 1}
    with pytest.raises(script.Wrong, match=words):
        script.cell(base, {"*.q_lin": edits}, tmp_path)


@pytest.mark.slow
def test_a_wrong_size_and_a_raw_error_are_seen(matrix, tmp_path, monkeypatch):
    script, _ = matrix
    told = tq.report
    monkeypatch.setattr(tq, "report", lambda model: type("R", (), {"file": told(model).file + 1})())
    monkeypatch.setitem(script.PLANS, "inputs", lambda model: 1 / 0)
    with script.quiet():
        script.study("ElectraForPreTraining", tmp_path / "x", ["4 bits", "inputs", "tied, 4 bits"])
    cells = json.loads((tmp_path / "x" / "cells.json").read_text())["cells"]
    assert "the file has" in cells["4 bits"]["reason"] and cells["4 bits"]["outcome"] == "FAIL"
    assert cells["inputs"]["outcome"] == "FAIL" and "ZeroDivision" in cells["inputs"]["reason"]
    assert cells["tied, 4 bits"]["outcome"] == "none"


@pytest.mark.slow
def test_a_difference_after_loading_is_seen(matrix, script):
    _, folder = matrix
    reader, place = script("architectures_read"), folder / "XLNetLMHeadModel" / "4_bits"
    assert "wrong" not in reader.compare("XLNetLMHeadModel", place, "packed")
    before = (place / "want.pt").read_bytes()
    kept = torch.load(place / "want.pt")
    kept["packed"][0][0, 0, 0] *= 1.001
    try:
        torch.save(kept, place / "want.pt")
        assert "differs after" in reader.compare("XLNetLMHeadModel", place, "packed")["wrong"]
        assert "wrong" not in reader.compare("XLNetLMHeadModel", place, "dense")
    finally:
        (place / "want.pt").write_bytes(before)


@pytest.mark.slow
def test_only_own_words_are_refusals(matrix):
    script, _ = matrix
    for wrong, is_one in (
        (lambda: tq.LSQ(99), True),
        (lambda: tq.TT(rank=2)(torch.nn.Embedding(4, 4)), True),
        (lambda: torch.zeros(2).reshape(3), False),
        (lambda: int("x"), False),
    ):
        with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
            wrong()
        assert script.is_refusal(caught.value) is is_one


def test_the_whole_matrix_as_stored(script):
    stored = result("architectures")
    records = stored["architectures"]
    assert len(records) >= 45 and not stored["quick"]
    assert {r["kind"] for r in records} == set(script("architectures_zoo").ZOO)
    outcomes = {"ok": 0, "part": 0, "refused": 0, "none": 0}
    for record in records:
        assert len(record["cells"]) >= 6, record["model"]
        for plan, found in record["cells"].items():
            assert found["outcome"] in outcomes, (record["model"], plan, found)  # and not FAIL
            outcomes[found["outcome"]] += 1
            assert found["outcome"] in ("ok", "part") or len(found["reason"]) > 20
            assert (found["outcome"] == "part") == bool(found.get("refused"))
            assert all(len(words) > 20 for words in found.get("refused", {}).values())
            if found["outcome"] in ("ok", "part"):
                assert found["bake_error"] < 1e-4 and found["file"] > 0
    assert outcomes["ok"] > 0.6 * sum(outcomes.values())
    assert all(
        row["metrics"] == {plan: found["outcome"] for plan, found in record["cells"].items()}
        for row, record in zip(stored["rows"], records, strict=True)
    )


def test_the_page_says_what_is_stored(script):
    records, page = result("architectures")["architectures"], script("readme_architectures")
    text = page.filled(
        (ROOT / "docs" / "architectures.md").read_text("utf-8"), ROOT / "benchmarks" / "results"
    )
    assert "<!--" not in text
    said = page.counts(records)
    assert f"{said['ok']} work as asked" in text and f"{said['refused']} are refused" in text
    for record in records:
        (line,) = [
            x
            for x in text.splitlines()
            if x.startswith(f"| {record['model']} | ") and x.count("|") > 5
        ]
        words = [cell.strip() for cell in line.strip("|").split(" | ")][1:]
        assert words == [*map(page.word, record["cells"].values())]
    for words, models in page.refusals(records).items():
        assert words.replace("|", "\\|") in text and models
