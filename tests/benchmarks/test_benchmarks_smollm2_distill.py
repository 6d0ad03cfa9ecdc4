"""SmolLM2 taught again at few bits, and with another structure: scripts, tables, the page."""

import json
import math
import shutil

import pytest
from conftest import BENCHMARKS, result

PAGE = BENCHMARKS.parent / "docs" / "language_models.md"


def without_hours(found):
    return [
        row | {"metrics": {k: v for k, v in row["metrics"].items() if k != "hours"}}
        for row in found["rows"]
    ]


@pytest.mark.slow
def test_a_student_that_was_stopped_ends_as_one_that_was_not(quick, tmp_path, capsys):
    """Stopped after one step of the first rate, it goes on; and again in the long run."""
    arm = ("--rows", "2 bits, distilled", "2 bits, start", "float")
    whole = quick("smollm2_distill", *arm, "--work", str(tmp_path / "whole"))
    names = ["float", "2 bits, start"]
    names += [f"2 bits, distilled{more}" for more in (", rate 0.001", ", rate 0.01", "")]
    assert [row["model"] for row in whole["rows"]] == names
    (tmp_path / "t.json").unlink()
    shutil.copytree(tmp_path / "whole" / "start-2", tmp_path / "stopped" / "start-2")
    work, said = ("--work", str(tmp_path / "stopped")), "2 bits, distilled: 1 of 2 steps"
    capsys.readouterr()
    assert quick("smollm2_distill", *arm, *work, "--minutes", "0") is None
    assert said in capsys.readouterr().out
    again = quick("smollm2_distill", *arm, *work)
    assert "resuming from" in capsys.readouterr().out
    assert without_hours(again) == without_hours(whole)
    quick("smollm2_distill", *arm, *work, "--minutes", "0")
    assert capsys.readouterr().out.count("measured before, kept") == 3
    rows = {row["model"]: row for row in whole["rows"]}
    rates = {r: rows[f"2 bits, distilled, rate {r}"]["metrics"] for r in ("0.001", "0.01")}
    best = min(rates, key=lambda r: rates[r]["held_out_kl"])
    taught = rows["2 bits, distilled"]["metrics"]
    assert taught["learning_rate"] == float(best) and taught["tokens_seen"] == 4 * 2 * 64
    assert taught["kl"] < rows["2 bits, start"]["metrics"]["kl"], "four steps do help"


@pytest.mark.slow
def test_controls_learn_from_labels(quick, tmp_path):
    rows = quick("smollm2_distill", "--rows", "float, on labels", "--work", str(tmp_path / "w"))
    *tried, row = rows["rows"]
    assert all("held_out_nll" in one["metrics"] for one in tried) and len(tried) == 2
    assert row["role"] == "ablation" and row["metrics"]["kl"] > 0


def test_unknown_rows_are_refused(quick, capsys):
    for name in ("smollm2_distill", "smollm2_structure"):
        with pytest.raises(SystemExit):
            quick(name, "--rows", "1 bit")
        assert "no such rows: ['1 bit']; there are ['float'" in capsys.readouterr().err


@pytest.mark.slow
def test_every_kind_of_structure_is_measured(quick, capsys):
    names = ["float", "low rank, FFN 2x smaller", "tensor train, attention 2x smaller",
             "Kronecker, FFN 2x smaller", "both, 6 of 8 dimensions, 2 of 3 groups",
             "blocks of 16 x 16, 4 of 8", "2:4 by SparseGPT, all"]  # fmt: skip
    found = quick("smollm2_structure", "--rows", *names)
    rows = {row["model"]: row for row in found["rows"]}
    left = [rows[name]["metrics"]["weights"] for name in names]
    # a tiny layer has as many numbers in attention as in the FFN, and two groups: one of them stays
    assert left == pytest.approx([1, 0.75, 0.75, 0.75, 0.625, 0.5, 0.5], abs=2e-3)
    assert all(rows[name]["metrics"]["kl"] > 0 for name in names[1:])
    sizes = [rows[name]["bytes"]["file"] for name in names]
    assert sizes[5] == sizes[0] > max(sizes[1:5]) and sizes[6] < min(sizes[1:5])
    quick("smollm2_structure", "--rows", *names[:2], "--minutes", "0")
    assert capsys.readouterr().out.count("measured before, kept") == 2
    quick("smollm2_structure", "--rows", "FFN, 7 of 8 dimensions", "--minutes", "0")
    assert "FFN, 7 of 8 dimensions and what follows: not begun" in capsys.readouterr().out


def test_dimensions_and_heads_of_least_norm_go(script):
    """What is taken out is what a hand finds: all matrices of a unit count."""
    bench = script("smollm2_structure")
    model = script("smollm2").tiny().model
    small = bench.smaller(ffn=6 / 8, heads=1 / 2)(model, None)
    mlp, attention = model.model.layers[1].mlp, model.model.layers[1].self_attn
    norms = mlp.gate_proj.weight.square().sum(1) + mlp.up_proj.weight.square().sum(1)
    norms = (norms + mlp.down_proj.weight.square().sum(0)).detach()
    kept = norms.topk(144).indices.sort().values
    assert small.model.layers[1].mlp.up_proj.weight.equal(mlp.up_proj.weight[kept])
    groups = [attention.k_proj, attention.v_proj, attention.q_proj]
    norms = sum(m.weight.detach().square().sum(1).view(2, -1).sum(1) for m in groups)
    norms = norms + attention.o_proj.weight.detach().square().sum(0).view(2, -1).sum(1)
    first = int(norms.argmax()) * 48
    now = small.model.layers[1].self_attn
    assert now.k_proj.weight.equal(attention.k_proj.weight[first : first + 48])
    assert now.q_proj.weight.equal(attention.q_proj.weight[2 * first : 2 * first + 96])


