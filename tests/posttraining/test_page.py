"""The page on these methods: its example as it stands."""

import re
from pathlib import Path

import pytest
import torch

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (from_pretrained reads compressed folders)


def test_the_page_shows_what_runs(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "post_training.md"
    text = page.read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    space = {}
    with pytest.warns(UserWarning, match="1 weights stay rounded to nearest"):
        exec(code, space)
    said = capsys.readouterr().out
    assert "equal outputs before rounding: True" in said
    nearest, moved = (float(n) for n in re.findall(r"([\d.]+)%", said))
    assert moved < nearest < 30
    student, ids = space["student"], space["batches"][0]["input_ids"]
    again = type(student).from_pretrained("runs/decoder")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, student(ids).logits)
    rows = [r for r in tq.report(student).rows if "_proj" in r["name"]]
    assert sum(r["bytes"] for r in rows) <= 100_000
    named = {word for word in re.findall(r"`(\w+)\(", text)}
    assert named <= {"compensate", "rescale", *dir(tq.posttraining)}