def rows_of(name):
    return {row["model"]: row for row in result(name)["rows"]}


def test_the_committed_students(script):
    """Judged by as many tokens as all rows of SmolLM2, from a start that is not trained."""
    found, arms = result("smollm2_distill"), script("smollm2_distill").ARMS
    assert found["settings"]["tokens"] >= 100_000 and not found["quick"]
    rows = rows_of("smollm2_distill")
    for bits in (2, 3):
        if f"{bits} bits, distilled" in rows:
            student, start = rows[f"{bits} bits, distilled"], rows.get(f"{bits} bits, start")
            taught = student["metrics"]
            assert taught["steps"] == found["settings"]["lessons"]["steps"] and taught["hours"] > 0
            assert taught["last_loss"] < taught["first_loss"]
            if start:
                assert start["bytes"] == student["bytes"]
                assert taught["kl"] < start["metrics"]["kl"]
    assert {name.split(", rate")[0] for name in rows} <= set(arms)


def test_the_page_shows_both_tables(script, tmp_path):
    """Each number as the JSON has it; a result that is missing says which script measures it."""
    language, text = script("readme_language"), PAGE.read_text()
    assert "Not measured yet; `benchmarks/smollm2_distill.py`" in language.distilled(tmp_path)
    assert "Not measured yet; `benchmarks/smollm2_structure.py`" in language.structure(tmp_path)
    row = {"model": "a", "bytes": {"file": 2_000_000}, "metrics": {"perplexity": 2.5e7, "kl": 1.5}}
    trained = {"steps": 8, "tokens_seen": 8192, "hours": 0.256, "learning_rate": 1e-4}
    tried = {"model": "b, rate 0.001", "metrics": {"held_out_kl": 1.25} | trained}
    more = row | {"model": "b", "metrics": row["metrics"] | trained | {"perplexity": 1234.56}}
    head = {"date": "2026-01-02", "settings": {"tokens": 999, "lessons": {"pilot": 4}}}
    written = head | {"rows": [row, tried, more]}
    (tmp_path / "smollm2_distill.json").write_text(json.dumps(written))
    shown = language.distilled(tmp_path)
    assert "| a | 2.0 MB | 2.5e+07 | 1.500 |  |  |  |  |" in shown and "999 tokens" in shown
    assert "| b | 2.0 MB | 1,234.6 | 1.500 | 8 | 8,192 | 0.26 | 0.0001 |" in shown
    assert "\n\nLoss on held-out training text after 4 steps: 0.001: 1.250." in shown
    (tmp_path / "smollm2_distill.json").write_text(json.dumps(head | {"rows": [tried]}))
    assert "Not measured yet" in language.distilled(tmp_path), "a rate is no student"
    (tmp_path / "smollm2_structure.json").write_text(
        json.dumps(head | {"rows": [row | {"metrics": row["metrics"] | {"weights": 0.8752}}]})
    )
    assert "| a | 2.0 MB | 87.5% | 2.5e+07 | 1.500 |" in language.structure(tmp_path)
    for part in (language.distilled, language.structure):
        assert part(BENCHMARKS / "results") in text


def test_the_committed_structures():
    """What the page says in words."""
    found, rows = result("smollm2_structure"), rows_of("smollm2_structure")
    assert not found["quick"] and found["settings"]["tokens"] >= 8_192
    nats = {name: math.log(row["metrics"]["perplexity"]) for name, row in rows.items()}
    kl = {name: row["metrics"].get("kl", 0.0) for name, row in rows.items()}
    left = {name: row["metrics"]["weights"] for name, row in rows.items()}
    assert nats["float"] == min(nats.values())
    kinds = ("low rank", "tensor train", "Kronecker")
    factors = [kl[name] for name in rows if name.startswith(kinds)]
    assert min(factors) > kl["2:4 by magnitude, all"] > 2 * kl["2:4 by SparseGPT, all"]
    for kind in ("low rank", "tensor train"):
        ffn, attention = (kl[f"{kind}, {part} 1.33x smaller"] for part in ("FFN", "attention"))
        assert ffn > attention > 5
    pair = kl["low rank, FFN 1.33x smaller"]
    assert kl["tensor train, FFN 1.33x smaller"] == pytest.approx(pair, rel=0.05)
    assert kl["Kronecker, FFN 1.33x smaller"] == pytest.approx(pair, rel=0.2)
    assert 5 < kl["low rank, FFN 1.05x smaller"] < pair < kl["FFN, 6 of 8 dimensions"]
    heads, thin = "attention, 2 of 3 groups of heads", "low rank, attention 1.33x smaller"
    assert kl[heads] < kl[thin] and left[heads] < left[thin]
    blocks, zeros = "blocks of 16 x 16, 7 of 8", "2:4 by magnitude, all"
    assert kl[blocks] > kl[zeros] and left[blocks] > left[zeros]
    assert rows[blocks]["bytes"] == rows["float"]["bytes"]
